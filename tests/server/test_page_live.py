"""The page and the real server together: what is edited there decides the next answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("playwright", reason="pip install 'rerail[dev]'")
from playwright.sync_api import Browser, Page, expect

from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt
from rerail.policy import Policy
from rerail.server.policies import load_moderators
from rerail.store import Store
from rerail.types import FloatArray
from tests.server import conftest
from tests.server.conftest import Made, Make
from tests.server.pages import text_of, write
from tests.server.test_tools import MARKER, POLICIES, WEATHER
from tests.server.test_tools import engine as calling

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


def test_an_answer_within_the_policy(stage: Any, opened: Any) -> None:
    made, _ = stage()
    it = opened(made)
    it.ask()
    assert it.outcome == "passed"
    assert it.answer == FIRST
    expect(it.page.locator("#harm-chart .candidate")).to_have_count(1)
    expect(it.page.locator("#verdict")).to_contain_text("left unchanged")
    assert it.page.locator(".turn b").count() == 0


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
    expect(marks).to_have_count(1)
    expect(marks.locator(".mark")).to_have_attribute("data-state", "flagged")
    verdict = "flagged for custom/furniture, at 2.00 times the limit"
    expect(page.locator("#verdict")).to_contain_text(verdict)
    expect(page.locator("#cancel")).to_be_visible()
    engine.go_on()
    page.locator(".turn.assistant footer").wait_for()
    assert it.outcome == "steered"
    assert it.answer == OTHER
    leaves = page.locator("#harm-chart .leaves")
    expect(leaves).to_have_count(1)  # the chart is drawn with the next frame
    expect(leaves.locator(".mark")).to_have_attribute("data-state", "accepted")
    cost = page.locator("#figures div", has_text="Generations").locator("dd")
    expect(cost).to_have_text(re.compile(r"^\d+$"))
    generations = int(cost.inner_text())
    assert generations >= 2
    expect(marks).to_have_count(generations)
    expect(page.locator("#plane .candidate")).to_have_count(generations)
    expect(page.locator("#harm-chart .limit")).to_have_count(1)
    bars = page.locator("#categories .bars").first
    expect(bars.locator(".before.over")).to_have_count(1)
    expect(bars.locator(".after.over")).to_have_count(0)
    page.locator("#harm-data summary").click()
    expect(page.locator("#harm-data tbody tr")).to_have_count(generations)


def test_a_policy_is_edited_and_the_next_answer_obeys(stage: Any, opened: Any) -> None:
    made, _ = stage()
    it = opened(made, expected=("422",))
    page = it.page
    it.ask()
    assert it.outcome == "passed"
    page.click('[data-view="policies"]')
    page.locator("#history .version").wait_for()
    assert text_of(page) == YAML
    write(page, YAML + "colour: red\n")
    page.locator("#faults.invalid", has_text="unknown key 'colour'").wait_for()
    write(page, YAML.replace("[sofa]", "[sofa, vase]"))
    page.locator("#faults.valid", has_text="Saving makes it version").wait_for()
    page.click("#show-diff")
    expect(page.locator("#diff .added")).to_contain_text("[sofa, vase]")
    page.keyboard.press("Control+s")
    page.locator("#faults.valid", has_text="in force").wait_for()
    expect(page.locator("#history .version")).to_have_count(2)
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
    expect(row).to_have_count(1)
    expect(row).to_contain_text("steered")


def test_reasoning_is_folded_or_said_to_be_withheld(serve: Make, opened: Any) -> None:
    thoughts = "ZEBRA-crossing, they ask."
    policies = [Policy(name="default"), Policy(name="shows", reasoning="show")]
    it = opened(serve(engine=conftest.engine(reasoning=thoughts), policies=policies))
    it.ask(conftest.PLAIN)
    withheld = it.page.locator(".turn.assistant .reasoning")
    expect(withheld).to_have_text("Reasoning of 5 tokens, withheld by the policy.")
    assert "ZEBRA" not in it.page.content()
    it.page.select_option("#policy", "shows")
    it.ask(conftest.PLAIN)
    folded = it.page.locator(".turn.assistant details.reasoning")
    expect(folded.locator(".said")).to_be_hidden()
    folded.locator("summary").click()
    expect(folded.locator(".said")).to_have_text(thoughts)
    assert it.answer == conftest.TULIPS


def test_a_call_is_steered_like_any_answer(serve: Make, opened: Any) -> None:
    it = opened(serve(engine=calling(), policies=POLICIES))
    it.page.click("summary:has-text('Tools')")
    it.page.fill("#tools", json.dumps([WEATHER]))
    it.ask("steered")
    assert it.outcome == "steered"
    expect(it.page.locator(".turn.assistant .called")).to_have_text(
        'Calls get_weather{"city": "Paris"}'
    )
    expect(it.page.locator(".turn.assistant .said")).to_have_count(0)
    it.ask("flagged")
    assert (it.outcome, it.answer) == ("refused", "I can't help with that.")
    assert MARKER not in it.page.locator(".turns").inner_text()
