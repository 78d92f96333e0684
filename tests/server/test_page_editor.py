"""The page's editor of policies: marks, suggestions, and the very text that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="pip install 'rerail[dev]'")
from playwright.sync_api import Page, expect

from rerail.errors import PolicyError
from rerail.kit.schema import policy_schema
from rerail.policy import Policy
from rerail.server.policies import load_moderators
from tests.server.conftest import Make, Open
from tests.server.pages import text_of, write

YAML = """\
name: default
moderators:
- embedded
- name: rules
  options:
    rules:
      custom/furniture:
        words: [sofa]
"""


def opened(page: Page) -> Page:
    """The page, once the policy is there."""
    expect(page.locator("#history li").first).to_be_visible()
    return page


# Where faults are, and what may be written


MARKED = {
    "name: default\nmoderators: [\n": [""],
    "name: default # 😀 \tx: y: z\nbudget: *no": ["*no"],
    "name: default\ncolour: red\n": ["colour"],
    "name: default\nbudget:\n  gens: 4 # none\n  generations: -3\n": ["gens", "generations"],
    YAML.replace("  options", "  optoins"): ["optoins"],
    YAML + "- kind: rules\n  name:\n": ["name"],
    "name: default\ncategories:\n  'hate/threatening': 4\n": ["'hate/threatening'"],
    "name: default\ncategories: {hate: 4}\n": ["categories"],
    "name: default\nguidance:\n  -  # a list\n    text: |\n      gens: 4\n    words: 3\n": [
        "words"
    ],
    "- a\n": [],
}


@pytest.mark.parametrize("text", MARKED)
def test_a_fault_is_marked_where_it_stands(open_page: Open, double: Any, text: str) -> None:
    page = open_page(double()[1])
    with pytest.raises(PolicyError) as error:
        Policy.from_yaml(text, "default")
    lines = text.split("\n")
    found = page.evaluate(
        "async ([said, lines]) => (await import('/static/outline.js')).places(said, lines)",
        [str(error.value), lines],
    )
    assert [lines[one["line"]][one["from"] : one["to"]] for one in found] == MARKED[text]
    assert all(one["message"] in str(error.value) for one in found)


SUGGESTED = {
    "na": {"name", "naturalness_floor"},
    "name: x\nna": {"naturalness_floor"},
    "budget:\n  ": {"generations", "seconds", "tokens"},
    "budget:\n  tokens: 3\n  ": {"generations"},
    "optimizer: ": {"fast", "tide"},
    "optimizer:\n  preset: f": {"fast"},
    "moderators:\n- ": {"embedded", "name", "options"},
    "moderators:\n  - embedded\n  - name: r": {"rules"},
    "categories:\n  ": {"harassment", "hate"},
    "audit: ": {"true", "false"},
    "guidance:\n  - text: x\n    ": {"categories"},
}
SILENT = ["# name: ", "name: two words", "name: ", "guidance:\n  - text: |\n      ", "nowhere:\n  "]


@pytest.mark.parametrize("text", [*SUGGESTED, *SILENT])
def test_suggestions_are_those_of_the_schema(open_page: Open, double: Any, text: str) -> None:
    page = open_page(double()[1])
    found = page.evaluate(
        """async ([lines, schema]) =>
          (await import('/static/outline.js')).suggestions(lines, schema)""",
        [text.split("\n"), policy_schema()],
    )
    labels = {option["label"] for option in found["options"]} if found else set()
    assert labels >= SUGGESTED.get(text, set())
    assert bool(labels) == (text in SUGGESTED)
    assert len(labels) == len(found["options"] if found else [])
    above = {line.partition(":")[0].strip() for line in text.split("\n")[:-1]}
    assert not labels & above


def test_a_suggestion_says_what_it_is_and_is_taken_by_keys(open_page: Open, double: Any) -> None:
    page = opened(open_page(double()[1], "/#/policies/default"))
    write(page, "name: default\n")
    page.keyboard.type("budget:\n")
    page.keyboard.type("gen")
    expect(page.locator(".cm-tooltip-autocomplete")).to_contain_text("generations")
    page.wait_for_timeout(100)  # keys that come at once are not yet for the list
    page.keyboard.press("ArrowDown")
    expect(page.locator(".cm-completionInfo")).to_contain_text("Answers generated.")
    page.keyboard.press("Enter")
    page.keyboard.type("9")
    assert text_of(page) == "name: default\nbudget:\n  generations: 9"
    page.keyboard.press("Enter")
    page.keyboard.type("sec\n")  # Enter takes nothing that was not chosen
    assert text_of(page).endswith("\n  sec\n  ")


# The text


def test_typing_marks_a_fault_and_mending_it_takes_the_mark_away(
    open_page: Open, double: Any
) -> None:
    page = opened(open_page(double()[1], "/#/policies/default"))
    mark = page.locator(".cm-lint-marker-error")
    write(page, "name: default\n")
    page.keyboard.type("colour: red")
    expect(mark).to_have_count(1)
    expect(page.locator(".cm-lintRange-error")).to_have_text("colour")
    expect(page.locator("#save")).to_be_disabled()
    page.keyboard.press("Control+Home")
    page.keyboard.press("F8")
    expect(page.locator(".cm-tooltip-lint")).to_contain_text("unknown key 'colour'")
    page.keyboard.type("#")  # over the key, which is selected
    expect(mark).to_have_count(0)
    expect(page.locator("#save")).to_be_enabled()
    page.keyboard.press("Control+z")
    expect(mark).to_have_count(1)


ODD = "# \t tab, 😀, ä, \u202e, trailing   \n\n   \n#\tend"


@pytest.mark.parametrize("ends", ["\n", "\r\n", "mixed"])
def test_what_is_saved_is_what_was_written(
    open_page: Open, serve: Make, tmp_path: Path, ends: str
) -> None:
    """Byte for byte, in the policy's file; opening it again changes nothing."""
    file = tmp_path / "default.yaml"
    before = (YAML + ODD).replace("\n", "\r\n" if ends == "mixed" else ends)
    before += "\n# and Unix\n" if ends == "mixed" else ""
    file.write_bytes(before.encode())
    made = serve(policies=[], folder=tmp_path, moderators=load_moderators)
    page = opened(open_page(made.url, "/#/policies/default"))
    expect(page.locator("#save")).to_be_disabled()
    page.locator("#yaml").focus()
    page.keyboard.press("Control+End")
    page.keyboard.type("\n# more: 😀 \t. ")
    page.keyboard.press("Control+s")
    expect(page.locator("#faults")).to_contain_text("is in force")
    end = "\n" if ends == "mixed" else ends
    assert file.read_bytes().decode() == f"{before}{end}# more: 😀 \t. "
    page.reload()
    opened(page)
    expect(page.locator("#save")).to_be_disabled()
    assert made.service.policies.rescan() == []
    assert made.service.policies.get("default").yaml == file.read_bytes().decode()


