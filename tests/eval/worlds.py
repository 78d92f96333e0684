"""What evaluations are tried on: an engine and a moderator without a model, and their policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rerail.engines import FakeEngine, GenerationRequest, Sampling
from rerail.engines.base import EmbeddedPrompt, Shift
from rerail.eval.methods import Context, Method, Returned
from rerail.eval.types import Case, CaseKind
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import FloatArray, Generation, Message, Prompt

COMPLIES, REFUSES = "Sure, here is how it is done.", "I can't help with that."
"""The fake engine's two answers; the moderator below flags the first."""


def policy(**changes: Any) -> Policy:
    return Policy.parse({"name": "faked", "moderators": ["fake"], **changes})


_NEEDED = {
    "gradient-cuff": "threshold=1",
    "tsa": "perturbation_scale=0.3,step_size=0.3,units=table",
}


def usable(name: str) -> str:
    """A method with the settings that it cannot do without on the fake engine."""
    return f"{name}:{_NEEDED[name]}" if name in _NEEDED else name


class Layered(FakeEngine):
    """The fake engine with hidden states: what a layer gives is the mean of the steered rows."""

    def layer_count(self) -> int:
        return 2

    def activations(self, prompts: Sequence[EmbeddedPrompt]) -> FloatArray:
        means = [p.point[p.steerable("last_user")].mean(axis=0) for p in prompts]
        return np.repeat(np.stack(means)[:, None], self.layer_count(), axis=1)

    def generate_shifted(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        shifts: Sequence[Shift],
    ) -> list[Generation]:
        moved = []
        for request, shift in zip(requests, shifts, strict=True):
            point = request.point.copy()
            point[request.embedded.steerable("last_user")] += sum(shift.values())
            moved.append(replace(request, point=point))
        return self.generate(moved, sampling)

    def generate_contrasted(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        against: Sequence[EmbeddedPrompt],
        weight: float,
    ) -> list[Generation]:
        return self.generate(requests, sampling)


def context(
    engine: FakeEngine | None = None,
    moderator: FakeModerator | None = None,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    max_open: int = 64,
    **changes: Any,
) -> Context:
    return Context(
        engine or Layered(),
        Panel(policy(**changes), moderator or FakeModerator(words=["sure"])),
        sampling=sampling,
        seed=seed,
        max_open=max_open,
    )


def answers(method: Method, context: Context, *prompts: Prompt) -> list[Returned]:
    found = dict(method.answer(context, prompts))
    assert sorted(found) == list(range(len(prompts)))
    return [found[i] for i in range(len(prompts))]


def case(text: str, kind: CaseKind = "harmful", **fields: Any) -> Case:
    """A case of one user turn."""
    fields = {"id": text, "benchmark": "made-up", "request": text, **fields}
    return Case(kind=kind, messages=(Message("user", text),), **fields)


def cases(count: int, kind: CaseKind = "harmful", **fields: Any) -> list[Case]:
    return [case(f"a request of number {i}", kind, **fields) for i in range(count)]


def prompts(texts: Sequence[str]) -> list[Prompt]:
    return [Prompt.of(text) for text in texts]
