"""The documentation: generated pages are current, links lead somewhere, examples run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import rerail
import rerail.panel
from rerail.cli import ExitCode
from rerail.demo import Checks, summarise
from rerail.engines import FakeEngine
from rerail.moderators import FakeModerator
from rerail.policy import Policy

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current(reference: ModuleType) -> None:
    assert reference.stale() == [], "run `make docs` and look at what changed"


def test_a_page_that_is_old_missing_or_left_over_is_found(
    reference: ModuleType, tmp_path: Path
) -> None:
    assert reference.stale(tmp_path) == sorted(reference.pages())
    for name, text in reference.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert reference.stale(tmp_path) == []
    (tmp_path / "cli.md").write_text("old", encoding="utf-8")
    mark = next(iter(reference.pages().values())).splitlines()[0]
    (tmp_path / "left-over.md").write_text(f"{mark}\n\nGone.", encoding="utf-8")
    (tmp_path / "by-hand.md").write_text("# Written by hand", encoding="utf-8")
    assert reference.stale(tmp_path) == ["cli.md", "left-over.md"]


def test_the_table_of_the_demos_figures_has_a_row_for_each_of_the_readmes() -> None:
    path = ROOT / "scripts" / "figures.py"
    spec = importlib.util.spec_from_file_location("figures", path)
    assert spec is not None
    assert spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    run = {"method": "fast", "model": "m", "policy": {"name": "default"}, "seed": 0}
    run |= summarise([], Checks("", "", 0, 0, None), 61.4) | {"prompts": 50}
    lines = figures.table([run, run | {"method": "tide"}]).splitlines()
    assert lines[0] == "|  | `fast` | `tide` |"
    assert lines[-1] == "| seconds | 61 | 61 |"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"\n| {line.split(' | ')[0][2:]} |" in readme for line in lines[2:])
    with pytest.raises(ValueError, match="different models"):
        figures.table([run, run | {"model": "other"}])


def _anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them, and of names that the site puts in."""
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return anchors | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_of_our_own_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r'(?:src|srcset|href)="([^"]+)"', text
    )
    for link in links:
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name}: {link}"


def test_the_page_of_python_names_has_each_public_one_once() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: rerail\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == [name for name in rerail.__all__ if name != "__version__"]


def test_the_terms_that_the_servers_page_explains_are_in_the_glossary() -> None:
    page = (Path(rerail.__file__).parent / "server" / "page" / "index.html").read_text("utf-8")
    terms = re.findall(r'<dt id="term-([\w-]+)">', page)
    assert terms
    anchors = _anchors(ROOT / "docs" / "reference" / "glossary.md")
    assert {term.replace("-", "_") for term in terms} <= anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_can_be_read_by_what_they_are_for(page: Path) -> None:
    """Python compiles, YAML that names a policy is a valid one."""
    text = page.read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language == "python" and page.parent.name != "reference":
            compile(code, str(page), "exec")
        if language == "yaml" and re.search(r"^name:", code, re.MULTILINE):
            assert yaml.safe_load(code)["name"] == Policy.from_yaml(code).name


# The examples do what they say, without a model


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bimodal model that complies at first, and a moderator that flags compliance."""
    monkeypatch.setattr(rerail, "load_engine", lambda *_, **__: FakeEngine(margin=0.1))
    moderator = FakeModerator(words=("here is how",))
    monkeypatch.setattr(rerail.panel, "load_moderator", lambda _: moderator)


def run_examples(page: str) -> dict[str, Any]:
    """Run the Python blocks of a page, one after the other, in one namespace."""
    text = (ROOT / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "example"}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(code, page, "exec"), names)
    return names


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_first_example_steers(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_examples(page)
    assert names["response"].outcome == "steered"
    printed = capsys.readouterr().out
    assert "steered" in printed
    assert "here is how" not in printed


def test_a_moderator_of_ones_own_steers(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_examples("docs/how-to/your-own-moderator.md")
    assert names["response"].initial.flagged
    assert capsys.readouterr().out == "steered Please open it yourself.\n"
    assert set(names["both"].categories) == {"hate"}


def test_an_engine_of_ones_own_is_steered(capsys: pytest.CaptureFixture[str]) -> None:
    run_examples("docs/how-to/your-own-model.md")
    assert capsys.readouterr().out.startswith("steered I can't help")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("page", "call"),
    [
        ("docs/how-to/your-own-model.md", lambda n: n["make_aligner"]("folder").align("x")),
        ("docs/how-to/write-a-policy.md", lambda n: n["make_aligner"](n["Policy"](name="x"))),
        ("docs/how-to/text-completion.md", lambda n: n["continue_text"]("folder", "Once upon")),
    ],
)
def test_functions_of_the_how_tos_can_be_called(page: str, call: Any) -> None:
    assert call(run_examples(page))


# What is written by hand agrees with the code


def test_the_readme_has_the_exit_codes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for code in ExitCode:
        row = re.search(rf"^\| {int(code)} \| (.*) \|$", readme, re.MULTILINE)
        assert row is not None, f"README lacks exit code {int(code)}"
        assert row[1].replace("`", "") == code.meaning


def test_the_notice_attributes_every_source_of_the_demo() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    folder = Path(rerail.__file__).parent / "assets"
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*_prompts.jsonl")]
    assert len(texts) == 2
    for line in "".join(texts).splitlines():
        row = json.loads(line)
        assert row["source"].partition(":")[0] in notice
        assert row["licence"].replace("-", " ") in notice.replace("-", " ")


def test_the_figure_is_well_formed_and_describes_itself() -> None:
    figure = ElementTree.parse(ROOT / "docs" / "assets" / "loop.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert figure.findtext(f"{space}title")
    assert figure.findtext(f"{space}desc")
    assert "prefers-color-scheme: dark" in (figure.findtext(f"{space}style") or "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_nobodys_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:home|work|root|Users|opt|tmp)/", text)
