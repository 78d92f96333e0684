"""The folder of a run: its settings, its records, and what is made of them.

    DIR/settings.json      everything that decides the result, and the hash of it
    DIR/records.sqlite     the cases, and one row per trial
    DIR/summary.json       the figures
    DIR/report.html, DIR/tables, DIR/plots

Trials are added in whole groups, each in one transaction: whatever kills the process, a group is
there or it isn't, and the same command goes on with the groups that are not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from pydantic import TypeAdapter

from rerail.errors import StoreError
from rerail.eval.types import Case, Trial
from rerail.store import Database, differences
from rerail.types import Outcome

SETTINGS, RECORDS, SUMMARY = "settings.json", "records.sqlite", "summary.json"

Key = tuple[str, str, str, str, str, int]
"""`Trial.key`."""

_KEY_NAMES = ("benchmark", "case_id", "method", "model", "policy_version", "seed")
_tables = sa.MetaData()
_cases = sa.Table(
    "rerail_cases",
    _tables,
    sa.Column("benchmark", sa.String(255), primary_key=True),
    sa.Column("id", sa.String(255), primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
)
_trials = sa.Table(
    "rerail_trials",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("benchmark", sa.String(255), nullable=False),
    sa.Column("case_id", sa.String(255), nullable=False),
    sa.Column("method", sa.String(255), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("policy_version", sa.String(64), nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("flagged_before", sa.Boolean, nullable=False),
    sa.Column("flagged_after", sa.Boolean, nullable=False),
    sa.Column("generations", sa.Integer, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
    sa.UniqueConstraint(*_KEY_NAMES, name="rerail_one_trial_per_case"),
)
_KEY = tuple(_trials.c[name] for name in _KEY_NAMES)


class RunFolder:
    """A run's folder. `open` reads one; `begin` makes one, or goes on with it.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path / RECORDS)

    @classmethod
    def open(cls, path: Path) -> Self:
        """A run that is there.

        Raises:
            StoreError: the folder holds none, or its records cannot be read.
        """
        if not (path / SETTINGS).is_file() or not (path / RECORDS).is_file():
            raise StoreError(f"{path} holds no run: name a folder that `rerail eval` has written")
        return cls(path)

    @classmethod
    def begin(cls, path: Path, settings: Mapping[str, Any], cases: Sequence[Case]) -> Self:
        """Begin a run, or go on with it under the same settings.

        Args:
            path: the folder; made if it isn't there.
            settings: JSON-able, with the key ``id``: the hash of all that decides the result.
            cases: everything that is asked.

        Raises:
            StoreError: the folder holds another run; the message names the differences.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make {path}: {error.strerror}; choose another --out"
            ) from None
        wanted = json.loads(json.dumps(dict(settings)))
        if (path / SETTINGS).is_file():
            begun = _read_json(path / SETTINGS)
            if begun.get("id") != wanted["id"]:
                raise StoreError(
                    f"{path} holds a run under other settings "
                    f"({differences(begun | {'id': wanted['id']}, wanted)}): "
                    "go on under those, or choose another --out"
                )
        folder = cls(path)
        with folder._database.writing() as connection:
            _tables.create_all(connection)
            if not (path / SETTINGS).is_file():
                # Without their settings it cannot be known whose trials they are.
                if connection.scalar(sa.select(sa.func.count()).select_from(_trials)):
                    raise StoreError(
                        f"{path} has records and no {SETTINGS}: restore it, or choose another --out"
                    )
                connection.execute(_cases.delete())
            there = connection.execute(sa.select(_cases.c.benchmark, _cases.c.id))
            known = {tuple(row) for row in there}
            rows = [
                {"benchmark": c.benchmark, "id": c.id, "place": i, "content": _dump_case(c)}
                for i, c in enumerate(cases)
                if (c.benchmark, c.id) not in known
            ]
            if rows:
                connection.execute(_cases.insert(), rows)
        # Last, so that a folder with settings has its cases.
        write_text(path / SETTINGS, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the records."""
        self._database.close()

    def settings(self) -> dict[str, Any]:
        """What settings.json says."""
        return _read_json(self.path / SETTINGS)

    def add(self, trials: Iterable[Trial]) -> None:
        """Record trials, all of them or none; those that are there already stay as they are.

        Raises:
            StoreError: they could not be written.
        """
        rows = {trial.key: _trial_row(trial) for trial in trials}
        with self._database.writing() as connection:
            alike = _trials.c.benchmark.in_({row["benchmark"] for row in rows.values()})
            there = {tuple(row) for row in connection.execute(sa.select(*_KEY).where(alike))}
            new = [row for key, row in rows.items() if key not in there]
            if new:
                connection.execute(_trials.insert(), new)

    def done(self) -> set[Key]:
        """`Trial.key` of every trial that is there."""
        with self._database.reading() as connection:
            return {tuple(row) for row in connection.execute(sa.select(*_KEY))}

    def forget_errors(self) -> int:
        """Delete the trials with outcome ``error``, so that they are tried again; how many."""
        with self._database.writing() as connection:
            failed = _trials.delete().where(_trials.c.outcome == str(Outcome.ERROR))
            return int(connection.execute(failed).rowcount)

    def trials(self) -> list[Trial]:
        """Every trial, in an order that does not depend on when it was written."""
        wanted = sa.select(_trials.c.content).order_by(*_KEY)
        with self._database.reading() as connection:
            return [_trial_adapter().validate_python(x) for x in connection.scalars(wanted)]

    def cases(self) -> list[Case]:
        """Every case, in the order in which they were asked."""
        wanted = sa.select(_cases.c.content).order_by(_cases.c.place)
        with self._database.reading() as connection:
            return [_case_adapter().validate_python(x) for x in connection.scalars(wanted)]

    def summary(self) -> dict[str, Any]:
        """What summary.json says."""
        return _read_json(self.path / SUMMARY)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / SUMMARY, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}; choose another --out") from None


def dump_cases(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The JSON form of cases."""
    return [_dump_case(case) for case in cases]


@cache
def _case_adapter() -> TypeAdapter[Case]:
    return TypeAdapter(Case)


@cache
def _trial_adapter() -> TypeAdapter[Trial]:
    return TypeAdapter(Trial)


def _dump_case(case: Case) -> dict[str, Any]:
    dumped: dict[str, Any] = _case_adapter().dump_python(case, mode="json")
    return dumped


def _trial_row(trial: Trial) -> dict[str, Any]:
    return {
        **dict(zip(_KEY_NAMES, trial.key, strict=True)),
        "outcome": str(trial.outcome),
        "flagged_before": trial.flagged_before,
        "flagged_after": trial.flagged_after,
        "generations": trial.cost.generations,
        "content": _trial_adapter().dump_python(trial, mode="json"),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path} ({type(error).__name__}): restore it") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} holds no mapping: restore it")
    return value
