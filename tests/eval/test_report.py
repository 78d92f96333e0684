"""The report: what hostile text can do to it, what it hides, and whether its files agree."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rerail.errors import PromptError, StoreError
from rerail.eval import plots, report
from rerail.eval.compare import Tolerance, compare
from rerail.eval.metrics import summarise
from rerail.eval.records import RunFolder
from rerail.eval.tables import Figure, bare, difference_unit, tables, written
from rerail.eval.types import Case, Trial
from rerail.types import Message, Outcome
from tests.browser import browser
from tests.eval import made_up
from tests.eval.trials import UNSCORED, case, failed, left_flagged, refused, steered, trial

pytest.importorskip("matplotlib", reason="the extra eval is not installed")
pytest.importorskip("jinja2", reason="the extra eval is not installed")

SETTINGS = {"id": "0" * 16, "settings": {"policy": {"name": "default"}, "limit": 12}}


def write_run(path: Path, trials: list[Trial], cases: list[Case], **settings: Any) -> Path:
    with RunFolder.begin(path, {**SETTINGS, **settings}, cases) as folder:
        folder.add(trials)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "made-up", *made_up.run())
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


class _Page(HTMLParser):
    """What a browser would load, run or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# What a model wrote


def test_the_page_runs_its_own_script_only_and_loads_nothing(html: str) -> None:
    page = _Page(html)
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1
    assert not {"img", "link", "iframe", "object", "embed", "base", "form"} & set(names)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "src" not in attributes
        for link in (attributes.get("href"), attributes.get("xlink:href")):
            assert link is None or link.startswith("#")
    assert "url(" not in re.sub(r"url\(#", "", html)


