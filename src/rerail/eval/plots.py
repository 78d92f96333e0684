"""The plots of a report, as SVG: text stays text, colours are those of the report's light theme.

Same summary, same file, byte for byte. In a page, `inlined` makes the colours follow its theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rerail.errors import MissingDependencyError
from rerail.eval.frontier import base_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, MUTED, LINE, PAPER = "#20262e", "#5d6875", "#d9dce1", "#fefefd"
GOOD, FAIR, BAD, VOID = "#2f7d6d", "#c9a24a", "#bf4f45", "#9aa3ad"
HUES = ("#2f7d6d", "#3c6fb0", "#b5722a", "#8a5aa8", "#a08a1c", "#b34a6d", "#6b7280", "#7a4f3a",
        "#0f8a9d", "#4d8f3a")  # fmt: skip
THEME = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "paper", GOOD: "good", FAIR: "fair",
         BAD: "bad", VOID: "void"} | {hue: f"hue-{i}" for i, hue in enumerate(HUES)
                                      if hue != GOOD}  # fmt: skip
"""Colours to the names of the page's variables."""

_MARKERS = "os^Dv<>pPX"
_LINES = ("-", "--", ":")
"""A hue that stands for a second method is drawn in the next of these."""
_THIN, _THICK = 1.4, 2.2
_MOST_CURVES = 10
_CURVES_OF_LEAST = 2


class Plot(NamedTuple):
    """A plot.

    Attributes:
        name: of its file.
        title: what it is.
        says: how to read it, in a sentence or two.
        svg: the file's content.
    """

    name: str
    title: str
    says: str
    svg: str

    @property
    def is_sweep(self) -> bool:
        return self.name.startswith(SWEEP)


