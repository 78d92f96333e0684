"""A guardrail for LiteLLM's proxy: a rerail server judges what other models answer.

Nothing is steered: an answer that the policy flags becomes an error of status 400, and one that
nobody could judge an error of status 503. Of a stream nothing leaves before it was judged whole.

    guardrails:
      - guardrail_name: rerail
        litellm_params:
          guardrail: rerail_guardrail.RerailGuardrail
          mode: post_call
          default_on: true
          api_base: http://127.0.0.1:8000/v1
          api_key: os.environ/RERAIL_KEY
          policy: strict

The file stands beside the proxy's config. Written for LiteLLM 1.108.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import httpx
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail, log_guardrail_information


class RerailGuardrail(CustomGuardrail):
    """Has answers judged by ``/v1/moderations`` of a rerail server.

    Args:
        api_base: of the server, with its version.
        api_key: one of the server's keys.
        policy: that judges; the server's or the key's own by default.
        timeout: seconds for a verdict.
    """

    streaming_buffer_until_moderated = True
    """LiteLLM reads it: all of a stream is held until it was judged."""

    def __init__(
        self,
        api_base: str,
        api_key: str | None = None,
        policy: str | None = None,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._policy = {"policy": policy} if policy else {}
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(base_url=api_base, headers=headers, timeout=timeout)

    @log_guardrail_information
    async def apply_guardrail(
        self, inputs: Any, request_data: Any, input_type: str, logging_obj: Any = None
    ) -> Any:
        """The inputs, where the policy lets them pass.

        Raises:
            HTTPException: it flags one of them (400), or there is no verdict (503).
        """
        said = [text for text in inputs.get("texts") or () if text.strip()]
        said += map(_said, inputs.get("tool_calls") or ())
        if input_type == "response" and said:
            turns = _conversation(request_data.get("messages"))
            for result in await self._judged(said, turns):
                if result["flagged"]:
                    found = [name for name, over in result["categories"].items() if over]
                    raise HTTPException(400, {"error": "flagged by rerail", "categories": found})
        return inputs

    async def _judged(self, texts: Sequence[str], turns: Sequence[Any]) -> list[dict[str, Any]]:
        body = {"input": texts, **self._policy, **({"messages": turns} if turns else {})}
        try:
            reply = await self._client.post("moderations", json=body)
            results: list[dict[str, Any]] = reply.raise_for_status().json()["results"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise HTTPException(503, f"rerail gave no verdict: {type(error).__name__}") from None
        if len(results) != len(texts):
            raise HTTPException(503, "rerail gave no verdict: it judged something else")
        return results


def _said(call: Any) -> str:
    """Name and arguments of a call as text, what JSON escapes told as it is meant."""
    function = (call if isinstance(call, dict) else call.model_dump())["function"]
    given = function.get("arguments") or ""
    with contextlib.suppress(ValueError):
        given = json.dumps(json.loads(given), ensure_ascii=False)
    return f"{function.get('name')}\n{given}"


def _conversation(messages: Any) -> list[dict[str, str]]:
    """What was said up to the user's last turn: text alone, of a chat in whatever form."""
    turns = []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        text = "".join(part.get("text") or "" for part in parts if isinstance(part, dict))
        if text.strip() and message.get("role") in ("system", "developer", "user", "assistant"):
            turns.append({"role": message["role"], "content": text})
    while turns and turns[-1]["role"] != "user":
        turns.pop()
    return turns
