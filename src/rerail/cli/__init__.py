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


_GROUPS = {
    "Answer and judge": ("demo", "align", "moderate"),
    "Policies and servers": ("policy", "serve", "audit"),
    "Evaluate and tune": ("eval", "report", "tune", "bench"),
    "About": ("version",),
}
"""The commands in the order of their use."""

_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


class _Root(Commands):
    """Lists the commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=list(_GROUP_OF).index)


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
        group = _GROUP_OF[command.__name__]
        app.command(epilog=SHORT_EPILOGUE, rich_help_panel=group)(command)
    app.command("eval", epilog=SHORT_EPILOGUE, rich_help_panel=_GROUP_OF["eval"])(evaluate)
    for name, commands in (("policy", _policy.commands), ("serve", _serve.commands)):
        app.add_typer(commands, name=name, rich_help_panel=_GROUP_OF[name])
    return app


app = _build()


def main() -> Any:
    """Run the command line and exit with its code."""
    app(prog_name="rerail")
