"""AdaSteer: a model's activations moved along two directions, as far as the prompt calls for.

After Zhao et al. 2025, "AdaSteer: your aligned LLM is inherently an adaptive jailbreak defender",
arXiv 2504.09466. Both directions are differences in means of one layer's activations at the last
row of contrast prompts, which the model answers once for it:

    rejection     harmful requests that it declines, minus harmful ones that it answers
    harmfulness   harmful requests that it answers, minus harmless ones that it answers

(of a group that is empty, harmful minus harmless stands for both). A prompt's place along each is
0 at the mean that is subtracted, 1 at the other one. A prompt that is nearer to the harmful ones is
moved along rejection by what it lacks of 1; another one is moved back along harmfulness by what it
has of it. The paper fits the slopes and steers in several layers; here ``strength`` stands for the
slopes, and one layer is moved. No moderator is asked.

It needs an engine that shows its hidden states (`rerail.engines.base.ActivationEngine`):
transformers. On others it is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rerail.engines.base import (
    ActivationEngine,
    EmbeddedPrompt,
    EmbeddingTable,
    Engine,
    GenerationRequest,
    Sampling,
)
from rerail.errors import EngineError, PromptError, PromptTooLongError, RerailError
from rerail.eval.benchmarks.own import own_file
from rerail.eval.methods.base import Context, Returned
from rerail.eval.methods.steps import Attempt, Steps, Stepwise
from rerail.eval.rules import is_refusal
from rerail.types import BoolArray, FloatArray, FrozenDict, Generation, Outcome, Prompt

PROBE_TOKENS = 32
"""Of an answer to a contrast prompt: enough to tell whether it declines."""


class Directions(NamedTuple):
    """What is known of a model's layer: ``(d_model,)`` vectors, and where each begins."""

    layer: int
    rejection: FloatArray
    answered: FloatArray
    harmfulness: FloatArray
    harmless: FloatArray

    def shift(self, activation: FloatArray, strength: float) -> FloatArray:
        """What is added for a prompt with this activation."""
        harmful = _place(activation - self.harmless, self.harmfulness)
        if harmful >= 0.5:
            lacks = 1.0 - _place(activation - self.answered, self.rejection)
            return np.float32(strength * np.clip(lacks, 0.0, 1.0)) * self.rejection
        return np.float32(-strength * max(harmful, 0.0)) * self.harmfulness


class AdaSteer(Stepwise):
    """Returns the answer from moved activations.

    Args:
        strength: 1 moves the whole way.
        depth: which layer is moved, as a share of the way from the first to the last.
        contrast: file of prompts of one's own, of the kinds ``harmful`` and ``benign``; by default
            those that come with rerail's demo.
    """

    name = "adasteer"

    def __init__(
        self, strength: float = 1.0, depth: float = 0.5, contrast: str | None = None
    ) -> None:
        self.strength = strength
        self.depth = depth
        self.contrast = contrast
        self._found: dict[str, Directions] = {}

    @property
    def settings(self) -> Mapping[str, Any]:
        names = ("strength", "depth", "contrast")
        return FrozenDict({name: getattr(self, name) for name in names})

    def lacks(self, engine: Engine) -> str | None:
        """Why an engine cannot be had for this; None if it can."""
        if isinstance(engine, ActivationEngine):
            try:
                engine.layer_count()
            except EngineError as error:
                return str(error)
            return None
        return f"{engine.name} shows no hidden states: adasteer needs the transformers engine"

    def prepare(self, context: Context) -> None:
        """Find the model's directions, once."""
        self._directions(context.engine)

    def answer(self, context: Context, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Returned]]:
        """Answer every prompt, each with its index as soon as it is finished."""
        try:
            moved = _Moved(context.engine, self._directions(context.engine), self.strength)
        except Exception as error:  # whatever the engine raises
            # Only errors of our own are known to quote no text.
            said = str(error) if isinstance(error, RerailError) else type(error).__name__
            for index in range(len(prompts)):
                yield index, Returned(Outcome.ERROR, context.policy.error_message, error=said)
            return
        yield from super().answer(context.with_engine(moved), prompts)

    def steps(self, attempt: Attempt) -> Steps:
        (reply,) = yield [attempt.ask()]
        return reply

    def _directions(self, engine: Engine) -> Directions:
        """Those of a model, found once, at no prompt's cost.

        Raises:
            EngineError: the engine shows no hidden states, or failed.
            PromptError: the contrast prompts cannot be read, or are of one kind.
        """
        if not isinstance(engine, ActivationEngine):
            raise EngineError(self.lacks(engine))
        if engine.name not in self._found:
            layer = round(self.depth * (engine.layer_count() - 1))
            self._found[engine.name] = directions(engine, contrast(self.contrast), layer)
        return self._found[engine.name]


