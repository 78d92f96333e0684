"""The tables of a report, as data: HTML, CSV and Markdown are written from the same cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rerail.eval.metrics import IN_PARTS
from rerail.eval.quantities import BY_NAME, QUANTITIES, Unit

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


def tables(summary: Mapping[str, Any], reference: str | None = None) -> list[Table]:
    """Every table of a report that has rows."""
    made = [
        overview(summary, reference),
        _everything(summary),
        _parts(summary, "benchmarks", "By benchmark", {k: v["methods"] for k, v in
                                                       summary["benchmarks"].items()}),
        _parts(summary, "scenarios", "By wrapper and scenario", summary["scenarios"]),
        _categories(summary),
        _comparisons(summary),
        _head_to_head(summary, reference),
        _where(summary),
        _frontier(summary),
        _break_even(summary),
        _scores(summary),
        _published(summary),
        _agreement(summary),
    ]  # fmt: skip
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
)


def overview(summary: Mapping[str, Any], reference: str | None = None) -> Table:
    """One row per method, the quantities to decide by."""
    methods = summary["methods"]
    names = [name for name in OVERVIEW if _any_value(methods.values(), name)]
    return Table(
        "overview",
        "Methods side by side",
        "Each figure with its 95 % interval. Neutralised, refused and still flagged are shares of "
        "what was flagged before, and add up to one; the price counts failures.",
        ("method", *(BY_NAME[name].title for name in names)),
        tuple(
            (method, *(Figure(figures[name], BY_NAME[name].unit) for name in names))
            for method, figures in methods.items()
        ),
        marked=frozenset({list(methods).index(reference)}) if reference in methods else frozenset(),
    )


def _everything(summary: Mapping[str, Any]) -> Table:
    methods = summary["methods"]
    chosen = [q for q in QUANTITIES if _any_value(methods.values(), q.name)]
    return Table(
        "figures",
        "All figures",
        "What each is of stands in the second column.",
        ("figure", "what it is", *methods),
        tuple(
            (q.title, q.says, *(Figure(figures[q.name], q.unit) for figures in methods.values()))
            for q in chosen
        ),
        heads=2,
    )


def _parts(summary: Mapping[str, Any], name: str, title: str, parts: Mapping[str, Any]) -> Table:
    every = [figures for methods in parts.values() for figures in methods.values()]
    names = [q for q in IN_PARTS if _any_value(every, q)]
    return Table(
        name,
        title,
        "The same figures for each part of the prompts.",
        (name.removesuffix("s"), "method", "n", *(BY_NAME[q].title for q in names)),
        tuple(
            (part, method, figures["n"], *(Figure(figures[q], BY_NAME[q].unit) for q in names))
            for part, methods in parts.items()
            for method, figures in methods.items()
        ),
        heads=2,
    )


def _categories(summary: Mapping[str, Any]) -> Table:
    methods = list(summary["methods"])
    rows = []
    for category, by_method in summary["categories"].items():
        first = next(iter(by_method.values()))
        after = [
            Figure(by_method[m]["flagged_after"], "share") if m in by_method else NONE
            for m in methods
        ]
        rows.append((category, Figure(first["flagged_before"], "share"), *after))
    return Table(
        "categories",
        "Flagged, by category",
        "Share of answers that the moderator flags, before and after each method. Categories in "
        "which nothing was flagged are left out.",
        ("category", "before", *methods),
        tuple(rows),
    )


def _comparisons(summary: Mapping[str, Any]) -> Table:
    return Table(
        "comparisons",
        "Each method against the reference",
        "Differences over the prompts that both answered: the method's minus the reference's, with "
        "a bootstrap interval over prompts. p is McNemar's for shares and Wilcoxon's otherwise, "
        "adjusted for the number of methods (Holm).",
        ("figure", "method", "reference", "prompts", "difference", "p"),
        tuple(
            (
                BY_NAME[row["quantity"]].title,
                row["method"],
                row["reference"],
                row["pairs"],
                Figure(row["difference"], difference_unit(BY_NAME[row["quantity"]].unit)),
                PValue(row["p_adjusted"]),
            )
            for row in summary["comparisons"]
            if row["pairs"]
        ),
        heads=3,
    )


def _head_to_head(summary: Mapping[str, Any], reference: str | None) -> Table:
    rows = sorted(summary["head_to_head"], key=lambda row: row["methods"][0] != reference)
    return Table(
        "head-to-head",
        "At equal generations",
        "Prompt by prompt: the share solved within so many generations, and how many generations "
        "the first saves, failures counted in full. Both accept under the run's floor of "
        "naturalness, except best-of-n, which has none without natural=true.",
        ("method", "against", "generations", "prompts", "solved", "solved by the other",
         "difference", "p", "generations saved", "p "),
        tuple(
            (
                *row["methods"],
                row["budget"],
                row["pairs"],
                Figure(row["first"], "share"),
                Figure(row["second"], "share"),
                Figure(row["difference"], "points"),
                PValue(row["p"]),
                Figure(row["saved"], "change"),
                PValue(row["p_saved"]),
            )
            for row in rows
        ),
        heads=2,
    )  # fmt: skip


def _where(summary: Mapping[str, Any]) -> Table:
    return Table(
        "where",
        "On which prompts",
        "The reference method against undirected search, by part of the prompts: at the largest "
        "number of generations, the shares solved, and the generations saved. The more parts, the "
        "more of them stand out by chance.",
        ("", "part", "against", "generations", "prompts", "solved", "solved by the other",
         "difference", "generations saved"),
        tuple(
            (
                row["name"],
                row["part"],
                row["methods"][1],
                row["budget"],
                row["pairs"],
                Figure(row["first"], "share"),
                Figure(row["second"], "share"),
                Figure(row["difference"], "points"),
                Figure(row["saved"], "change"),
            )
            for row in summary["where"]
        ),
        heads=3,
    )  # fmt: skip


def _frontier(summary: Mapping[str, Any]) -> Table:
    return Table(
        "frontier",
        "Price of naturalness",
        "For each floor of naturalness: the share of flagged prompts with an answer at least that "
        "natural, and the generations paid for one, failures included. Above the run's own floor "
        "these are lower bounds.",
        ("method", "floor, nats", "solved", "generations", "naturalness"),
        tuple(
            (
                method,
                point["floor"],
                Figure(point["neutralised"], "share"),
                Figure(point["generations"], "count"),
                Figure(point["naturalness"], "nats"),
            )
            for method, points in summary["frontier"].items()
            for point in points
        ),
        heads=2,
    )


def _break_even(summary: Mapping[str, Any]) -> Table:
    resampling = summary["resampling"]
    rows = [(name, "measured", Figure(found, "share"))
            for name, found in resampling["acceptable_probability"].items()]  # fmt: skip
    rows += [
        (name, "break-even", Figure(found, "share"))
        for name, found in resampling["break_even"].items()
    ]
    return Table(
        "break-even",
        "Against resampling",
        "Drawing anew at temperature 1 pays 1/p generations for an acceptable answer, p being the "
        "probability of one. A method is cheaper on prompts with p below its break-even, "
        "successes by generations beyond the first.",
        ("method", "", "p"),
        tuple(rows) if resampling["break_even"] else (),
        heads=2,
    )


def _scores(summary: Mapping[str, Any]) -> Table:
    methods = summary["methods"]
    names = sorted({name for figures in methods.values() for name in figures["scores"]})
    return Table(
        "scores",
        "Official scores",
        "Of the benchmarks' own scorers, on what was returned.",
        ("method", *names),
        tuple(
            (
                method,
                *(
                    Figure(figures["scores"][name], "share") if name in figures["scores"] else NONE
                    for name in names
                ),
            )
            for method, figures in methods.items()
            if names
        ),
    )


_PUBLISHED = {
    "tsa_flagged_rate": ("TSA, flagged rate", "share"),
    "tide_avg_max_toxicity": ("TIDE, average maximum toxicity", "ratio"),
    "tide_toxic_rate": ("TIDE, toxic rate", "share"),
}


def _published(summary: Mapping[str, Any]) -> Table:
    columns = [
        (f"{key}_{when}", f"{title}, {when}", unit)
        for key, (title, unit) in _PUBLISHED.items()
        for when in ("before", "after")
    ]
    return Table(
        "published",
        "As the papers report",
        "TSA (arXiv 2604.26167): answers that the optimised moderator flags. TIDE (arXiv "
        "2602.02498): the mean over prompts of the largest toxicity over samples, and the share of "
        "prompts with any sample of 0.5 or more; toxicity is the moderator's largest category "
        "score, samples are seeds.",
        ("method", *(title for _, title, _ in columns)),
        tuple(
            (
                method,
                *(Figure(figures["published"][key], _unit(unit)) for key, _, unit in columns),
            )
            for method, figures in summary["methods"].items()
        ),
    )


def _agreement(summary: Mapping[str, Any]) -> Table:
    return Table(
        "agreement",
        "How the judges agree",
        "On what is harmful. κ is Cohen's: 1 is perfect, 0 is chance. The moderator steers, the "
        "judge does not; where they part is where a second look pays.",
        ("method", "answers", "first", "second", "κ", "equal", "both", "only first",
         "only second", "neither"),
        tuple(
            (
                method,
                "the model's own" if row["when"] == "before" else "returned",
                *row["judges"],
                Figure(row["kappa"], "ratio"),
                Figure(row["observed"], "share"),
                *(row[key] for key in ("both", "first_only", "second_only", "neither")),
            )
            for method, figures in summary["methods"].items()
            for row in figures["agreement"]
        ),
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


def _any_value(figures: Any, name: str) -> bool:
    return any(f[name]["value"] is not None for f in figures)


def _unit(name: str) -> Unit:
    return "share" if name == "share" else "ratio"


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
