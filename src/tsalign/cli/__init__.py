"""The command line; `app` has the commands.

Importing this loads no model library; commands import what they need.
"""

from __future__ import annotations

import platform
from typing import Annotated, Any

import typer

from tsalign import __version__
from tsalign.cli import policy as _policy
from tsalign.cli import serve as _serve
from tsalign.cli._frame import EPILOGUE, Commands, ExitCode, Report
from tsalign.cli._options import JsonOption
from tsalign.cli.align import align
from tsalign.cli.audit import audit
from tsalign.cli.bench import bench
from tsalign.cli.demo import demo
from tsalign.cli.eval import evaluate
from tsalign.cli.fit import fit
from tsalign.cli.moderate import moderate
from tsalign.cli.report import report

__all__ = ["ExitCode", "app", "main"]


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Steer an aligned model to acceptable answers by moving its input embeddings."""


def version(as_json: JsonOption = False) -> Report:
    """The version of tsalign."""
    document = {"version": __version__, "python": platform.python_version()}
    return Report(document, lambda console: console.print(f"tsalign {__version__}"), as_json)


def _build() -> typer.Typer:
    app = typer.Typer(
        cls=Commands,
        name="tsalign",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=EPILOGUE,
    )
    app.callback()(_root)
    for command in (demo, align, moderate, report, audit, fit, bench, version):
        app.command(epilog=EPILOGUE)(command)
    app.command("eval", epilog=EPILOGUE)(evaluate)
    app.add_typer(_policy.commands, name="policy")
    app.add_typer(_serve.commands, name="serve")
    return app


app = _build()


def main() -> Any:
    """Run the command line and exit with its code."""
    app(prog_name="tsalign")
