"""The page in a real browser: against scripted searches, the real app, and `rerail serve`."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install 'rerail[dev]'")
from playwright.sync_api import Page, expect

from rerail.server.keys import KeyRing, new_key
from rerail.store import Store
from tests.browser import hindrances
from tests.server.conftest import WRAPPED, Make, Open
from tests.server.page_double import HOSTILE, MARKDOWN, PAGE, SCRIPTS
from tests.server.pages import PHONE, ask, marks, text_of, write

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(PAGE.glob("*.js"))


# What the files are


def test_nothing_can_read_text_as_markup_or_come_from_elsewhere() -> None:
    assert len(MODULES) > 10
    for path in [*MODULES, PAGE / "index.html"]:
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(",
                     "new Function", "javascript:"):  # fmt: skip
            assert word not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL), path.name
        urls = set(re.findall(r"https?://[^\"')\s]+", text))
        assert urls <= {"http://www.w3.org/2000/svg"}, path.name


def test_the_document_needs_no_inline_script_or_style_and_names_files_that_exist() -> None:
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", html)
    files = re.findall(r'(?:src|href)="/static/([^"]+)"', html)
    assert files
    for path in MODULES:
        files += re.findall(r'from "\./([^"]+)"', path.read_text(encoding="utf-8"))
    assert all((PAGE / name).is_file() for name in files)


def test_what_others_wrote_is_attributed_and_reads_no_markup() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    vendored = {path.name: path for path in (PAGE / "vendor").glob("*.js")}
    assert vendored.keys() == {"marked.esm.js", "codemirror.esm.js"}
    for name, path in vendored.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|document\.write|\beval\(|new Function|import\(", text)
        assert (PAGE / "vendor" / name.replace(".esm.js", ".LICENSE")).is_file()
    version = re.search(r"marked v([\d.]+)", vendored["marked.esm.js"].read_text(encoding="utf-8"))
    assert version is not None
    assert f"marked {version[1]}" in notice


def test_the_editor_is_of_the_packages_that_are_pinned() -> None:
    text = (PAGE / "vendor" / "codemirror.esm.js").read_text(encoding="utf-8")
    inside = dict(re.findall(r"^ \* (\S+) ([\d.]+)$", text[: text.index("*/")], re.MULTILINE))
    recipe = ROOT / "scripts" / "editor"
    locked = json.loads((recipe / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert inside == {name: locked[f"node_modules/{name}"]["version"] for name in inside}
    wanted = json.loads((recipe / "package.json").read_text(encoding="utf-8"))["devDependencies"]
    assert wanted.keys() - inside.keys() == {"esbuild"}
    licences = (PAGE / "vendor" / "codemirror.LICENSE").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name, version in inside.items():
        assert f"{name}\n\n" in licences
        assert f"{name} {version}" in notice
    assert len(text) < 500_000


# Its parts, in the browser


def test_events_are_read_however_the_stream_is_cut(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    stream = (
        ': hello\n\nevent: start\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:x\n\nid: 7\n\ndata: lost'
    )
    found = page.evaluate(
        """async (stream) => {
          const { EventParser } = await import("/static/events.js");
          const results = [];
          for (let size = 1; size <= stream.length; size += 1) {
            const parser = new EventParser();
            const events = [];
            for (let i = 0; i < stream.length; i += size) {
              events.push(...parser.push(stream.slice(i, i + size)));
            }
            results.push(JSON.stringify(events));
          }
          return results;
        }""",
        stream,
    )
    wanted = [{"event": "start", "data": '{"a":\n1}'}, {"event": "message", "data": "x"}]
    assert [json.loads(events) for events in set(found)] == [wanted]


def test_a_diff_gives_both_texts_and_is_the_shortest(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    pairs = [("a\nb\nc", "a\nc"), ("", "x"), ("a\nb\nc\nd", "b\nx\nd\ne"), ("same", "same")]
    for before, after in pairs:
        lines = page.evaluate(
            """async ([a, b]) => (await import("/static/diff.js")).diffLines(a, b)""",
            [before, after],
        )
        assert "\n".join(x["text"] for x in lines if x["kind"] != "added") == before
        assert "\n".join(x["text"] for x in lines if x["kind"] != "removed") == after
    changed = [x for x in lines if x["kind"] != "same"]
    assert changed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(open_page: Open, double: Any, scheme: Any) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 or more for text, of 3 for the marks."""
    page = open_page(double()[1], color_scheme=scheme)
    colours = page.evaluate(
        """() => {
          const probe = document.body.appendChild(document.createElement("i"));
          const read = (name) => {
            probe.style.color = `var(--${name})`;
            return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
          };
          const names = ["ground", "surface", "sunken", "ink", "ink-2", "accent", "on-accent",
            "accepted", "flagged", "unnatural", "unscored", "rejected"];
          return Object.fromEntries(names.map((name) => [name, read(name)]));
        }"""
    )

    def luminance(name: str) -> float:
        parts = [v / 255 for v in colours[name]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert luminance("ink") > luminance("ground") if scheme == "dark" else True
    assert contrast("on-accent", "accent") >= 4.5
    for ground in ("ground", "surface", "sunken"):
        for name in ("ink", "ink-2", "accent", "accepted", "flagged", "unnatural", "unscored",
                     "rejected"):  # fmt: skip
            assert contrast(name, ground) >= 4.5, (name, ground)


# WCAG 2.2, 1.4.3, of every text as it is drawn: over mixed colours, in badges, in charts.
CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((v, i) => a * v + (1 - a) * ground[i]);
  const behind = (node) => {
    if (!node) return rgba("canvas").slice(0, 3);
    const colour = rgba(getComputedStyle(node).backgroundColor);
    return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(node.parentElement));
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = {};
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest(":disabled, .visually-hidden, script, textarea, option")) continue;
    const style = getComputedStyle(node);
    const ground = behind(node);
    const ink = over(rgba(node.closest("svg") ? style.fill : style.color), ground);
    const [high, low] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) found[`${node.tagName}.${node.getAttribute("class")}: ${text}`] = contrast;
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_that_is_drawn_can_be_read(open_page: Open, double: Any, scheme: Any) -> None:
    _, url = double()
    page = open_page(url, color_scheme=scheme, reduced_motion="reduce")
    assert page.evaluate(CONTRASTS) == {}
    ask(page, "steer")
    page.click("summary:has-text('As a table')")
    assert page.evaluate(CONTRASTS) == {}
    for script, outcome in (("refuse", "refused"), ("fail", "failed")):
        ask(page, script)
        expect(page.locator("#verdict .badge")).to_have_text(outcome)
        assert page.evaluate(CONTRASTS) == {}
    page.click("#open-terms")
    assert page.evaluate(CONTRASTS) == {}
    page.goto(url + "/#/policies/default")
    expect(page.locator("#history li")).to_have_count(1)
    edit(page, "default_threshold: 0.4", "default_threshold: [ # what?")
    expect(page.locator("#faults.invalid")).to_be_visible()
    assert page.evaluate(CONTRASTS) == {}
    page.click("#show-diff")
    assert page.evaluate(CONTRASTS) == {}
    page.click("#revert")
    page.goto(url + "/#/interventions")
    expect(page.locator("#records tbody tr")).to_have_count(2)
    assert page.evaluate(CONTRASTS) == {}


