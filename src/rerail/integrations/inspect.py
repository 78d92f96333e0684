"""inspect_ai's model provider ``rerail/MODEL``: a server's answers, with what became of them.

inspect_ai finds this module by the entry point of its name, and imports it.
"""

from __future__ import annotations

import os
from typing import Any

from inspect_ai.model import GenerateConfig, modelapi
from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI

SERVED_AT = "http://127.0.0.1:8000/v1"


class RerailAPI(OpenAICompatibleAPI):  # type: ignore[misc]
    """A model of a server of rerail.

    Args:
        model_name: under which the server has it.
        base_url: of the server; else the variable RERAIL_BASE_URL, else `SERVED_AT`.
        api_key: one of the server's keys; else the variable RERAIL_API_KEY, else none.
        config: how to generate.
        policy: the policy of every request, if the key may choose one.
        arguments: of inspect_ai's own provider for APIs like OpenAI's.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - inspect_ai's own signature
        policy: str | None = None,
        **arguments: Any,
    ) -> None:
        self._policy = policy
        super().__init__(
            model_name,
            base_url=base_url,
            api_key=api_key or os.environ.get("RERAIL_API_KEY") or "none needed",
            config=config,
            service="rerail",
            service_base_url=SERVED_AT,
            **arguments,
        )

    def request_headers(self, config: GenerateConfig) -> dict[str, str]:
        return {} if self._policy is None else {"X-Rerail-Policy": self._policy}

    def auto_streamable(self, config: GenerateConfig) -> bool:
        """Never: the client that gathers a stream drops what stands beside OpenAI's fields."""
        return False

    async def generate(self, *arguments: Any, **named: Any) -> Any:
        """As inspect_ai's own, with ``rerail`` of the response in the output's metadata."""
        given = await super().generate(*arguments, **named)
        output, call = given if isinstance(given, tuple) else (given, None)
        told = (getattr(call, "response", None) or {}).get("rerail")
        if told and not isinstance(output, Exception):
            output.metadata = {**(output.metadata or {}), "rerail": told}
        return given


def _provider() -> type[RerailAPI]:
    return RerailAPI


modelapi(name="rerail")(_provider)
