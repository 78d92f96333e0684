"""vLLM's OpenAI-compatible server, one or many of them, answering from embeddings.

The servers are started with ``--enable-prompt-embeds``, which vLLM documents as for trusted
clients only: they belong on a private address, behind whatever people can reach.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from rerail._batches import grouped
from rerail._keys import read_key
from rerail.engines._checkpoint import Checkpoint
from rerail.engines._client_side import FINISHED, Answer, Ask, ClientSide
from rerail.engines._reasoning import AUTO
from rerail.engines._replicas import Replicas, UnreadableError
from rerail.engines.base import Sampling
from rerail.errors import EngineError

KEY_VARIABLE = "VLLM_API_KEY"
"""Environment variable of the key, vLLM's own name for it."""

_BATCH_BYTES = 32 << 20
_THREADS_PER_REPLICA = 8


class Served(NamedTuple):
    """What the servers offer.

    Attributes:
        model: name under which they serve it.
        context_length: tokens of prompt and answer together, the smallest of all servers.
    """

    model: str
    context_length: int


class VllmServerEngine(ClientSide):
    """Answers from embeddings with vLLM servers. Make one with `load`.

    Greedy answers equal those of transformers but for rounding. At a temperature above 0 vLLM
    draws with generators of its own: the same seed gives the same answer, but not transformers'.

    Args:
        replicas: the servers.
        served: what they offer.
        checkpoint: of the model that they serve.
        max_batch: answers asked for in one HTTP request at most; requests are spread over the
            replicas.
        options: of `ClientSide`: ``dtype``, ``name``, ``template_options``, ``reasoning``.
    """

    def __init__(
        self,
        replicas: Replicas,
        served: Served,
        checkpoint: Checkpoint,
        *,
        max_batch: int = 16,
        **options: Any,
    ) -> None:
        self._replicas = replicas
        self._served = served
        self._max_batch = max(1, max_batch)
        self._pool = ThreadPoolExecutor(
            _THREADS_PER_REPLICA * len(replicas.urls), thread_name_prefix="vllm-server"
        )
        super().__init__(checkpoint, context_length=served.context_length, **options)

    @classmethod
    def load(
        cls,
        urls: str | Sequence[str],
        *,
        model: str | Path,
        served: str | None = None,
        max_model_len: int | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        api_key_env: str | None = None,
        timeout: float = 120.0,
        deadline: float = 300.0,
        wait: float = 10.0,
        attempts: int = 3,
        max_batch: int = 16,
        name: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        reasoning: str = AUTO,
        tools: str = AUTO,
    ) -> Self:
        """Connect to servers.

        Args:
            urls: of the replicas, such as ``http://10.0.0.5:8000``.
            model: folder or hub id of the checkpoint that they serve. Its tokenizer, config and
                embedding table are read here.
            served: name under which the servers serve it; may be left out if they serve one model.
            max_model_len: tokens of prompt and answer together, where the servers do not say it
                themselves, as behind some routers.
            dtype: that the servers compute in (their ``--dtype``); ``auto`` is the checkpoint's.
            revision: of the checkpoint: branch, tag or commit on the hub.
            trust_remote_code: whether code that comes with the checkpoint may run here.
            api_key_env: environment variable of the servers' key; `KEY_VARIABLE` by default,
                where it is set.
            timeout: seconds for one HTTP request.
            deadline: seconds for one call, retries and pauses included.
            wait: seconds to wait for the first server here. vLLM cannot be reached before it has
                loaded its model.
            attempts: requests that may reach a server and fail, for one batch of answers.
            max_batch: answers asked for in one HTTP request at most.
            name: name of the model in responses; the hub id or the folder's name by default.
            template_options: given to the chat template.
            reasoning: the format of the model's reasoning, as `TransformersEngine` names it.
            tools: the format of its tool calls, as `TransformersEngine` names it.

        Raises:
            EngineError: no server answers, they do not serve the model, or the checkpoint cannot
                be read.
            UnsteerableModelError: they answer otherwise from embeddings than from tokens.
        """
        checkpoint = Checkpoint.open(model, revision=revision, trust_remote_code=trust_remote_code)
        replicas = Replicas(
            [urls] if isinstance(urls, str) else urls,
            key=_key(api_key_env),
            timeout=timeout,
            deadline=deadline,
            attempts=attempts,
        )

        def read(reply: Any) -> Served:
            return _served(reply, served, max_model_len)

        try:
            offered = replicas.call("/v1/models", read, within=wait)
            return cls(
                replicas,
                offered,
                checkpoint,
                max_batch=max_batch,
                dtype=checkpoint.dtype if dtype == "auto" else torch_dtype(dtype),
                name=name,
                template_options=template_options,
                reasoning=reasoning,
                tools=tools,
            )
        except BaseException:
            replicas.close()
            raise

    @property
    def replicas(self) -> Replicas:
        """The servers."""
        return self._replicas

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self._replicas!r})"

    def close(self) -> None:
        """End the connections."""
        self._replicas.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _answer(
        self, asks: Sequence[Ask], sampling: Mapping[str, Any], *, log_probability: bool = False
    ) -> list[Answer]:
        shared = {**sampling, "return_token_ids": True}
        if log_probability:
            shared["logprobs"] = 0
        groups: dict[tuple[type, int, int], list[int]] = {}
        for i, ask in enumerate(asks):
            # The seed is the HTTP request's: answers of one seed are asked for together.
            seed = ask.seed if sampling["temperature"] > 0 else 0
            groups.setdefault((type(ask.prompt), ask.limit, seed), []).append(i)
        batches = [
            batch
            for group in groups.values()
            for batch in self._cut(group, lambda i: _bytes(asks[i].prompt))
        ]

        def run(batch: list[int]) -> list[Answer]:
            first = asks[batch[0]]
            body = {**shared, "max_tokens": first.limit}
            if sampling["temperature"] > 0:
                body["seed"] = first.seed
            prompts = [asks[i].prompt for i in batch]
            rows = [payload(prompt) for prompt in prompts if isinstance(prompt, torch.Tensor)]
            body |= {"prompt_embeds": rows} if rows else {"prompt": prompts}
            read = partial(self._read_answer, log_probability)
            return self._complete(body, len(batch), read)

        return self._in_order(batches, run, len(asks))

    def _log_probabilities(self, texts: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        sampling = {**self._sampling(Sampling()), "max_tokens": 1, "prompt_logprobs": 0}
        # Of one length together: a batch takes as long as its longest text.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i][0]))
        batches = self._cut(order, lambda i: _bytes(texts[i][0]))

        def run(batch: list[int]) -> list[list[float]]:
            chosen = [texts[i] for i in batch]
            return self._complete(
                {**sampling, "prompt": [tokens for tokens, _ in chosen]},
                len(batch),
                lambda i, choice: _read_prompt(choice, *chosen[i]),
            )

        return self._in_order(batches, run, len(texts))

    def _cut(self, indices: list[int], size: Callable[[int], int]) -> list[list[int]]:
        """The indices in batches of few enough answers and bytes."""

        def fits(batch: list[int], i: int) -> bool:
            return len(batch) < self._max_batch and sum(map(size, [*batch, i])) <= _BATCH_BYTES

        return grouped(indices, fits)

    def _in_order(self, batches: list[list[int]], run: Any, count: int) -> list[Any]:
        results: list[Any] = [None] * count
        for batch, found in zip(batches, self._pool.map(run, batches), strict=True):
            for i, result in zip(batch, found, strict=True):
                results[i] = result
        return results

    def _complete(self, body: Mapping[str, Any], count: int, read: Any) -> list[Any]:
        """One HTTP request: what ``read(number, choice)`` makes of each choice, in order."""

        def choices(reply: Any) -> list[Any]:
            found = {c["index"]: c for c in _field(reply, "choices", list) if "index" in c}
            if sorted(found) != list(range(count)):
                raise UnreadableError(f"{count} answers were asked for")
            return [read(i, found[i]) for i in range(count)]

        # No words beside the embeddings; vLLM needs no key for that, routers before it do.
        common = {"model": self._served.model, "prompt": ""}
        return self._replicas.call("/v1/completions", choices, {**common, **body})

    def _read_answer(self, log_probability: bool, _: int, choice: Mapping[str, Any]) -> Answer:
        if choice.get("finish_reason") not in FINISHED:
            raise UnreadableError("an answer was broken off")
        tokens = _field(choice, "token_ids", list)
        if not tokens or not all(type(t) is int and 0 <= t < self._vocabulary for t in tokens):
            raise UnreadableError("'token_ids' is no list of tokens")
        first = None
        if log_probability:
            given = _field(choice, "logprobs", Mapping)
            first = _number(_field(given, "token_logprobs", list)[0])
        return Answer(tokens, first)


def payload(rows: torch.Tensor) -> str:
    """Rows as vLLM takes them: a tensor file in base64.

    Cloned, because a view would be saved with the whole storage that it looks at.
    """
    file = io.BytesIO()
    torch.save(rows.clone(), file)
    return base64.b64encode(file.getvalue()).decode()


def torch_dtype(name: str) -> torch.dtype:
    """The floating-point dtype of that name.

    Raises:
        EngineError: there is none.
    """
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise EngineError(f"unknown dtype {name!r}: use auto, float32, bfloat16 or float16")
    return dtype


def _served(reply: Any, wanted: str | None, longest: int | None) -> Served:
    models = [m for m in _field(reply, "data", list) if _field(m, "id", str)]
    names = [m["id"] for m in models]
    bases = [m for m in models if m.get("parent") is None]
    chosen = [m for m in models if m["id"] == wanted] if wanted else bases
    if len(chosen) != 1:
        raise EngineError(
            f"the server offers {', '.join(names) or 'no model'}: name the one to use by the "
            "option served"
        )
    said = chosen[0].get("max_model_len")
    known = [length for length in (said, longest) if isinstance(length, int)]
    if not known or min(known) < 3:
        raise UnreadableError(
            "'max_model_len' is missing: is it a vLLM server? A router that leaves it out needs "
            "the option max_model_len"
        )
    return Served(chosen[0]["id"], min(known))


def _read_prompt(choice: Mapping[str, Any], tokens: list[int], count: int) -> list[float]:
    given = _field(choice, "prompt_logprobs", list)
    if len(given) != len(tokens):
        raise UnreadableError("'prompt_logprobs' has another length than the prompt")
    pairs = zip(given[-count:], tokens[-count:], strict=True)
    return [_number(_field(_field(at, str(token), dict), "logprob", object)) for at, token in pairs]


def _field(value: Any, key: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(found, kind):
        raise UnreadableError(f"no {key!r} where it should be")
    return found


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UnreadableError("a log-probability is no number")
    return float(value)


def _bytes(prompt: torch.Tensor | list[int]) -> int:
    if isinstance(prompt, torch.Tensor):
        return prompt.numel() * prompt.element_size() * 4 // 3
    return 8 * len(prompt)


def _key(variable: str | None) -> str:
    if variable is None and os.environ.get(KEY_VARIABLE, "").strip():
        variable = KEY_VARIABLE
    return read_key(variable, EngineError)
