"""What a benchmark is: where its rows are, and how a row becomes a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rerail.errors import InputFileError, PromptError
from rerail.eval.benchmarks._rows import Row, hub_rows, read_rows
from rerail.eval.types import Case, CaseKind
from rerail.types import Message, Prompt

DATASET = "dataset"
"""Key of a case's meta: the benchmark without wrapper and scenario."""

Columns = tuple[str, ...]


class Hub(NamedTuple):
    """A data set on the hub."""

    path: str
    split: str
    config: str | None = None


@dataclass(frozen=True)
class Item:
    """What a row says, before it is a case.

    Attributes:
        text: what the user says; None leaves the row out.
        request: what is asked for, if that is less than ``text``.
        id: the data set's own, if it has one.
        kind: if not the benchmark's.
        category: the data set's own.
        messages: the conversation, if it is more than ``text``.
        meta: what a scorer needs.
    """

    text: str | None
    request: str | None = None
    id: str | None = None
    kind: CaseKind | None = None
    category: str | None = None
    messages: tuple[Message, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def _as_it_is(row: Row, item: Item) -> Item:
    return item


@dataclass(frozen=True)
class Benchmark:
    """A data set that gives cases.

    Of columns that are alternatives, the first that a row has counts.

    Attributes:
        name: what it is called on the command line.
        kind: of its cases, unless a row says otherwise.
        title: what it is called.
        paper: whose it is.
        licence: its size and licence.
        note: what a user should know besides.
        text: columns of what the user says.
        request: of what is asked for, if that is less than the text.
        id: of the data set's own id; by default it is the row's number, from 0.
        category: of the data set's own category.
        needs: further columns that rows must have; of a tuple, one.
        meta: columns that a scorer needs, or a reader may want.
        hub: where it is on the hub, if it is.
        template: False if its texts are to be continued.
        rows: reads a local file or folder.
        arrange: which rows are taken, and how they are split.
        item: what a row says besides, from what its columns say.
        scorer: official scores of an answer by name, from a case's meta.
    """

    name: str
    kind: CaseKind
    title: str
    paper: str
    licence: str
    note: str = ""
    text: Columns = ()
    request: Columns = ()
    id: Columns = ()
    category: Columns = ()
    needs: tuple[str | Columns, ...] = ()
    meta: Columns = ()
    hub: Hub | None = None
    template: bool = True
    rows: Callable[[Path], list[Row]] = read_rows
    arrange: Callable[[list[Row]], list[Row]] = list
    item: Callable[[Row, Item], Item] = _as_it_is
    scorer: Callable[[Mapping[str, Any], str], dict[str, float]] | None = None

    @property
    def about(self) -> str:
        """Title, paper, size, licence, and what else a user should know."""
        return f"{self.title}. {self.paper}. {self.licence}. {self.note}".strip()

    def load(self, path: Path | None = None) -> list[Case]:
        """Every case, in the order of the rows.

        Args:
            path: a local copy; None reads the hub.

        Raises:
            InputFileError: the data cannot be read, lack a column, or hold a row that is no
                prompt.
            MissingDependencyError: the hub's library is not installed.
        """
        if path is not None:
            rows, where = self.rows(path), str(path)
        elif self.hub is not None:
            rows = hub_rows(self.name, *self.hub)
            where = self.hub.path
        else:
            raise InputFileError(f"{self.name} is not on the hub: give a file as {self.name}=PATH")
        self._check_columns(rows, where)
        with _told(where):
            rows = self.arrange(rows)
        cases: dict[str, Case] = {}
        for number, row in enumerate(rows):
            with _told(f"{where}, row {number}"):
                case = self._case(self._item(row), number)
            if case is not None and cases.setdefault(case.id, case) is not case:
                raise InputFileError(f"{where}, row {number}: id {case.id!r} stands twice")
        if not cases:
            raise InputFileError(f"{where} holds no prompt of {self.name}")
        return list(cases.values())

    def _check_columns(self, rows: list[Row], where: str) -> None:
        if not rows:
            raise InputFileError(f"{where} has no rows")
        for wanted in filter(None, (self.text, *self.needs)):
            names = (wanted,) if isinstance(wanted, str) else wanted
            if not any(name in rows[0] for name in names):
                raise InputFileError(
                    f"{where} is no {self.name} file: it has no column "
                    f"{' or '.join(map(repr, names))}, but {', '.join(sorted(rows[0]))}. A file "
                    "of your own, with a column 'prompt', takes a name of its own"
                )

    def _item(self, row: Row) -> Item:
        item = Item(
            column(row, *self.text) if self.text else None,
            request=optional(row, *self.request),
            id=optional(row, *self.id),
            category=optional(row, *self.category),
            meta={name: optional(row, name) for name in self.meta},
        )
        return self.item(row, item)

    def _case(self, item: Item, number: int) -> Case | None:
        if item.messages is None and (item.text is None or not item.text.strip()):
            return None
        messages = item.messages or (Message("user", item.text or ""),)
        case = Case(
            id=str(number) if item.id is None else str(item.id),
            benchmark=self.name,
            kind=item.kind or self.kind,
            messages=messages,
            request=item.request or messages[-1].content,
            category=item.category or None,
            template=self.template,
            meta={DATASET: self.name, **item.meta},
        )
        Prompt(case.messages, case.template)
        "".join([case.id, case.request, case.category or "", *map(_content, messages)]).encode()
        if self.scorer is not None:
            self.scorer(case.meta, "-")  # a case that cannot be scored is told before it is asked
        return case


def _content(message: Message) -> str:
    return message.content


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Whatever is wrong with a row, said of where it stands."""
    try:
        yield
    except PromptError as error:
        raise InputFileError(f"{where}: {error}") from None
    except UnicodeEncodeError:
        raise InputFileError(f"{where}: holds half a surrogate pair") from None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InputFileError(f"{where}: has no usable value") from None


def column(row: Row, *names: str) -> str:
    """The text of the first of the columns that the row has.

    Raises:
        InputFileError: it has none of them, or it is no text.
    """
    for name in names:
        if name in row:
            if not isinstance(row[name], str):
                raise InputFileError(f"column {name!r} is no text")
            return str(row[name])
    raise InputFileError(f"no column {' or '.join(map(repr, names))}")


def optional(row: Row, *names: str) -> str | None:
    """The value of the first of the columns that the row has, as text; None if it has none."""
    for name in names:
        if row.get(name) not in (None, ""):
            return str(row[name])
    return None
