"""Nothing happens at import, and what is missing says how to get it."""

import subprocess
import sys

import pytest

from rerail.errors import MissingDependencyError
from rerail.moderators.mistral import MistralModerator
from rerail.moderators.openai import OpenAIModerator

MODULES = [
    "_http", "_wire", "azure", "disk_cache", "http", "mistral", "openai", "perspective", "taxonomy",
]  # fmt: skip


def test_the_modules_load_no_client():
    names = ", ".join(f"rerail.moderators.{name}" for name in MODULES)
    code = f"import sys, {names}; print(*{{n.split('.')[0] for n in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"openai", "httpx", "httpx2", "torch", "transformers"} & set(run.stdout.split())


@pytest.mark.parametrize(
    ("package", "factory", "extra"),
    [("openai", OpenAIModerator, "openai"), ("httpx", MistralModerator, "services")],
)
def test_a_missing_client_names_the_extra(monkeypatch, package, factory, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'rerail\[{extra}\]'"):
        factory()
