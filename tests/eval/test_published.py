"""The papers' own figures and layout."""

from __future__ import annotations

from typing import Any

import pytest

from rerail.eval.metrics import summarise
from rerail.eval.published import paper_row, tsa_paper
from rerail.eval.quantities import BY_NAME
from rerail.eval.tables import tables
from rerail.eval.types import Trial
from rerail.tuned import known
from rerail.types import Cost, Verdict
from tests.eval.trials import SAFE, UNSCORED, case, failed, left_flagged, refused, steered, trial

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def verdict(score: float) -> Verdict:
    return Verdict(score / 0.5, {"illicit": score, "hate": 0.0}, score >= 0.5)


def wild(number: int, method: str = "tsa", make: Any = trial, **changes: Any) -> Trial:
    fields = {"benchmark": "wildjailbreak", "model": LLAMA}
    made: Trial = make(number, method, **{**fields, **changes})
    return made


def row(trials: list[Trial], method: str = "tsa") -> dict[str, Any]:
    (found,) = [r for r in summarise(trials, [])["tsa_table_1"] if r["method"] == method]
    return dict(found)


# What the paper would have returned


def test_a_flagged_best_iterate_is_flagged_as_published_and_refused_as_returned() -> None:
    estimate = BY_NAME["published_flagged_after"].estimate
    hidden = refused(0, "tsa", published=verdict(0.7))
    assert estimate([hidden]).value == 1.0
    assert BY_NAME["flagged_after"].estimate([hidden]).value == 0.0
    given = steered(1, "tsa", published=SAFE)
    assert estimate([hidden, given]).value == 0.5


def test_of_other_methods_it_is_what_was_returned() -> None:
    for made in (trial(0), steered(0), refused(0), left_flagged(0)):
        published, returned = (
            BY_NAME[name].estimate([made]) for name in ("published_flagged_after", "flagged_after")
        )
        assert published == returned


def test_a_failed_or_unscored_trial_is_unscored() -> None:
    for made in (failed(0, published=SAFE), refused(0, published=UNSCORED)):
        found = BY_NAME["published_flagged_after"].estimate([made])
        assert (found.value, found.unscored) == (None, 1)


def test_the_papers_figures_are_of_what_they_would_have_returned() -> None:
    found = summarise([refused(0, "tsa", published=verdict(0.7))], [])["methods"]["tsa"]
    assert found["published"]["tsa_flagged_rate_after"]["value"] == 1.0
    assert found["published"]["tsa_mean_score_after"]["value"] == pytest.approx(0.7)
    assert found["published"]["tide_avg_max_toxicity_after"]["value"] == pytest.approx(0.7)


# The table


def test_scores_are_averaged_over_a_prompts_seeds_and_counts_are_mean_numbers_of_prompts() -> None:
    first = [0.9, 0.6, 0.3], [0.2, 0.2, 0.2], [0.1, 0.1, 0.1]
    trials = [
        wild(number, seed=seed, initial=verdict(score), published=verdict(score / 10))
        for number, scores in enumerate(first)
        for seed, score in enumerate(scores)
    ]
    found = row(trials)
    assert found["prompts"] == 3
    assert found["before"] == pytest.approx(2 / 3)  # two of one prompt's three
    assert found["after"] == 0.0
    assert found["score_before"]["mean"]["value"] == pytest.approx((0.6 + 0.2 + 0.1) / 3)
    assert found["score_before"]["median"]["value"] == pytest.approx(0.2)
    assert found["score_before"]["max"] == pytest.approx(0.6)
    assert found["score_after"]["max"] == pytest.approx(0.06)


def test_iterations_are_of_the_searches_that_entered_the_loop() -> None:
    trials = [
        wild(0, cost=Cost(1)),
        wild(1, make=steered, iterations=1),
        wild(2, make=refused, iterations=10),
    ]
    found = row(trials)["iterations"]
    assert (found["value"], found["n"]) == (5.5, 2)
    others = [wild(0, "smoothllm", cost=Cost(10), iterations=0)]
    assert row(others, "smoothllm")["iterations"]["value"] is None


def test_seconds_are_with_and_without_the_moderators() -> None:
    trials = [
        wild(0, wall_seconds=3.0, moderator_seconds=1.0),
        wild(1, wall_seconds=5.0, moderator_seconds=1.0),
        wild(2),  # recorded before they were
    ]
    found = row(trials)
    assert found["seconds_per_prompt"]["value"] == 4.0
    assert found["seconds_without_moderator"]["value"] == 3.0
    assert found["seconds_per_prompt"]["unscored"] == 1
    assert found["seconds_per_prompt"]["low"] is None  # a group's prompts share them


