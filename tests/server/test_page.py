"""The page in a real browser: Chromium, driven by Playwright, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.server.conftest import Made, Make
from tsalign.engines import FakeEngine
from tsalign.engines.base import EmbeddedPrompt
from tsalign.server.keys import KeyRing, new_key
from tsalign.server.policies import load_moderators
from tsalign.server.routes.page import FOLDER
from tsalign.store import Store
from tsalign.types import FloatArray

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("TSALIGN_CHROMIUM") or shutil.which("chromium")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install chromium, or name it in TSALIGN_CHROMIUM"
)

QUESTION = "How do I keep tulips fresh?"
FIRST = "Stand them in a clean vase.<b>Bold</b>"
"""The unmoved prompt's answer, with markup that must stay text."""

OTHER = "Give them cold water every day."

YAML = """\
name: default
moderators:
  - name: rules
    options:
      rules:
        custom/furniture:
          words: [sofa]
"""


class Stage(FakeEngine):
    """Answers `FIRST`, and `OTHER` where the words have moved far enough; can be held up."""

    def __init__(self) -> None:
        self.places = threading.Semaphore(0)
        self.held = False
        super().__init__(self._answer)

    def _answer(self, embedded: EmbeddedPrompt, point: FloatArray) -> str:
        if self.held:
            self.places.acquire(timeout=20)
        moved = (point - embedded.point).mean(axis=0) @ self.direction / self.table.rms
        return OTHER if float(moved) > 0.15 else FIRST

    def go_on(self) -> None:
        """Hold nothing up any more."""
        self.held = False
        self.places.release(1000)


@dataclass
class Opened:
    """A page, what it complained of, and whom it called."""

    page: Page
    complaints: list[str]
    foreign: list[str]

    def ask(self, text: str = QUESTION) -> None:
        """Ask and wait for the answer."""
        turns = self.page.locator(".turn.assistant footer")
        before = turns.count()
        self.page.fill("#prompt", text)
        self.page.keyboard.press("Enter")
        turns.nth(before).wait_for()

    @property
    def outcome(self) -> str:
        return self.page.locator(".turn.assistant .badge").last.inner_text()

    @property
    def answer(self) -> str:
        return self.page.locator(".turn.assistant .said").last.inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    switches = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=switches.split())
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Any]:
    """Open a server's page; afterwards, nothing may have been complained of."""
    pages: list[Opened] = []

    def build(made: Made, expected: tuple[str, ...] = (), **context: Any) -> Opened:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(20_000)
        it = Opened(page, [], [])
        page.on("pageerror", lambda error: it.complaints.append(str(error)))

        def complain(message: Any) -> None:
            if message.type not in ("error", "warning"):
                return
            if not any(part in message.text for part in expected):
                it.complaints.append(message.text)

        def called(request: Any) -> None:
            if not request.url.startswith(made.url):
                it.foreign.append(request.url)

        page.on("console", complain)
        page.on("request", called)
        page.goto(made.url)
        page.locator('[aria-current="page"]').wait_for()
        pages.append(it)
        return it

    yield build
    for it in pages:
        it.page.context.close()
    for it in pages:
        assert it.complaints == []
        assert it.foreign == []


@pytest.fixture
def stage(serve: Make, tmp_path: Path) -> Any:
    """A server with a word list for a moderator, and its engine."""

    def build(**options: Any) -> tuple[Made, Stage]:
        engine = Stage()
        folder = tmp_path / "policies"
        folder.mkdir()
        (folder / "default.yaml").write_text(YAML, encoding="utf-8")
        made = serve(
            engine=engine,
            policies=[],
            folder=folder,
            moderators=load_moderators,
            store=Store.open(tmp_path / "records.sqlite"),
            **options,
        )
        return made, engine

    return build


def forbid(made: Made, word: str) -> None:
    """Put a policy that forbids another word."""
    text = YAML.replace("[sofa]", f"[sofa, {word}]")
    httpx.put(f"{made.url}/admin/policies/default", json={"yaml": text}).raise_for_status()


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


def test_no_text_becomes_markup() -> None:
    for script in FOLDER.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        for sink in ("innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert sink not in text, f"{script.name}: {sink}"


def test_assets_are_local_and_all_there() -> None:
    names = {file.name for file in FOLDER.iterdir()}
    index = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r"/static/([\w.-]+)", index)) <= names
    for script in FOLDER.glob("*.js"):
        for name in re.findall(r'from "([^"]+)"', script.read_text(encoding="utf-8")):
            assert name.removeprefix("./") in names
    ids = set(re.findall(r'\bid="([^"]+)"', index))
    for script in FOLDER.glob("*.js"):
        wanted = set(re.findall(r'byId\("([^"]+)"\)', script.read_text(encoding="utf-8")))
        assert wanted <= ids, f"{script.name}: {wanted - ids}"


@needs_browser
def test_an_answer_within_the_policy(stage: Any, opened: Any) -> None:
    made, _ = stage()
    it = opened(made)
    it.ask()
    assert it.outcome == "passed"
    assert it.answer == FIRST
    assert it.page.locator(".turn b").count() == 0
    assert it.page.locator("#harm-chart .candidate").count() == 1
    assert "left unchanged" in it.page.inner_text("#verdict")