# Ask and watch, against scripted searches


def test_the_chart_grows_candidate_by_candidate(open_page: Open, double: Any) -> None:
    server, url = double(stepped=True)
    page = open_page(url)
    page.fill("#prompt", "steer a note about the hedge")
    page.press("#prompt", "Enter")
    turn = page.locator(".turn.assistant")
    badge = page.locator("#verdict .badge")
    expect(badge).to_have_text("answering")
    expect(turn).to_have_text("answering, to be judged")
    for shown in range(1, 5):
        server.steps.release()
        expect(marks(page)).to_have_count(shown)
        expect(badge).to_have_text("searching")
        expect(turn).to_have_text("searching for an acceptable answer")
    server.steps.release(100)
    expect(turn.locator(".badge")).to_have_text("steered")
    expect(turn.locator(".said")).to_contain_text("the hedge between us")
    total = len(SCRIPTS["steer"]) + 1
    expect(marks(page)).to_have_count(total)
    expect(marks(page, "#plane")).to_have_count(total)
    expect(page.locator("#harm-chart .leaves")).to_have_attribute("data-index", str(total - 1))
    states = {m.get_attribute("data-state") for m in page.locator("#harm-chart .mark").all()}
    assert states == {"accepted", "flagged", "unnatural", "unscored"}
    expect(page.locator("#verdict")).to_contain_text("Candidate 15 was given instead")
    expect(page.locator("#figures")).to_contain_text("acceptance")


def test_the_page_says_what_it_is_and_what_its_terms_mean(open_page: Open, double: Any) -> None:
    server, url = double(stepped=True)
    page = open_page(url)
    expect(page.locator(".lead")).to_contain_text("A moderator judges each answer")
    page.fill("#prompt", "steer")
    page.press("#prompt", "Enter")
    server.steps.release(2)
    expect(marks(page)).to_have_count(2)
    page.focus("#open-terms")
    page.keyboard.press("Enter")
    terms = page.locator("#terms")
    expect(terms).to_be_visible()
    expect(terms).to_be_focused()
    assert terms.locator("dt").all_inner_texts() == [
        "harm", "flagged", "steered", "layer", "offset", "naturalness", "relevance", "cosine",
        "tokens preserved",
    ]  # fmt: skip
    page.keyboard.press("Escape")
    expect(terms).to_be_hidden()
    expect(page.locator("#open-terms")).to_be_focused()
    server.steps.release(100)  # Escape closed the terms and cancelled nothing
    expect(page.locator("#verdict .badge")).to_have_attribute("title", re.compile("another answer"))
    page.click("summary:has-text('As a table')")
    titles = page.evaluate(
        "[...document.querySelectorAll('.term')].map((e) => [e.textContent.toLowerCase(), e.title])"
    )
    assert {"harm", "flagged", "naturalness", "cosine", "tokens preserved"} <= dict(titles).keys()
    assert all(title for _, title in titles)


