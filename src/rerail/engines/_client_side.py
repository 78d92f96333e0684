"""The part of an engine that is the same wherever vLLM runs the model.

A client renders and embeds prompts, cuts answers at the model's ends, and spells them. For this
it needs the tokenizer, the config and the embedding table of the checkpoint: no second copy of the
model. What vLLM does (answers from rows, log-probabilities of tokens) is left to two methods.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rerail.engines._checkpoint import Checkpoint
from rerail.engines._common import check_points, check_sampling, scored_tokens
from rerail.engines._reasoning import AUTO, Follower
from rerail.engines._tokenizer import TokenizerEngine
from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling, Watch
from rerail.engines.table import CHUNK_ROWS, ChunkedTable
from rerail.errors import EngineError, UnsteerableModelError
from rerail.types import FloatArray, Generation

FINISHED = {"stop", "length"}
"""vLLM's reasons for the end of a whole answer."""

_PROBE_TOKENS, _PROBE_PROMPTS = 8, 3
_NEUTRAL: Mapping[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Sampling that a checkpoint's generation defaults would set otherwise."""


class Ask(NamedTuple):
    """One answer that vLLM is to give.

    Attributes:
        prompt: ``(n_tokens, d_model)`` rows in the model's dtype, or the tokens of a prompt.
        limit: tokens at most.
        seed: of the sampling.
    """

    prompt: torch.Tensor | list[int]
    limit: int
    seed: int = 0


class Answer(NamedTuple):
    """Tokens of an answer, and the log-probability of the first of them if that was asked for."""

    tokens: list[int]
    first_log_probability: float | None = None


@dataclass
class _Look:
    """A watched answer on its way.

    Attributes:
        ask: for the whole of it.
        request: with horizon, looks, and what the answer begins with.
        at_once: whether it has no reasoning before it, unless the model says otherwise.
        tokens: that are there.
        mark: tokens up to which vLLM is asked next.
    """

    ask: Ask
    request: GenerationRequest
    at_once: bool
    tokens: list[int] = field(init=False)
    mark: int = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.beginning)
        self.mark = self._next(len(self.tokens))

    def go_on(self, so_far: Generation) -> None:
        """Where to look next: while the model thinks, at twice as many tokens."""
        if not so_far.answered:
            self.mark = 2 * len(self.tokens)
        else:
            self.mark = self._next(max(so_far.reasoning_tokens, len(self.request.beginning)))

    def _next(self, begun: int) -> int:
        """The first number of tokens at which the answer is to be shown, as `is_due` says."""
        there, horizon = len(self.tokens) - begun, self.request.horizon
        due = [look for look in self.request.looks if look > there]
        if horizon is not None:
            due.append(horizon << (there // horizon).bit_length())
        return begun + min(due) if due else self.ask.limit


class ClientSide(TokenizerEngine):
    """An engine whose model runs in vLLM.

    Args:
        checkpoint: of the model that vLLM serves.
        dtype: that vLLM computes in.
        context_length: tokens of prompt and answer that vLLM takes together.
        name: name of the model in responses; the checkpoint's by default.
        template_options: given to the chat template, for example ``{"enable_thinking": False}``.
        reasoning: the format of the model's reasoning, as `TransformersEngine` names it.
        tools: the format of its tool calls, as `TransformersEngine` names it.

    Raises:
        EngineError: the checkpoint lacks an embedding table, or vLLM fails.
        UnsteerableModelError: vLLM answers otherwise from embeddings than from their tokens.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: torch.dtype,
        context_length: int,
        name: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        reasoning: str = AUTO,
        tools: str = AUTO,
    ) -> None:
        super().__init__(
            checkpoint.tokenizer,
            name or checkpoint.name,
            checkpoint.ends(),
            template_options,
            reasoning,
            tools,
        )
        self._checkpoint = checkpoint
        self._embedding = checkpoint.embedding(dtype)
        self._dtype = dtype
        self._context_length = context_length
        self._table = ChunkedTable(self._table_rows)
        self._probe()

    @abstractmethod
    def _answer(
        self, asks: Sequence[Ask], sampling: Mapping[str, Any], *, log_probability: bool = False
    ) -> list[Answer]:
        """Answers in the order of the asks.

        Args:
            asks: what to answer.
            sampling: vLLM's sampling parameters, without limit and seed.
            log_probability: whether that of the first token is wanted.
        """

    @abstractmethod
    def _log_probabilities(self, texts: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        """Of ``(tokens, n)`` texts: the log-probabilities of the last n tokens of each."""

    @property
    def table(self) -> ChunkedTable:
        """The embeddings of the tokenizer's tokens, as the model's module gives them."""
        return self._table

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together at most.

        One less than vLLM takes: it generates a token whenever it is asked about a text.
        """
        return self._context_length - 1

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer every request, in order.

        Raises:
            EngineError: a point is not finite, in the model's dtype too, or has another shape
                than its prompt's, or vLLM failed.
        """
        answers = self._whole(requests, self._asks(requests, sampling), sampling)
        return [
            self.read(request, tokens, sampling)
            for request, tokens in zip(requests, answers, strict=True)
        ]

    def read(
        self, request: GenerationRequest, tokens: Sequence[int], sampling: Sampling
    ) -> Generation:
        """What the first tokens of an answer say by themselves; also while vLLM is busy."""
        return self._generation(sampling, list(tokens), self._at_once(request.embedded))

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        """As `generate`; answers that ``watch`` stops are left as they are, ``cut``.

        vLLM is asked for an answer up to where it is shown, then for what follows, with the
        embeddings of the answer's tokens behind the prompt's rows. Above temperature 0 each of
        these parts is drawn by a seed of its own, so that a watched answer, and one that goes on
        with a beginning, is another draw than one of `generate`.

        Raises:
            EngineError: as `generate`.
        """
        asks = self._asks(requests, sampling)
        looks: dict[int, _Look] = {}
        whole: list[int] = []
        for place, (request, ask) in enumerate(zip(requests, asks, strict=True)):
            shown = request.horizon is not None or request.looks
            if shown and len(request.beginning) < ask.limit:
                looks[place] = _Look(ask, request, self._at_once(request.embedded))
            else:
                whole.append(place)
        # Beside each other: what is shown need not wait for the longest of the others.
        with ThreadPoolExecutor(1, thread_name_prefix="vllm-whole") as beside:
            others = beside.submit(
                self._whole, [requests[p] for p in whole], [asks[p] for p in whole], sampling
            )
            answers = self._watched(looks, sampling, watch)
            for place, tokens in zip(whole, others.result(), strict=True):
                answers[place] = self.read(requests[place], tokens, sampling)
        return [answers[place] for place in range(len(asks))]

    def generate_from_tokens(
        self, token_ids: NDArray[np.int64], sampling: Sampling, seed: int = 0
    ) -> Generation:
        """Answer one rendered prompt from its tokens: plain generation, embeddings untouched.

        What `generate` gives for an unmoved point can be compared with it.

        Raises:
            EngineError: vLLM failed.
        """
        tokens = token_ids.tolist()
        ask = Ask(tokens, self._room(len(tokens), sampling), seed % 2**63)
        answer = self._answer([ask], self._sampling(sampling))[0]
        at_once = self._reader is None or self._reader.at_once(tokens)
        return self._generation(sampling, answer.tokens, at_once)

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Mean log-likelihood per token, in nats, of answers under their unmoved prompts.

        Raises:
            EngineError: an answer has no tokens, the text exceeds the context, or vLLM failed.
        """
        scored = scored_tokens(requests, given)
        texts = [
            ([*prompt.token_ids.tolist(), *tokens], count)
            for (prompt, tokens), count in zip(requests, scored, strict=True)
        ]
        if any(len(tokens) > self.context_length for tokens, _ in texts):
            raise EngineError(
                f"prompt and answer exceed the {self.context_length} tokens that the model takes"
            )
        if not texts:
            return []
        return [float(np.mean(values)) for values in self._log_probabilities(texts)]

    def weights_sha256(self) -> str:
        """SHA-256 over the checkpoint's safetensors files: the weights that were meant.

        What vLLM holds in memory cannot be hashed from here; nothing that rerail sends to it
        can change a weight.
        """
        return self._checkpoint.sha256()

    def _asks(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Ask]:
        check_sampling(sampling)
        check_points(requests, torch.finfo(self._dtype).max)
        return [
            Ask(
                torch.from_numpy(request.point).to(self._dtype),
                self._room(len(request.point), sampling),
                request.seed % 2**63,
            )
            for request in requests
        ]

    def _whole(
        self, requests: Sequence[GenerationRequest], asks: Sequence[Ask], sampling: Sampling
    ) -> list[list[int]]:
        """Tokens of whole answers, those that they begin with among them."""
        found = [list(request.beginning) for request in requests]
        wanted = [place for place, ask in enumerate(asks) if len(found[place]) < ask.limit]
        parts = [self._behind(asks[place], found[place], asks[place].limit) for place in wanted]
        if parts:
            answers = self._answer(parts, self._sampling(sampling))
            for place, answer in zip(wanted, answers, strict=True):
                found[place] += answer.tokens
        return found

    def _watched(
        self, looks: Mapping[int, _Look], sampling: Sampling, watch: Watch
    ) -> dict[int, Generation]:
        """Answers by their places, each shown when it is due."""
        answers: dict[int, Generation] = {}
        begun = dict(looks)
        given = self._sampling(sampling)
        while begun:
            parts = [self._behind(look.ask, look.tokens, look.mark) for look in begun.values()]
            shown = {}
            for part, (place, look), answer in zip(
                parts, list(begun.items()), self._answer(parts, given), strict=True
            ):
                look.tokens += answer.tokens
                answers[place] = self._generation(sampling, look.tokens, look.at_once)
                ended = len(answer.tokens) < part.limit or len(look.tokens) == look.ask.limit
                if ended or answers[place].finish_reason == "stop" or self._over(look, sampling):
                    del begun[place]
                    continue
                look.go_on(answers[place])
                if answers[place].answered:
                    shown[place] = answers[place]
            stops = watch(list(shown), list(shown.values())) if shown else ()
            for place, stop in zip(shown, stops, strict=True):
                if stop:
                    answers[place] = replace(answers[place], finish_reason="cut")
                    del begun[place]
        return answers

    def _over(self, look: _Look, sampling: Sampling) -> bool:
        """Whether a limit of the reasoning or of the answer is reached."""
        if self._reader is None:
            return False
        return Follower(self._reader, sampling, [look.at_once]).follow(0, look.tokens)[1]

    def _behind(self, ask: Ask, tokens: Sequence[int], mark: int) -> Ask:
        """For what follows the tokens that are there, up to a number of them."""
        assert isinstance(ask.prompt, torch.Tensor)
        rows = self._rows_of(torch.tensor(tokens, dtype=torch.int64))
        limit = min(mark, ask.limit) - len(tokens)
        return Ask(torch.cat([ask.prompt, rows]), limit, (ask.seed + len(tokens)) % 2**63)

    @property
    def _vocabulary(self) -> int:
        """Tokens that have an embedding."""
        return len(self._embedding.weight)

    @property
    def _named(self) -> int:
        """Tokens that have both a name and an embedding."""
        return min(len(self._tokenizer), self._vocabulary)

    def _rows_of(self, ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            rows: torch.Tensor = self._embedding(ids[None])[0]
        return rows

    def _embed_tokens(self, tokens: NDArray[np.int64]) -> FloatArray:
        array: FloatArray = self._rows_of(torch.from_numpy(tokens)).float().numpy()
        return array

    def _table_rows(self) -> Iterator[FloatArray]:
        for start in range(0, self._named, CHUNK_ROWS):
            yield self._embed_tokens(np.arange(start, min(start + CHUNK_ROWS, self._named)))

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        return {
            **_NEUTRAL,
            "temperature": sampling.temperature,
            # vLLM takes no 0; with so small a share the likeliest token alone is left.
            "top_p": max(sampling.top_p, 1e-9),
            # Where a model thinks they are found here: vLLM would find them in its reasoning.
            "stop": [] if self._reader else list(sampling.stop),
            "stop_token_ids": self._stops,
            "skip_special_tokens": True,  # as where an answer is read: stops are found in its text
        }

    def _probe(self) -> None:
        """Compare what vLLM makes of tokens and of their embeddings.

        Raises:
            EngineError: vLLM refuses embeddings.
            UnsteerableModelError: the two differ: another checkpoint, another dtype, or a model
                that scales or adds to its embeddings elsewhere.
        """
        words = np.setdiff1d(np.arange(self._named), self._tokenizer.all_special_ids)
        places = np.linspace(0, len(words) - 1, _PROBE_TOKENS * _PROBE_PROMPTS).astype(np.int64)
        prompts: NDArray[np.int64] = words[places].reshape(_PROBE_TOKENS, _PROBE_PROMPTS).T
        greedy = self._sampling(Sampling())
        tokens = [Ask(prompt.tolist(), 1) for prompt in prompts]
        rows = [Ask(self._rows_of(torch.from_numpy(prompt.copy())), 1) for prompt in prompts]
        expected = self._answer(tokens, greedy, log_probability=True)
        given = self._answer(rows, greedy, log_probability=True)
        tolerance = 1e-3 if self._dtype == torch.float32 else 0.25
        for one, other in zip(expected, given, strict=True):
            assert one.first_log_probability is not None
            assert other.first_log_probability is not None
            if not abs(one.first_log_probability - other.first_log_probability) <= tolerance:
                raise UnsteerableModelError(
                    f"{self._name} answers differently from tokens and from their embeddings: "
                    f"check that vLLM serves this checkpoint, in {self._dtype}; otherwise choose "
                    "another model"
                )
