"""JSONL: input that may be broken line by line, and output that may be torn at its end.

``-`` is standard input or output. What is no file (a pipe, a terminal, ``/dev/null``) takes lines,
too; a run that writes to it cannot go on later.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, TypeVar

from rerail._json import dumps
from rerail.cli._frame import ExitCode, OutputError, silence
from rerail.errors import InputFileError, PromptError, StoreError
from rerail.types import Message, Prompt

Parsed = TypeVar("Parsed")


STANDARD = Path("-")
"""Standard input, or standard output."""


class Fault(NamedTuple):
    """A line that could not be used, and why."""

    line: int
    error: str


def refuse_json(output: Path) -> None:
    """``--json`` and the output cannot both have standard output.

    Raises:
        InputFileError: they would.
    """
    if is_standard_output(output):
        raise InputFileError("--json and --output both want standard output: choose a file")


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the input.

    Attributes:
        line: its number, from 1.
        id: as given; None without one.
        prompt: what is to be answered.
    """

    line: int
    id: str | int | None
    prompt: Prompt

    @property
    def key(self) -> str:
        """Names the line within a run."""
        return key_of(self.id, self.line)


def key_of(id_: str | int | None, line: int) -> str:
    """The id, or what no id can be: ``#`` and the line's number. An id with ``#`` gets another."""
    text = str(id_)
    return f"#{line}" if id_ is None else "#" + text if text.startswith("#") else text


def read_items(path: Path) -> tuple[list[Item], list[Fault]]:
    """Prompts of a file, and the lines that hold none.

    Raises:
        InputFileError: the file cannot be read, or no line holds a prompt.
    """
    items, faults = read_objects(path, "prompt", _item)
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
        raise InputFileError(f"{name_of(path)}, line {faults[0].line}: {faults[0].error}")
    return [item.prompt for item in items]


def name_of(path: Path) -> str:
    """What an input is called."""
    return "standard input" if path == STANDARD else str(path)


def read_objects(
    path: Path, what: str, parse: Callable[[int, Mapping[str, Any]], Parsed]
) -> tuple[list[Parsed], list[Fault]]:
    """What ``parse`` makes of each line's object, and the lines that are not what is wanted.

    Lines without text are left out.

    Raises:
        InputFileError: the file cannot be read, or nothing can be made of any line.
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
    if not parsed:
        why = f"line {faults[0].line}: {faults[0].error}" if faults else "give at least one line"
        raise InputFileError(f"{name_of(path)} holds no {what}: {why}")
    return parsed, faults


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with contextlib.nullcontext(stdin()) if path == STANDARD else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputFileError(f"cannot read {name_of(path)}: {reason}") from None


def stdin() -> BinaryIO:
    """Standard input, in bytes.

    Raises:
        InputFileError: it is closed.
    """
    if sys.stdin is None:
        raise InputFileError("standard input is closed: give a file, or a text")
    return sys.stdin.buffer


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


_BESIDE = ("tools", "tool_choice", "response_format")
"""What a line may have beside its prompt, as a chat request has it."""


def prompt_of(data: Mapping[str, Any]) -> Prompt:
    """The prompt of a line: either ``prompt``, a text, or ``messages``; with what goes beside it.

    Raises:
        PromptError: there is none, or it cannot be answered.
    """
    if not has_prompt(data):
        raise InputFileError("needs either 'prompt' or 'messages'")
    for key in ("messages", "tools"):
        if not isinstance(data.get(key) or [], list):
            raise InputFileError(f"{key!r} must be a list")
    beside = {key: data[key] for key in _BESIDE if data.get(key) is not None}
    if data.get("prompt") is None:
        return _asked({"messages": [_known(turn) for turn in data["messages"]]} | beside)
    text = text_of(data, "prompt")
    if beside:
        return _asked({"messages": [{"role": "user", "content": text}]} | beside)
    return Prompt((Message("user", text),))


def has_prompt(data: Mapping[str, Any]) -> bool:
    """Whether a line has a prompt; a key that is null is as good as absent.

    Raises:
        InputFileError: it has two.
    """
    given = [key for key in ("prompt", "messages") if data.get(key) is not None]
    if len(given) > 1:
        raise InputFileError("has both 'prompt' and 'messages': needs either")
    return bool(given)


def _known(turn: Any) -> Any:
    """A turn without the keys that the server does not know."""
    from rerail.server.schemas import ChatMessage

    if not isinstance(turn, Mapping):
        return turn
    return {key: turn[key] for key in turn.keys() & ChatMessage.model_fields.keys()}


def _asked(body: dict[str, Any]) -> Prompt:
    """The prompt of a chat request, checked as the server checks it."""
    from pydantic import ValidationError

    from rerail.server.faults import by_place, in_words
    from rerail.server.schemas import ChatRequest

    try:
        (prompt,) = ChatRequest.model_validate({"model": "", **body}).prompts()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        faults = by_place([{**fault, "loc": ("body", *fault["loc"])} for fault in found], body)
        raise InputFileError(in_words(faults)) from None
    return prompt


def id_of(data: Mapping[str, Any]) -> str | int | None:
    """The line's ``id``; None if it has none.

    Raises:
        InputFileError: the id is neither text nor a whole number.
    """
    value = data.get("id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value):
        raise InputFileError("'id' must be text or a whole number")
    if len(str(value)) > _ID_LENGTH:
        raise InputFileError(f"'id' is longer than {_ID_LENGTH} characters")
    _encodable(str(value), "id")
    return value


_ID_LENGTH = 254  # a store's 255, less a sign


def _item(number: int, data: Mapping[str, Any]) -> Item:
    return Item(number, id_of(data), prompt_of(data))


def _encodable(text: str, key: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputFileError(f"{key!r} holds half a surrogate pair") from None


KEYS = frozenset({"id", "line", "outcome", "error", "cost"})
"""Of a line, what a summary needs of it."""


def essence(line: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those keys of a line: answers of a long run are not held in memory."""
    return {key: line[key] for key in keys}