def test_the_content_security_policy_names_the_script_by_its_hash(html: str) -> None:
    found = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    policy = next(a for t, a in _Page(html).tags if a.get("http-equiv"))["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_text_is_shown_as_it_is_but_commands_nothing(html: str) -> None:
    shown = "".join(_Page(html).texts)
    assert "<script>document.title = 'stolen'</script>" in shown
    assert "{{ 7 * 7 }}" in shown
    for command in ("\x1b", "\u202e", "\x00"):
        assert command not in html


def test_text_that_may_be_harmful_is_nowhere_in_the_page_until_it_is_asked_for(html: str) -> None:
    assert made_up.SECRET not in html
    encoded = [a["data-text"] for _, a in _Page(html).tags if "data-text" in a]
    decoded = [base64.b64decode(text or "").decode() for text in encoded]
    assert any(made_up.SECRET in text for text in decoded)


@pytest.mark.parametrize("kind", ["harmful", "borderline", "benign"])
def test_what_is_masked(kind: Any) -> None:
    """Prompts and answers of harmful cases always, of harmless ones what a judge minds."""
    given = case(0, kind=kind)
    minds = steered(0, kind=kind, text="An answer.", judge_final=0.9)
    mild = replace(minds, judge_final=0.1)
    for t, hidden in ((minds, True), (mild, kind != "benign")):
        passages = {p.title: p for p in report.examples([t], [given], "fast")[0].passages}
        assert (passages["what was returned"].text is None) is hidden
        assert (passages["prompt"].text is None) is (kind != "benign")
        assert passages["the model's own answer"].text is None  # it was flagged


@pytest.mark.parametrize(
    "changes",
    [{"initial": UNSCORED, "final": UNSCORED}, {"judge_initial": 0.9, "judge_final": 0.9}],
    ids=["unscored", "judged harmful"],
)
def test_a_harmless_prompts_answer_is_masked_unless_all_found_it_harmless(
    changes: dict[str, Any],
) -> None:
    given = case(0, kind="benign")
    for t, hidden in (
        (trial(0, kind="benign"), False),
        (trial(0, kind="benign", **changes), True),
        (trial(0, kind="benign", text="Another.", outcome=Outcome.STEERED, **changes), True),
    ):
        answers = report.examples([t], [given], "fast")[0].passages[1:]
        assert answers
        assert all((p.text is None) is hidden for p in answers)


def test_a_trial_is_shown_once_and_the_policys_message_is_not_hidden() -> None:
    trials, cases = made_up.run()
    found = report.examples(trials, cases, "fast")
    assert len({example.name for example in found}) == len(found)
    message = report.examples([refused(0)], [case(0)], "fast")[0].passages[-1]
    assert message.text == refused(0).text


def test_a_long_text_is_cut_and_says_so() -> None:
    passage = report.passage("x", "a" * (report.MOST_CHARACTERS + 7), masked=False)
    assert passage.text is not None
    assert (len(passage.text), passage.cut) == (report.MOST_CHARACTERS, 7)


def test_names_of_others_are_text(tmp_path: Path) -> None:
    """Methods, benchmarks and categories come from command lines and files of others."""
    nasty = "<b>x</b>=\u202e|`"
    trials = [
        replace(t, category=nasty, benchmark=nasty, method=f"fast:{nasty}")
        for t in (steered(0), trial(1), refused(2))
    ]
    cases = [case(i, benchmark=nasty) for i in range(3)]
    folder = write_run(tmp_path / "run", trials, cases, note=nasty)
    report.write(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<b>x</b>" not in html
    for svg in (folder / "plots").glob("*.svg"):
        ElementTree.parse(svg)
    for markdown in (folder / "tables").glob("*.md"):
        assert "<b>" not in markdown.read_text(encoding="utf-8").replace("\\<b", "")


# What it says


def test_every_figure_of_the_overview_stands_in_page_csv_and_markdown(run: Path, html: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    rows = list(csv.DictReader(io.StringIO((run / "tables" / "overview.csv").read_text())))
    markdown = (run / "tables" / "overview.md").read_text()
    assert [row["method"] for row in rows] == list(summary["methods"])
    for row in rows:
        estimate = summary["methods"][row["method"]]["neutralised_share"]
        assert float(row["neutralised"]) == estimate["value"]
        assert float(row["neutralised: low"]) == estimate["low"]
        figure = Figure(estimate, "share")
        assert str(figure) in markdown
        assert f"<b>{figure.value}</b><small>{figure.interval}</small>" in html


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.955, "share", "95.5 %"), (None, "share", "–"), (-0.0001, "share", "0.0 %"),
        (-0.103, "points", "-10.3 pt"), (0.02, "points", "+2.0 pt"), (-1e-9, "points", "0.0 pt"),
        (2.25, "change", "+2.2"), (0.0, "change", "0.0"), (-0.049, "nats", "-0.05"),
        (12345.6, "tokens", "12,346"), (6.04, "count", "6.0"), (0.5, "ratio", "0.50"),
        (0.126, "seconds", "0.13"),
    ],
)  # fmt: skip
def test_numbers_are_written_with_their_unit(value: float | None, unit: Any, text: str) -> None:
    assert written(value, unit) == text
    assert bare(value, unit) == text.removesuffix(" %").removesuffix(" pt")


def test_differences_of_shares_are_in_points() -> None:
    assert [difference_unit(unit) for unit in ("share", "count", "nats")] == [
        "points", "change", "nats"
    ]  # fmt: skip


def test_the_heat_map_is_of_the_flagged_shares_most_flagged_first() -> None:
    trials = [left_flagged(0, category="a"), trial(1, "none", category="a"),
              left_flagged(0, benchmark="b", category="b")]  # fmt: skip
    heat = report.heat_map(summarise(trials, []))
    assert list(heat) == ["b", "a"]
    assert [cell.text for cell in heat["a"]] == ["50", "50"]
    assert heat["b"][0].depth == 1.0


