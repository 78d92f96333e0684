"""The page by keys alone: each thing is reached, the focus is seen at each stop, and can leave."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install 'rerail[dev]'")
from playwright.sync_api import Page, expect

from tests.server.conftest import Open
from tests.server.pages import marks, text_of

# An outline, or the frame of a field that draws it in its place.
FOCUS = """() => {
  const node = document.activeElement;
  const style = getComputedStyle(node);
  const frame = node.closest(".composer, .editor");
  return {
    what: node.outerHTML.slice(0, 120),
    shown: (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0)
      || (frame !== null && getComputedStyle(frame).boxShadow !== "none"),
    seen: node.checkVisibility({ visibilityProperty: true }),
  };
}"""


def to(page: Page, selector: str, back: bool = False) -> None:
    """Press Tab until the focus is there."""
    passed = []
    for _ in range(120):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue  # the end of the document
        focus = page.evaluate(FOCUS)
        assert focus["seen"], focus["what"]
        assert focus["shown"], focus["what"]
        passed.append(focus["what"])
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"{selector} is not reached: {passed}")


def test_a_conversation_by_keys(open_page: Open, double: Any) -> None:
    server, url = double(stepped=True)
    page = open_page(url, permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#policy option").first).to_be_attached()
    keys = page.keyboard
    to(page, ".skip")
    to(page, "#prompt")
    keys.type("slow")
    keys.press("Enter")
    server.steps.release(2)
    expect(marks(page)).to_have_count(2)
    to(page, "#cancel")
    keys.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("Cancelled")
    expect(page.locator("#prompt")).to_be_focused()
    keys.press("Control+a")
    keys.type("steer")
    server.steps.release(1000)
    keys.press("Enter")
    expect(page.locator("#verdict .badge")).to_have_text("steered")
    expect(page.locator("#prompt")).to_be_focused()
    to(page, ".actions button:first-child", back=True)
    keys.press("Enter")
    expect(page.get_by_role("button", name="Copied")).to_be_focused()
    to(page, "#harm-data summary")
    keys.press("Enter")
    expect(page.locator("#harm-data tbody tr").first).to_be_visible()
    to(page, "#harm-data [role=region]")
    to(page, ".skip")  # through the rest, and round


def test_a_policy_by_keys(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    keys = page.keyboard
    expect(page.locator("#policy option").first).to_be_attached()
    to(page, "[data-view=policies]")
    keys.press("Enter")
    expect(page.locator("#policy-names li").first).to_be_visible()
    to(page, "#policy-names a[href$=strict]")
    keys.press("Enter")
    expect(page.locator("#editor-title")).to_have_text("strict")
    expect(page.locator("#policy-names a[href$=strict]")).to_be_focused()
    to(page, "#yaml")
    keys.press("Control+Home")
    keys.type("# ")
    expect(page.locator("#faults.invalid")).to_be_visible()
    keys.press("Control+f")
    expect(page.locator(".cm-search [name=search]")).to_be_focused()
    to(page, ".cm-search [name=close]")
    keys.press("Escape")
    expect(page.locator("#yaml")).to_be_focused()
    keys.press("Control+Home")
    keys.press("Delete")
    keys.press("Delete")
    keys.press("Control+End")
    keys.type("# by keys")
    expect(page.locator("#faults.valid")).to_be_visible()
    to(page, "#save")
    keys.press("Enter")
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#yaml")).to_be_focused()
    assert text_of(page) == server.policies.get("strict").to_yaml()
    to(page, "#show-text", back=True)
    to(page, "#history li:last-child button")
    keys.press("Enter")
    expect(page.locator("#version")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#history li:last-child button")).to_be_focused()
    to(page, ".skip")


def test_interventions_by_keys(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    keys = page.keyboard
    expect(page.locator("#policy option").first).to_be_attached()
    to(page, "#prompt")
    keys.type("steer")
    keys.press("Enter")
    expect(page.locator("#verdict .badge")).to_have_text("steered")
    (row,) = server.interventions
    server.interventions += [{**row, "id": f"copy-{i}"} for i in range(59)]
    to(page, "[data-view=interventions]", back=True)
    keys.press("Enter")
    rows, meta = page.locator("#records tbody tr"), page.locator("#table-meta")
    expect(meta).to_have_text("50 rows, page 1")
    to(page, "#filters [name=outcome]")
    keys.type("s")
    expect(page.locator("#filters [name=outcome]")).to_have_value("steered")
    expect(meta).to_have_text("50 rows, page 1")
    to(page, "#records tbody tr:nth-child(2) button")
    keys.press("Enter")
    expect(page.locator("#record")).to_be_visible()
    to(page, "#record footer button")
    keys.press("Enter")
    button = rows.nth(1).get_by_role("button")
    expect(button).to_be_focused()
    server.interventions.append({**row, "id": "new"})
    expect(page.locator("#announcer")).to_contain_text("1 new intervention", timeout=15_000)
    expect(rows.nth(2).get_by_role("button")).to_be_focused()  # it went on with its row
    to(page, "#older")
    keys.press("Enter")
    expect(meta).to_have_text("11 rows, page 2")
    expect(page.locator("#newer")).to_be_focused()
    keys.press("Enter")
    expect(meta).to_have_text("50 rows, page 1")
    expect(page.locator("#older")).to_be_focused()
    to(page, ".skip")