def test_a_part_is_of_one_benchmark_and_kind() -> None:
    trials = [wild(1, kind="benign"), wild(0), wild(0, benchmark="harmbench")]
    for names in (["wildjailbreak", "harmbench"], ["harmbench", "wildjailbreak"]):
        cases = [case(number, name) for number, name in enumerate(names)]
        parts = [r["part"] for r in summarise(trials, cases)["tsa_table_1"]]
        wanted = {
            "wildjailbreak": ["wildjailbreak, harmful", "wildjailbreak, benign"],
            "harmbench": ["harmbench, harmful"],
        }
        assert parts == [part for name in names for part in wanted[name]]


def test_the_papers_row_stands_beside_its_models_and_copies_of_them() -> None:
    for model in (LLAMA, "someone/Meta-Llama-3.1-8B-Instruct-AWQ"):
        found = paper_row(model, "wildjailbreak", "harmful", "tsa:num_directions=4")
        assert found is not None
        assert (found["before"], found["after"], found["prompts"]) == (218, 0, 2000)
        assert (found["iterations"], found["seconds"]) == (1.0, 12.2)
        plain = paper_row(model, "wildjailbreak", "harmful", "none")
        assert plain is not None
        assert (plain["before"], plain["after"]) == (218, 218)
        smooth = paper_row(model, "harmbench", "harmful", "smoothllm:copies=10")
        assert smooth is not None
        assert smooth["after"] == 13
        assert paper_row(model, "harmbench", "harmful", "fast") is None
        assert paper_row(model, "xstest", "benign", "tsa") is None
    assert paper_row("embedded", "harmbench", "harmful", "tsa") is None
    gemma = paper_row("google/gemma-3-1b-it", "harmbench", "harmful", "tsa")
    assert gemma is not None
    assert (gemma["before"], gemma["after"]) == (42, 14)


def test_every_model_of_the_papers_table_is_known_and_has_all_parts() -> None:
    paper = tsa_paper()
    assert len(paper["models"]) == 5
    for model, parts in paper["models"].items():
        values = known("tsa", model)
        assert values is not None
        assert values["models"][0] == model
        assert parts.keys() == paper["prompts"].keys()


LAYOUT = [
    "prompts of", "method", "n", "flagged", "paper: flagged", "iterations", "paper: iterations",
    "seconds", "seconds without moderators", "paper: seconds", "mean score, before",
    "mean score, after", "paper: mean score", "median score, before", "median score, after",
    "max score, before", "max score, after", "flagged before", "flagged after",
    "flagged, as returned",
]  # fmt: skip
OTHER_MODELS = [name for name in LAYOUT if not name.startswith("paper")]


@pytest.mark.parametrize(("model", "columns"), [(LLAMA, LAYOUT), ("tiny", OTHER_MODELS)])
def test_the_layout_of_the_table(model: str, columns: list[str]) -> None:
    trials = [
        wild(0, "none", left_flagged, model=model),
        wild(0, "tsa", refused, model=model, published=verdict(0.7)),
        wild(0, "fast", steered, model=model),
    ]
    summary = summarise(trials, [])
    found = {table.name: table for table in tables(summary, "fast")}
    table = found["tsa-table-1"]
    assert list(table.columns) == columns
    cells = {str(r[1]): dict(zip(columns, map(str, r), strict=True)) for r in table.rows}
    assert cells["none"]["flagged"] == "1 → 1"
    assert cells["tsa"]["flagged"] == "1 → 1"
    assert cells["tsa"]["flagged, as returned"].startswith("0.0 %")
    assert cells["tsa"]["mean score, after"] == "0.700"
    assert cells["fast"]["flagged"] == "1 → 0"
    if model == LLAMA:
        assert cells["tsa"]["paper: flagged"] == "218 → 0 of 2,000"
        assert cells["tsa"]["paper: mean score"] == "0.106 → 0.012"
        assert cells["fast"]["paper: flagged"] == "–"
    lacks = found["tsa-table-1-lacks"]
    assert {"judged harmful after", "declined", "on topic"} <= set(lacks.columns)
    assert [r[1] for r in lacks.rows] == ["none", "tsa", "fast"]
