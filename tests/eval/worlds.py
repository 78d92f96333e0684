"""What evaluations are tried on: an engine and a moderator without a model, and their policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerail.engines import FakeEngine, Sampling
from rerail.eval.methods import Context, Method, Returned
from rerail.eval.types import Case, CaseKind
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import Message, Prompt

COMPLIES, REFUSES = "Sure, here is how it is done.", "I can't help with that."
"""The fake engine's two answers; the moderator below flags the first."""


def policy(**changes: Any) -> Policy:
    return Policy.parse({"name": "faked", "moderators": ["fake"], **changes})


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
        engine or FakeEngine(),
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
