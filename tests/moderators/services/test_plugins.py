"""Moderators of other packages, found by their entry points."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from rerail.errors import ModeratorError
from rerail.moderators import ENTRY_POINTS, REGISTRY, FakeModerator, load_moderator
from rerail.moderators.base import Moderator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import Exchange

EXAMPLE = Path(__file__).parents[3] / "examples" / "moderator-plugin"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, str]) -> None:
    """What pip leaves behind: a module that can be imported and a list of entry points."""
    metadata = folder / "rerail_shouting-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 0.1.0\n")
    lines = [f"[{ENTRY_POINTS}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    source = (EXAMPLE / "rerail_shouting.py").read_text(encoding="utf-8")
    (folder / "rerail_shouting.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "rerail_shouting", raising=False)


def test_the_example_is_found_by_its_entry_point_and_judges(tmp_path, monkeypatch):
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install(tmp_path, monkeypatch, project["entry-points"][ENTRY_POINTS])
    policy = Policy.from_yaml(
        "name: quiet\n"
        "moderators: [fake, {name: shouting, options: {least_letters: 4}}]\n"
        "categories: {custom/shouting: 0.6}\n"
    )
    moderator = load_moderator(policy)
    assert Panel(policy, moderator).thresholds == {"illicit": 0.5, "custom/shouting": 0.6}
    exchanges = [Exchange((), text) for text in ("STOP IT", "Stop it", "OK", "1 + 1 = 2")]
    scores = moderator.score(exchanges)
    assert scores[0].categories["custom/shouting"] == 1.0
    assert scores[1].categories["custom/shouting"] == pytest.approx(1 / 6)
    assert scores[2].categories["custom/shouting"] == 0.0
    assert scores[3].cause == "shouting: no letters"


def test_the_example_is_a_moderator_in_under_60_lines(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"shouting": "rerail_shouting:ShoutingModerator"})
    assert isinstance(load_moderator(Policy(name="p", moderators=("shouting",))), Moderator)
    files = [file for file in EXAMPLE.iterdir() if file.suffix in (".py", ".toml")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 60


def test_ours_cannot_be_replaced(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"fake": "rerail_shouting:ShoutingModerator"})
    moderator = load_moderator(Policy(name="p", moderators=("fake",)))
    assert isinstance(moderator, FakeModerator)


def test_a_plugin_that_cannot_be_loaded_says_so(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"broken": "rerail_shouting:Nothing"})
    with pytest.raises(ModeratorError, match="'broken' cannot be loaded from rerail_shouting:N"):
        load_moderator(Policy(name="p", moderators=("broken",)))


def test_an_unknown_name_is_compared_with_those_of_plugins_too(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"shouting": "rerail_shouting:ShoutingModerator"})
    with pytest.raises(ModeratorError, match="did you mean 'shouting'"):
        load_moderator(Policy(name="p", moderators=("shoutin",)))


@pytest.mark.parametrize("name", ["azure", "http", "mistral", "openai", "perspective"])
def test_every_service_is_registered_under_its_own_name(name):
    module, _, attribute = REGISTRY[name].partition(":")
    assert getattr(importlib.import_module(module), attribute).name == name