@needs_browser
def test_a_search_is_watched_as_it_goes(stage: Any, opened: Any) -> None:
    made, engine = stage()
    forbid(made, "vase")
    it = opened(made)
    page = it.page
    engine.held = True
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    marks = page.locator("#harm-chart .candidate")
    engine.places.release()
    marks.nth(0).wait_for()
    assert marks.count() == 1
    assert marks.nth(0).locator(".mark").get_attribute("data-state") == "flagged"
    assert "flagged for custom/furniture, at 2.00 times the limit" in page.inner_text("#verdict")
    assert page.locator("#cancel").is_visible()
    engine.go_on()
    page.locator(".turn.assistant footer").wait_for()
    assert it.outcome == "steered"
    assert it.answer == OTHER
    assert marks.count() >= 2
    leaves = page.locator("#harm-chart .leaves")
    assert leaves.count() == 1
    assert leaves.locator(".mark").get_attribute("data-state") == "accepted"
    assert page.locator("#harm-chart .limit").count() == 1
    assert page.locator("#plane .candidate").count() == marks.count()
    bars = page.locator("#categories .bars").first
    assert bars.locator(".before.over").count() == 1
    assert bars.locator(".after.over").count() == 0
    cost = page.locator("#figures div", has_text="Generations").locator("dd").inner_text()
    assert cost == str(marks.count())
    page.locator("#harm-data summary").click()
    assert page.locator("#harm-data tbody tr").count() == marks.count()


@needs_browser
def test_a_cancelled_question_comes_back(stage: Any, opened: Any) -> None:
    made, engine = stage()
    engine.held = True
    page = opened(made).page
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    page.locator("#cancel").wait_for()
    page.keyboard.press("Escape")
    page.locator("#send").wait_for()
    engine.go_on()
    assert "Cancelled" in page.inner_text("#verdict")
    assert page.input_value("#prompt") == QUESTION


@needs_browser
def test_a_policy_is_edited_and_the_next_answer_obeys(stage: Any, opened: Any) -> None:
    made, _ = stage()
    it = opened(made, expected=("422",))
    page = it.page
    it.ask()
    assert it.outcome == "passed"
    page.click('[data-view="policies"]')
    page.locator("#history .version").wait_for()
    assert page.input_value("#yaml") == YAML
    page.fill("#yaml", YAML + "colour: red\n")
    page.locator("#faults.invalid", has_text="unknown key 'colour'").wait_for()
    page.fill("#yaml", YAML.replace("[sofa]", "[sofa, vase]"))
    page.locator("#faults.valid", has_text="Saving makes it version").wait_for()
    page.click("#show-diff")
    assert "[sofa, vase]" in page.inner_text("#diff .added")
    page.keyboard.press("Control+s")
    page.locator("#faults.valid", has_text="in force").wait_for()
    assert page.locator("#history .version").count() == 2
    page.click('[data-view="watch"]')
    it.ask()
    assert it.outcome == "steered"
    assert it.answer == OTHER
    page.click('[data-view="policies"]')
    page.locator("#history .version").nth(1).click()
    page.locator("#version-diff .removed", has_text="vase").wait_for()
    page.click("#rollback")
    page.locator("#faults.valid", has_text="Rolled back").wait_for()
    page.click('[data-view="watch"]')
    it.ask()
    assert it.outcome == "passed"
    page.click('[data-view="interventions"]')
    row = page.locator("#records tbody tr")
    row.first.wait_for()
    assert row.count() == 1
    assert "steered" in row.inner_text()


@needs_browser
def test_keys_are_asked_for(stage: Any, opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    plain, admin = new_key(path, "reader"), new_key(path, "ops", admin=True)
    made, _ = stage(keys=KeyRing.read(path))
    it = opened(made, expected=("401", "403"))
    page = it.page
    page.locator("#keys[open]").wait_for()
    page.fill("#api-key", plain)
    page.keyboard.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")
    it.ask()
    assert it.outcome == "passed"
    page.click('[data-view="policies"]')
    page.locator("#keys[open]").wait_for()
    page.fill("#admin-key", admin)
    page.keyboard.press("Enter")
    page.locator("#history .version").wait_for()
    assert page.evaluate("localStorage.length") == 0
    assert plain not in page.content()


@needs_browser
def test_everything_by_keyboard(stage: Any, opened: Any) -> None:
    made, _ = stage()
    forbid(made, "vase")
    page = opened(made).page
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("/")
    page.keyboard.type(QUESTION)
    press("Enter")
    page.locator(".turn.assistant footer").wait_for()
    page.focus("#harm-chart")
    press("Home")
    assert page.inner_text("#readout").startswith("First answer")
    press("ArrowRight")
    assert page.inner_text("#readout").startswith("Candidate 1")
    press("2")
    page.locator("#history .version").wait_for()
    press("3")
    page.locator("#records tbody tr").first.wait_for()
    press("?")
    page.locator("#help[open]").wait_for()
    press("Escape")
    press("1")
    page.locator("#watch:not([hidden])").wait_for()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, select, textarea, input')]
            .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()
                || (e.labels && e.labels.length))).map(e => e.outerHTML)"""
    )
    assert unnamed == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_is_wide_enough(stage: Any, opened: Any, scheme: str) -> None:
    made, _ = stage()
    forbid(made, "vase")
    it = opened(made, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = it.page
    it.ask()
    assert it.outcome == "steered"
    for view in ("watch", "policies", "interventions"):
        page.click(f'[data-view="{view}"]')
        page.locator(f"#{view}:not([hidden])").wait_for()
        assert overflow(page) <= 0, view
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128"
    assert page.evaluate(light) == (scheme == "light")
    page.click("#toggle-theme")
    page.click("#toggle-theme")
    assert page.evaluate(light) is False
