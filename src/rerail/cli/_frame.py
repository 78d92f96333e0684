"""What every command shares: exit codes, its report, and how errors reach the user.

A command prints nothing: it returns a `Report`, which is written once, as a table or as JSON.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from rerail.cli._text import print_json, printable
from rerail.errors import ModeratorSpecError, PolicyError, PromptError, RerailError


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    UNEXPECTED = 1
    BAD_INPUT = 2
    REFUSED = 3
    FAILED = 4
    PARTLY = 5
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.UNEXPECTED: "a fault of rerail, a promise that the demo found broken, "
    "a case of policy test that failed, or a run that report found worse",
    ExitCode.BAD_INPUT: "an option, prompt, policy, moderator's name or input file cannot be used",
    ExitCode.REFUSED: "align, of one prompt: no acceptable answer, the policy's message was given",
    ExitCode.FAILED: "the model or its device, a moderator, the store, a run's folder or the "
    "output is not there, or failed",
    ExitCode.PARTLY: "some lines of the input have no answer or no verdict while the others have, "
    "or tune found nothing that is better than no steering",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}

EPILOGUE = "Exit codes: " + "; ".join(f"{int(code)} {code.meaning}" for code in ExitCode) + "."
"""For the help of all commands."""
SHORT_EPILOGUE = "Exit codes: see rerail --help."
"""For the help of one."""


@dataclass(frozen=True)
class Report:
    """What a command found.

    Attributes:
        document: its JSON form.
        show: prints its readable form on the console it is given.
        as_json: which of the two is wanted.
        code: how the command ended.
    """

    document: Mapping[str, Any]
    show: Callable[[Console], None]
    as_json: bool = False
    code: ExitCode = ExitCode.OK


class StoppedError(Exception):
    """Ctrl-C, where more is to be said of it."""


class OutputError(Exception):
    """Standard output takes no more: its reader has enough, or a disk is full.

    Args:
        cause: what the system said.
        code: how the command ended where that is not a fault: its reader has enough.
    """

    def __init__(self, cause: OSError, code: ExitCode = ExitCode.OK) -> None:
        super().__init__(f"cannot write standard output: {cause.strerror or type(cause).__name__}")
        self.enough = isinstance(cause, BrokenPipeError)
        self.code = code


@contextlib.contextmanager
def resumable(where: Path) -> Iterator[None]:
    """The same command goes on with what Ctrl-C ends within.

    Raises:
        StoppedError: in place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        said = f"stopped; the same command goes on with {where}"
        raise StoppedError(said) from None


class _Guarded:
    """Standard output or error, whose faults can be told from those of other files.

    Args:
        stream: what it writes to.
        vital: whether what cannot be written raises `OutputError`; else nothing is written any
            more.
    """

    def __init__(self, stream: TextIO, vital: bool) -> None:
        self._stream = stream
        self._vital = vital

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._told():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            silence(self._stream)
            if self._vital:
                raise OutputError(error) from None


def silence(stream: Any) -> None:
    """What a stream still holds goes nowhere: Python must not complain once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def notes() -> Console:
    """The console for everything that is not the result: standard error."""
    file: Any = None if sys.stderr is None else _Guarded(sys.stderr, vital=False)
    return Console(file=file, stderr=True, highlight=False, markup=False, emoji=False)


class Commands(TyperGroup):
    """The root of the commands: writes their reports and errors, and gives the exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; exit with its code, or return it if not ``standalone_mode``."""
        words = list(sys.argv[1:] if args is None else args)
        options = words[: words.index("--")] if "--" in words else words
        as_json = "--json" in options and not {"-h", "--help"} & set(options)
        debug = "--debug" in options

        def command() -> Any:
            return super(Commands, self).main(
                words, prog_name or "rerail", complete_var, False, windows_expand_args, **extra
            )

        code = _perform(command, as_json, debug)
        if standalone_mode:
            sys.exit(int(code))
        return code


def _perform(command: Callable[[], Any], as_json: bool, debug: bool) -> int:
    """Run, and write what came of it, whatever standard output is."""
    if sys.stdout is None:
        notes().print("error: standard output is closed: send it to a file, or to /dev/null")
        return ExitCode.FAILED
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # of what its encoding lacks
    stdout: Any = _Guarded(sys.stdout, vital=True)
    code = ExitCode.OK
    try:
        with contextlib.redirect_stdout(stdout):
            report = _reported(command, as_json, debug)
        code = report.code
        if report.as_json:
            print_json(report.document, stdout)
        else:
            report.show(Console(file=stdout, highlight=False, markup=False, emoji=False))
            stdout.flush()
    except OutputError as error:
        if error.enough:
            return error.code or code
        notes().print(f"error: {error}", soft_wrap=True)
        return ExitCode.FAILED
    return code


def _reported(command: Callable[[], Any], as_json: bool, debug: bool) -> Report:
    """Run and report. Under ``--json`` whatever a library prints goes to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = command()
    except OutputError:
        raise
    except Exception as error:  # the outermost frame: whatever it is becomes one clear line
        if debug:
            traceback.print_exc()
        return _failure(error, as_json)
    if result == ExitCode.INTERRUPTED:
        return _failure(KeyboardInterrupt(), as_json)
    if isinstance(result, Report):
        return result
    return _quietly(result if isinstance(result, int) else ExitCode.OK)


def _quietly(code: int) -> Report:
    return Report({}, lambda console: None, code=ExitCode(code))


def _failure(error: BaseException, as_json: bool) -> Report:
    """Say what failed; its report has nothing to show but the document of ``--json``."""
    kind, message, code = _explain(error)
    if message:  # a command without arguments has shown its help already
        line = Text(printable(message))
        if code is not ExitCode.INTERRUPTED:
            line = Text.assemble(("error: ", "bold red"), line)
        notes().print(line, soft_wrap=True)
    fault = {"type": kind, "message": message, "exit_code": int(code)}
    return replace(_quietly(code), document={"error": fault}, as_json=as_json)


def _explain(error: BaseException) -> tuple[str, str, ExitCode]:
    """Name of the error, what to tell the user, and the exit code."""
    kind = type(error).__name__
    if isinstance(error, PromptError | PolicyError | ModeratorSpecError):
        return kind, str(error), ExitCode.BAD_INPUT
    if isinstance(error, RerailError):
        return kind, str(error), ExitCode.FAILED
    if hasattr(error, "format_message"):  # typer's errors of usage, public in no version
        return "UsageError", _usage(error), ExitCode.BAD_INPUT
    if isinstance(error, StoppedError) or kind in {"KeyboardInterrupt", "Abort"}:
        return "KeyboardInterrupt", str(error) or "stopped", ExitCode.INTERRUPTED
    # The message of an unforeseen error may quote a text that nobody should see.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    return kind, f"unexpected {kind} at {where}; --debug shows more", ExitCode.UNEXPECTED


def _usage(error: Any) -> str:
    message = str(error.format_message()).removeprefix("Invalid value: ").rstrip(".")
    if not message:
        return ""
    context = getattr(error, "ctx", None)
    help_of = f" (see {context.command_path} --help)" if context else " (see rerail --help)"
    return message + help_of
