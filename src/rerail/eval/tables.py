"""The tables of a report, as data: HTML, CSV and Markdown are written from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from rerail.eval.metrics import IN_PARTS
from rerail.eval.published import LACKING, tsa_paper
from rerail.eval.quantities import BY_NAME, Unit

NONE = "–"
"""Stands for a figure over nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate in a table.

    Attributes:
        estimate: with the keys value, low, high, n and unscored.
        unit: how it is written.
    """

    estimate: Mapping[str, Any]
    unit: Unit

    @property
    def value(self) -> str:
        return written(self.estimate["value"], self.unit)

    @property
    def interval(self) -> str:
        """``low to high``, empty without an interval; an open end is a dash."""
        low, high = self.estimate["low"], self.estimate["high"]
        if low is None and high is None:
            return ""
        return f"{bare(low, self.unit)} to {bare(high, self.unit)}"

    @property
    def basis(self) -> str:
        """What it rests on."""
        unscored = self.estimate["unscored"]
        return f"n = {self.estimate['n']}" + (f", {unscored} unscored" if unscored else "")

    def __str__(self) -> str:
        return f"{self.value} ({self.interval})" if self.interval else self.value


@dataclass(frozen=True, slots=True)
class PValue:
    """A p value in a table; None where the pairs do not differ."""

    p: float | None

    def __str__(self) -> str:
        if self.p is None:
            return NONE
        return "< 0.001" if self.p < 0.001 else f"{self.p:.3f}"


Cell = str | int | float | Figure | PValue


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: above it.
        says: what it shows, in a sentence or two.
        columns: their heads.
        rows: of as many cells each.
        heads: how many columns on the left name the row.
        marked: numbers of the rows that stand out.
    """

    name: str
    title: str
    says: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    heads: int = 1
    marked: frozenset[int] = frozenset()

    def csv(self) -> str:
        """Comma-separated, with a head line; a figure takes the five columns of its estimate."""
        wide = [any(isinstance(row[i], Figure) for row in self.rows) for i in range(self._width)]
        head: list[str] = []
        for name, is_wide in zip(self.columns, wide, strict=True):
            head += [name, *(f"{name}: {key}" for key in _BESIDES)] if is_wide else [name]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for row in self.rows:
            cells: list[Any] = []
            for cell, is_wide in zip(row, wide, strict=True):
                if isinstance(cell, Figure):
                    cells += [cell.estimate[key] for key in ("value", *_BESIDES)]
                elif isinstance(cell, PValue):
                    cells.append(cell.p)
                else:
                    cells += [_inert(cell), *([""] * len(_BESIDES) if is_wide else [])]
            writer.writerow(cells)
        return out.getvalue()

    def markdown(self) -> str:
        """A heading, what it shows, and a pipe table."""
        lines = ["| " + " | ".join(map(_piped, self.columns)) + " |"]
        lines.append("|" + " --- |" * self.heads + " ---: |" * (self._width - self.heads))
        lines += ["| " + " | ".join(_piped(str(cell)) for cell in row) + " |" for row in self.rows]
        return f"## {self.title}\n\n{self.says}\n\n" + "\n".join(lines) + "\n"

    @property
    def _width(self) -> int:
        return len(self.columns)


_BESIDES = ("low", "high", "n", "unscored")


Columns = Mapping[str, Callable[[Any], Cell]]
"""Heads to what a row says under them."""


def _table(
    name: str, title: str, says: str, columns: Columns, rows: Iterable[Any], heads: int = 1
) -> Table:
    cells = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(name, title, says, tuple(columns), cells, heads)


def _figure(key: str, unit: Unit) -> Callable[[Any], Figure]:
    return lambda row: Figure(row[key], unit)


def _p(key: str) -> Callable[[Any], PValue]:
    return lambda row: PValue(row[key])


def _at(key: str, place: int) -> Callable[[Any], str]:
    return lambda row: str(row[key][place])


def _quantities(names: Iterable[str]) -> Columns:
    return {BY_NAME[name].title: _figure(name, BY_NAME[name].unit) for name in names}


