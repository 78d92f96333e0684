"""An engine without a model: for tests of optimisers, of the loop, and of one's own code."""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rerail.engines._common import check_points, check_sampling, scored_tokens, up_to_stop
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
        for shown in range(1, max((len(a.answer_ids) for a in answers), default=0)):
            due = [
                place
                for place, (request, answer) in enumerate(zip(requests, answers, strict=True))
                if is_due(shown, request.horizon) and shown < len(answer.answer_ids)
            ]
            texts = ["".join(_words(answers[place].text)[:shown]) for place in due]
            for place, text, stop in zip(due, texts, watch(due, texts) if due else (), strict=True):
                if stop:
                    whole = answers[place]
                    tokens = whole.token_ids[: whole.reasoning_tokens + shown]
                    answers[place] = replace(
                        whole, text=text, token_ids=tokens, finish_reason="cut"
                    )
        return answers

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Mean log-likelihood per token under a bag of words around the mean of the prompt.

        ``log softmax(T m / d_model)`` with the table ``T`` and the mean row ``m``: every text is
        about as likely as any other.

        Raises:
            Exception: `error`, if it is set.
        """
        with self._lock:
            self.log_likelihood_calls += 1
        if self.error is not None:
            raise self.error
        means = []
        for (embedded, tokens), count in zip(requests, scored_tokens(requests, given), strict=True):
            logits = self._rows @ embedded.point.mean(axis=0) / len(self.direction)
            log_probabilities = logits - np.log(np.exp(logits).sum())
            means.append(float(log_probabilities[list(tokens[-count:])].mean()))
        return means

    def weights_sha256(self) -> str:
        """Hash of the table."""
        return hashlib.sha256(self._rows.tobytes()).hexdigest()

    def _token(self, word: str) -> int:
        reserved = max(_ROLE_TOKENS.values()) + 1
        return reserved + zlib.crc32(word.encode()) % (len(self._rows) - reserved)

    def _generation(self, request: GenerationRequest, sampling: Sampling) -> Generation:
        if self._answer is not None:
            text = self._answer(request.embedded, request.point)
        else:
            text = self._bimodal(request, sampling.temperature)
        if self._reasoning:
            text = f"<think> {self._reasoning} </think> {text}"
        words = _words(text)
        tokens = [self._token(word.strip()) for word in words] + [END]
        words.append(text[len("".join(words)) :])

        def spelt(some: list[int]) -> str:
            return "".join(words[: len(some)])

        if self._reasoning is not None:
            return Reader(FORMATS["qwen3"], spelt).generation(tokens, sampling, True, "stop")
        kept = tokens[: sampling.max_new_tokens]
        return up_to_stop(kept, spelt, sampling, "stop" if len(kept) == len(tokens) else "length")

    def _bimodal(self, request: GenerationRequest, temperature: float) -> str:
        displacement = request.point - request.embedded.point
        moved = displacement.any(axis=1)
        value = 0.0
        if moved.any():
            value = float(displacement[moved].mean(axis=0) @ self.direction) / self._table.rms
        if temperature > 0:
            value += temperature * np.random.default_rng(request.seed).standard_normal()
        return self._refuse if value > self._margin else self._comply


def _words(text: str) -> list[str]:
    """The words of a text, each with the white space before it."""
    return re.findall(r"\s*\S+", text)
