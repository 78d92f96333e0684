"""Hard scenarios: the cases of any benchmark, put in another way. No harmful text of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rerail.errors import PromptError
from rerail.eval.scenarios import encoding, long_context, multi_turn, prefix, system_prompt
from rerail.eval.scenarios.adaptive import ADAPTIVE
from rerail.eval.types import Case
from rerail.names import nearest

__all__ = ["ADAPTIVE", "NAMES", "PLAIN", "SCENARIO", "in_scenario"]

PLAIN = "plain"
"""The cases as they are."""

SCENARIO = "scenario"
"""Key of a case's meta."""

TRANSFORMS: dict[str, Callable[[Case], Case]] = {
    "multi-turn": multi_turn.spread,
    "earlier-turn": multi_turn.hidden,
    "system-prompt": system_prompt.inviting,
    "long-context": long_context.injected,
    "base64": encoding.base64,
    "rot13": encoding.rot13,
    "leetspeak": encoding.leetspeak,
    "prefix-injection": prefix.injected,
}
NAMES = (PLAIN, *TRANSFORMS, ADAPTIVE)


def in_scenario(cases: Sequence[Case], name: str) -> list[Case]:
    """The cases in a scenario, their benchmark named after it.

    Those that are not harmful stay as they are in `ADAPTIVE`, as do texts to be continued and
    prompts with right and wrong answers in all of them.

    Raises:
        PromptError: the scenario is unknown.
    """
    if name not in NAMES:
        raise PromptError(f"unknown scenario {name!r}{nearest(name, NAMES)}")
    if name == PLAIN:
        return list(cases)
    transform = TRANSFORMS.get(name, _unchanged)
    kinds = {"harmful"} if name == ADAPTIVE else {"harmful", "benign"}
    return [
        _named(case, transform, name) if case.kind in kinds and case.template else case
        for case in cases
    ]


def _named(case: Case, transform: Callable[[Case], Case], name: str) -> Case:
    return replace(
        transform(case),
        benchmark=f"{case.benchmark}+{name}",
        meta={**case.meta, SCENARIO: name},
    )


def _unchanged(case: Case) -> Case:
    return case