def tables(summary: Mapping[str, Any], reference: str | None = None) -> list[Table]:
    """Every table of a report that has rows."""
    methods = [{"method": name, **figures} for name, figures in summary["methods"].items()]
    benchmarks = {name: part["methods"] for name, part in summary["benchmarks"].items()}
    made = [
        _overview(methods, reference),
        _everything(summary),
        _parts("benchmarks", "By benchmark", benchmarks),
        _parts("scenarios", "By wrapper and scenario", summary["scenarios"]),
        _categories(summary),
        _comparisons(summary),
        _head_to_head(summary, reference),
        _where(summary),
        _frontier(summary),
        _break_even(summary),
        _scores(methods),
        _tsa(summary),
        _tsa_lacks(summary),
        _published(methods),
        _sweeps(summary),
        _agreement(methods),
    ]
    return [table for table in made if table.rows]


OVERVIEW = (
    "neutralised_share",
    "refused_share",
    "residual",
    "judge_harmful_after",
    "helpful_and_safe_share",
    "over_refusal",
    "naturalness",
    "generations_per_success",
    "generation_equivalents_per_steered",
)


def _overview(methods: Sequence[Mapping[str, Any]], reference: str | None) -> Table:
    """One row per method, the quantities to decide by."""
    table = _table(
        "overview",
        "Methods side by side",
        "Each figure with its 95 % interval. Neutralised, refused and still flagged are shares of "
        "what was flagged before, and add up to one; naturalness is in nats per token; the price "
        "counts failures.",
        {"method": itemgetter("method"), **_quantities(_with_value(methods, OVERVIEW))},
        methods,
    )
    marked = (i for i, row in enumerate(methods) if row["method"] == reference)
    return replace(table, marked=frozenset(marked))


def _everything(summary: Mapping[str, Any]) -> Table:
    methods = summary["methods"]
    names = _with_value(methods.values(), BY_NAME)
    return Table(
        "figures",
        "All figures",
        "What each is of stands in the second column.",
        ("figure", "what it is", *methods),
        tuple(
            (q.title, q.says, *(Figure(figures[q.name], q.unit) for figures in methods.values()))
            for q in map(BY_NAME.__getitem__, names)
        ),
        heads=2,
    )


def _parts(name: str, title: str, parts: Mapping[str, Any]) -> Table:
    rows = [
        {"part": part, "method": method, **figures}
        for part, methods in parts.items()
        for method, figures in methods.items()
    ]
    named = {name.removesuffix("s"): itemgetter("part"), "method": itemgetter("method")}
    return _table(
        name,
        title,
        "The same figures for each part of the prompts.",
        {**named, "n": itemgetter("n"), **_quantities(_with_value(rows, IN_PARTS))},
        rows,
        heads=2,
    )


def _categories(summary: Mapping[str, Any]) -> Table:
    def after(method: str) -> Callable[[Any], Cell]:
        return lambda row: (
            Figure(row[1][method]["flagged_after"], "share") if method in row[1] else NONE
        )

    first: Columns = {
        "category": itemgetter(0),
        "before": lambda row: Figure(next(iter(row[1].values()))["flagged_before"], "share"),
    }
    return _table(
        "categories",
        "Flagged, by category",
        "Share of answers that the moderator flags, before and after each method. Categories in "
        "which nothing was flagged are left out.",
        {**first, **{method: after(method) for method in summary["methods"]}},
        summary["categories"].items(),
    )


def _comparisons(summary: Mapping[str, Any]) -> Table:
    return _table(
        "comparisons",
        "Each method against the reference",
        "Differences over the prompts that both answered: the method's minus the reference's, with "
        "a bootstrap interval over prompts. p is McNemar's for shares and Wilcoxon's otherwise, "
        "adjusted for the number of methods (Holm).",
        {
            "figure": lambda row: BY_NAME[row["quantity"]].title,
            "method": itemgetter("method"),
            "reference": itemgetter("reference"),
            "prompts": itemgetter("pairs"),
            "difference": lambda row: Figure(
                row["difference"], difference_unit(BY_NAME[row["quantity"]].unit)
            ),
            "p": _p("p_adjusted"),
        },
        (row for row in summary["comparisons"] if row["pairs"]),
        heads=3,
    )


