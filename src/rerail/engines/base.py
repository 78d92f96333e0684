"""The seam between rerail and whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerail.types import BoolArray, FloatArray, Generation, Prompt, SteerableRows

ABILITIES = frozenset({"moves", "extends", "likelihood"})
"""What an engine can do: answer from embeddings that were moved (``moves``), answer a conversation
with words added to it (``extends``), and say how likely an answer is (``likelihood``)."""

TEMPLATE_ROW = -1
"""Value of `EmbeddedPrompt.message_index` for rows of the template."""


@dataclass(frozen=True, eq=False)
class EmbeddedPrompt:
    """A prompt, rendered and embedded: where a search starts.

    Attributes:
        prompt: what was rendered.
        token_ids: ``(n_tokens,)`` int64 tokens of the rendered prompt.
        point: ``(n_tokens, d_model)`` float32 input embeddings, as the model's embedding module
            gives them.
        message_index: ``(n_tokens,)`` int64; for each row the index of the message whose content
            the token spells, or `TEMPLATE_ROW`. A token that mixes template and content,
            white space aside, counts as template.
    """

    prompt: Prompt
    token_ids: NDArray[np.int64]
    point: FloatArray = field(repr=False)
    message_index: NDArray[np.int64] = field(repr=False)

    def steerable(self, rows: SteerableRows) -> BoolArray:
        """``(n_tokens,)`` mask of the rows that a policy allows to move.

        ``last_user``: the words of the last user turn. ``user``: the words of all user turns.
        ``all``: every row, template included (meant for text completion).
        """
        if rows == "all":
            return np.ones(len(self.token_ids), dtype=np.bool_)
        last = self.prompt.last_user
        users = [
            i
            for i, message in enumerate(self.prompt.messages)
            if message.role == "user" and (rows == "user" or i == last)
        ]
        return np.isin(self.message_index, users)


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One answer to generate.

    Attributes:
        embedded: the prompt; its leading rows that ``point`` leaves unmoved may be shared with
            other requests in a key-value cache.
        point: ``(n_tokens, d_model)`` float32 embeddings to answer from.
        seed: of this answer's sampling; has no effect at temperature 0.
        horizon: tokens after which a `WatchingEngine` shows what there is of the answer, and
            again each time there is twice as much; None: never.
        looks: numbers of tokens at which a `ContinuingEngine` shows it, too.
        beginning: tokens that the answer begins with, its reasoning among them: only a
            `ContinuingEngine` goes on with them. Horizon and looks count what follows.
    """

    embedded: EmbeddedPrompt
    point: FloatArray = field(repr=False)
    seed: int = 0
    horizon: int | None = None
    looks: tuple[int, ...] = ()
    beginning: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: tokens at most per answer; the context may leave fewer.
        temperature: 0 is greedy.
        top_p: smallest set of tokens with at least this probability is drawn from.
        stop: an answer ends before the first of these that is complete, in text and tokens alike.
            None of them is empty. Reasoning may hold them.
        max_reasoning_tokens: tokens at most before the answer, where the model thinks; those of
            the answer come on top. Under a policy, the policy's own number.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    max_reasoning_tokens: int = 1024

    def cut(self, text: str) -> str:
        """The text before the first stop: that which is complete first."""
        found = [(at + len(stop), at) for stop in self.stop if (at := text.find(stop)) >= 0]
        return text[: min(found)[1]] if found else text

    def may_stop(self, text: str) -> bool:
        """Whether a text ends with a part of a stop, which what follows may complete."""
        return any(text.endswith(stop[:n]) for stop in self.stop for n in range(1, len(stop)))


