"""What every command shares: exit codes, its report, and how errors reach the user.

A command prints nothing: it returns a `Report`, which is written once, as a table or as JSON.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from rerail.cli._text import print_json, printable
from rerail.errors import PolicyError, PromptError, RerailError


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
    "or a run that report found worse",
    ExitCode.BAD_INPUT: "an option, prompt, policy or file cannot be used",
    ExitCode.REFUSED: "align --prompt: no acceptable answer, the policy's message was given",
    ExitCode.FAILED: "the model, a moderator or the store failed",
    ExitCode.PARTLY: "some lines of the input have no answer or no verdict while the others have, "
    "or tune found nothing that is better than no steering",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C",
}

EPILOGUE = "Exit codes: " + "; ".join(f"{int(code)} {code.meaning}" for code in ExitCode) + "."


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


def notes() -> Console:
    """The console for everything that is not the result: standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


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

        code = _perform(command, sys.stdout, as_json, debug)
        if standalone_mode:
            sys.exit(int(code))
        return code


def _perform(command: Callable[[], Any], stdout: TextIO, as_json: bool, debug: bool) -> int:
    """Run and report. Under ``--json`` whatever a library prints goes to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = command()
    except Exception as error:  # the outermost frame: whatever it is becomes one clear line
        if debug:
            traceback.print_exc()
        return _fail(error, stdout, as_json)
    if result == ExitCode.INTERRUPTED:
        return _fail(KeyboardInterrupt(), stdout, as_json)
    if not isinstance(result, Report):
        return result if isinstance(result, int) else ExitCode.OK
    try:
        if result.as_json:
            print_json(result.document, stdout)
        else:
            result.show(Console(file=stdout, highlight=False, markup=False, emoji=False))
            stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has enough; Python must not complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    return result.code


def _fail(error: BaseException, stdout: TextIO, as_json: bool) -> ExitCode:
    kind, message, code = _explain(error)
    if as_json:
        fault = {"type": kind, "message": message, "exit_code": int(code)}
        print_json({"error": fault}, stdout)
    if message:  # a command without arguments has shown its help already
        line = Text.assemble(("error: ", "bold red"), printable(message))
        notes().print(line, soft_wrap=True)
    return code


def _explain(error: BaseException) -> tuple[str, str, ExitCode]:
    """Name of the error, what to tell the user, and the exit code."""
    kind = type(error).__name__
    if isinstance(error, PromptError | PolicyError):
        return kind, str(error), ExitCode.BAD_INPUT
    if isinstance(error, RerailError):
        return kind, str(error), ExitCode.FAILED
    if hasattr(error, "format_message"):  # typer's errors of usage, public in no version
        return "UsageError", _usage(error), ExitCode.BAD_INPUT
    if kind in {"KeyboardInterrupt", "Abort"}:
        said = "stopped; the same command goes on with what is in its --output or --out"
        return kind, said, ExitCode.INTERRUPTED
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