_EQUAL_COST: Columns = {
    "generations": itemgetter("budget"),
    "prompts": itemgetter("pairs"),
    "solved": _figure("first", "share"),
    "solved by the other": _figure("second", "share"),
    "difference": _figure("difference", "points"),
}


def _head_to_head(summary: Mapping[str, Any], reference: str | None) -> Table:
    return _table(
        "head-to-head",
        "At equal generations",
        "Prompt by prompt: the share solved within so many generations, and how many generations "
        "the first saves, failures counted in full. Both accept under the run's floor of "
        "naturalness, except best-of-n, which has none without natural=true, and self-reminder. p "
        "is McNemar's and Wilcoxon's, adjusted for all rows of the method (Holm).",
        {"method": _at("methods", 0), "against": _at("methods", 1), **_EQUAL_COST,
         "p": _p("p_adjusted"), "generations saved": _figure("saved", "change"),
         "p ": _p("p_saved_adjusted")},
        sorted(summary["head_to_head"], key=lambda row: row["methods"][0] != reference),
        heads=2,
    )  # fmt: skip


def _where(summary: Mapping[str, Any]) -> Table:
    return _table(
        "where",
        "On which prompts",
        "The reference method against undirected search, by part of the prompts: at the largest "
        "number of generations, the shares solved, and the generations saved. The more parts, the "
        "more of them stand out by chance.",
        {"": itemgetter("name"), "part": itemgetter("part"), "against": _at("methods", 1),
         **_EQUAL_COST, "generations saved": _figure("saved", "change")},
        summary["where"],
        heads=3,
    )  # fmt: skip


def _frontier(summary: Mapping[str, Any]) -> Table:
    return _table(
        "frontier",
        "Price of naturalness",
        "For each floor of naturalness: the share of flagged prompts with an answer at least that "
        "natural, and the generations paid for one, failures included. Above the run's own floor "
        "these are lower bounds.",
        {"method": itemgetter("method"), "floor, nats": itemgetter("floor"),
         "solved": _figure("neutralised", "share"), "generations": _figure("generations", "count"),
         "naturalness": _figure("naturalness", "nats")},
        ({"method": m, **point} for m, points in summary["frontier"].items() for point in points),
        heads=2,
    )  # fmt: skip


def _break_even(summary: Mapping[str, Any]) -> Table:
    resampling = summary["resampling"]
    kinds = {"measured": "acceptable_probability", "break-even": "break_even"}
    rows = [(m, says, p) for says, key in kinds.items() for m, p in resampling[key].items()]
    return _table(
        "break-even",
        "Against resampling",
        "Drawing anew at temperature 1 pays 1/p generations for an acceptable answer, p being the "
        "probability of one. A method is cheaper on prompts with p below its break-even, "
        "successes by generations beyond the first.",
        {"method": itemgetter(0), "": itemgetter(1), "p": lambda row: Figure(row[2], "share")},
        rows if resampling["break_even"] else (),
        heads=2,
    )


def _scores(methods: Sequence[Mapping[str, Any]]) -> Table:
    def official(name: str) -> Callable[[Any], Cell]:
        return lambda row: Figure(row["scores"][name], "share") if name in row["scores"] else NONE

    names = sorted({name for figures in methods for name in figures["scores"]})
    return _table(
        "scores",
        "Official scores",
        "Of the benchmarks' own scorers, on what was returned.",
        {"method": itemgetter("method"), **{name: official(name) for name in names}},
        methods if names else (),
    )


_PUBLISHED: dict[str, tuple[str, Unit]] = {
    "tsa_flagged_rate": ("TSA, flagged rate", "share"),
    "tsa_mean_score": ("TSA, mean score", "score"),
    "tide_avg_max_toxicity": ("TIDE, average maximum toxicity", "ratio"),
    "tide_toxic_rate": ("TIDE, toxic rate", "share"),
}


