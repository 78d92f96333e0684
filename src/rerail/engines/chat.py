"""A model behind a text API: any OpenAI-compatible chat endpoint, through the official SDK.

It takes messages and gives text. There are no embeddings to move and no log-likelihoods, so a
policy for it asks with guidance and draws anew (`rerail.settings`, preset ``resample``), and names
no floor of naturalness. What the endpoint calls its tokens is not known: answers count them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Self

import numpy as np
from openai import APIConnectionError, APIStatusError, APITimeoutError, DefaultHttpxClient, OpenAI

from rerail._http import checked_url, made
from rerail._keys import read_key
from rerail.engines._common import check_sampling
from rerail.engines.base import EmbeddedPrompt, EmbeddingTable, GenerationRequest, Sampling
from rerail.errors import EngineError, PromptError
from rerail.types import Generation, Prompt

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable of the key, where another is not named."""

UNTOLD = -1
"""Stands for each token of an answer: the endpoint says how many there are, and not which."""

_Kept = dict[tuple[int, Sampling], Generation]

_SEEDS = 2**31
_FILTERED = "content_filter"


class ChatEngine:
    """Answers from a chat endpoint. Make one with `load`.

    It has no `abilities` but to answer a conversation with words added to it (``extends``).

    Args:
        client: of the official SDK.
        model: name under which the endpoint serves the model.
        name: of the model in responses; as the endpoint has it by default.
        concurrency: requests under way at the same time, at most.
        limit: the parameter that limits an answer's tokens.
        seeds: whether a seed is sent. Few endpoints promise the same answer for the same seed.
    """

    abilities = frozenset({"extends"})

    def __init__(
        self,
        client: OpenAI,
        model: str,
        *,
        name: str | None = None,
        concurrency: int = 8,
        limit: str = "max_tokens",
        seeds: bool = True,
    ) -> None:
        self._client = client
        self._model = model
        self._name = name or model
        self._limit = limit
        self._seeds = seeds
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="chat")
        # Answers of a batch in which another failed: rounds ask again, each owner by itself.
        self._kept: weakref.WeakKeyDictionary[EmbeddedPrompt, _Kept] = weakref.WeakKeyDictionary()

    @classmethod
    def load(
        cls,
        url: str,
        *,
        model: str,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        attempts: int = 3,
        concurrency: int = 8,
        limit: str = "max_tokens",
        seeds: bool = True,
        name: str | None = None,
    ) -> Self:
        """Make a client of an endpoint; nothing is asked yet.

        Args:
            url: of the API, with its version: ``https://api.example.com/v1``.
            model: name under which it serves the model.
            api_key_env: environment variable of the key; `KEY_VARIABLE` by default, where it is
                set.
            timeout: seconds for one request.
            attempts: requests for one answer at most. What may pass (connection, time, 408, 409,
                429, 5xx) is tried again after as long as ``Retry-After`` says.
            concurrency: requests under way at the same time, at most.
            limit: the parameter that limits an answer's tokens: ``max_tokens``, or
                ``max_completion_tokens`` for OpenAI's models that reason.
            seeds: whether a seed is sent.
            name: of the model in responses.

        Raises:
            EngineError: the URL, the key's variable or an option cannot be used.
        """
        if limit not in ("max_tokens", "max_completion_tokens"):
            raise EngineError("option 'limit' takes max_tokens or max_completion_tokens")
        base_url = checked_url(url, EngineError, "chat:https://host/v1?model=NAME")
        variable = api_key_env or (KEY_VARIABLE if os.environ.get(KEY_VARIABLE) else None)
        client = OpenAI(
            api_key=read_key(variable, EngineError) or "none",
            base_url=base_url,
            max_retries=attempts - 1,
            # A conversation follows no redirection to somewhere that nobody named.
            http_client=made(
                lambda: DefaultHttpxClient(timeout=timeout, follow_redirects=False), EngineError
            ),
            timeout=timeout,
        )
        return cls(client, model, name=name, concurrency=concurrency, limit=limit, seeds=seeds)

    def __repr__(self) -> str:
        return f"ChatEngine({self.name!r}, {str(self._client.base_url)!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def table(self) -> EmbeddingTable:
        """There is none.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{self.name} is behind a text API: it shows no embeddings")

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """The prompt, without rows.

        Raises:
            PromptError: it is a text to be continued, which a chat endpoint does not do.
        """
        if not prompt.template:
            raise PromptError("a chat endpoint answers conversations: it continues no plain text")
        none = np.empty(0, dtype=np.int64)
        return EmbeddedPrompt(prompt, none, np.empty((0, 0), dtype=np.float32), none)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer every request, several at the same time.

        An answer that the endpoint's own filter withholds or breaks off is ``cut``.

        Raises:
            EngineError: the endpoint failed, or gave what is no answer. No message quotes a text.
        """
        check_sampling(sampling)

        def one(request: GenerationRequest) -> Generation | EngineError:
            kept = self._kept.get(request.embedded, {})
            if (answer := kept.pop((request.seed, sampling), None)) is not None:
                return answer
            try:
                return self._answer(request, sampling)
            except EngineError as error:
                return error

        found = list(self._pool.map(one, requests))
        answers = [answer for answer in found if isinstance(answer, Generation)]
        failed = [error for error in found if isinstance(error, EngineError)]
        if failed:
            for request, answer in zip(requests, found, strict=True):
                if isinstance(answer, Generation):
                    kept = self._kept.setdefault(request.embedded, {})
                    kept[request.seed, sampling] = answer
            raise failed[0]
        return answers

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """There are none.

        Raises:
            EngineError: always.
        """
        raise EngineError(f"{self.name} is behind a text API: it gives no log-likelihoods")

    def weights_sha256(self) -> str:
        """Empty: what is behind an API cannot be hashed."""
        return ""

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.shutdown()
        self._client.close()

    def _answer(self, request: GenerationRequest, sampling: Sampling) -> Generation:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [
                {"role": m.role, "content": m.content} for m in request.embedded.prompt.messages
            ],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self._limit: sampling.max_new_tokens,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._seeds:
            body["seed"] = request.seed % _SEEDS
        try:
            reply = self._client.chat.completions.create(**body)
        except APITimeoutError:
            raise EngineError(f"{self.name}: no answer in time") from None
        except APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            raise EngineError(f"{self.name}: connection failed ({cause})") from None
        except APIStatusError as error:
            if error.code == _FILTERED:  # as Azure has it: the prompt itself is withheld
                return Generation("", (UNTOLD,), "cut")
            raise EngineError(f"{self.name}: HTTP {error.status_code}{_hint(error)}") from None
        except Exception as error:  # a reply that the SDK cannot read
            kind = type(error).__name__
            raise EngineError(f"{self.name}: a reply that cannot be read ({kind})") from None
        return self._generation(reply, sampling)

    def _generation(self, reply: Any, sampling: Sampling) -> Generation:
        """The answer of a reply. The SDK's typed objects accept replies with holes."""
        try:
            choice = reply.choices[0]
            text, reason = choice.message.content, choice.finish_reason
            extra = choice.message.model_extra or {}
        except (AttributeError, IndexError, TypeError):
            raise EngineError(f"{self.name}: a reply without an answer") from None
        if text is not None and not isinstance(text, str):
            raise EngineError(f"{self.name}: a reply whose answer is no text")
        if reason not in _ENDS:
            raise EngineError(f"{self.name}: an answer that ended for an unknown reason")
        text = sampling.cut(text or "")
        thought = extra.get("reasoning_content") or extra.get("reasoning")
        reasoning = thought if isinstance(thought, str) and thought.strip() else None
        usage = reply.usage
        details = getattr(usage, "completion_tokens_details", None)
        thoughts = _count(getattr(details, "reasoning_tokens", None))
        tokens = max(_count(getattr(usage, "completion_tokens", None)), thoughts)
        # An answer has a token of its own at least, unless it began with a stop.
        tokens = max(tokens, thoughts + int(bool(text) or not sampling.stop))
        return Generation(
            text,
            (UNTOLD,) * tokens,
            _ENDS[reason],
            reasoning=reasoning,
            reasoning_tokens=thoughts,
            prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        )


_ENDS: dict[Any, Literal["stop", "length", "cut"]] = {
    "stop": "stop",
    "length": "length",
    _FILTERED: "cut",
}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _hint(error: APIStatusError) -> str:
    """What to do about it, where that is known."""
    return {
        401: ": the key is not accepted, set the variable that api_key_env names",
        403: ": the key may not use this model",
        404: ": no such model, or not the API's address (does it end in /v1?)",
        400: ": the endpoint refuses the request (limit=max_completion_tokens, or seeds=false?)",
        429: ": too many requests, or a spent quota",
    }.get(error.status_code, "")
