"""The report of a run: one HTML file that needs nothing else, and its tables and plots as files.

What the model wrote is hostile: it is escaped, stripped of characters that command or reorder,
and, where it may be harmful, kept encoded until a reader clicks it. The page may load nothing and
run nothing but its own few lines (a content security policy says so).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from rerail import __version__
from rerail.errors import MissingDependencyError, StoreError
from rerail.eval import plots as _plots
from rerail.eval import tables as _tables
from rerail.eval.frontier import base_name
from rerail.eval.metrics import by_method, reference_of, summarise
from rerail.eval.plots import Plot, plots
from rerail.eval.quantities import BY_NAME, HARMFUL_FROM, HARMLESS_KINDS, cluster
from rerail.eval.records import RunFolder, write_text
from rerail.eval.tables import Figure, Table, tables
from rerail.eval.types import Case, Trial
from rerail.types import Outcome, Verdict

MOST_CHARACTERS = 4000
"""Of one text on the page."""
FEW = 30
"""Flagged prompts below which the page warns: a share's interval is then wider than ±18 points."""


def write(folder: Path) -> None:
    """Write report.html, summary.json, tables/ and plots/ of a run's folder, anew.

    Raises:
        StoreError: the folder holds no run, or cannot be written to.
        MissingDependencyError: a package of the extra ``eval`` is not installed.
    """
    with RunFolder.open(folder) as run:
        trials, cases, settings = run.trials(), run.cases(), run.settings()
        summary = summarise(trials, cases)
        run.write_summary(summary)
    reference = reference_of(summary["methods"])
    all_tables, all_plots = tables(summary, reference), plots(summary, reference)
    files = {"report.html": page(summary, trials, cases, settings, all_tables, all_plots)}
    for table in all_tables:
        files[f"tables/{table.name}.csv"] = table.csv()
        files[f"tables/{table.name}.md"] = table.markdown()
    files |= {f"plots/{plot.name}.svg": plot.svg for plot in all_plots}
    _write(folder, files)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files; tables and plots of an earlier report that this one lacks go."""
    for name in ("tables", "plots"):
        part = folder / name
        try:
            part.mkdir(exist_ok=True)
            for old in [*part.glob("*.csv"), *part.glob("*.md"), *part.glob("*.svg")]:
                if f"{name}/{old.name}" not in files:
                    old.unlink()
        except OSError as error:
            raise StoreError(
                f"cannot write to {part}: {error.strerror}; change its permissions"
            ) from None
    for name, text in files.items():
        write_text(folder / name, text)


def page(
    summary: Mapping[str, Any],
    trials: Sequence[Trial],
    cases: Sequence[Case],
    settings: Mapping[str, Any],
    all_tables: Sequence[Table],
    all_plots: Sequence[Plot],
) -> str:
    """The report as one HTML file.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape
    except ImportError:
        raise MissingDependencyError("jinja2", "eval") from None
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["figure"] = lambda value: isinstance(value, Figure)
    # Long names of methods break where one of their settings ends.
    environment.filters["name"] = lambda text: Markup(  # noqa: S704
        re.sub(r"(?<=[:,])(?=\S)", "<wbr>", str(escape(text)))
    )
    reference = reference_of(summary["methods"])
    script = _asset("report.js")
    by_name = {table.name: table for table in all_tables}
    return environment.from_string(_asset("report.html.j2")).render(
        # Ours, not the model's: the only texts that are not escaped.
        css=Markup(_asset("report.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        drawings={p.name: Markup(_plots.inlined(p)) for p in all_plots},  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        summary=summary,
        reference=reference,
        findings=findings(summary, reference),
        tiles=tiles(summary, reference),
        overview=by_name.get("overview"),
        categories=heat_map(summary),
        opened=_OF_THE_PAPER if "tsa" in map(base_name, summary["methods"]) else (),
        tables=[table for table in all_tables if table.name not in {"overview", "categories"}],
        plots=all_plots,
        examples=examples(trials, cases, reference),
        settings=[row for row in flat(settings) if not row[0].startswith(_LONG)],
        long_settings=[row for row in flat(settings) if row[0].startswith(_LONG)],
        quantities=[BY_NAME[name] for name in _tables.OVERVIEW],
    )


_OF_THE_PAPER = ("tsa-table-1", "tsa-table-1-lacks")
"""Tables that are open where the run has the paper's method."""
_LONG = ("settings.policy.", "content.methods.")
"""Settings that fill pages: folded."""


class Finding(NamedTuple):
    """A sentence of the report's beginning, and the word that leads it."""

    about: str
    says: str


def findings(summary: Mapping[str, Any], reference: str | None) -> list[Finding]:
    """What the run shows about the reference method, in sentences."""
    if reference is None:
        return [
            Finding("Nothing to report", "the run has no trials of a method that does anything")
        ]

    figures = summary["methods"][reference]
    said = {name: str(Figure(figures[name], quantity.unit)) for name, quantity in BY_NAME.items()}
    found = [
        Finding(about, text.format(method=reference, **said))
        for about, name, text in _SENTENCES
        if figures[name]["value"] is not None
    ]
    flagged = figures["neutralised_share"]["n"]
    if 0 < flagged < FEW:
        so_few = "1 prompt was" if flagged == 1 else f"{flagged} prompts were"
        few = Finding(
            "Few prompts",
            f"Only {so_few} flagged: too few to tell methods apart. The intervals "
            "say how little is known; a larger --limit says more.",
        )
        found.insert(1, few)  # after "Before": something was flagged
    if summary["missing"]:
        begun = Finding(
            "Not finished",
            f"{summary['missing']} trials are still to be made, so methods may have been asked "
            "different prompts. Differences in pairs are over what both were asked; the same "
            "command goes on with the run.",
        )
        found.insert(0, begun)
    found += _against_undirected(summary, reference)
    found += _against_resampling(summary, reference)
    if summary["errors"]:
        found.append(
            Finding(
                "Failed",
                f"{summary['errors']} of {summary['trials']} trials ended in an error. They are "
                "counted as unscored and enter no share; what they had spent is in the costs.",
            )
        )
    return found


_SENTENCES = (
    ("Before", "flagged_before",
     "{flagged_before} of the model's own answers are flagged by the policy's moderator."),
    ("Neutralised", "neutralised_share",
     "{method} gives another answer of the model for {neutralised_share} of them. {refused_share} "
     "end with the policy's message, {residual} are still flagged."),
    ("A second opinion", "judge_harmful_after",
     "An independent judge, which steered nothing, calls {judge_harmful_after} of what was "
     "returned harmful, and {judge_harmful_before} before; of the neutralised answers "
     "{judge_harmful_of_neutralised}."),
    ("Harmless prompts", "over_refusal",
     "{unchanged_benign_share} keep the model's own answer, byte for byte. {over_refusal} are "
     "declined, {over_refusal_before} before."),
    ("Price", "generations_per_success",
     "{generations_per_success} generations for a neutralised answer, failures included; "
     "{generations_per_prompt} over all prompts."),
)  # fmt: skip
"""What each is about, the quantity without which it is not said, and the sentence."""


def _against_undirected(summary: Mapping[str, Any], reference: str) -> Iterator[Finding]:
    """At the largest budget, and what is saved there."""
    rows = [
        row
        for row in summary["head_to_head"]
        if row["methods"][0] == reference and base_name(row["methods"][1]) == "random"
    ]
    if not rows or not rows[-1]["pairs"]:
        return
    row = rows[-1]
    more, saved = Figure(row["difference"], "points"), Figure(row["saved"], "count")
    both = (row["difference"], row["saved"])
    ahead = any(each["low"] is not None and each["low"] > 0 for each in both)
    behind = any(each["high"] is not None and each["high"] < 0 for each in both)
    if ahead and not behind:
        verdict = f"{reference} is ahead."
    elif behind and not ahead:
        verdict = "Undirected search is ahead."
    else:
        verdict = "No difference is shown."
    yield Finding(
        "Against undirected search",
        f"{verdict} Up to {row['budget']} generations, over {row['pairs']} prompts and against "
        f"{row['methods'][1]}: {more} neutralised, {saved} generations saved per prompt.",
    )


def _against_resampling(summary: Mapping[str, Any], reference: str) -> Iterator[Finding]:
    found = summary["resampling"]["break_even"].get(reference)
    if found is None or found["value"] is None:
        return
    measured = summary["resampling"]["acceptable_probability"].values()
    here = "".join(
        f" Here it is {Figure(p, 'share')} per draw." for p in measured if p["value"] is not None
    )
    yield Finding(
        "Against resampling",
        f"Drawing anew at temperature 1 is dearer where an acceptable answer has a probability "
        f"below {Figure(found, 'share')}, and cheaper above.{here}",
    )


class Tile(NamedTuple):
    """A large figure of the report's beginning."""

    title: str
    before: str | None
    value: str
    interval: str
    basis: str


_TILES = (
    ("flagged", "flagged_before", "flagged_after"),
    ("neutralised", None, "neutralised_share"),
    ("judged harmful", "judge_harmful_before", "judge_harmful_after"),
    ("benign unchanged", None, "unchanged_benign_share"),
    ("generations per neutralised answer", None, "generations_per_success"),
)


def tiles(summary: Mapping[str, Any], reference: str | None) -> list[Tile]:
    """The reference method's figures to remember."""
    if reference is None:
        return []
    figures = summary["methods"][reference]
    made = []
    for title, before, name in _TILES:
        after = Figure(figures[name], BY_NAME[name].unit)
        if figures[name]["value"] is not None:
            first = Figure(figures[before], BY_NAME[name].unit).value if before else None
            made.append(Tile(title, first, after.value, after.interval, after.basis))
    return made


class Heat(NamedTuple):
    """A cell of the heat map: what is written, how deep its colour (0 to 1), and its basis."""

    text: str
    depth: float | None
    basis: str


def heat_map(summary: Mapping[str, Any]) -> dict[str, list[Heat]]:
    """Flagged share by category, before and after each method; most flagged first."""

    def cell(estimate: Mapping[str, Any] | None) -> Heat:
        if estimate is None or estimate["value"] is None:
            return Heat(_tables.NONE, None, "no trials")
        figure = Figure(estimate, "share")
        return Heat(
            f"{100 * estimate['value']:.0f}", estimate["value"], f"{figure}, {figure.basis}"
        )

    rows = {}
    for category, part in summary["categories"].items():
        before = next(iter(part.values()))["flagged_before"]
        after = [part.get(method, {}).get("flagged_after") for method in summary["methods"]]
        rows[category] = [cell(before), *map(cell, after)]
    return dict(sorted(rows.items(), key=lambda row: -(row[1][0].depth or 0.0)))


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of an example.

    Attributes:
        title: what it is.
        text: the text, fit for a page; None where it is masked.
        encoded: base64 of the UTF-8 text where it is masked.
        length: characters.
        cut: characters left out at the end.
    """

    title: str
    text: str | None
    encoded: str | None
    length: int
    cut: int


@dataclass(frozen=True, slots=True)
class Example:
    """A trial, to look at."""

    group: str
    name: str
    facts: tuple[tuple[str, str], ...]
    outcome: str
    passages: tuple[Passage, ...]


_GROUPS: tuple[tuple[str, int, Callable[[Trial], bool]], ...] = (
    ("neutralised", 4, lambda t: _good(t) and not t.refused_final),
    ("neutralised by the model's own refusal", 2, lambda t: _good(t) and t.refused_final),
    ("neutralised, but judged harmful", 3, lambda t: _attack(t) and t.neutralised),
    ("still flagged", 2, lambda t: t.flagged_before and t.flagged_after),
    ("refused by message", 2,
     lambda t: _attack(t) and t.flagged_before and t.outcome is Outcome.REFUSED),
    ("missed by the moderator: not flagged, judged harmful", 2,
     lambda t: t.outcome is Outcome.PASSED and not t.flagged_before and _judged_harmful(t)),
    ("harmless, and changed", 3,
     lambda t: not _attack(t) and t.outcome is not Outcome.ERROR and not t.unchanged),
    ("harmless, and as it was", 2, lambda t: not _attack(t) and t.unchanged),
    ("failed", 2, lambda t: t.outcome is Outcome.ERROR),
)  # fmt: skip
"""Fates, how many of each are shown, and what belongs; a trial is shown once, in the first."""


def _attack(trial: Trial) -> bool:
    return trial.kind not in HARMLESS_KINDS


def _good(trial: Trial) -> bool:
    return _attack(trial) and trial.neutralised and not _judged_harmful(trial)


def _judged_harmful(trial: Trial) -> bool:
    return trial.judge_final is not None and trial.judge_final >= HARMFUL_FROM


def _harmless(verdict: Verdict | None, judged: float | None) -> bool:
    """Whether a text was scored and not flagged, and the judge does not object to it."""
    scored = verdict is not None and verdict.unscored is None and not verdict.flagged
    return scored and (judged is None or judged < HARMFUL_FROM)


def examples(
    trials: Sequence[Trial], cases: Sequence[Case], reference: str | None
) -> list[Example]:
    """Some trials of the reference method of each fate, from as many benchmarks as there are."""
    by_id = {(case.benchmark, case.id): case for case in cases}
    mine = by_method(trials).get(reference, []) if reference else []
    chosen, placed = [], set()
    for group, most, belongs in _GROUPS:
        by_benchmark: defaultdict[str, list[Trial]] = defaultdict(list)
        for trial in mine:
            if belongs(trial) and cluster(trial) in by_id and trial.key not in placed:
                by_benchmark[trial.benchmark].append(trial)
                placed.add(trial.key)
        in_turn = [t for row in zip_longest(*by_benchmark.values()) for t in row if t is not None]
        chosen += [_example(group, t, by_id[t.benchmark, t.case_id]) for t in in_turn[:most]]
    return chosen


def _example(group: str, trial: Trial, case: Case) -> Example:
    attack = _attack(trial)
    conversation = "\n\n".join(
        message.content if len(case.messages) == 1 else f"{message.role}: {message.content}"
        for message in case.messages
    )
    passages = [passage("prompt", conversation, attack)]
    if trial.first_text is not None:
        harmful = attack or not _harmless(trial.initial, trial.judge_initial)
        passages.append(passage("the model's own answer", trial.first_text, harmful))
    if not trial.unchanged:
        by_model = trial.outcome in {Outcome.STEERED, Outcome.PASSED}
        harmful = attack or not _harmless(trial.final, trial.judge_final)
        passages.append(passage("what was returned", trial.text, by_model and harmful))
    if trial.error is not None:
        passages.append(passage("what failed", trial.error, masked=False))
    return Example(group, f"{trial.benchmark} · {trial.case_id}", tuple(_facts(trial)),
                   str(trial.outcome), tuple(passages))  # fmt: skip


def _facts(trial: Trial) -> Iterator[tuple[str, str]]:
    if trial.category:
        yield "category", trial.category
    before = trial.initial.harm if trial.initial else None
    after = trial.final.harm if trial.final else None
    yield "harm", _change(before, after)
    yield "judge", _change(trial.judge_initial, trial.judge_final)
    if trial.naturalness is not None and trial.neutralised:
        yield "naturalness", _tables.bare(trial.naturalness, "nats")
    yield "generations", str(trial.cost.generations)


def _change(before: float | None, after: float | None) -> str:
    first, last = ("–" if x is None else f"{x:.2f}" for x in (before, after))
    return first if first == last else f"{first} → {last}"


def passage(title: str, text: str, masked: bool) -> Passage:
    """A text fit for a page, masked or not."""
    shown = visible(text[:MOST_CHARACTERS])
    cut = max(len(text) - MOST_CHARACTERS, 0)
    encoded = base64.b64encode(shown.encode()).decode() if masked else None
    return Passage(title, None if masked else shown, encoded, len(text), cut)


def visible(text: str) -> str:
    """The text with every character replaced that could command, hide or reorder.

    Line breaks, tabs and the two joiners that some scripts and emoji need stay.
    """
    return "".join(
        c
        if c in "\n\t\u200c\u200d" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"}
        else "\ufffd"
        for c in text
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as names and values, nested ones by dotted name; values are JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield visible(f"{prefix}{key}"), visible(text)


def _asset(name: str) -> str:
    return (resources.files("rerail.eval") / name).read_text(encoding="utf-8")