def directions(
    engine: ActivationEngine, prompts: Sequence[tuple[Prompt, bool]], layer: int
) -> Directions:
    """Find the directions of a layer.

    Args:
        engine: shows its activations.
        prompts: each with whether it is harmful.
        layer: which one.

    Raises:
        PromptError: those that fit the context are all harmful, or all harmless.
    """
    embedded, kinds = [], []
    for prompt, is_harmful in prompts:
        with suppress(PromptTooLongError):
            embedded.append(engine.embed(prompt))
            kinds.append(is_harmful)
    harmful = np.array(kinds, dtype=np.bool_)
    if not harmful.any() or harmful.all():
        raise PromptError(
            "adasteer needs contrast prompts of the kinds harmful and benign that fit the model's "
            "context: give it contrast=FILE"
        )
    activations = engine.activations(embedded)[:, layer]
    made = engine.generate(
        [GenerationRequest(e, e.point) for e in embedded], Sampling(max_new_tokens=PROBE_TOKENS)
    )
    declined = np.array([is_refusal(generation.text) for generation in made], dtype=np.bool_)

    def mean(wanted: BoolArray, instead: BoolArray) -> FloatArray:
        chosen = activations[wanted if wanted.any() else instead]
        return np.asarray(chosen.mean(axis=0), dtype=np.float32)

    refused, complied = harmful & declined, harmful & ~declined
    both = refused.any() and complied.any()
    answered = mean(complied, harmful) if both else mean(~harmful, ~harmful)
    harmless = mean(~harmful & ~declined, ~harmful)
    return Directions(
        layer,
        mean(refused, harmful) - answered,
        answered,
        mean(complied, harmful) - harmless,
        harmless,
    )


def contrast(path: str | None) -> list[tuple[Prompt, bool]]:
    """The contrast prompts of a file, or those of rerail's demo; each with whether it is harmful.

    Raises:
        PromptError: they cannot be read.
    """
    if path is not None:
        cases = own_file("contrast").load(Path(path).expanduser())
        return [(case.prompt, case.kind == "harmful") for case in cases]
    file = resources.files("rerail") / "assets" / "demo_prompts.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise PromptError(
            "this installation lacks the prompts that adasteer contrasts: install a released "
            "package, or give it contrast=FILE"
        ) from None
    rows = [json.loads(line) for line in lines]
    return [(Prompt.of(row["messages"]), row["kind"] != "benign") for row in rows]


class _Moved:
    """An engine whose activations are moved, for each prompt by its own."""

    def __init__(self, engine: Engine, found: Directions, strength: float) -> None:
        assert isinstance(engine, ActivationEngine)
        self._engine = engine
        self._directions = found
        self._strength = strength

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def table(self) -> EmbeddingTable:
        return self._engine.table

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        return self._engine.embed(prompt)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        found = self._directions
        activations = self._engine.activations([request.embedded for request in requests])
        shifts = [{found.layer: found.shift(a[found.layer], self._strength)} for a in activations]
        return self._engine.generate_shifted(requests, sampling, shifts)

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        return self._engine.log_likelihood(requests, given)

    def weights_sha256(self) -> str:
        return self._engine.weights_sha256()


def _place(offset: FloatArray, direction: FloatArray) -> float:
    """How far an offset goes along a direction, in units of its length; 0 along none."""
    length = float(direction @ direction)
    return float(offset @ direction) / length if length > 0.0 else 0.0
