"""Sweeps: what they make of methods, and what is told of methods that were swept."""

from __future__ import annotations

from typing import Any

import pytest

from rerail.errors import PolicyError, PromptError
from rerail.eval.methods import load_method
from rerail.eval.methods.aligned import Aligned
from rerail.eval.metrics import summarise
from rerail.eval.plots import plots
from rerail.eval.sweeps import expanded
from rerail.eval.tables import tables
from rerail.types import Cost
from tests.eval.trials import steered
from tests.eval.worlds import policy

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def test_methods_with_an_optimizer_come_once_for_each_value() -> None:
    found = expanded(
        ["none", "tsa", "fast:num_directions=4"],
        ["num_directions=1,8", "perturbation_scale=0.05, 0.1"],
    )
    assert found == (
        "none",
        "tsa:num_directions=1",
        "tsa:num_directions=8",
        "tsa:perturbation_scale=0.05",
        "tsa:perturbation_scale=0.1",
        "fast:num_directions=1",
        "fast:num_directions=8",
        "fast:num_directions=4,perturbation_scale=0.05",
        "fast:num_directions=4,perturbation_scale=0.1",
    )
    assert [load_method(name).name for name in found] == list(found)
    assert expanded(["none", "tsa"], []) == ("none", "tsa")


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("num_direction=1", "did you mean 'num_directions'"),
        ("preset=fast", "unknown setting 'preset'"),
        ("num_directions", "KEY=V1,V2"),
        ("num_directions=", "KEY=V1,V2"),
        ("num_directions=1,,2", "KEY=V1,V2"),
    ],
)
def test_a_sweep_that_cannot_be_read_is_told(sweep: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        expanded(["fast"], [sweep])


def test_there_has_to_be_something_to_sweep() -> None:
    with pytest.raises(PromptError, match="--method tsa"):
        expanded(["none", "smoothllm"], ["num_directions=1,2"])


def test_one_of_a_models_step_sizes_is_completed_by_the_other() -> None:
    method = load_method("tsa:perturbation_scale=0.05")
    assert isinstance(method, Aligned)
    optimizer = method.policy(policy(), LLAMA).optimizer
    assert (optimizer.perturbation_scale, optimizer.step_size) == (0.05, 1.3)
    method.require(policy(), LLAMA)
    with pytest.raises(PolicyError, match="given together"):
        method.require(policy(), "unknown")
    for spec in ("tsa", "tsa:num_directions=4"):
        plain = load_method(spec)
        assert isinstance(plain, Aligned)
        plain.require(policy(), LLAMA)
        with pytest.raises(PolicyError, match="rerail tune"):
            plain.require(policy(), "unknown")


def swept() -> dict[str, Any]:
    trials = [
        steered(i, f"{name}num_directions={n}", n + 1, cost=Cost(n + 1))
        for name in ("tsa:", "fast:step_size=0.1,")
        for n in (1, 8, 32)
        for i in range(4)
    ]
    return summarise([*trials, steered(0, "fast:step_size=0.2"), steered(0, "tsa")], [])


def test_lines_differ_in_one_setting_alone() -> None:
    rows = swept()["sweeps"]
    lines = {(row["setting"], row["line"]): [] for row in rows}
    for row in rows:
        lines[row["setting"], row["line"]].append(row["value"])
    assert lines == {
        ("num_directions", "tsa"): [1, 8, 32],
        ("num_directions", "fast:step_size=0.1"): [1, 8, 32],
    }
    assert [r["generations_per_prompt"]["value"] for r in rows if r["line"] == "tsa"] == [2, 9, 33]
    assert rows[0]["score"]["value"] == pytest.approx(0.2)


def test_sweeps_are_drawn_and_tabulated() -> None:
    summary = swept()
    drawn = [plot for plot in plots(summary, "tsa") if plot.is_sweep]
    assert [plot.name for plot in drawn] == [
        "sweep-num_directions-score",
        "sweep-num_directions-generations_per_prompt",
    ]
    table = next(t for t in tables(summary) if t.name == "sweeps")
    assert [row[:3] for row in table.rows[3:4]] == [("num_directions", "tsa", "1")]
    nothing = summarise([steered(0, "fast:num_directions=4"), steered(0, "fast")], [])
    assert nothing["sweeps"] == []
    assert not [plot for plot in plots(nothing, "fast") if plot.is_sweep]
