"""JSONL files: input that may be broken line by line, and output that may be torn at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from rerail.cli._text import dumps
from rerail.errors import InputFileError, PromptError, StoreError
from rerail.types import Prompt

Parsed = TypeVar("Parsed")


class Fault(NamedTuple):
    """A line that could not be used, and why."""

    line: int
    error: str


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the input.

    Attributes:
        line: its number, from 1.
        id: as given, or the line's number.
        prompt: what is to be answered.
    """

    line: int
    id: str | int
    prompt: Prompt

    @property
    def key(self) -> str:
        return str(self.id)


def read_items(path: Path) -> tuple[list[Item], list[Fault]]:
    """Prompts of a file, and the lines that hold none.

    Raises:
        InputFileError: the file cannot be read.
    """
    items, faults = read_objects(path, _item)
    seen: dict[str, int] = {}
    unique = []
    for item in items:
        first = seen.setdefault(item.key, item.line)
        if first == item.line:
            unique.append(item)
        else:
            faults.append(Fault(item.line, f"id {item.key!r} stands in line {first} already"))
    return unique, sorted(faults)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file of which every line is needed.

    Raises:
        InputFileError: the file cannot be read, a line holds no prompt, or none does.
    """
    items, faults = read_items(path)
    if faults:
        raise InputFileError(f"{path}, line {faults[0].line}: {faults[0].error}")
    if not items:
        raise InputFileError(f"{path} holds no prompt: give at least one line")
    return [item.prompt for item in items]


def read_objects(
    path: Path, parse: Callable[[int, Mapping[str, Any]], Parsed]
) -> tuple[list[Parsed], list[Fault]]:
    """What ``parse`` makes of each line's object, and the lines of which it can make nothing.

    Lines without text are left out.

    Raises:
        InputFileError: the file cannot be read.
    """
    parsed: list[Parsed] = []
    faults: list[Fault] = []
    for number, line in _raw_lines(path):
        if not line.strip():
            continue
        try:
            parsed.append(parse(number, _object(line)))
        except PromptError as error:
            faults.append(Fault(number, str(error)))
    return parsed, faults


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputFileError(f"cannot read {path}: {reason}") from None


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputFileError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InputFileError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InputFileError("not usable: nested too deep") from None
    except ValueError:
        raise InputFileError("not usable: a number of too many digits") from None
    if not isinstance(value, dict):
        raise InputFileError(f"not a JSON object but a {type(value).__name__}")
    return value


def text_of(data: Mapping[str, Any], key: str) -> str:
    """A text field.

    Raises:
        InputFileError: it is absent, no text, or holds half a character.
    """
    value = data.get(key)
    if not isinstance(value, str):
        raise InputFileError(f"{key!r} must be text")
    _encodable(value, key)
    return value


def prompt_of(data: Mapping[str, Any]) -> Prompt:
    """The prompt of a line: either ``prompt``, a text, or ``messages``.

    Raises:
        PromptError: there is none, or it cannot be answered.
    """
    if ("prompt" in data) == ("messages" in data):
        raise InputFileError("needs either 'prompt' or 'messages'")
    if "prompt" in data:
        return Prompt.of(text_of(data, "prompt"))
    if not isinstance(data["messages"], list):
        raise InputFileError("'messages' must be a list")
    prompt = Prompt.of(data["messages"])
    for message in prompt.messages:
        _encodable(message.content, "messages")
    return prompt


def id_of(number: int, data: Mapping[str, Any]) -> str | int:
    """The line's ``id``, or its number.

    Raises:
        InputFileError: the id is neither text nor a whole number.
    """
    value = data.get("id", number)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        raise InputFileError("'id' must be text or a whole number")
    if len(str(value)) > _ID_LENGTH:
        raise InputFileError(f"'id' is longer than {_ID_LENGTH} characters")
    _encodable(str(value), "id")
    return value


_ID_LENGTH = 255


def _item(number: int, data: Mapping[str, Any]) -> Item:
    return Item(number, id_of(number, data), prompt_of(data))


def _encodable(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputFileError(f"{key!r} holds half a surrogate pair") from None


class OutputFile:
    """The lines that a run has written, and the next ones: each is on the disk when written.

    Attributes:
        lines: the `keys` of the finished ones. A last line without its end was being written when
            the run was killed; it is not among them, and `mend` cuts it off.

    Raises:
        StoreError: the file cannot be written, is in use, or holds something else.
    """

    command, option = "rerail align", "--output"
    """What writes it, and which option names it."""
    keys = frozenset({"id", "line", "outcome", "error", "cost"})
    """What every line has. Only that is held in memory: a long run's answers are not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StoreError(
                f"cannot write {path}: {reason}; choose another {self.option}"
            ) from None
        try:
            self._lock()
            self._end = 0
            self.lines: list[Mapping[str, Any]] = list(self._finished())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def empty(self) -> bool:
        """Whether not even a torn line is there."""
        return self.path.stat().st_size == 0

    def mend(self) -> None:
        """Cut a torn last line off."""
        self._file.truncate(self._end)

    def clear(self) -> None:
        """Throw all lines away."""
        self._file.truncate(0)
        self.lines, self._end = [], 0

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, with at least its `keys`.

        Raises:
            StoreError: the disk is full, or the like.
        """
        rest = memoryview(dumps(line).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
            self.lines.append(self._essence(line))
        except OSError as error:
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; mend that and run it again"
            ) from None

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # a system without such locks
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                f"{self.path} is being written by another process: wait for it, or choose "
                f"another {self.option}"
            ) from None

    def _finished(self) -> Iterator[Mapping[str, Any]]:
        for number, raw in _raw_lines(self.path):
            if not raw.endswith(b"\n"):
                return
            yield self._line(number, raw)
            self._end += len(raw)

    def _line(self, number: int, raw: bytes) -> Mapping[str, Any]:
        try:
            line = _object(raw)
        except InputFileError:
            line = {}
        if not line.keys() >= self.keys:
            raise StoreError(
                f"line {number} of {self.path} was not written by {self.command!r}: choose "
                f"another {self.option}"
            )
        return self._essence(line)

    def _essence(self, line: Mapping[str, Any]) -> dict[str, Any]:
        return {key: line[key] for key in self.keys}