def test_axes_have_units(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    ask(page, "steer")
    expect(page.locator("#harm-chart")).to_contain_text("harm, in multiples of the limit")
    expect(page.locator("#harm-chart")).to_contain_text("generation, in order")
    expect(page.locator("#plane")).to_contain_text("offset in units of the embedding table’s RMS")
    expect(page.locator("#plane")).to_contain_text(re.compile(r"\d\.\d\d RMS"))
    expect(page.locator("#categories thead")).to_contain_text("Score, 0 to 1")
    expect(page.locator("#figures")).to_contain_text("nats/token")


@pytest.mark.parametrize("width", [1280, PHONE["width"]])
def test_a_mark_hides_no_number(open_page: Open, double: Any, width: int) -> None:
    page = open_page(double()[1], viewport={"width": width, "height": 844})
    ask(page, "zero")
    ring = page.locator("#harm-chart .leaves .ring").bounding_box()
    assert ring is not None
    numbers = page.locator("#harm-chart .tick").all()
    assert len(numbers) > 8
    for number in numbers:
        box = number.bounding_box()
        assert box is not None
        apart = (
            box["x"] + box["width"] <= ring["x"]
            or ring["x"] + ring["width"] <= box["x"]
            or box["y"] + box["height"] <= ring["y"]
            or ring["y"] + ring["height"] <= box["y"]
        )
        assert apart, number.text_content()


@pytest.mark.parametrize("width", [1280, PHONE["width"]])
def test_the_first_answers_name_hides_no_mark(open_page: Open, double: Any, width: int) -> None:
    page = open_page(double()[1], viewport={"width": width, "height": 844}, reduced_motion="reduce")
    ask(page, "steer")
    hidden = page.evaluate(
        """() => {
          const box = (node) => node.getBoundingClientRect();
          const names = [...document.querySelectorAll("#harm-chart .label.flagged")].map(box);
          const marks = [...document.querySelectorAll("#harm-chart .mark")].map(box);
          return marks.filter((m) => names.some((n) => m.left < n.right && n.left < m.right
            && m.top < n.bottom - 2 && n.top + 2 < m.bottom)).length;
        }"""
    )
    assert hidden == 0


def test_before_and_after_stand_side_by_side(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    sides = page.locator("#compare .side")
    ask(page, "pass")
    expect(page.locator("#compare-card")).to_be_hidden()
    ask(page, "steer")
    expect(sides).to_have_count(2)
    expect(sides.first).to_contain_text("withheld")
    expect(sides.first).to_contain_text("first answer, flagged, harm 1.24")
    expect(sides.last).to_contain_text("the hedge between us")
    expect(sides.last).to_contain_text("candidate 15, accepted")
    before, after = (side.bounding_box() for side in sides.all())
    assert before
    assert after
    assert before["y"] == after["y"]
    assert before["x"] + before["width"] <= after["x"]
    ask(page, "refuse")
    expect(sides.last).to_contain_text("I can't help with that.")


@pytest.mark.parametrize(("width", "above"), [(1280, False), (PHONE["width"], True)])
def test_on_a_phone_the_chart_stands_above_the_composer(
    open_page: Open, double: Any, width: int, above: bool
) -> None:
    page = open_page(double()[1], viewport={"width": width, "height": 844})
    expect(page.locator("#harm-chart")).to_be_visible(visible=not above)
    ask(page, "steer")
    chart = page.locator("#hero").bounding_box()
    composer = page.locator("#ask").bounding_box()
    assert chart
    assert composer
    if above:
        assert chart["y"] + chart["height"] <= composer["y"]
    else:
        assert composer["x"] + composer["width"] <= chart["x"]
    expect(page.locator("#harm-chart .leaves")).to_be_in_viewport()
    first = (
        "document.querySelector('#hero').compareDocumentPosition(document.querySelector('#ask'))"
    )
    assert (page.evaluate(first) == 4) == above  # who tabs goes as the eye goes
    page.set_viewport_size({"width": 1280 if above else PHONE["width"], "height": 844})
    expect(page.locator(".instruments #hero")).to_have_count(int(above))


def test_shapes_differ_with_states(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    shapes = page.evaluate(
        """async () => {
          const { symbolPath } = await import("/static/symbols.js");
          const { STATES } = await import("/static/run.js");
          return STATES.map((state) => symbolPath(state, 5));
        }"""
    )
    assert len(set(shapes)) == len(shapes) == 5


def test_what_a_model_writes_is_text(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    turn = ask(page, "hostile")
    assert turn.locator(".said").text_content() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Watch · rerail"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_call_is_shown_as_text_and_is_not_run(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    page.click("summary:has-text('Tools')")
    page.fill("#tools", '[{"type": "function", ')
    page.fill("#prompt", "call")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .failure")).to_contain_text("The tools are not JSON")
    tools = [{"type": "function", "function": {"name": "send"}}]
    page.fill("#tools", json.dumps(tools))
    turn = ask(page, "call")
    expect(turn.locator(".called code")).to_have_text("send")
    assert json.loads(turn.locator(".called pre").text_content() or "") == {"body": HOSTILE}
    expect(turn.locator(".said")).to_have_count(0)
    expect(turn.locator(".badge")).to_have_text("steered")
    expect(page.locator("#verdict")).to_contain_text(
        "It calls send: name and arguments were judged"
    )
    expect(page.locator("#compare .called")).to_have_count(1)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Watch · rerail"
    ask(page, "pass")
    assert [body["tools"] for body in server.asked] == [tools, tools]
    roles = [m["role"] for m in server.asked[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]


def test_markdown_is_shown_and_nothing_in_it_acts(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    said = ask(page, "markdown").locator(".said")
    expect(said.get_by_role("heading", name="Steps")).to_be_visible()
    assert said.locator("ol > li").all_inner_texts() == [
        "Knead the dough",
        "Bake it for 40 minutes",
    ]
    assert said.locator("strong, em, ol code").all_inner_texts() == ["Knead", "Bake", "40"]
    expect(said.locator("td.number")).to_have_text("500")
    expect(said.locator("pre")).to_have_text("x < 1")
    (link,) = said.locator("a").all()
    assert link.get_attribute("href") == link.get_attribute("title") == "https://example.org/bread"
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    text = said.text_content() or ""
    for part in MARKDOWN.splitlines()[-6:]:
        assert part.replace("[a page](https://example.org/bread)", "a page") in text
    assert said.locator("img, script, b, [onclick], [onmouseover]").count() == 0
    said.get_by_text("press").click()
    said.get_by_text("bold").hover()
    assert page.title() == "Watch · rerail"


@pytest.mark.parametrize("text", ["> " * 5000 + "deep", "[" * 5000, "- " * 2000, "`" * 999, ""])
def test_what_is_no_markdown_is_the_text_itself(open_page: Open, double: Any, text: str) -> None:
    page = open_page(double()[1])
    kinds = page.evaluate(
        """async (text) => {
          const { markdown } = await import("/static/markdown.js");
          return markdown(text).map((node) => node.localName);
        }""",
        text,
    )
    assert len(kinds) <= 1


def test_an_answer_is_copied_as_it_was_written(open_page: Open, double: Any) -> None:
    page = open_page(double()[1], permissions=["clipboard-read", "clipboard-write"])
    turn = ask(page, "markdown")
    turn.get_by_role("button", name="Copy").click()
    expect(turn.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == MARKDOWN


def test_a_conversation_outlives_a_reload_and_not_the_tab(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    page.click("summary:has-text('System prompt')")
    page.fill("#system", "Be brief.")
    ask(page, "steer")
    page.reload()
    expect(page.locator(".turn.assistant .badge")).to_have_text("steered")
    expect(page.locator("#system")).to_have_value("Be brief.")
    expect(marks(page)).to_have_count(len(SCRIPTS["steer"]) + 1)
    ask(page, "pass")
    roles = [m["role"] for m in server.asked[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    expect(open_page(url).locator(".welcome")).to_be_visible()  # another tab
    page.click("#new-conversation")
    page.reload()
    expect(page.locator(".welcome")).to_be_visible()
    page.evaluate("sessionStorage.setItem('rerail.conversation', '{\"of\": \"another page\"}')")
    page.reload()
    expect(page.locator(".welcome")).to_be_visible()


def test_where_nothing_moved_words_say_what_was_done(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    ask(page, "guide")
    told = page.locator("#guided")
    expect(page.locator("#plane")).to_be_hidden()
    expect(told).to_contain_text("Nothing was moved. The model was asked again")
    expect(told).to_contain_text("The answer to text 2 was given.")
    expect(told.locator("tbody th")).to_have_text(["the prompt alone", "text 1", "text 2"])
    expect(told.locator("tr.leaves")).to_contain_text("accepted")
    expect(told.get_by_role("link", name="default")).to_have_attribute("href", "#/policies/default")
    ask(page, "pass")
    expect(told).to_have_text("Nothing was moved: the first answer was given as it is.")
    ask(page, "steer")
    expect(told).to_be_hidden()
    expect(page.locator("#plane")).to_be_visible()


def test_words_that_faded_are_told_above_the_plot(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    ask(page, "fade")
    told = page.locator("#guided")
    expect(page.locator("#plane")).to_be_visible()
    expect(told).to_contain_text("the user's words fainter")
    expect(told).to_contain_text("The second such answer was given.")
    expect(told.locator("table")).to_have_count(0)


def test_a_conversation_goes_on_and_a_refusal_is_marked(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    page.click("summary:has-text('System prompt')")
    page.fill("#system", "Be brief.")
    ask(page, "pass")
    page.select_option("#policy", "strict")
    second = ask(page, "refuse")
    expect(second.locator(".badge")).to_have_text("refused")
    expect(second.locator(".message")).to_have_text("I can't help with that.")
    roles = [[m["role"] for m in body["messages"]] for body in server.asked]
    assert roles == [["system", "user"], ["system", "user", "assistant", "user"]]
    assert [body.get("policy") for body in server.asked] == [None, "strict"]
    expect(marks(page)).to_have_count(len(SCRIPTS["refuse"]) + 1)
    page.locator(".turn.assistant").first.get_by_role("button", name="Show how").click()
    expect(marks(page)).to_have_count(1)
    page.click("#new-conversation")
    ask(page, "pass again")
    assert [m["role"] for m in server.asked[-1]["messages"]] == ["system", "user"]


def test_cancelling_stops_the_work_and_gives_the_words_back(open_page: Open, double: Any) -> None:
    server, url = double(stepped=True)
    page = open_page(url)
    page.fill("#prompt", "slow one")
    page.press("#prompt", "Enter")
    server.steps.release(3)
    expect(marks(page)).to_have_count(3)
    page.click("#cancel")
    expect(page.locator(".turn.assistant")).to_contain_text("Cancelled")
    expect(page.locator("#prompt")).to_have_value("slow one")
    deadline = time.monotonic() + 10
    while not server.abandoned:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    assert server.interventions == []


@pytest.mark.parametrize(
    ("script", "says"), [("break", "The connection ended"), ("fail", "The model failed")]
)
def test_a_search_that_fails_says_so(open_page: Open, double: Any, script: str, says: str) -> None:
    page = open_page(double()[1])
    turn = ask(page, script)
    expect(turn).to_contain_text(says)
    expect(page.locator("#prompt")).to_have_value(script)


# By keyboard, by ear, on a phone, in the dark


def test_everything_is_reached_by_keyboard(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    expect(page.locator("#policy option").first).to_be_attached()
    keys = page.keyboard
    keys.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    keys.type("steer 1 2 3 t ?")  # letters that are shortcuts elsewhere
    keys.press("Enter")
    expect(page.locator("#verdict .badge")).to_have_text("steered")
    for _ in range(6):
        keys.press("Tab")
        if page.evaluate("document.activeElement.id") == "harm-chart":
            break
    expect(page.locator("#harm-chart")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("Home")
    expect(page.locator("#readout")).to_contain_text("First answer · flagged · harm 1.24")
    keys.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("Candidate 1 · flagged")
    keys.press("End")
    expect(page.locator("#readout")).to_contain_text("Candidate 15 · accepted")
    keys.press("2")
    expect(page.locator("#policies-title")).to_be_focused()
    keys.press("3")
    expect(page.locator("#records tbody tr")).to_have_count(1)
    keys.press("?")
    expect(page.locator("#help")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


def test_shortcuts_of_one_key_can_be_switched_off(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    page.click("#open-help")
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator("#policy option").first).to_be_attached()
    page.keyboard.press("2")
    expect(page.locator("#watch")).to_be_visible()


def test_what_is_seen_is_also_said(open_page: Open, double: Any) -> None:
    page = open_page(double()[1])
    ask(page, "steer")
    expect(page.locator("#announcer")).to_contain_text("The first answer was flagged")
    chart = page.locator("#harm-chart")
    expect(chart).to_have_attribute("aria-label", re.compile("was given instead"))
    page.click("summary:has-text('As a table')")
    rows = page.locator("#harm-data tbody tr")
    expect(rows).to_have_count(len(SCRIPTS["steer"]) + 1)
    expect(rows.last).to_contain_text("accepted, left")
    expect(page.locator("#categories tbody tr").first).to_contain_text("harassment")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, textarea, [role=region]")]
          .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim()
            || e.getAttribute("aria-labelledby"))).map((e) => e.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(open_page: Open, double: Any, scheme: Any) -> None:
    page = open_page(double()[1], viewport=PHONE, color_scheme=scheme, has_touch=True)
    ask(page, "steer the unbreakable " + "x" * 300)
    for view in ("watch", "policies/default", "interventions"):
        page.goto(page.url.partition("#")[0] + f"#/{view}")
        if view == "policies/default":
            expect(page.locator("#history li")).to_have_count(1)
        if view == "interventions":
            expect(page.locator("#records tbody tr")).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], view


def test_the_theme_follows_the_system_until_it_is_chosen(open_page: Open, double: Any) -> None:
    page = open_page(double()[1], color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    assert dark != light
    page.click("#toggle-theme")
    page.click("#toggle-theme")
    assert page.evaluate(ground) == dark
    page.reload()
    assert page.evaluate(ground) == dark


def test_motion_is_left_out_where_it_is_not_wanted(open_page: Open, double: Any) -> None:
    page = open_page(double()[1], reduced_motion="reduce")
    ask(page, "steer")
    expect(marks(page).first).to_be_attached()
    style = "getComputedStyle(document.querySelector('#harm-chart .mark')).animationName"
    assert page.evaluate(style) == "none"


# Policies and records


def edit(page: Page, old: str, new: str) -> None:
    text = text_of(page)
    assert old in text
    write(page, text.replace(old, new))


def test_a_policy_is_checked_while_it_is_typed_saved_and_rolled_back(
    open_page: Open, double: Any
) -> None:
    server, url = double()
    page = open_page(url, "/#/policies/default")
    expect(page.locator("#history li")).to_have_count(1)
    first = server.policies.get("default").version
    edit(page, "default_threshold: 0.4", "default_treshold: 0.4")
    expect(page.locator("#faults.invalid")).to_contain_text("default_treshold")
    assert server.policies.get("default").version == first
    write(page, "name: [")
    expect(page.locator(".cm-lint-marker-error")).to_have_count(1)
    page.click("#revert")
    edit(page, "default_threshold: 0.4", "default_threshold: 0.3")
    expect(page.locator("#faults.valid")).to_contain_text("Valid")
    page.click("#show-diff")
    expect(page.locator("#diff .removed")).to_contain_text("default_threshold: 0.4")
    expect(page.locator("#diff .added")).to_contain_text("default_threshold: 0.3")
    page.keyboard.press("Control+s")
    expect(page.locator("#history li")).to_have_count(2)
    second = server.policies.get("default").version
    assert second != first
    expect(page.locator("#faults")).to_contain_text(f"Version {second} is in force")
    page.locator("#history button").last.click()
    expect(page.locator("#version-diff .added")).to_contain_text("default_threshold: 0.4")
    page.click("#rollback")
    expect(page.locator("#history li")).to_have_count(3)
    assert server.policies.get("default").version == first


BROKEN = "name: default\nmoderators: [\n"


@pytest.mark.parametrize("width", [1280, PHONE["width"]])
def test_what_is_invalid_is_not_saved_and_said_in_full(
    open_page: Open, double: Any, width: int
) -> None:
    server, url = double()
    page = open_page(url, "/#/policies/default", viewport={"width": width, "height": 844})
    expect(page.locator("#history li")).to_have_count(1)
    good = text_of(page).replace("threshold: 0.4", "threshold: 0.3")
    write(page, BROKEN)
    said = page.locator("#faults.invalid")
    expect(said).to_contain_text("line 3, column 1")
    expect(page.locator("#save")).to_be_disabled()
    assert said.evaluate("e => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth")
    page.keyboard.press("Control+s")
    expect(said).to_contain_text("line 3, column 1")
    expect(page.locator("#history li")).to_have_count(1)
    write(page, "name: default\n" + "x" * 200 + ": 1\n")
    expect(said).to_contain_text("unknown key")
    assert said.evaluate("e => e.scrollHeight <= e.clientHeight && e.scrollWidth <= e.clientWidth")
    write(page, good)
    page.keyboard.press("Control+s")  # it was mended, even if nobody has checked it yet
    expect(page.locator("#history li")).to_have_count(2)
    assert server.policies.get("default").default_threshold == 0.3
    write(page, BROKEN)
    expect(page.locator("#save")).to_be_disabled()
    page.click("#revert")
    write(page, good + "# mended\n")
    expect(page.locator("#save")).to_be_enabled()


def test_a_change_by_somebody_else_is_not_overwritten_unseen(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url, "/#/policies/default")
    expect(page.locator("#history li")).to_have_count(1)
    edit(page, "default_threshold: 0.4", "default_threshold: 0.3")
    theirs = server.policies.get("default").to_yaml().replace("generations: 16", "generations: 9")
    server.put("default", theirs, by="somebody")
    page.click("#save")
    expect(page.locator("#faults.invalid")).to_contain_text("Somebody saved version")
    assert server.policies.get("default").budget.generations == 9
    page.click("#show-diff")
    expect(page.locator("#diff .removed")).to_have_count(2)
    page.click("#save")
    expect(page.locator("#faults.valid")).to_contain_text("in force")
    assert server.policies.get("default").default_threshold == 0.3


def test_a_new_policy_starts_as_a_copy(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url, "/#/policies/strict")
    expect(page.locator("#editor-title")).to_have_text("strict")
    page.click("#new-policy")
    page.fill("#policy-name", "helpdesk")
    page.keyboard.press("Enter")
    expect(page.locator("#editor-meta")).to_have_text("not saved yet")
    page.click("#save")
    expect(page.locator("#faults.valid")).to_contain_text("in force")
    assert server.policies.get("helpdesk").default_threshold == 0.25
    page.keyboard.press("1")
    page.evaluate("location.hash = '#/watch'")
    expect(page.locator("#policy option", has_text="helpdesk")).to_be_attached()


def test_records_are_filtered_and_keep_themselves_current(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    ask(page, "steer")
    ask(page, "refuse")
    page.goto(url + "/#/interventions")
    rows = page.locator("#records tbody tr")
    expect(rows).to_have_count(2)
    page.select_option("#filters [name=outcome]", "refused")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("refused")
    server.interventions.append({**server.interventions[-1], "id": "another"})
    expect(rows).to_have_count(2, timeout=10_000)
    expect(page.locator("#announcer")).to_contain_text("1 new intervention")


def test_records_come_in_pages_and_are_found_by_tenant_and_category(
    open_page: Open, double: Any
) -> None:
    server, url = double()
    page = open_page(url)
    ask(page, "steer")
    row = server.interventions[-1]
    row["scores_before"] = {"harassment": 0.9, "hate": 0.1}
    server.interventions += [{**row, "id": f"copy-{i}", "tenant": "shop"} for i in range(59)]
    page.goto(url + "/#/interventions")
    rows, meta = page.locator("#records tbody tr"), page.locator("#table-meta")
    expect(meta).to_have_text("50 rows, page 1")
    expect(page.locator("#newer")).to_be_disabled()
    page.click("#older")
    expect(meta).to_have_text("10 rows, page 2")
    expect(page.locator("#older")).to_be_disabled()
    expect(rows.last).to_contain_text(row["outcome"])
    page.click("#newer")
    expect(rows).to_have_count(50)
    tenant, category = page.locator("[name=tenant]"), page.locator("[name=category]")
    tenant.fill("local")
    tenant.press("Enter")
    expect(meta).to_have_text("1 row, page 1")
    category.fill("hate")
    category.press("Enter")
    expect(page.locator("#records-empty")).to_be_visible()
    category.fill("harassment")
    category.press("Enter")
    expect(rows).to_have_count(1)


def test_a_record_opens(open_page: Open, double: Any) -> None:
    server, url = double()
    page = open_page(url)
    ask(page, "steer")
    page.goto(url + "/#/interventions")
    rows = page.locator("#records tbody tr")
    expect(rows.locator(".model")).to_have_text("rerail")  # as clients ask for it
    (row,) = server.interventions
    assert row["model"] == "embedded"
    row |= {
        "prompt": [{"role": "user", "content": "steer"}],
        "first_answer": HOSTILE,
        "final_answer": "Something kinder.",
    }
    page.reload()
    button = rows.get_by_role("button", name="Open")
    button.focus()
    page.keyboard.press("Enter")
    record = page.locator("#record")
    expect(record).to_be_visible()
    for text in (row["id"], "local", "rerail, loaded from embedded", "harassment", "nats per token",
                 "Something kinder."):  # fmt: skip
        expect(record).to_contain_text(text)
    first = record.locator("details .said")
    expect(first).to_be_hidden()
    record.locator("summary").click()
    assert first.text_content() == HOSTILE
    page.keyboard.press("Escape")
    expect(record).to_be_hidden()
    expect(button).to_be_focused()
    server.interventions.append({**row, "id": "other", "model": "gone", "prompt": None})
    page.reload()
    expect(rows.first.locator(".model")).to_have_text("gone")
    rows.first.get_by_role("button", name="Open").click()
    expect(record).to_contain_text("No texts are recorded")
    expect(record).not_to_contain_text("Something kinder.")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", PHONE["width"])])
def test_axe_finds_nothing_serious(open_page: Open, double: Any, scheme: Any, width: int) -> None:
    size: Any = {"width": width, "height": 844}
    page = open_page(double()[1], color_scheme=scheme, viewport=size, bypass_csp=True)
    ask(page, "markdown")
    ask(page, "guide")
    assert hindrances(page) == []
    page.evaluate("location.hash = '#/policies'")
    expect(page.locator("#history li")).to_have_count(1)
    write(page, "name: default\ncolour: red\nbu")
    expect(page.locator(".cm-lint-marker")).to_be_visible()
    page.keyboard.press("Control+Space")
    expect(page.locator(".cm-tooltip-autocomplete")).to_be_visible()
    assert hindrances(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+f")
    expect(page.locator(".cm-search")).to_be_visible()
    assert hindrances(page) == []
    page.evaluate("location.hash = '#/interventions'")
    page.locator("#records tbody tr").first.get_by_role("button").click()
    assert hindrances(page) == []


# Against the real app


def test_the_real_app_is_watched(open_page: Open, serve: Make) -> None:
    made = serve()
    page = open_page(made.url)
    turn = ask(page, WRAPPED)
    expect(turn.locator(".badge")).to_have_text("steered")
    generations = page.locator("#figures dd").first.text_content()
    expect(marks(page)).to_have_count(int(generations or 0))
    expect(page.locator("#harm-chart .leaves [data-state=accepted]")).to_have_count(1)


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_what_the_filters_find_is_exported(
    open_page: Open, serve: Make, tmp_path: Path, format_: str
) -> None:
    made = serve(store=Store.open(tmp_path / "records.sqlite"))
    page = open_page(made.url)
    ask(page, WRAPPED)
    page.goto(made.url + "/#/interventions")
    row = page.locator("#records tbody tr")
    expect(row).to_have_count(1)
    with page.expect_download() as download:
        page.click(f"#export-{format_}")
    assert download.value.suggested_filename == f"interventions.{format_}"
    text = download.value.path().read_text(encoding="utf-8")
    assert (row.get_by_role("button").get_attribute("data-id") or "?") in text
    assert WRAPPED not in text  # the policy does not record texts
    page.select_option("#filters [name=outcome]", "refused")
    expect(row).to_have_count(0)
    with page.expect_download() as download:
        page.click(f"#export-{format_}")
    assert download.value.path().read_text(encoding="utf-8").strip() == ""


def is_stored(page: Page, value: str) -> bool:
    """Whether the tab keeps a value before long: the page's rules let nothing there poll for it."""
    for _ in range(100):
        if value in page.evaluate("Object.values(sessionStorage)"):
            return True
        page.wait_for_timeout(50)
    return False


def test_keys_are_asked_for_and_stay_in_the_tab(
    open_page: Open, serve: Make, tmp_path: Path
) -> None:
    path = tmp_path / "keys.yaml"
    key = new_key(path, "alice")
    admin = new_key(path, "ops", admin=True)
    made = serve(keys=KeyRing.read(path))
    page = open_page(made.url)
    expect(page.locator("#keys")).to_be_visible()
    page.fill("#api-key", "tsk-wrong")
    page.keyboard.press("Enter")
    assert is_stored(page, "tsk-wrong")
    ask(page, WRAPPED)
    expect(page.locator("#keys")).to_be_visible()
    page.fill("#api-key", key)
    page.keyboard.press("Enter")
    assert is_stored(page, key)
    expect(ask(page, WRAPPED).locator(".badge")).to_have_text("steered")
    page.keyboard.press("Escape")
    page.goto(made.url + "/#/policies")
    expect(page.locator("#keys")).to_be_visible()
    expect(page.locator("#admin-key")).to_be_focused()
    page.fill("#admin-key", admin)
    page.keyboard.press("Enter")
    expect(page.locator("#history li").first).to_be_visible()
    stored = page.evaluate("[JSON.stringify(sessionStorage), JSON.stringify(localStorage)]")
    assert key in stored[0]
    assert admin in stored[0]
    assert "tsk-" not in stored[1]
    assert "tsk-" not in page.content()


RULES = """name: default
moderators:
  - name: rules
    options:
      rules:
        custom/flowers:
          words: [{word}]
budget:
  generations: 12
"""


@contextlib.contextmanager
def served(*options: str) -> Iterator[str]:
    """Run `rerail serve` with the embedded model; gives its address."""
    command = [sys.executable, "-c", "from rerail.cli import main; main()"]
    command += ["serve", "--model", "embedded", "--port", "0", "--store", "none", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            url = next(m[0] for line in lines if (m := re.search(r"http://[\d.:]+", line)))
            threading.Thread(target=lambda: list(lines), daemon=True).start()
            yield url
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_what_the_page_suggests_shows_both_passing_and_steering(open_page: Open) -> None:
    with served("--policy", "quick") as url:
        page = open_page(url)
        outcomes = []
        for place in range(page.locator(".idea").count()):
            page.locator(".idea").nth(place).click()
            ask(page, page.locator("#prompt").input_value())
            outcomes.append(page.locator("#verdict .badge").inner_text())
            expect(page.locator("#compare-card")).to_be_visible(visible=outcomes[-1] != "passed")
            page.click("#new-conversation")
        assert outcomes[:2] == ["passed", "passed"]
        assert "steered" in outcomes[2:]


@pytest.mark.slow
def test_rerail_serve_with_the_embedded_model(open_page: Open, tmp_path: Path) -> None:
    """Ask, forbid a word of the answer in the editor, ask again: another answer."""
    (tmp_path / "default.yaml").write_text(RULES.format(word="xylophone"), encoding="utf-8")
    with served("--policies", str(tmp_path)) as url:
        page = open_page(url)
        turn = ask(page, "Tell me about tulips")
        expect(turn.locator(".badge")).to_have_text("passed")
        said = turn.locator(".said").text_content() or ""
        word = max(re.findall(r"[a-z]{4,}", said.lower()), key=len)
        page.goto(url + "/#/policies/default")
        expect(page.locator("#history li").first).to_be_visible()
        write(page, RULES.format(word=word))
        expect(page.locator("#faults.valid")).to_be_visible()
        page.click("#save")
        expect(page.locator("#faults")).to_contain_text("is in force")
        page.keyboard.press("Escape")
        page.goto(url + "/#/watch")
        page.click("#new-conversation")
        turn = ask(page, "Tell me about tulips")
        expect(turn.locator(".badge")).to_have_text(re.compile("steered|refused"))
        assert word not in (turn.locator(".said").text_content() or "").lower().split()
        expect(marks(page).nth(1)).to_be_attached()
        expect(page.locator("#categories")).to_contain_text("custom/flowers")
