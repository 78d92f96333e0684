"""The command line; `app` has the commands.

Importing this loads no model library; commands import what they need.
"""

from __future__ import annotations

import platform
from typing import Annotated, Any

import typer

from rerail import __version__
from rerail.cli import policy as _policy
from rerail.cli import serve as _serve
from rerail.cli._frame import EPILOGUE, SHORT_EPILOGUE, Commands, ExitCode, Report
from rerail.cli._options import JsonOption
from rerail.cli.align import align
from rerail.cli.audit import audit
from rerail.cli.bench import bench
from rerail.cli.demo import demo
from rerail.cli.eval import evaluate
from rerail.cli.moderate import moderate
from rerail.cli.report import report
from rerail.cli.tune import tune

__all__ = ["ExitCode", "app", "main"]


_ORDER = (
    "demo",
    "align",
    "moderate",
    "policy",
    "serve",
    "eval",
    "report",
    "tune",
    "bench",
    "audit",
    "version",
)


class _Root(Commands):
    """Lists the commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rerail {__version__}", flush=True)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Steer an aligned model to acceptable answers by moving its input embeddings."""


def version(as_json: JsonOption = False) -> Report:
    """The version of rerail."""
    document = {"version": __version__, "python": platform.python_version()}
    return Report(document, lambda console: console.print(f"rerail {__version__}"), as_json)


def _build() -> typer.Typer:
    app = typer.Typer(
        cls=_Root,
        name="rerail",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EPILOGUE,
    )
    app.callback()(_root)
    for command in (demo, align, moderate, report, audit, tune, bench, version):
        app.command(epilog=SHORT_EPILOGUE)(command)
    app.command("eval", epilog=SHORT_EPILOGUE)(evaluate)
    app.add_typer(_policy.commands, name="policy")
    app.add_typer(_serve.commands, name="serve")
    return app


app = _build()


def main() -> Any:
    """Run the command line and exit with its code."""
    app(prog_name="rerail")
