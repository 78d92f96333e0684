"""An engine without a model: for tests of optimisers, of the loop, and of one's own code."""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rerail.engines._common import (
    Finish,
    check_points,
    check_sampling,
    scored_tokens,
    up_to_stop,
)
from rerail.engines._reasoning import FORMATS, Reader
from rerail.engines._tools import Calls, Hermes
from rerail.engines.base import (
    TEMPLATE_ROW,
    EmbeddedPrompt,
    GenerationRequest,
    Sampling,
    Watch,
    is_due,
)
from rerail.engines.rendering import check_length
from rerail.engines.table import ChunkedTable
from rerail.types import FloatArray, Generation, Prompt

Answer = Callable[[EmbeddedPrompt, FloatArray], str]
"""``(embedded, point) -> text``."""

END = 0
_CALLS = Calls(Hermes(), lambda _: "", None)
_ROLE_TOKENS = {"system": 1, "user": 2, "assistant": 3, "tool": 2}


class FakeEngine:
    """Words are tokens, embeddings are random, and a function answers.

    Tokens of prompts are rows of the table; one of an answer stands for its word alone.

    The default function is *bimodal*, as aligned models are: with ``w`` the unit vector
    `direction` and ``d`` the mean displacement of the moved rows in units of the table's RMS, the
    answer is ``refuse`` if ``w . d > margin`` and ``comply`` otherwise. An unmoved prompt is
    complied with. At a temperature ``t``, ``t`` times a normal number drawn with the request's
    seed is added to ``w . d``.

    Args:
        answer: ``(embedded, point) -> text``; replaces the bimodal function.
        comply: answer on one side.
        refuse: answer on the other.
        margin: how far the moved rows have to go for a refusal, in units of the table's RMS.
        d_model: width of the embeddings.
        vocabulary: rows of the table.
        context_length: tokens of prompt and answer together.
        seed: of the table and of `direction`.
        name: name of the model.
        reasoning: what is thought before each answer, in ``<think>`` tags; answers may hold such
            tags themselves then, and nothing is thought if it is empty. None: the model does not
            reason, and tags are words.

    An answer that has begun is the function's own, if that begins so; else the function's answer
    follows what there is.

    Attributes:
        direction: ``(d_model,)`` unit vector that leads to a refusal.
        error: raised by every `generate` and `log_likelihood` while it is not None.
        embed_calls: calls of `embed`.
        generate_calls: calls of `generate`.
        generated: requests answered.
        log_likelihood_calls: calls of `log_likelihood`.
    """

    watches_unseen = True

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        comply: str = "Sure, here is how it is done.",
        refuse: str = "I can't help with that.",
        margin: float = 0.3,
        d_model: int = 16,
        vocabulary: int = 512,
        context_length: int = 512,
        seed: int = 0,
        name: str = "fake",
        reasoning: str | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._rows = rng.standard_normal((vocabulary, d_model)).astype(np.float32)
        direction = rng.standard_normal(d_model)
        self.direction: FloatArray = (direction / np.linalg.norm(direction)).astype(np.float32)
        self._table = ChunkedTable.of(self._rows)
        self._answer = answer
        self._comply, self._refuse, self._margin = comply, refuse, margin
        self._context_length = context_length
        self._name = name
        self._reasoning = reasoning
        self._lock = threading.Lock()
        self._spelt: dict[int, str] = {}
        self.error: Exception | None = None
        self.embed_calls = 0
        self.generate_calls = 0
        self.generated = 0
        self.log_likelihood_calls = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def table(self) -> ChunkedTable:
        return self._table

    @property
    def context_length(self) -> int:
        return self._context_length

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """One token per word; with a template, each turn is ``role words end``, behind the tools.

        Raises:
            PromptTooLongError: the rendered prompt leaves no room for an answer.
        """
        tokens = [self._token(tool.name) for tool in prompt.tools]
        index = [TEMPLATE_ROW] * len(tokens)
        for i, message in enumerate(prompt.messages):
            words = [self._token(word) for word in message.said.split()]
            before, after = ([_ROLE_TOKENS[message.role]], [END]) if prompt.template else ([], [])
            tokens += before + words + after
            index += [TEMPLATE_ROW] * len(before) + [i] * len(words) + [TEMPLATE_ROW] * len(after)
        if prompt.template:
            tokens.append(_ROLE_TOKENS["assistant"])
            index.append(TEMPLATE_ROW)
        check_length(len(tokens), self._context_length)
        with self._lock:
            self.embed_calls += 1
        token_ids = np.array(tokens, dtype=np.int64)
        return EmbeddedPrompt(
            prompt, token_ids, self._rows[token_ids], np.array(index, dtype=np.int64)
        )

    def with_calls(self, prompt: Prompt, generation: Generation) -> Generation:
        """An answer to a prompt with tools; calls are written in ``<tool_call>`` tags."""
        return _CALLS.read(prompt.tools, generation)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer every request, cut to ``sampling.max_new_tokens`` words behind its reasoning.

        Raises:
            EngineError: a point is not finite or has the wrong shape, or nothing can be drawn by
                the sampling.
            Exception: `error`, if it is set.
        """
        with self._lock:
            self.generate_calls += 1
        if self.error is not None:
            raise self.error
        check_sampling(sampling)
        check_points(requests)
        with self._lock:
            self.generated += len(requests)
        return [self._generation(request, sampling) for request in requests]

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        """As `generate`, word by word.

        Raises:
            EngineError: as `generate`.
            Exception: `error`, if it is set.
        """
        answers = self.generate(requests, sampling)
        begun = [
            max(answer.reasoning_tokens, len(request.beginning))
            for request, answer in zip(requests, answers, strict=False)
        ]
        for new in range(1, max((len(answer.token_ids) for answer in answers), default=0)):
            due = [
                place
                for place, answer in enumerate(answers)
                if is_due(new, requests[place]) and begun[place] + new < len(answer.token_ids)
            ]
            shown = [
                self.read(requests[p], answers[p].token_ids[: begun[p] + new], sampling)
                for p in due
            ]
            stops = watch(due, shown) if due else ()
            for place, answer, stop in zip(due, shown, stops, strict=True):
                if stop:
                    answers[place] = replace(answer, finish_reason="cut")
        return answers

    def read(
        self, request: GenerationRequest, tokens: Sequence[int], sampling: Sampling
    ) -> Generation:
        """What the first tokens of an answer say by themselves."""
        return self._read(list(tokens), "", sampling, "length")

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Mean log-likelihood per token under a bag of words around the mean of the prompt.

        ``log softmax(T m / 10 d_model)`` with the table ``T`` and the mean row ``m``: every text is
        about as likely as any other, whatever the prompt.

        Raises:
            Exception: `error`, if it is set.
        """
        with self._lock:
            self.log_likelihood_calls += 1
        if self.error is not None:
            raise self.error
        means = []
        for (embedded, tokens), count in zip(requests, scored_tokens(requests, given), strict=True):
            logits = self._rows @ embedded.point.mean(axis=0) / (10 * len(self.direction))
            log_probabilities = logits - np.log(np.exp(logits).sum())
            rows = [self._row(token) for token in tokens[-count:]]
            means.append(float(log_probabilities[rows].mean()))
        return means

    def weights_sha256(self) -> str:
        """Hash of the table."""
        return hashlib.sha256(self._rows.tobytes()).hexdigest()

    def _token(self, word: str) -> int:
        reserved = max(_ROLE_TOKENS.values()) + 1
        return reserved + zlib.crc32(word.encode()) % (len(self._rows) - reserved)

    def _generation(self, request: GenerationRequest, sampling: Sampling) -> Generation:
        if self._answer is not None:
            said = self._answer(request.embedded, request.point)
        else:
            said = self._bimodal(request, sampling.temperature)
        text = f"<think> {self._reasoning} </think> {said}" if self._reasoning else said
        begun = list(request.beginning)
        tokens = self._tokens(text)
        if tokens[: len(begun)] != begun:
            tokens = begun + self._tokens(f" {said}")
        end = text[len(text.rstrip()) :]
        return self._read([*tokens, END], end, sampling, "stop")

    def _row(self, token: int) -> int:
        """The row of the table of a prompt's token, or of an answer's."""
        return self._token(self._spelt[token].strip()) if token in self._spelt else token

    def _tokens(self, text: str) -> list[int]:
        """A token for each word of an answer, with the white space before it."""
        tokens = []
        for word in re.findall(r"\s*\S+", text):
            token = zlib.crc32(word.encode("utf-8", "surrogatepass")) or 1
            self._spelt[token] = word
            tokens.append(token)
        return tokens

    def _read(self, tokens: list[int], end: str, sampling: Sampling, finish: Finish) -> Generation:
        """What tokens say.

        Args:
            tokens: of an answer with its reasoning.
            end: white space that the last one stands for, where it ends the answer.
            sampling: with limits and stops.
            finish: how they ended.
        """

        def spelt(some: list[int]) -> str:
            return "".join(end if token == END else self._spelt[token] for token in some)

        if self._reasoning is not None:
            return Reader(FORMATS["qwen3"], spelt).generation(tokens, sampling, True, finish)
        kept = tokens[: sampling.max_new_tokens]
        return up_to_stop(kept, spelt, sampling, finish if len(kept) == len(tokens) else "length")

    def _bimodal(self, request: GenerationRequest, temperature: float) -> str:
        displacement = request.point - request.embedded.point
        moved = displacement.any(axis=1)
        value = 0.0
        if moved.any():
            value = float(displacement[moved].mean(axis=0) @ self.direction) / self._table.rms
        if temperature > 0:
            value += temperature * np.random.default_rng(request.seed).standard_normal()
        return self._refuse if value > self._margin else self._comply
