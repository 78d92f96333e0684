"""A PostgreSQL server of the test's own, started under a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

INSTALL = "install the Debian package postgresql (and pip install 'rerail[postgres]')"


def _programs() -> Path | None:
    """Where initdb and postgres are."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def _unprivileged() -> dict[str, Any]:
    """Options of a process: PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("neither a user postgres nor nobody: PostgreSQL does not run as root")


def _answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server that ends with the session; skipped, loudly, without PostgreSQL."""
    programs = _programs()
    if programs is None:
        pytest.skip(f"no PostgreSQL: {INSTALL}")
    pytest.importorskip("psycopg", reason=INSTALL)
    rights = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="rerail-pg-"))
    if rights:
        os.chown(folder, rights["user"], rights["group"])
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    options: dict[str, Any] = {"env": environment, "cwd": folder, **rights}
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "rerail", "-A", "trust", "-E", "UTF8",
             "--no-sync"],
            check=True, capture_output=True, timeout=120, **options,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=",
             "-c", "fsync=off", "-c", "max_connections=40"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options,
        )  # fmt: skip
        try:
            url = f"postgresql://rerail@/postgres?host={folder}"
            deadline = time.monotonic() + 60
            while not _answers(url):
                assert server.poll() is None, "PostgreSQL did not start"
                assert time.monotonic() < deadline, "PostgreSQL is not ready"
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """A URL whose database has no tables yet."""
    import psycopg

    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server
