"""OpenAI's moderation endpoint, through the official SDK, and every server that speaks like it.

Source: https://developers.openai.com/api/docs/guides/moderation, and ``types/moderation.py`` of
openai-python: a list of texts in, one result per text out, in the same order, with 13
``category_scores`` in [0, 1]. Our taxonomy is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from rerail._http import checked_url, made
from rerail._keys import read_key
from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators._http import Item, Options, Reply, Service, Settings, limited
from rerail.moderators._wire import ServiceError, failure_of
from rerail.moderators.taxonomy import Taxonomy
from rerail.policy import CATEGORIES

TAXONOMY = Taxonomy.identity(CATEGORIES)


class OpenAIModerator(Service):
    """``omni-moderation-latest``, or a model of any server with ``/v1/moderations``.

    A server that gives fewer categories is used with the option ``map``, which leaves the others
    out: ``map: {illicit: null, illicit/violent: null}``.

    Args:
        model: the model's name.
        base_url: the API's address, with its version.
        api_key_env: the environment variable that holds the key; None where no key is needed.
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: there is no key, or an option is not usable.
        MissingDependencyError: the SDK is not installed.
    """

    name = "openai"
    defaults = Settings(batch_size=32, max_chars=30_000)

    def __init__(
        self,
        model: str = "omni-moderation-latest",
        base_url: str = "https://api.openai.com/v1",
        api_key_env: str | None = "OPENAI_API_KEY",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(TAXONOMY, **options)
        self.model = model
        self.url = checked_url(base_url, ModeratorError)
        key = read_key(api_key_env, ModeratorError) or "none"
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError:
            raise MissingDependencyError("openai", "openai") from None
        # Retries and time limits are ours: the SDK's would multiply them. Nor does a text follow a
        # redirection to somewhere that the policy does not name.
        self._client = AsyncOpenAI(
            api_key=key,
            base_url=self.url,
            max_retries=0,
            http_client=made(
                lambda: DefaultAsyncHttpxClient(timeout=None, follow_redirects=False),
                ModeratorError,
            ),
        )
        self._thread.closers.append(self._client.close)

    def __repr__(self) -> str:
        return f"OpenAIModerator({self.model!r}, {self.url!r})"

    async def send(self, items: Sequence[Item]) -> Reply:
        """One call of the SDK, read raw: its typed objects accept replies with holes.

        Raises:
            ServiceError: there is no reply, or it is an error.
        """
        from openai import APIStatusError

        texts = [item.joined for item in items]
        create = self._client.moderations.with_streaming_response.create
        try:
            async with create(model=self.model, input=texts) as response:
                content = await limited(response.iter_bytes())
        except APIStatusError as error:
            failure = failure_of(error.status_code, error.response.headers)
            raise failure or ServiceError(f"HTTP {error.status_code}") from None
        except ServiceError:
            raise
        except Exception as error:
            cause = type(error.__cause__ or error).__name__
            raise ServiceError(f"connection failed ({cause})", retry=True) from None
        return Reply(response.status_code, response.headers, content)

    def parse(self, body: Any, items: Sequence[Item]) -> Sequence[Mapping[str, object]]:
        """``results[i].category_scores``."""
        return [result["category_scores"] for result in body["results"]]
