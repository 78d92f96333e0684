"""A clean environment for every test: no keys, no network, user folders of its own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Read before a model library is imported, which is when these take effect.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    MKL_NUM_THREADS=os.environ.get("MKL_NUM_THREADS", "1"),
)

# The same examples in every run; `--hypothesis-profile=search` looks for new ones.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("same")

_KEYS = (
    "RERAIL_",
    "OPENAI_",
    "AZURE_",
    "MISTRAL_",
    "PERSPECTIVE_",
    "HF_TOKEN",
    "HUGGING_FACE_",
)
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}


def _data_folder() -> Path:
    return Path(os.environ.get("RERAIL_DATA") or ROOT.parent / "shared" / "data")


DATA = _data_folder()


def pytest_report_header() -> str:
    found = "found" if DATA.is_dir() else "ABSENT: tests on public data sets will be skipped"
    return f"public data sets (RERAIL_DATA): {found}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public data sets; without it the test is skipped, and says so."""
    if not DATA.is_dir():
        pytest.skip("no folder of public data sets: set RERAIL_DATA to it")
    return DATA


@pytest.fixture(autouse=True)
def clean_environment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """No variables of the developer's, and user folders that nobody else sees; returns them."""
    for name in list(os.environ):
        if name == "RERAIL_DATA":
            continue
        if name.upper().startswith(_KEYS) or name.lower() in _PROXIES:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    return home


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to this machine only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in {"localhost", "::1"} and not str(host).startswith("127."):
            raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that every test gets anew, with the same seed."""
    return np.random.default_rng(20260428)