def plots(summary: Mapping[str, Any], reference: str | None = None) -> list[Plot]:
    """Every plot of a report that has something to show.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    styles = _styles(summary["methods"], reference)
    makers = (_fates, _safety_utility, _safety_cost, _neutralised, _harm, _price)
    made = [plot for maker in makers if (plot := maker(summary, styles)) is not None]
    return made + [plot for key in _swept(summary) for plot in _sweep(summary, key)]


def inlined(plot: Plot) -> str:
    """The SVG for a page: colours by the page's variables, ids of its own, named for readers."""
    text = plot.svg[plot.svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{plot.name}-', text)
    text = re.sub(r'(xlink:href="|href="|url\()#', rf"\1#{plot.name}-", text)
    for colour, name in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    return text


class _Style(NamedTuple):
    colour: str
    marker: str
    width: float
    line: str = "-"

    @property
    def leads(self) -> bool:
        """Whether it is the reference method's."""
        return self.width == _THICK


def _styles(methods: Mapping[str, Any], reference: str | None) -> dict[str, _Style]:
    """The reference method in the first hue, no defence in grey, the others as they come."""
    styles, others = {}, 0
    for name in methods:
        if name == reference:
            styles[name] = _Style(HUES[0], "o", _THICK)
        elif base_name(name) == "none":
            styles[name] = _Style(VOID, "X", _THIN)
        else:
            again, place = divmod(others, len(HUES) - 1)
            others += 1
            marker, line = _MARKERS[others % len(_MARKERS)], _LINES[again % len(_LINES)]
            styles[name] = _Style(HUES[1 + place], marker, _THIN, line)
    return styles


Styles = Mapping[str, _Style]
_Drawn = TypeVar("_Drawn")


def _fates(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    methods = {m: f for m, f in summary["methods"].items()
               if f["neutralised_share"]["value"] is not None}  # fmt: skip
    if not methods:
        return None
    parts = (
        ("neutralised_share", "neutralised", GOOD),
        ("refused_share", "refused by message", FAIR),
        ("residual", "still flagged", BAD),
    )

    names = [_broken(name, _LABEL) for name in methods]
    lines = max(name.count("\n") for name in names) + 1

    def draw(axes: Axes) -> None:
        left = [0.0] * len(methods)
        for key, label, colour in parts:
            widths = [100 * figures[key]["value"] for figures in methods.values()]
            axes.barh(names, widths, left=left, color=colour, label=label, height=0.62)
            for row, (start, width) in enumerate(zip(left, widths, strict=True)):
                if width >= 9:
                    axes.text(start + width / 2, row, f"{width:.0f}", color=PAPER,
                              ha="center", va="center", fontsize=9)  # fmt: skip
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of what was flagged before")
        axes.grid(False)
        axes.tick_params(axis="y", length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    return _plot(
        "fates",
        "What became of flagged answers",
        "Green is what this is for: another answer of the model, and one that is not flagged.",
        draw,
        height=1.3 + max(0.32, 0.17 * lines + 0.08) * len(methods),
    )


def _safety_utility(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    methods = summary["methods"]
    if any(f["over_refusal"]["value"] is not None for f in methods.values()):
        key, label, across = "over_refusal", "harmless prompts answered, %", _complement
    else:
        key, label, across = "on_topic_share", "neutralised answers on topic, %", _percent
    points = {
        name: (across(figures[key]), _percent(figures["judge_harmful_after"]))
        for name, figures in methods.items()
        if None not in (figures[key]["value"], figures["judge_harmful_after"]["value"])
    }
    if len(points) < _CURVES_OF_LEAST:
        return None

    def draw(axes: Axes) -> None:
        _scatter(axes, points, styles)
        axes.set_xlabel(label)
        axes.set_ylabel("judged harmful after, %")
        axes.set_ylim(bottom=0)

    return _plot(
        "safety-utility",
        "Safety and utility",
        "Down and to the right is better: less that the independent judge calls harmful, "
        "and more of use left. Bars are 95 % intervals.",
        draw,
    )


def _safety_cost(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    methods = summary["methods"]
    key, label = "generation_equivalents_per_prompt", "full generations per prompt"
    if any(figures[key]["value"] is None for figures in methods.values()):
        key, label = "generations_per_prompt", "generations per prompt"
    points = {
        name: (_plain(figures[key]), _percent(figures["judge_harmful_after"]))
        for name, figures in methods.items()
        if None not in (figures[key]["value"], figures["judge_harmful_after"]["value"])
    }
    if len(points) < _CURVES_OF_LEAST:
        return None

    def draw(axes: Axes) -> None:
        _scatter(axes, points, styles)
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel(f"{label}, of all prompts")
        axes.set_ylabel("judged harmful after, %")
        axes.set_ylim(bottom=0)

    return _plot(
        "safety-cost",
        "Safety and cost",
        "Down and to the left is better: less that the independent judge calls harmful, for fewer "
        "generations.",
        draw,
    )


def _neutralised(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    curves, left_out = _curves(summary, styles)
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        for name, curve in curves.items():
            style, x = styles[name], curve["generations"]
            if None not in [*curve["low"], *curve["high"]]:
                low, high = ([100 * value for value in curve[end]] for end in ("low", "high"))
                axes.fill_between(x, low, high, step="post", color=style.colour, alpha=0.1, lw=0)
            axes.step(x, [100 * v for v in curve["neutralised"]], where="post",
                      color=style.colour, lw=style.width, ls=style.line, label=name)  # fmt: skip
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel("generations, the first included")
        axes.set_ylabel("neutralised, % of flagged")
        axes.set_ylim(0, 102)

    return _plot(
        "neutralised",
        "Neutralised against generations",
        "Higher and sooner is better: the share of flagged prompts that have an acceptable answer "
        f"after so many generations, with its 95 % interval.{left_out}",
        draw,
    )


def _harm(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    curves, left_out = _curves(summary, styles)
    if not curves:
        return None

    def draw(axes: Axes) -> None:
        axes.axhline(1, color=MUTED, lw=0.8, ls=(0, (4, 3)))
        for name, curve in curves.items():
            style = styles[name]
            axes.step(curve["generations"], curve["harm"], where="post", color=style.colour,
                      lw=style.width, ls=style.line, label=name)  # fmt: skip
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        axes.set_xlabel("generations, the first included")
        axes.set_ylabel("least harm so far, mean")
        axes.set_ylim(bottom=0)

    return _plot(
        "harm",
        "Harm against generations",
        "Mean over flagged prompts of the least harm among the answers so far. From the dashed "
        f"line up an answer is flagged.{left_out}",
        draw,
    )


def _price(summary: Mapping[str, Any], styles: Styles) -> Plot | None:
    points = {
        name: [
            (p["floor"], p["generations"]["value"])
            for p in prices
            if p["generations"]["value"] is not None
        ]
        for name, prices in summary["frontier"].items()
    }
    found = {name: prices for name, prices in points.items() if len(prices) > 1}
    points, left_out = _most(found, styles)
    if not points:
        return None

    def draw(axes: Axes) -> None:
        for name, prices in points.items():
            style = styles[name]
            axes.plot([x for x, _ in prices], [y for _, y in prices], color=style.colour,
                      lw=style.width, ls=style.line, marker=style.marker, ms=4.5,
                      label=name)  # fmt: skip
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
        axes.set_xticks([-2, -1, -0.5, 0], ["-2", "-1", "-0.5", "0"])
        axes.set_xlabel("floor of naturalness, nats per token")
        axes.set_ylabel("generations per answer")

    return _plot(
        "price",
        "What naturalness costs",
        "Lower is better: generations paid, failures included, for an unflagged answer at least "
        f"this natural. Further right, the answers are more the model's own.{left_out}",
        draw,
    )


SWEEP = "sweep-"
"""What the names of plots of sweeps begin with."""


def _swept(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["setting"] for row in summary["sweeps"]))


def _sweep(summary: Mapping[str, Any], key: str) -> Iterator[Plot]:
    """Mean score, and generations, against the values of one setting: figure 1 of the TSA paper."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary["sweeps"]:
        if row["setting"] == key:
            lines.setdefault(row["line"], []).append(row)
    shown = dict(list(lines.items())[:_MOST_CURVES])
    values = [row["value"] for rows in shown.values() for row in rows]
    wide = min(values) > 0 and max(values) / min(values) >= _WIDE

    def draw(axes: Axes, of: str, label: str) -> None:
        for (line, rows), colour, marker in zip(shown.items(), HUES, _MARKERS, strict=False):
            known = [row for row in rows if row[of]["value"] is not None]
            ends = [_plain(row[of]) for row in known]
            axes.errorbar(
                [row["value"] for row in known],
                [y for y, _, _ in ends],
                yerr=[[y - low for y, low, _ in ends], [high - y for y, _, high in ends]],
                color=colour, marker=marker, ms=5.5, lw=_THIN, elinewidth=0.9, label=line,
            )  # fmt: skip
        if wide:
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
        axes.set_xlabel(key)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)

    for of, label, says in (
        ("score", "mean highest score after",
         "Lower is better: the mean over prompts of the highest category score of what the paper "
         "would have returned, with its 95 % interval."),
        ("generations_per_prompt", "generations per prompt",
         "What it took, over all prompts, with its 95 % interval."),
    ):  # fmt: skip
        yield _plot(
            f"{SWEEP}{key}-{of}", f"{label.capitalize()} against {key}", says,
            partial(draw, of=of, label=label),
        )  # fmt: skip


_WIDE = 8
"""Ratio of the largest value of a sweep to its least from which its axis is logarithmic."""


def _most(found: Mapping[str, _Drawn], styles: Styles) -> tuple[dict[str, _Drawn], str]:
    """As many as one plot can show, the reference among them, and what is said of the others."""
    first = sorted(found, key=lambda name: not styles[name].leads)[:_MOST_CURVES]
    left_out = len(found) - len(first)
    said = f" Left out for want of room: {left_out} methods of the tables." if left_out else ""
    return {name: drawn for name, drawn in found.items() if name in first}, said


def _curves(
    summary: Mapping[str, Any], styles: Styles
) -> tuple[dict[str, dict[str, list[Any]]], str]:
    """Curves that do anything, each going on as it ended; a method that answers once has none."""
    found = {
        name: {key: list(curve[key]) for key in _SERIES}
        for name, curve in summary["curves"].items()
        if curve["neutralised"][-1] > curve["neutralised"][0]
    }
    chosen, left_out = _most(found, styles)
    longest = max((curve["generations"][-1] for curve in chosen.values()), default=1)
    for curve in chosen.values():
        for key, series in curve.items():
            series.append(longest if key == "generations" else series[-1])
    return chosen, left_out


_SERIES = ("generations", "neutralised", "low", "high", "harm")


Ends = tuple[float, float, float]


def _plain(estimate: Mapping[str, Any]) -> Ends:
    value = float(estimate["value"])
    low, high = estimate["low"], estimate["high"]
    return value, value if low is None else float(low), value if high is None else float(high)


def _percent(estimate: Mapping[str, Any]) -> Ends:
    value, low, high = _plain(estimate)
    return 100 * value, 100 * low, 100 * high


def _complement(estimate: Mapping[str, Any]) -> Ends:
    value, low, high = _percent(estimate)
    return 100 - value, 100 - high, 100 - low


def _scatter(axes: Axes, points: Mapping[str, tuple[Ends, Ends]], styles: Styles) -> None:
    for name, ((x, x_low, x_high), (y, y_low, y_high)) in points.items():
        style = styles[name]
        axes.errorbar(
            x,
            y,
            xerr=[[max(0, x - x_low)], [max(0, x_high - x)]],
            yerr=[[max(0, y - y_low)], [max(0, y_high - y)]],
            color=style.colour,
            marker=style.marker,
            ms=7 if style.leads else 5.5,
            elinewidth=0.9,
            ls="none",
            label=name,
            clip_on=False,
            zorder=3,
        )


def _plain_numbers(axis: Axis) -> None:
    """Plain numbers at 1, 2, 5, 10, ... on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _plot(
    name: str, title: str, says: str, draw: Callable[[Axes], None], height: float = 3.2
) -> Plot:
    with _look() as new_figure:
        figure = new_figure((4.4, height))
        axes = figure.subplots()
        draw(axes)
        handles, given = axes.get_legend_handles_labels()
        if handles:
            labels = [_broken(label, _LEGEND[1]) for label in given]
            columns = min(_columns(labels), len(labels))
            lines = sum(label.count("\n") + 1 for label in labels) / columns
            # Room for a long legend: it is not to be taken from the axes.
            figure.set_figheight(height + 0.2 * max(0.0, lines - _LEGEND_LINES))
            figure.legend(
                handles, labels, loc="outside lower center", ncols=columns,
                frameon=False, fontsize=9, handlelength=1.4, columnspacing=1.2,
            )  # fmt: skip
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(name, title, says, _named(out.getvalue(), name, title, says))


_LABEL = 26
"""Characters of a method's name on a line beside an axis."""
_LEGEND = {3: 19, 2: 26, 1: 52}
"""Columns of a legend to the characters that a line of each may have."""
_LEGEND_LINES = 4
"""Lines of a legend that a plot has room for."""


def _columns(labels: Sequence[str]) -> int:
    longest = max(len(line) for label in labels for line in label.split("\n"))
    return next((columns for columns, most in _LEGEND.items() if longest <= most), 1)


def _broken(name: str, width: int) -> str:
    """A method's name in lines of about so many characters, broken before settings and model."""
    first, *rest = re.split(r"(?<=[:,])|(?= @ )", name)
    lines = [first]
    for part in rest:
        if len(lines[-1]) + len(part) <= width:
            lines[-1] += part
        else:
            lines.append(part.lstrip())
    return "\n".join(lines)


def _named(svg: str, name: str, title: str, says: str) -> str:
    """The SVG with a title and a description, for those who do not see it."""
    inner = f'<title id="title">{escape(title)}</title><desc id="desc">{escape(says)}</desc>'
    head = re.search(r"<svg\b[^>]*>", svg)
    assert head is not None
    opened = re.sub(r'\s(width|height)="[^"]*"', "", head[0])
    opened = opened[:-1] + ' role="img" aria-labelledby="title desc">'
    return svg[: head.start()] + opened + inner + svg[head.end() :]


@contextmanager
def _look() -> Iterator[Callable[[Sequence[float]], Figure]]:
    """The look of all plots, and a maker of figures that no global state knows of."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("matplotlib", "eval") from None

    def new_figure(inches: Sequence[float]) -> Figure:
        figure = Figure(figsize=(inches[0], inches[1]), layout="constrained")
        FigureCanvasSVG(figure)
        return figure

    with matplotlib.rc_context(_RC):
        yield new_figure


_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rerail",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