def _published(methods: Sequence[Mapping[str, Any]]) -> Table:
    columns: Columns = {
        f"{title}, {when}": _figure(f"{key}_{when}", unit)
        for key, (title, unit) in _PUBLISHED.items()
        for when in ("before", "after")
    }
    return _table(
        "published",
        "As the papers report",
        "TSA (arXiv 2604.26167): answers that the optimised moderator flags, and the mean of its "
        "largest category score. TIDE (arXiv 2602.02498): the mean over prompts of the largest "
        "toxicity over samples, and the share of prompts with any sample of 0.5 or more; toxicity "
        "is the moderator's largest category score, samples are seeds. After is what the papers "
        "would have returned: the best iterate, flagged or not.",
        {"method": itemgetter("method"), **columns},
        ({"method": row["method"], **row["published"]} for row in methods),
    )


def _tsa(summary: Mapping[str, Any]) -> Table:
    """Table 1 of the TSA paper, beside its own figures."""
    source, rows = tsa_paper()["source"], summary["tsa_table_1"]
    shown = {
        name: cell
        for name, cell in _TSA.items()
        if name not in _PAPER or any(row["paper"] for row in rows)
    }
    return _table(
        "tsa-table-1",
        "The TSA paper's table",
        "As arXiv 2604.26167 tabulates: prompts flagged before and after, mean, median and maximum "
        "of the highest category score (a prompt's is the mean over its seeds), iterations of the "
        "searches that did not end with the first answer, seconds per prompt with and without the "
        "moderators' time. After is what the paper would have returned: the best iterate, flagged "
        "or not; what rerail returned stands beside it. Where the model is one of the paper's, so "
        f"does what the paper has ({source}; on two A6000, under its own moderator).",
        shown,
        rows,
        heads=2,
    )


def _tsa_lacks(summary: Mapping[str, Any]) -> Table:
    rows = summary["tsa_table_1"]
    names = [name for name in LACKING if any(row[name]["value"] is not None for row in rows)]
    scored = any(row["official"] for row in rows)
    return _table(
        "tsa-table-1-lacks",
        "What the TSA paper's table lacks",
        "On the same prompts: the independent judge, which steered nothing; how many of the "
        "answers decline, and how many are about the request; harmless prompts that are declined; "
        "tokens. Score is the benchmark's own, where it has one; XSTest's is full refusals. "
        "Undirected search and best-of-n "
        "are compared at equal generations in a table of their own.",
        {
            "prompts of": itemgetter("part"),
            "method": itemgetter("method"),
            **_quantities(names),
            **({"score": _official} if scored else {}),
        },
        rows,
        heads=2,
    )


def _before_after(before: float | None, after: float | None) -> str:
    first, last = (NONE if x is None else f"{x:,.1f}".removesuffix(".0") for x in (before, after))
    return f"{first} → {last}"


def _score(when: str, statistic: str) -> Callable[[Any], Cell]:
    def cell(row: Any) -> Cell:
        value = row[f"score_{when}"][statistic]
        return Figure(value, "score") if isinstance(value, Mapping) else written(value, "score")

    return cell


def _official(row: Any) -> Cell:
    return NONE if row["official"] is None else Figure(row["official"], "share")


def _paper(says: Callable[[Mapping[str, Any]], Cell]) -> Callable[[Any], Cell]:
    return lambda row: NONE if row["paper"] is None else says(row["paper"])


_PAPER: Columns = {
    "paper: flagged": _paper(
        lambda p: f"{_before_after(p['before'], p['after'])} of {p['prompts']:,}"
    ),
    "paper: iterations": _paper(lambda p: p.get("iterations", NONE)),
    "paper: seconds": _paper(lambda p: p.get("seconds", NONE)),
    "paper: mean score": _paper(
        lambda p: f"{p['mean_before']} → {p['mean_after']}" if "mean_after" in p else NONE
    ),
}