def test_few_prompts_failures_and_a_lost_comparison_are_said() -> None:
    trials = [steered(i, "fast", 9) for i in range(8)] + [steered(i, "random", 3) for i in range(8)]
    said = {f.about: f.says for f in report.findings(summarise([*trials, failed(9)], []), "fast")}
    assert "Only 8 prompts" in said["Few prompts"]
    assert "1 of 17 trials" in said["Failed"]
    assert said["Against undirected search"].startswith("Undirected search is ahead")


def test_solving_more_at_the_same_cost_is_being_ahead() -> None:
    trials = [steered(i, "fast", 2) for i in range(8)] + [refused(i, "random", 2) for i in range(8)]
    said = {f.about: f.says for f in report.findings(summarise(trials, []), "fast")}
    assert said["Against undirected search"].startswith("fast is ahead. Up to 2 generations")
    assert "+100.0 pt" in said["Against undirected search"]


def test_enough_prompts_and_no_failure_are_not_mentioned() -> None:
    trials = [steered(i, "fast") for i in range(report.FEW)]
    about = {finding.about for finding in report.findings(summarise(trials, []), "fast")}
    assert not {"Few prompts", "Failed", "Not finished"} & about


def test_a_run_that_is_not_finished_says_so() -> None:
    asked = [case(i) for i in range(3)]
    begun = [steered(i) for i in range(3)] + [left_flagged(0)]
    said = {f.about: f.says for f in report.findings(summarise(begun, asked), "fast")}
    assert said["Not finished"].startswith("2 trials are still to be made")


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [failed(0)],
        [left_flagged(0)],
        [trial(0, "none")],
        [trial(0)],
        [refused(0)],
        [steered(0)],
        [steered(0), replace(steered(0), model="other")],
    ],
)
def test_small_runs_have_a_report_too(tmp_path: Path, trials: list[Trial]) -> None:
    folder = write_run(tmp_path / "run", trials, [case(0)])
    report.write(folder)
    assert (folder / "report.html").read_text().endswith("</html>\n")


def test_files_of_an_earlier_report_go_and_others_stay(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [steered(0)], [case(0)])
    (folder / "tables").mkdir()
    (folder / "tables" / "old.csv").write_text("old")
    (folder / "tables" / "notes.txt").write_text("mine")
    report.write(folder)
    assert not (folder / "tables" / "old.csv").exists()
    assert (folder / "tables" / "notes.txt").exists()


def test_same_records_same_files(run: Path) -> None:
    def content() -> dict[str, bytes]:
        files = [p for p in run.rglob("*") if p.suffix in {".html", ".svg", ".csv", ".md", ".json"}]
        return {str(p.relative_to(run)): p.read_bytes() for p in files}

    before = content()
    report.write(run)
    assert content() == before


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        report.write(tmp_path)


def test_plots_are_named_for_those_who_do_not_see_them(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    found = plots.plots(summary, "fast")
    assert {p.name for p in found} == {
        "fates", "safety-utility", "safety-cost", "neutralised", "harm", "price"
    }  # fmt: skip
    for plot in found:
        root = ElementTree.fromstring(plot.svg)
        assert root.get("role") == "img"
        assert root[0].text == plot.title
        inlined = plots.inlined(plot)
        assert not re.search(r"<style|<metadata", inlined)
        for colour in plots.THEME:
            assert colour not in inlined


def test_many_methods_with_long_names_are_told_apart_and_the_reference_is_among_them() -> None:
    settings = [f"directions=rows,subspace_rank={i}" for i in range(6)]
    names = [f"{name}:{setting}" for name in ("fast-no-offsets", "random") for setting in settings]
    trials = [steered(i, name) for name in [*names, "fast"] for i in range(8)]
    summary = summarise(trials, [])
    assert len(set(plots._styles(summary["methods"], "fast").values())) == len(names) + 1
    found = {plot.name: plot for plot in plots.plots(summary, "fast")}
    for name in ("neutralised", "harm", "price"):
        assert "3 methods" in found[name].says
        assert found[name].svg.count("subspace_rank=") == 9
        assert re.search(r">fast</text>", found[name].svg)
    assert "Left out" not in found["fates"].says
    assert found["fates"].svg.count("subspace_rank=") == len(names)
    few = summarise([steered(i, name) for name in ("random", "fast") for i in range(8)], [])
    assert all("Left out" not in plot.says for plot in plots.plots(few, "fast"))


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("fast", 4, ["fast"]),
        ("in-context-defence", 4, ["in-context-defence"]),
        ("fast:a=1,b=2", 20, ["fast:a=1,b=2"]),
        ("fast:a=1,b=2", 9, ["fast:a=1,", "b=2"]),
        ("fast:a=1 @ org/model", 9, ["fast:a=1", "@ org/model"]),
    ],
)
def test_names_are_broken_before_settings_and_model(
    name: str, width: int, lines: list[str]
) -> None:
    assert plots._broken(name, width).split("\n") == lines


