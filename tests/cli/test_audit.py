"""``rerail audit`` without a server, and without its packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rerail.cli import ExitCode
from rerail.store import Store
from tests.cli.conftest import Cli


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "records.sqlite"
    Store.open(path).close()
    return path


@pytest.mark.parametrize("options", [[], ["--json"]], ids=str)
@pytest.mark.parametrize(
    "mistyped", ["postgresql:/user:hunter2@host/db", "postgresql//user:hunter2@host", "hunter2"]
)
def test_what_was_given_as_the_store_is_not_printed(
    cli: Cli, mistyped: str, options: list[str]
) -> None:
    ran = cli("audit", "--store", mistyped, *options)
    assert ran.code == ExitCode.FAILED
    assert "hunter2" not in ran.out + ran.err
    assert "--store" in ran.err


def test_no_package_of_the_server_is_needed(store: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'watchfiles'):\n"
        "    sys.modules[name] = None\n"
        "from rerail.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "audit", "--store", str(store), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["count"] == 0


def test_standard_output_takes_an_export(cli: Cli, store: Path) -> None:
    ran = cli("audit", "--store", store, "--output", "-", "--format", "csv")
    assert (ran.code, ran.out.strip()) == (ExitCode.OK, "")
    assert cli("audit", "--store", store, "--output", "-", "--json").code == ExitCode.BAD_INPUT
    assert "no record" in cli("audit", "--store", store).out
