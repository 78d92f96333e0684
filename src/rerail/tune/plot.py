"""The grid as a picture: μ by η, the darker the better."""

from __future__ import annotations

import os
from pathlib import Path

from rerail.errors import MissingDependencyError, StoreError
from rerail.tune.grid import Objective, Row, Setting
from rerail.tune.steps import Found

_BEST = "#bf4f45"


def plot(found: Found, objective: Objective, title: str, path: Path) -> None:
    """Draw the grid into a file, SVG or PNG by its suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StoreError: the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError:
        raise MissingDependencyError("matplotlib", "eval") from None

    rows = {row.setting: row for row in found.rows if row.setting is not None}
    scales = sorted({setting.perturbation_scale for setting in rows})
    steps = sorted({setting.step_size for setting in rows})
    values = {setting: _value(row, objective) for setting, row in rows.items()}
    missing = float("nan")
    matrix = [[values.get(Setting(mu, eta), missing) for mu in scales] for eta in steps]
    worst = _value(found.unsteered, objective)
    least, most = min([worst, *values.values()]), max([worst, *values.values()])
    if least == most:
        most = least + 1.0
    best_is_least = objective == "score"
    colours = "Greens_r" if best_is_least else "Greens"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rerail"}):
        figure = Figure(
            figsize=(2.4 + 1.05 * len(scales), 1.9 + 0.62 * len(steps)), layout="constrained"
        )
        axes = figure.add_subplot()
        image = axes.imshow(
            matrix, cmap=colours, vmin=least, vmax=most, origin="lower", aspect="auto"
        )
        for setting, row in rows.items():
            value = values[setting]
            shade = (value - least) / (most - least)
            ink = "white" if (shade < 0.4 if best_is_least else shade > 0.6) else "black"
            x, y = scales.index(setting.perturbation_scale), steps.index(setting.step_size)
            text = f"{value:.3f}" if best_is_least else f"{value:.0%}"
            axes.text(x, y + 0.1, text, ha="center", va="center", color=ink)
            tried = f"{row.prompts} prompts, {row.generations:.0f} answers"
            axes.text(x, y - 0.25, tried, ha="center", va="center", color=ink, fontsize=6)
            if row == found.best:
                corner, side = (x - 0.47, y - 0.47), 0.94
                axes.add_patch(
                    Rectangle(corner, side, side, fill=False, edgecolor=_BEST, linewidth=2.5)
                )
        axes.set_xticks(range(len(scales)), [f"{mu:g}" for mu in scales])
        axes.set_yticks(range(len(steps)), [f"{eta:g}" for eta in steps])
        axes.set_xlabel("perturbation scale μ")
        axes.set_ylabel("step size η")
        axes.set_title(title, fontsize=10)
        said = "mean of the largest score" if best_is_least else "neutralised"
        bar = figure.colorbar(image, ax=axes, label=said)
        bar.ax.axhline(worst, color=_BEST)
        bar.ax.set_title("line: no steering", fontsize=6)
        partial = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            figure.savefig(
                partial, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150
            )
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from None


def _value(row: Row, objective: Objective) -> float:
    if objective == "score":
        return row.score
    return row.neutralised / row.flagged if row.flagged else 0.0