class Output(Protocol):
    """Where the lines of a run go.

    Attributes:
        name: for people.
        lines: what a summary needs of those that are there.
    """

    name: str
    lines: list[Mapping[str, Any]]

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line: ``id``, ``line``, and the keys of a response."""


class OutputStream:
    """Lines to a pipe, a device or standard output: each is out of our hands when written.

    Args:
        path: of the pipe or device, or `STANDARD`.

    Raises:
        StoreError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self._standard = path == STANDARD
        self.name = "standard output" if self._standard else str(path)
        try:
            self._file = sys.stdout.buffer if self._standard else path.open("wb")
        except OSError as error:
            raise self._broken(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._standard:
            self._file.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line.

        Raises:
            OutputError: standard output takes no more.
            StoreError: what is at the path takes no more.
        """
        try:
            self._file.write(dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            silence(self._file)
            if self._standard:
                raise OutputError(error, ExitCode.PARTLY) from None
            raise self._broken(error) from None
        self.lines.append(essence(line, KEYS))

    def _broken(self, error: OSError) -> StoreError:
        reason = error.strerror or type(error).__name__
        return StoreError(f"cannot write {self.name}: {reason}; choose another --output")


def is_stream(path: Path) -> bool:
    """Whether what stands at a path, or what it stands for, cannot be read again."""
    try:
        return path == STANDARD or not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def is_standard_output(path: Path) -> bool:
    """Whether a path is standard output by any name: ``-``, ``/dev/stdout``, ``/dev/fd/1``, ..."""
    if path == STANDARD:
        return True
    try:
        # Its number, not Python's name for it: under --json that is standard error.
        return os.path.samestat(path.stat(), os.fstat(1)) and not path.samefile(os.devnull)
    except (OSError, ValueError):
        return False


class OutputFile:
    """The lines that a run has written, and the next ones: each is on the disk when written.

    Attributes:
        name: its path.
        lines: the `keys` of the finished ones. A last line without its end was being written when
            the run was killed; it is not among them, and `mend` cuts it off.

    Raises:
        StoreError: the file cannot be written, is in use, or holds something else.
    """

    command, option = "rerail align", "--output"
    """What writes it, and which option names it."""
    keys = KEYS
    """What every line has. Only that is held in memory: a long run's answers are not."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
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
        return essence(line, self.keys)