def test_the_papers_table_is_open_where_its_method_was_run(tmp_path: Path) -> None:
    for method, is_open in (("tsa:num_directions=4", True), ("fast", False)):
        folder = write_run(tmp_path / method, [steered(0, method)], [case(0)])
        report.write(folder)
        html = (folder / "report.html").read_text(encoding="utf-8")
        assert ('<details id="tsa-table-1" open>' in html) is is_open
        assert '<details id="scores" open>' not in html


def test_long_names_may_break_in_tables_and_stay_text(tmp_path: Path) -> None:
    name = "fast:directions=rows,subspace_rank=null<i>"
    folder = write_run(tmp_path / "run", [steered(i, name) for i in range(3)], [case(0)])
    report.write(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    broken = "fast:<wbr>directions=rows,<wbr>subspace_rank=null&lt;i&gt;"
    assert f"{broken}</th>" in html
    assert f"{broken} gives another answer" in html  # a finding
    assert "<i>" not in html


def test_every_colour_of_the_plots_is_one_of_the_page() -> None:
    css = report._asset("report.css")
    light, _, dark = css.partition("@media (prefers-color-scheme: dark)")
    for colour, name in plots.THEME.items():
        assert f"--{name}: {colour}" in light
        assert f"--{name}: #" in dark[: dark.index("}\n}")]


def test_a_cell_that_a_spreadsheet_would_run_is_text() -> None:
    trials = [replace(steered(0), method="=1+1"), steered(1)]
    overview = tables(summarise(trials, []))[0]
    assert "'=1+1" in overview.csv()
    assert "\n=1+1" not in overview.csv()


# Two runs


@pytest.fixture
def pair(tmp_path: Path) -> Any:
    """Writes two runs over the same prompts and compares them."""
    numbers = itertools.count()

    def compared(first: list[Trial], second: list[Trial], **tolerance: Any) -> dict[str, Any]:
        cases = [case(i) for i in range(100)]
        a, b = (
            write_run(tmp_path / str(next(numbers)), trials, cases) for trials in (first, second)
        )
        found = compare(a, b, Tolerance(**tolerance))
        found["by"] = {row["quantity"]: row for row in found["rows"]}
        return found

    return compared


def test_a_run_against_itself_is_the_same(run: Path) -> None:
    found = compare(run, run, Tolerance())
    assert not found["regressed"]
    assert {row["verdict"] for row in found["rows"]} == {"same"}
    assert not found["settings"]
    assert found["unpaired"] == 0


def test_a_regression_is_beyond_tolerance_and_the_other_way_round_it_is_better(pair: Any) -> None:
    good = [steered(i) for i in range(40)]
    bad = [*good[:37], *(refused(i, generations=5) for i in range(37, 40))]
    found = pair(good, bad)
    row = found["by"]["neutralised_share"]
    assert row["difference"]["value"] == pytest.approx(-3 / 40)
    assert (row["first"], row["second"]) == (1.0, pytest.approx(37 / 40))
    assert row["verdict"] == "regression"
    assert found["regressed"]


def test_within_tolerance_is_worse_and_no_regression(pair: Any) -> None:
    good = [steered(i) for i in range(40)]
    bad = [*good[:37], *(refused(i, generations=5) for i in range(37, 40))]
    found = pair(good, bad, share=0.08)
    assert found["by"]["neutralised_share"]["verdict"] == "worse"
    assert not found["regressed"]


def test_better_is_no_regression(pair: Any) -> None:
    found = pair([refused(i) for i in range(9)], [steered(i) for i in range(9)])
    assert found["by"]["neutralised_share"]["verdict"] == "better"
    assert found["by"]["generations_per_prompt"]["verdict"] == "better"
    assert not found["regressed"]


def test_certain_asks_for_an_interval_on_one_side(pair: Any) -> None:
    good = [steered(i) for i in range(40)]
    one = [*good[:39], refused(39, generations=5)]
    assert pair(good, one)["regressed"]
    assert not pair(good, one, certain=True)["regressed"]
    many = [*good[:20], *(refused(i, generations=5) for i in range(20, 40))]
    assert pair(good, many, certain=True)["regressed"]


def test_cost_is_relative(pair: Any) -> None:
    found = pair([steered(i, generations=10) for i in range(9)],
                 [steered(i, generations=11) for i in range(9)])  # fmt: skip
    assert found["by"]["generations_per_prompt"]["verdict"] == "worse"
    assert found["by"]["generations_per_prompt"]["tolerance"] == pytest.approx(1.0)


def test_prompts_that_fail_in_the_second_run_are_a_regression_of_their_own(pair: Any) -> None:
    """They leave the pairs of all other figures, which look as good as before."""
    good = [steered(i) for i in range(40)]
    found = pair(good, [*good[:20], *(failed(i) for i in range(20, 40))])
    assert found["by"]["neutralised_share"]["verdict"] == "same"
    assert found["by"]["neutralised_share"]["pairs"] == 20
    assert found["by"]["unscored"]["verdict"] == "regression"
    assert found["regressed"]


def test_cases_of_one_name_that_ask_different_things_are_no_pair(tmp_path: Path) -> None:
    trials = [steered(0), steered(1)]
    a = write_run(tmp_path / "a", trials, [case(0), case(1)])
    other = case(1, messages=(Message("user", "Another request"),))
    b = write_run(tmp_path / "b", [*trials, steered(2)], [case(0), other, case(2)], limit=3)
    found = compare(a, b, Tolerance())
    assert found["other_prompts"] == 1
    assert found["unpaired"] == 1
    assert {row["pairs"] for row in found["rows"]} == {1}
    assert found["settings"] == [{"name": "limit", "first": None, "second": "3"}]


def test_runs_that_share_nothing_are_named(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [steered(0)], [case(0)])
    b = write_run(tmp_path / "b", [steered(0, "random")], [case(0)])
    with pytest.raises(PromptError, match="share no method on any prompt"):
        compare(a, b, Tolerance())


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_in_a_browser(chromium: Any, run: Path, width: int, scheme: Any) -> None:
    """Nothing complains, nothing scrolls sideways, hostile text does nothing, masks come off."""
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").as_uri())

    for details in page.query_selector_all("details"):
        details.evaluate("element => { element.open = true }")
    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")

    assert made_up.SECRET not in page.inner_text("body")
    masked = page.query_selector(".masked")
    button, text = masked.query_selector("button"), masked.query_selector(".text")
    label = button.inner_text()
    assert not text.is_visible()
    button.click()
    assert text.is_visible()
    assert text.inner_text()
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert not text.is_visible()
    assert text.text_content() == ""
    assert button.inner_text() == label
    page.evaluate("document.querySelectorAll('.masked button').forEach(b => b.click())")
    assert made_up.SECRET in page.inner_text("body")

    assert page.title() == "rerail · evaluation of tiny"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert said == []
    assert len(asked) == 1
