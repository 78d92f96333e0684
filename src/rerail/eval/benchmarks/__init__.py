"""Benchmarks: a file or the hub in, cases out. `catalogue` has a row for each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rerail.errors import InputFileError
from rerail.eval.benchmarks._rows import path_of
from rerail.eval.benchmarks.base import DATASET, Benchmark
from rerail.eval.benchmarks.catalogue import BENCHMARKS
from rerail.eval.benchmarks.own import own_file
from rerail.eval.types import CASE_KINDS, Case, CaseKind
from rerail.names import nearest

__all__ = ["BENCHMARKS", "DATASET", "Benchmark", "draw", "load_benchmark", "put_as", "score"]

_SPEC = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*)"
    r"(?:\+(?P<put>[a-z0-9][a-z0-9._-]*))?"
    r"(?::(?P<kind>[a-z]+))?"
    r"(?:\[(?P<rows>[\d:,]+)\])?"
    r"(?:=(?P<path>.+))?",
    re.DOTALL,
)


def load_benchmark(spec: str) -> list[Case]:
    """The cases that a specification names.

    ``NAME`` reads the hub, ``NAME=PATH`` a local copy; ``NAME[420:520]=PATH`` takes rows 420 to
    519, ``[::4]`` every fourth, ``[3,5,40:45]`` those. With a name that is none of `BENCHMARKS`,
    PATH is a file of one's own, and ``NAME:benign=PATH`` says what kind its prompts are.
    ``NAME+WAY=PATH`` says how they are put (`put_as`), which is nothing to this.

    Raises:
        InputFileError: the specification cannot be read, or the data cannot.
        MissingDependencyError: the hub's library is not installed.
    """
    found = _read(spec)
    name, kind, path = found["name"], found["kind"], found["path"]
    if kind is not None and kind not in CASE_KINDS:
        raise InputFileError(
            f"benchmark {spec!r}: unknown kind {kind!r}{nearest(kind, CASE_KINDS)}"
        )
    if name in BENCHMARKS:
        if kind is not None:
            raise InputFileError(f"benchmark {spec!r}: {name} knows its own kind; leave it out")
        benchmark = BENCHMARKS[name]
    elif path is None:
        raise InputFileError(
            f"unknown benchmark {name!r}{nearest(name, BENCHMARKS)}; a file of your own is "
            f"{name}=PATH"
        )
    else:
        benchmark = own_file(name, cast("CaseKind", kind or "harmful"))
    cases = benchmark.load(None if path is None else path_of(path))
    if found["rows"] is None:
        return cases
    wanted = _places(spec, found["rows"], len(cases))
    taken = [case for i, case in enumerate(cases) if i in wanted]
    if not taken:
        raise InputFileError(f"benchmark {spec!r}: it has {len(cases)} rows, none of them there")
    return taken


def put_as(spec: str) -> str | None:
    """How the cases of a specification are put, if it says so: ``NAME+multi-turn=PATH``.

    Raises:
        InputFileError: the specification cannot be read.
    """
    return _read(spec)["put"]


def _read(spec: str) -> re.Match[str]:
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise InputFileError(f"benchmark {spec!r}: write NAME=PATH, in small letters, or NAME")
    return found


def _places(spec: str, rows: str, count: int) -> set[int]:
    """Which of so many rows ``3,5,40:45`` and ``::4`` name."""
    places: set[int] = set()
    for part in rows.split(","):
        try:
            ends = [int(end) if end else None for end in part.split(":")]
            whole = range(count)
            places.update(whole[slice(*ends)] if ":" in part else {int(part)} & set(whole))
        except (TypeError, ValueError):
            raise InputFileError(
                f"benchmark {spec!r}: write rows as [420:520], [::4] or [3,5,40:45]"
            ) from None
    return places


def score(case: Case, text: str) -> dict[str, float]:
    """The official scores of an answer by name; none where the data set has no scorer.

    Args:
        case: its ``meta["dataset"]`` says which scorer, and holds what that one needs.
        text: the answer.

    Raises:
        InputFileError: the case lacks what its scorer needs.
        MissingDependencyError: a package that the scorer uses is not installed.
    """
    benchmark = BENCHMARKS.get(str(case.meta.get(DATASET)))
    return benchmark.scorer(case.meta, text) if benchmark and benchmark.scorer else {}


def draw(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """``limit`` of the cases, in their order.

    They are drawn by their ids: the cases of a limit are among those of every larger one.
    """
    if limit is None or limit >= len(cases):
        return list(cases)

    def rank(case: Case) -> bytes:
        return hashlib.sha256(f"{case.benchmark}/{case.id}".encode()).digest()

    taken = set(sorted(range(len(cases)), key=lambda i: rank(cases[i]))[:limit])
    return [case for i, case in enumerate(cases) if i in taken]


def without_template(cases: Sequence[Case]) -> list[Case]:
    """The cases as plain texts to be continued: the setting of TIDE, for base models.

    Raises:
        InputFileError: a case is a conversation.
    """
    for case in cases:
        if len(case.messages) > 1:
            raise InputFileError(
                f"case {case.id} of {case.benchmark} is a conversation: it cannot be continued "
                "as a plain text"
            )
    return [replace(case, template=False) for case in cases]