@runtime_checkable
class EmbeddingTable(Protocol):
    """What a search needs to know of the model's embedding table, as its module gives it."""

    @property
    def rms(self) -> float:
        """Root mean square of all entries: the unit of ``perturbation_scale``."""
        ...

    @property
    def mean_row_norm(self) -> float:
        """Mean Euclidean norm of a row: the unit of ``step_size``."""
        ...

    def principal_directions(self, rank: int) -> FloatArray:
        """``(rank, d_model)`` orthonormal leading principal directions, centred table."""
        ...

    def nearest_tokens(self, rows: FloatArray) -> NDArray[np.int64]:
        """``(n,)`` token of the nearest table row by cosine, for ``(n, d_model)`` rows."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Turns prompts into points, and points into answers.

    An engine that cannot do all of `ABILITIES` has an attribute ``abilities`` of those that it
    has.
    """

    @property
    def name(self) -> str: ...

    @property
    def table(self) -> EmbeddingTable: ...

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Render and embed.

        Raises:
            PromptTooLongError: the rendered prompt leaves no room for an answer.
        """
        ...

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer every request, in order, as one batch where memory allows.

        Generation ends where a stop comes up. The answer is the text before it, with the fewest
        tokens that spell that text: the last of them may spell a part of the stop, too, and an
        answer that begins with a stop has none. Its ``finish_reason`` is ``stop``. Reasoning is no
        part of an answer.

        Raises:
            EngineError: the model failed, or nothing can be drawn by the sampling.
        """
        ...

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Mean log-likelihood per token, in nats, of answers under their *unmoved* prompts.

        Args:
            requests: prompts, each with the tokens of an answer to it (at least one token).
            given: how many leading tokens of each answer are taken as they are: the others are
                scored behind them. None by default, and an engine whose models never think need
                not know it.
        """
        ...

    def weights_sha256(self) -> str:
        """Hash of all weights: the same before and after whatever rerail did."""
        ...


def abilities(engine: Engine) -> frozenset[str]:
    """What an engine can do; everything where it says nothing of it."""
    own: frozenset[str] = getattr(engine, "abilities", ABILITIES)
    return own


Watch = Callable[[Sequence[int], Sequence[Generation]], Sequence[bool]]
"""``watch(places, answers)``: whether to stop each of some unfinished answers, given the places of
their requests and what there is of them. It is called while the engine is busy: it must not ask
it for more."""


def is_due(tokens: int, request: GenerationRequest) -> bool:
    """Whether an answer is to be shown: at its looks, and at horizon · 2ᵏ for k = 0, 1, ...

    Args:
        tokens: of the answer, behind its beginning.
        request: with horizon and looks.
    """
    horizon = request.horizon
    if horizon is None or tokens < horizon or tokens % horizon:
        return tokens in request.looks
    return (tokens // horizon).bit_count() == 1 or tokens in request.looks


@runtime_checkable
class WatchingEngine(Engine, Protocol):
    """An engine whose answers can be stopped while they are generated.

    One may have an attribute ``watches_unseen``, True where an answer that is watched and not
    stopped is the one that `generate` gives, whatever the sampling, and costs no more. Then first
    answers are watched, too.
    """

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        """As `generate`; answers that ``watch`` stops are left as they are, ``cut``.

        An answer is shown when it has ``horizon · 2ᵏ`` tokens and is not complete. The text that
        is shown never holds a stop, nor any reasoning, whose tokens do not count.

        Raises:
            EngineError: as `generate`.
        """
        ...


def can_be_watched(engine: Engine) -> TypeGuard[WatchingEngine]:
    """Whether it is a `WatchingEngine`. To ask isinstance would read its embedding table."""
    return hasattr(engine, "generate_watched")


@runtime_checkable
class ToolEngine(Engine, Protocol):
    """An engine whose models can call tools: `embed` renders those of a prompt, too."""

    def with_calls(self, prompt: Prompt, generation: Generation) -> Generation:
        """An answer to a prompt with tools, the calls in it told from its text."""
        ...


def can_call(engine: Engine) -> TypeGuard[ToolEngine]:
    """Whether it is a `ToolEngine`; asked as `can_be_watched` is."""
    return hasattr(engine, "with_calls")


@runtime_checkable
class ContinuingEngine(WatchingEngine, Protocol):
    """A watching engine that goes on with an answer that has begun.

    To a request with a ``beginning`` it gives the whole answer, whose first tokens these are. From
    an equal point, the beginning of an answer is gone on with as that answer went on; above
    temperature 0 only where its draws can be repeated, as those of vLLM cannot.
    """

    def read(
        self, request: GenerationRequest, tokens: Sequence[int], sampling: Sampling
    ) -> Generation:
        """What the first tokens of an answer say by themselves; also while the engine is busy."""
        ...


def can_continue(engine: Engine) -> TypeGuard[ContinuingEngine]:
    """Whether it is a `ContinuingEngine`, asked in the same way."""
    return can_be_watched(engine) and hasattr(engine, "read")


Shift = Mapping[int, FloatArray]
"""Layer, from 0, to a ``(d_model,)`` vector."""


@runtime_checkable
class ActivationEngine(Engine, Protocol):
    """An engine that shows what is between its layers, and adds to it.

    rerail steers without: this is for methods that it is compared with.
    """

    def layer_count(self) -> int:
        """How many layers it has.

        Raises:
            EngineError: they cannot be had of this model, or as it was loaded.
        """
        ...

    def activations(self, prompts: Sequence[EmbeddedPrompt]) -> FloatArray:
        """``(n, layers, d_model)``: what each layer gives at the last row of a prompt.

        Raises:
            EngineError: as `generate`.
        """
        ...

    def generate_shifted(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, shifts: Sequence[Shift]
    ) -> list[Generation]:
        """As `generate`; each request's vectors are added to what those layers give, at each row.

        Raises:
            EngineError: as `generate`, or there is no such layer.
        """
        ...


@runtime_checkable
class ContrastEngine(Engine, Protocol):
    """An engine that answers a prompt against another one. For methods compared with, too."""

    def generate_contrasted(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        against: Sequence[EmbeddedPrompt],
        weight: float,
    ) -> list[Generation]:
        """As `generate`; ``weight`` times the logits under another prompt is taken from each's.

        Args:
            requests: what is answered.
            sampling: how.
            against: the other prompt of each request; the same answer follows both.
            weight: of the other prompt's logits.

        Raises:
            EngineError: as `generate`.
        """
        ...