_TSA: Columns = {
    "prompts of": itemgetter("part"),
    "method": itemgetter("method"),
    "n": itemgetter("prompts"),
    "flagged": lambda row: _before_after(row["before"], row["after"]),
    "paper: flagged": _PAPER["paper: flagged"],
    "iterations": _figure("iterations", "count"),
    "paper: iterations": _PAPER["paper: iterations"],
    "seconds": _figure("seconds_per_prompt", "seconds"),
    "seconds without moderators": _figure("seconds_without_moderator", "seconds"),
    "paper: seconds": _PAPER["paper: seconds"],
    "mean score, before": _score("before", "mean"),
    "mean score, after": _score("after", "mean"),
    "paper: mean score": _PAPER["paper: mean score"],
    "median score, before": _score("before", "median"),
    "median score, after": _score("after", "median"),
    "max score, before": _score("before", "max"),
    "max score, after": _score("after", "max"),
    "flagged before": _figure("flagged_before", "share"),
    "flagged after": _figure("published_flagged_after", "share"),
    "flagged, as returned": _figure("flagged_after", "share"),
}


def _sweeps(summary: Mapping[str, Any]) -> Table:
    return _table(
        "sweeps",
        "Sweeps",
        "One setting of the optimizer at several values, all else equal: flagged and mean highest "
        "score of what the paper would have returned, and what it took.",
        {"setting": itemgetter("setting"), "of": itemgetter("line"),
         "value": lambda row: f"{row['value']:g}",
         "flagged after": _figure("flagged", "share"), "mean score": _figure("score", "score"),
         "neutralised": _figure("neutralised_share", "share"),
         "generations": _figure("generations_per_prompt", "count")},
        summary["sweeps"],
        heads=3,
    )  # fmt: skip


def _agreement(methods: Sequence[Mapping[str, Any]]) -> Table:
    return _table(
        "agreement",
        "How the judges agree",
        "On what is harmful. κ is Cohen's: 1 is perfect, 0 is chance. The moderator steers, the "
        "judge does not; where they part is where a second look pays.",
        {"method": itemgetter("method"),
         "answers": lambda row: "the model's own" if row["when"] == "before" else "returned",
         "first": _at("judges", 0), "second": _at("judges", 1), "κ": _figure("kappa", "ratio"),
         "equal": _figure("observed", "share"), "both": itemgetter("both"),
         "only first": itemgetter("first_only"), "only second": itemgetter("second_only"),
         "neither": itemgetter("neither")},
        ({"method": figures["method"], **row} for figures in methods
         for row in figures["agreement"]),
        heads=4,
    )  # fmt: skip


def written(value: float | None, unit: Unit) -> str:
    """A number with its unit."""
    if value is None:
        return NONE
    signs = {"share": " %", "points": " pt"}
    return bare(value, unit) + signs.get(unit, "")


def difference_unit(unit: Unit) -> Unit:
    """How a difference of two such numbers is written: that of shares in points of a hundred."""
    signed: dict[Unit, Unit] = {"share": "points", "count": "change", "tokens": "change"}
    return signed.get(unit, unit)


def bare(value: float | None, unit: Unit) -> str:
    """A number without its unit."""
    if value is None:
        return NONE
    match unit:
        case "share":
            return f"{_unsigned_zero(100 * value, 1):.1f}"
        case "points":
            return _signed(100 * value, 1)
        case "change":
            return _signed(value, 1)
        case "nats":
            return _signed(value, 2)
        case "ratio":
            return f"{_unsigned_zero(value, 2):.2f}"
        case "score":
            return f"{_unsigned_zero(value, 3):.3f}"
        case "tokens":
            return f"{value:,.0f}"
        case "seconds":
            return f"{value:.2f}"
        case "count" | "perplexity":
            return f"{_unsigned_zero(value, 1):.1f}"


def _signed(value: float, digits: int) -> str:
    rounded = _unsigned_zero(value, digits)
    return f"{rounded:{'+' if rounded else ''},.{digits}f}"


def _unsigned_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


def _with_value(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Those of the quantities that have a value in any of the rows."""
    rows = list(rows)
    return [name for name in names if any(row[name]["value"] is not None for row in rows)]


def _inert(cell: str | float) -> str | float:
    """Text that a spreadsheet would take for a formula, made text."""
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and text[:1] in set("=+-@\t\r") else cell


def _piped(text: str) -> str:
    """Text that stays within its cell and is text."""
    escaped = " ".join(text.split())
    for mark in "\\|<>`*_[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
