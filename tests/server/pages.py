"""What tests do on the page."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

PHONE = {"width": 390, "height": 844}


def ask(page: Page, text: str) -> Locator:
    """Ask, wait for the end; gives the turn with the answer."""
    turns = page.locator(".turn.assistant")
    before = turns.count()
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    expect(turns).to_have_count(before + 1)
    expect(page.locator("#send")).to_be_visible(timeout=60_000)
    return turns.last


def marks(page: Page, chart: str = "#harm-chart") -> Locator:
    return page.locator(f"{chart} .candidate")


def text_of(page: Page) -> str:
    """What the editor of policies has; it draws only what is seen of it."""
    text = page.evaluate(
        """async () => {
          const { EditorView } = await import("/static/vendor/codemirror.esm.js");
          return EditorView.findFromDOM(document.querySelector("#editor")).state.doc.toString();
        }"""
    )
    assert isinstance(text, str)
    return text


def write(page: Page, text: str) -> None:
    """Write another text in the editor of policies, as from a keyboard."""
    page.locator("#yaml").focus()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