def test_a_long_policy_stays_usable(open_page: Open, double: Any) -> None:
    server, url = double()
    page = opened(open_page(url, "/#/policies/default"))
    rows = "".join(f"  # custom/c{i}: 0.5 {'x' * 25}\n" for i in range(4800))
    text = f"name: default\ncategories: {{}}\n{rows}"
    assert len(text) > 200_000
    write(page, text)
    expect(page.locator("#faults.valid")).to_be_visible()
    assert page.locator("#yaml .cm-line").count() < 500  # the rest is drawn when it is seen
    page.keyboard.press("Control+End")
    page.keyboard.type("acc")
    expect(page.locator(".cm-tooltip-autocomplete")).to_contain_text("accept_below")
    expect(page.locator(".cm-lint-marker-error")).to_be_visible()
    page.keyboard.type("ept_below: 0.4")
    expect(page.locator("#faults.valid")).to_be_visible()
    page.keyboard.press("Control+f")
    page.keyboard.type("c2345:")
    page.keyboard.press("Enter")
    expect(page.locator(".cm-searchMatch-selected")).to_be_in_viewport()
    assert text_of(page) == f"{text}accept_below: 0.4"
    page.keyboard.press("Control+s")
    expect(page.locator("#faults")).to_contain_text("is in force")
    assert server.policies.get("default").accept_below == 0.4


def test_each_policy_has_its_own_undo(open_page: Open, double: Any) -> None:
    page = opened(open_page(double()[1], "/#/policies/default"))
    write(page, "name: default\n")
    page.click("#policy-names a[href$=strict]")
    expect(page.locator("#editor-title")).to_have_text("strict")
    strict = text_of(page)
    page.locator("#yaml").focus()
    page.keyboard.press("Control+z")
    assert text_of(page) == strict
    page.click("#policy-names a[href$=default]")
    expect(page.locator("#editor-title")).to_have_text("default")
    assert text_of(page) == "name: default\n"
