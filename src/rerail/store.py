"""Durable records: one per response, never written twice, never changed.

A *run* is a set of items answered under the same settings. `Store.add` writes a response with
every evaluation in one transaction; when it returns, the record is on the disk. Whatever kills the
process, finished records stay, and `Store.done` tells a later process what is left to do.

SQLite is the default; any other SQLAlchemy URL works with tables of the same shape.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError

from rerail.errors import StoreError
from rerail.types import Evaluation, Prompt, Response

SCHEMA_VERSION = 5
"""1: runs, records, evaluations. 2: changes of policies. 3: reasoning of records. 4: layers, and
tokens that left before the search was over. 5: relevance."""

_BUSY_SECONDS = 60.0
_MAKING_TABLES = 0x7473616C69676E
"""Key of PostgreSQL's lock: "rerail"."""
_WRITE = {"rerail_write": True}


class _UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC time on every database, SQLite included."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


_tables = sa.MetaData()

_schema = sa.Table(
    "rerail_schema",
    _tables,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
_runs = sa.Table(
    "rerail_runs",
    _tables,
    sa.Column("run", sa.String(255), primary_key=True),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
)
_records = sa.Table(
    "rerail_records",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run", sa.String(255), nullable=False),
    sa.Column("item", sa.String(255), nullable=False),
    sa.Column("created_at", _UtcTime, nullable=False),
    sa.Column("policy", sa.String(64), nullable=False),
    sa.Column("policy_version", sa.String(64), nullable=False),
    sa.Column("audit", sa.Boolean, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("stop_reason", sa.String(32), nullable=False),
    sa.Column("accepted_from", sa.String(32), nullable=False),
    sa.Column("iterations", sa.Integer, nullable=False),
    sa.Column("initial", sa.JSON(none_as_null=True)),
    sa.Column("final", sa.JSON(none_as_null=True)),
    sa.Column("naturalness", sa.Float),
    sa.Column("cosine", sa.Float),
    sa.Column("tokens_preserved", sa.Float),
    sa.Column("generations", sa.Integer, nullable=False),
    sa.Column("generated_tokens", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("moderator_calls", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("prompt", sa.JSON(none_as_null=True)),
    sa.Column("first_answer", sa.Text),
    sa.Column("final_answer", sa.Text),
    sa.Column("reasoning", sa.Text),
    sa.Column("layer", sa.String(32)),
    sa.Column("gate", sa.JSON(none_as_null=True)),
    sa.Column("noted", sa.JSON(none_as_null=True)),
    sa.Column("sent_tokens", sa.Integer),
    sa.Column("relevance", sa.Float),
    sa.UniqueConstraint("run", "item", name="rerail_one_record_per_item"),
)
_ADDED = {
    "reasoning": "TEXT",
    "layer": "VARCHAR(32)",
    "gate": "JSON",
    "noted": "JSON",
    "sent_tokens": "INTEGER",
    "relevance": "FLOAT",
}
"""Columns that records did not always have."""

_evaluations = sa.Table(
    "rerail_evaluations",
    _tables,
    sa.Column("record", sa.ForeignKey("rerail_records.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("origin", sa.String(32), nullable=False),
    sa.Column("harm", sa.Float),
    sa.Column("scores", sa.JSON, nullable=False),
    sa.Column("unscored", sa.Text),
    sa.Column("naturalness", sa.Float),
    sa.Column("rejection", sa.Text),
    sa.Column("generated_tokens", sa.Integer, nullable=False),
)

_policy_changes = sa.Table(
    "rerail_policy_changes",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("at", _UtcTime, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("yaml", sa.Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """Who did what to a policy.

    Attributes:
        name: of the policy.
        version: that became current, or that was removed.
        action: put, rollback or remove.
        at: when.
        by: who: the name of a key, a file, or the start of a server.
        yaml: the text of the version.
    """

    name: str
    version: str
    action: str
    at: datetime
    by: str
    yaml: str


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluated answer of a record, in the order in which answers were asked for.

    ``harm`` is None where the verdict is unscored; ``unscored`` then holds the cause.
    """

    number: int
    origin: str
    harm: float | None
    scores: Mapping[str, float]
    unscored: str | None
    naturalness: float | None
    rejection: str | None
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Record:
    """One response as it was stored; the fields are those of `Response`.

    ``initial`` and ``final`` have the keys harm, scores, flagged and unscored; ``layer``, ``gate``
    and ``noted`` are None in records that were written before there were layers. ``prompt`` (role
    and content of each message, and its tool calls), ``first_answer``, ``final_answer`` and
    ``reasoning`` are None unless text was recorded; the last also where the policy withholds it.
    ``sent_tokens`` is None in records of before there was such a thing.
    """

    run: str
    item: str
    created_at: datetime
    policy: str
    policy_version: str
    audit: bool
    model: str
    seed: int
    outcome: str
    stop_reason: str
    accepted_from: str
    iterations: int
    initial: Mapping[str, Any] | None
    final: Mapping[str, Any] | None
    naturalness: float | None
    cosine: float | None
    tokens_preserved: float | None
    generations: int
    generated_tokens: int
    prompt_tokens: int
    moderator_calls: int
    seconds: float
    error: str | None
    prompt: list[dict[str, Any]] | None
    first_answer: str | None
    final_answer: str | None
    reasoning: str | None = None
    layer: str | None = None
    gate: Mapping[str, Any] | None = None
    noted: list[str] | None = None
    sent_tokens: int | None = None
    relevance: float | None = None
    evaluations: tuple[EvaluationRecord, ...] = ()


class Database:
    """A database made safe against crashes; its errors name the remedy, and never the data.

    Args:
        location: path of an SQLite file, or an SQLAlchemy URL.

    Raises:
        StoreError: the URL cannot be read, or its driver is missing.
    """

    def __init__(self, location: str | Path) -> None:
        url = _url(location)
        self._engine = _engine(url)
        # Without parameters, among which there may be a password.
        self.name = url.database or url.set(query={}).render_as_string()

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for reading."""
        with self._faults(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction that writes: all of it is on the disk at the end, or none."""
        with (
            self._faults(),
            self._engine.connect().execution_options(**_WRITE) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise StoreError(f"{self.name}: {_remedy(str(error.orig))}") from None


class Store(Database):
    """Records in a database. Threads and processes may write to the same one."""

    @classmethod
    def open(cls, location: str | Path) -> Self:
        """Open a store, or make a new one.

        Args:
            location: path of an SQLite file, or an SQLAlchemy URL.

        Raises:
            StoreError: the database cannot be opened, is not a store, or is of a newer schema.
        """
        store = cls(location)
        try:
            store._prepare()
        except BaseException:
            store.close()
            raise
        return store

    def settings(self, run: str) -> dict[str, Any] | None:
        """The settings under which a run was begun; None if there is no such run."""
        with self.reading() as connection:
            found = connection.scalar(sa.select(_runs.c.settings).where(_runs.c.run == run))
        return None if found is None else dict(found)

    def begin(self, run: str, settings: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it under the same settings.

        Raises:
            StoreError: the run was begun under other settings; the message names the differences.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        row = {"run": run, "created_at": datetime.now(UTC), "settings": wanted}
        self._insert_once(
            sa.select(_runs.c.run).where(_runs.c.run == run),
            lambda connection: connection.execute(_runs.insert(), row),
        )
        begun = self.settings(run) or {}
        if different := differences(begun, wanted):
            raise StoreError(
                f"{run!r} was begun under other settings ({different}): go on under those, write "
                "to another output, or start afresh"
            )

    def forget(self, run: str) -> None:
        """Delete a run and its records."""
        ids = sa.select(_records.c.id).where(_records.c.run == run)
        with self.writing() as connection:
            connection.execute(_evaluations.delete().where(_evaluations.c.record.in_(ids)))
            connection.execute(_records.delete().where(_records.c.run == run))
            connection.execute(_runs.delete().where(_runs.c.run == run))

    def add(self, run: str, item: str, response: Response, prompt: Prompt | None = None) -> bool:
        """Record a response durably; a record that is there already stays as it is.

        Args:
            run: the run that the item belongs to.
            item: what was answered, unique within the run.
            response: what left.
            prompt: given only if the policy says ``record_text``: the prompt, the first and the
                final answer, and reasoning that is shown, are then recorded with the figures.

        Returns:
            Whether it was written now.

        Raises:
            StoreError: it could not be written.
        """
        row = _record_row(run, item, response, prompt)

        def insert(connection: sa.Connection) -> None:
            (record,) = connection.execute(_records.insert(), row).inserted_primary_key or (None,)
            rows = [_evaluation_row(record, i, e) for i, e in enumerate(response.evaluations)]
            if rows:
                connection.execute(_evaluations.insert(), rows)

        there = sa.select(_records.c.id).where(_records.c.run == run, _records.c.item == item)
        return self._insert_once(there, insert)

    def done(self, run: str) -> set[str]:
        """Items of the run that have a record."""
        with self.reading() as connection:
            return set(connection.scalars(sa.select(_records.c.item).where(_records.c.run == run)))

    def records(self, run: str) -> Iterator[Record]:
        """The run's records with their evaluations, in the order in which they were written."""
        yield from self._read(sa.select(_records).where(_records.c.run == run))

    def find(
        self,
        *,
        run_prefix: str = "",
        run: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        outcome: str | None = None,
        policy: str | None = None,
        item: str | None = None,
        category: tuple[str, float] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Records that match all that is given, the latest first.

        Args:
            run_prefix: with which the name of the run begins.
            run: its name.
            since: written at this time or later.
            until: written before this time.
            outcome: as in `Outcome`.
            policy: its name.
            item: what was answered.
            category: with the least score of it that the first answer has.
            after: go on after this item, with what was written before it; nothing, if it is gone.
            limit: records at most.
        """
        in_runs = _records.c.run.startswith(run_prefix, autoescape=True)
        query = sa.select(_records).where(
            in_runs,
            *(
                column == value
                for column, value in (
                    (_records.c.run, run),
                    (_records.c.outcome, outcome),
                    (_records.c.policy, policy),
                    (_records.c.item, item),
                )
                if value is not None
            ),
        )
        if since is not None:
            query = query.where(_records.c.created_at >= since)
        if until is not None:
            query = query.where(_records.c.created_at < until)
        if category is not None:
            name, least = category
            query = query.where(_records.c.initial[("scores", name)].as_float() >= least)
        if after is not None:
            last = sa.select(sa.func.max(_records.c.id)).where(in_runs, _records.c.item == after)
            query = query.where(_records.c.id < last.scalar_subquery())
        yield from self._read(query.limit(limit), latest_first=True)

    def prune(self, before: datetime, run_prefix: str = "") -> int:
        """Delete the records written before a time, in runs whose name begins so.

        Returns:
            How many they were.
        """
        old = sa.and_(
            _records.c.created_at < before,
            _records.c.run.startswith(run_prefix, autoescape=True),
        )
        ids = sa.select(_records.c.id).where(old)
        with self.writing() as connection:
            connection.execute(_evaluations.delete().where(_evaluations.c.record.in_(ids)))
            return connection.execute(_records.delete().where(old)).rowcount

    def note_policy_change(self, change: PolicyChange) -> None:
        """Record a change of a policy durably.

        Raises:
            StoreError: it could not be written.
        """
        with self.writing() as connection:
            connection.execute(_policy_changes.insert(), asdict(change))

    def policy_changes(self, name: str | None = None) -> list[PolicyChange]:
        """Changes of one policy, or of all, oldest first."""
        columns = [_policy_changes.c[field.name] for field in fields(PolicyChange)]
        query = sa.select(*columns).order_by(_policy_changes.c.id)
        if name is not None:
            query = query.where(_policy_changes.c.name == name)
        with self.reading() as connection:
            return [PolicyChange(**row) for row in connection.execute(query).mappings()]

    def _read(self, query: sa.Select[Any], latest_first: bool = False) -> Iterator[Record]:
        order = _records.c.id.desc() if latest_first else _records.c.id
        evaluations = sa.select(_evaluations).order_by(_evaluations.c.number)
        with self.reading() as connection:
            for row in connection.execute(query.order_by(order)).mappings().all():
                columns = dict(row)
                record = columns.pop("id")
                of_record = evaluations.where(_evaluations.c.record == record)
                yield Record(
                    **columns,
                    evaluations=tuple(
                        EvaluationRecord(**{k: v for k, v in e.items() if k != "record"})
                        for e in connection.execute(of_record).mappings()
                    ),
                )

    def _insert_once(self, there: sa.Select[Any], insert: Callable[[sa.Connection], Any]) -> bool:
        """Insert unless it is there; where two writers do it at once, the first one wins."""
        try:
            with self.writing() as connection:
                if connection.scalar(there) is not None:
                    return False
                insert(connection)
        except IntegrityError as error:
            with self.reading() as connection:
                if connection.scalar(there) is None:
                    raise StoreError(f"{self.name}: {_summary(error.orig)}") from None
            return False
        return True

    def _prepare(self) -> None:
        """Make the tables of a new store; check those of an old one."""
        with self.reading() as connection:
            if self._version(connection) == SCHEMA_VERSION:
                return
        with self.writing() as connection:
            if self._engine.dialect.name == "postgresql":
                # One at a time, as in SQLite, where a writer has the lock.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING_TABLES)))
            version = self._version(connection)
            if version is None or version < SCHEMA_VERSION:
                _tables.create_all(connection)
                columns = {c["name"] for c in sa.inspect(connection).get_columns(_records.name)}
                for name, kind in _ADDED.items():
                    if name not in columns:
                        connection.execute(
                            sa.text(f"ALTER TABLE rerail_records ADD COLUMN {name} {kind}")
                        )
                connection.execute(_schema.insert(), {"version": SCHEMA_VERSION})

    def _version(self, connection: sa.Connection) -> int | None:
        """Schema version of a store; None for a database without our tables."""
        if not sa.inspect(connection).has_table(_schema.name):
            return None
        version = connection.scalar(sa.select(sa.func.max(_schema.c.version)))
        if version is None or version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.name} has schema {version}, this rerail knows {SCHEMA_VERSION}: "
                "upgrade rerail, or use another store"
            )
        return int(version)


_UNREADABLE = (
    "the store's URL cannot be read: use a path, or "
    "dialect+driver://user:password@host:port/database, with brackets around an IPv6 address, and "
    "%40 for @, %2F for /, %3A for : and %3F for ? in a password"
)


def _url(location: str | Path) -> URL:
    if isinstance(location, Path) or not re.search(r"://|^[\w+]{2,}:.*@", location):
        return URL.create("sqlite", database=str(Path(location).expanduser()))
    try:
        url = make_url(location)
    except (ArgumentError, ValueError):
        raise StoreError(_UNREADABLE) from None
    if url.get_backend_name() == "sqlite":
        if url.username or url.password or url.host or url.port:
            raise StoreError(_UNREADABLE)
        return url
    # Host, database or the name of a parameter with an @ are what is left of a password.
    names = re.findall(r"[?&]([^=&]*)", location) if "?" not in (url.password or "") else []
    if "@" in "".join([url.host or "", url.database or "", *names]):
        raise StoreError(_UNREADABLE)
    # The driver that the extra ``postgres`` installs; SQLAlchemy's own default is another.
    plain = url.drivername in {"postgresql", "postgres"}
    return url.set(drivername="postgresql+psycopg") if plain else url


def _engine(url: URL) -> sa.Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return sa.create_engine(url, hide_parameters=True, pool_pre_ping=True)
        engine = sa.create_engine(
            url, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS}
        )
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(
            f"no driver for {url.drivername!r} ({error}): install it (for PostgreSQL: "
            "pip install 'rerail[postgres]'), or use an SQLite path"
        ) from None
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    """Transactions are begun by us; the log is written ahead, and to the disk at every commit.

    synchronous=FULL: NORMAL survives a killed process but may lose the last commits when power
    fails, and then a line of an output file could stand without its record.
    """
    connection.isolation_level = None
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
            if mode != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:
            # The change to WAL needs the file for itself and does not wait for it.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes the lock at once: taken later, it could fail instead of waiting."""
    write = connection.get_execution_options().get("rerail_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def differences(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The settings that differ, by their dotted names: the outermost few, and how many more."""
    old, new = _flat(begun), _flat(wanted)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    names.sort(key=lambda name: (name.count("."), name))
    shown = [f"{n}: {_short(old.get(n))} -> {_short(new.get(n))}" for n in names[:_SHOWN]]
    more = len(names) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


_SHOWN = 5
_SHORT = 60


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


_REMEDIES = (
    ("locked", "is locked by another process: wait for it to end, or use another store"),
    ("readonly", "cannot be written to: change its permissions, or use another store"),
    ("unable to open", "cannot be opened: check that its folder exists and can be written to"),
    ("not a database", "is not an SQLite database: use another path"),
    ("malformed", "is damaged: restore it from a copy, or move it away and start over"),
    ("full", "cannot grow, the disk is full: make room; finished records are kept"),
    ("no such column", "has tables of another shape: use another store"),
    ("already exists", "has tables of another shape: use another store"),
)


def _remedy(fault: str) -> str:
    for sign, remedy in _REMEDIES:
        if sign in fault:
            return remedy
    return f"{_summary(fault)}: check the database, or use another store"


def _summary(fault: object) -> str:
    """The first line of what a database says: PostgreSQL's next ones quote the row."""
    return str(fault).partition("\n")[0]


def _record_row(run: str, item: str, response: Response, prompt: Prompt | None) -> dict[str, Any]:
    public = response.to_json()
    policy, cost, reasoning = public.pop("policy"), public.pop("cost"), public.pop("reasoning")
    for key in ("text", "reasoning_tokens", "tool_calls"):
        del public[key]
    row = {
        **public,
        **cost,
        "run": run,
        "item": item,
        "created_at": datetime.now(UTC),
        "policy": policy["name"],
        "policy_version": policy["version"],
        "audit": policy["audit"],
        "prompt": None,
        "first_answer": None,
        "final_answer": None,
        "reasoning": None,
    }
    if prompt is not None:
        first = response.evaluations[0].generation.said if response.evaluations else None
        messages = [{**m.to_json(), "content": _storable(m.content)} for m in prompt.messages]
        row |= {
            "prompt": messages,
            "first_answer": _storable(first),
            "final_answer": _storable(response.said),
            "reasoning": _storable(reasoning),
        }
    return row


def _evaluation_row(record: int | None, number: int, evaluation: Evaluation) -> dict[str, Any]:
    verdict = evaluation.judged.verdict
    return {
        "record": record,
        "number": number,
        "origin": str(evaluation.origin),
        "harm": verdict.harm,
        "scores": dict(verdict.scores),
        "unscored": verdict.unscored,
        "naturalness": _finite(evaluation.naturalness),
        "rejection": evaluation.rejection,
        "generated_tokens": len(evaluation.generation.token_ids),
    }


def _storable(text: str | None) -> Any:
    """PostgreSQL has no place for U+0000: the replacement character."""
    return None if text is None else text.replace("\0", "\ufffd")


def _finite(value: float | None) -> float | None:
    """Infinity, the harm of an unscored answer, has no place in every database."""
    return value if value is not None and math.isfinite(value) else None
