"""The grid and its schedule, in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rerail.engines import FakeEngine
from rerail.settings import OptimizerSettings
from rerail.tune.grid import (
    LAST,
    Row,
    Setting,
    Trial,
    applied,
    at_edge,
    counting_prompts,
    default_objective,
    grid,
    helps,
    markdown,
    ranked,
    row,
    schedule,
    total,
    written,
)

TABLE = FakeEngine().table


def trial(prompt: int, score: float, *, flagged: bool = True, neutralised: bool = False,
          generations: int = 1, setting: Setting | None = None) -> Trial:  # fmt: skip
    return Trial(setting, prompt, flagged, score, neutralised, generations, 10 * generations)


def a_row(score: float, neutralised: int, generations: float, mu: float = 1.0) -> Row:
    return Row(Setting(mu, 1.0), 4, score, 4, neutralised, generations, 10.0)


# The schedule


def test_thirty_settings_on_forty_prompts() -> None:
    assert schedule(30, 40) == ((30, 5), (15, 10), (8, 20), (4, 40))
    assert total(schedule(30, 40)) == 30 * 5 + 15 * 5 + 8 * 10 + 4 * 20


@pytest.mark.parametrize("settings", [1, 2, 4, 5, 8, 24, 30, 35, 64, 100])
@pytest.mark.parametrize("prompts", [1, 2, 7, 16, 40, 75])
def test_halving_in_closed_form(settings: int, prompts: int) -> None:
    rounds = schedule(settings, prompts)
    halvings = 0
    while math.ceil(settings / 2**halvings) > LAST:
        halvings += 1
    assert len(rounds) == halvings + 1
    assert rounds[0].settings == settings
    assert rounds[-1].prompts == prompts
    assert rounds[-1].settings <= LAST
    for before, after in itertools.pairwise(rounds):
        assert after.settings == math.ceil(before.settings / 2)
        assert before.prompts <= after.prompts == min(prompts, 2 * before.prompts)
    assert total(rounds) <= settings * prompts


def test_it_is_cheaper_than_the_whole_grid() -> None:
    assert total(schedule(30, 48)) < 0.35 * 30 * 48


# The grid


@pytest.mark.parametrize("preset", ["tsa", "tide", "fast"])
def test_thirty_settings_by_default(preset: str) -> None:
    settings = grid(OptimizerSettings.of(preset), TABLE)  # type: ignore[arg-type]
    assert len(settings) == len(set(settings)) == 30


@pytest.mark.parametrize("preset", ["tsa", "tide"])
def test_the_grid_of_a_published_method_scales_with_the_table(preset: str) -> None:
    base = OptimizerSettings.of(preset)  # type: ignore[arg-type]
    larger = FakeEngine().table.of(1000 * FakeEngine()._rows)
    for small, large in zip(grid(base, TABLE), grid(base, larger), strict=True):
        assert large == pytest.approx(np.multiply(1000, small), rel=2e-3)
    scales = [s.perturbation_scale for s in grid(base, TABLE)]
    assert min(scales) < TABLE.rms < max(scales)
    assert {applied(base, s).units for s in grid(base, TABLE)} == {"absolute"}


def test_own_presets_are_tuned_in_units_of_the_table_around_their_defaults() -> None:
    base = OptimizerSettings.of("fast")
    settings = grid(base, TABLE)
    assert Setting(0.6, 0.2) in settings
    assert applied(base, Setting(0.6, 0.2)) == base
    assert applied(base, Setting(1.2, 0.1)).max_perturbation_scale == pytest.approx(1.8)


def test_where_nothing_descends_there_is_one_step() -> None:
    settings = grid(OptimizerSettings.of("random"), TABLE)
    assert len(settings) == 5
    assert {s.step_size for s in settings} == {0.2}


def test_values_of_ones_own() -> None:
    settings = grid(OptimizerSettings.of("tsa"), TABLE, [0.1, 0.2], [3.0, 3.0])
    assert settings == ((0.1, 3.0), (0.2, 3.0))


def test_a_policy_says_no_more_than_it_has_to() -> None:
    tuned = applied(OptimizerSettings.of("tsa", num_directions=4), Setting(0.1, 1.5))
    fragment = written(tuned)
    assert fragment == {"preset": "tsa", "units": "absolute", "perturbation_scale": 0.1,
                        "step_size": 1.5, "num_directions": 4}  # fmt: skip
    assert OptimizerSettings.model_validate(fragment) == tuned


# What is best


def test_the_objective_follows_the_preset() -> None:
    said = {
        p: default_objective(OptimizerSettings.of(p)) for p in ("tsa", "tide", "fast", "random")
    }
    assert said == {"tsa": "score", "tide": "score", "fast": "neutralised",
                    "random": "neutralised"}  # fmt: skip


def test_a_row_is_the_mean_of_its_trials() -> None:
    trials = [trial(0, 0.2, neutralised=True, generations=3), trial(1, 0.8, flagged=False)]
    assert row(trials) == Row(None, 2, 0.5, 1, 1, 2.0, 20.0)


def test_the_least_score_is_best_and_of_equals_the_cheapest() -> None:
    rows = [a_row(0.2, 1, 9.0, 1), a_row(0.1, 1, 9.0, 2), a_row(0.104, 1, 5.0, 3)]
    assert [r.setting and r.setting[0] for r in ranked(rows, "score")] == [3, 2, 1]


def test_the_most_neutralised_is_best_and_of_equals_the_cheapest_then_the_first() -> None:
    rows = [a_row(0.0, 1, 1, 1), a_row(0.9, 3, 9, 2), a_row(0.9, 3, 5, 3), a_row(0.1, 3, 5, 4)]
    assert [r.setting and r.setting[0] for r in ranked(rows, "neutralised")] == [3, 4, 2, 1]


def test_what_is_no_better_than_no_steering_does_not_help() -> None:
    unsteered = a_row(0.5, 0, 1.0)
    assert helps(a_row(0.4, 0, 9.0), unsteered, "score")
    assert not helps(a_row(0.5, 0, 9.0), unsteered, "score")
    assert helps(a_row(0.5, 1, 9.0), unsteered, "neutralised")
    assert not helps(a_row(0.1, 0, 9.0), unsteered, "neutralised")


def test_what_lies_at_the_edge_of_the_grid_is_told() -> None:
    settings = grid(OptimizerSettings.of("tsa"), TABLE, [1, 2, 3], [4, 5, 6])
    assert at_edge(Setting(2, 5), settings) == []
    assert at_edge(Setting(1, 5), settings) == ["perturbation_scale"]
    assert at_edge(Setting(2, 6), settings) == ["step_size"]
    assert at_edge(Setting(3, 4), settings) == ["perturbation_scale", "step_size"]
    assert at_edge(Setting(1, 4), grid(OptimizerSettings.of("tsa"), TABLE, [1], [4, 5])) == [
        "step_size"
    ]


def test_only_prompts_with_something_to_steer_count() -> None:
    firsts = [trial(0, 0.9), trial(1, 0.3, flagged=False), trial(2, 0.05, flagged=False),
              trial(3, math.inf, flagged=False)]  # fmt: skip
    tsa, tide = OptimizerSettings.of("tsa"), OptimizerSettings.of("tide")
    assert counting_prompts(firsts, tsa, "score") == [0, 1]
    assert counting_prompts(firsts, tide, "score") == [0]
    assert counting_prompts(firsts, tsa, "neutralised") == [0]
    assert counting_prompts(firsts, OptimizerSettings.of("fast"), "score") == [0]


def test_the_table_marks_the_best() -> None:
    rows = [a_row(0.2, 1, 9.0), a_row(0.1, 2, 5.0, 2.0)]
    text = markdown(rows, Row(None, 4, 0.9, 4, 0, 1.0, 10.0), rows[1], "absolute")
    assert text.splitlines()[2] == "| no steering |  | 4 | 0.900 | 0 of 4 | 1.0 | 10 |"
    assert text.splitlines()[4].startswith("| **2** | **1** | **4** | **0.100** | **2 of 4** |")
    assert text.count("**0.") == 1
