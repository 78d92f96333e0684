"""The documentation as a site: it is built strictly, holds together, and needs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

import rerail
from tests.browser import browser, hindrances

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def pages_of(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, list | dict):
        for inner in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(inner)


def test_the_navigation_has_every_page_once() -> None:
    nav = yaml.safe_load(CONFIG[re.search(r"^nav:$", CONFIG, re.MULTILINE).start() :])["nav"]
    assert [next(iter(part)) for part in nav] == [
        "Start", "How to", "Explanation", "Reference", "Log",
    ]  # fmt: skip
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages_of(nav)) == sorted(pages - {"before-after.md"})


# The site itself


class Document(HTMLParser):
    """What a page has, points to, and loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self.formulas += tag == "math"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loads.append(values["href"])
        else:
            self.loads += [values[name] for name in ("src", "srcset") if name in values]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="the site is not built: pip install 'rerail[docs]'")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def documents(site: Path) -> dict[Path, Document]:
    return {path: Document(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_links_pictures_and_anchors_of_the_site_exist(documents: dict[Path, Document]) -> None:
    for path, document in documents.items():
        if path.name == "404.html":  # its links are from the root of a server
            continue
        for link in document.links + document.loads:
            if link.startswith(("http://", "https://", "mailto:", "data:")):
                continue
            target, _, anchor = unquote(link).partition("#")
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            assert file.exists(), f"{path.name}: {link}"
            if anchor and file.suffix == ".html":
                assert anchor in documents[file].ids, f"{path.name}: {link}"


def test_the_site_loads_nothing_from_elsewhere(site: Path, documents: dict[Path, Document]) -> None:
    for path, document in documents.items():
        assert not [link for link in document.loads if "//" in link], path.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), sheet.name


def test_formulas_are_drawn(documents: dict[Path, Document]) -> None:
    for path, document in documents.items():
        assert 'class="arithmatex"' not in path.read_text(encoding="utf-8"), path.name
        assert bool(document.formulas) == (path.stem in {"method", "findings", "cost"})


def test_every_public_name_is_explained(documents: dict[Path, Document], site: Path) -> None:
    ids = documents[site / "reference" / "python.html"].ids
    assert {f"rerail.{name}" for name in rerail.__all__ if name != "__version__"} <= ids


def test_the_first_page_shows_an_answer_before_and_after(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "<th>before</th>" in page
    assert "withheld" in page


def test_a_file_that_is_no_part_of_the_site_is_named(site: Path) -> None:
    page = (site / "how-to" / "watch-it-work.html").read_text(encoding="utf-8")
    assert "the model card (<code>src/rerail/assets/smollm2-safe/MODEL_CARD.md</code>)" in page


# In a browser

KINDS = ("index", "tutorial", "how-to/serve", "explanation/method", "reference/policy", "log")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium: Any, site: Path, scheme: str) -> None:
    """A page of each kind, and the search with what it found."""
    page = chromium.new_page(color_scheme=scheme)
    for kind in KINDS:
        page.goto((site / f"{kind}.html").as_uri())
        assert hindrances(page) == [], kind
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("policy")
    page.locator(".md-search-result__item").first.wait_for()
    # What is still being faded in has no colours of its own yet.
    page.wait_for_function("document.getAnimations().length === 0")
    assert hindrances(page) == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_wider_than_the_window(chromium: Any, site: Path, width: int) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 844})
    for kind in KINDS:
        page.goto((site / f"{kind}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, kind
    page.close()
