"""Trials as they are kept in the repository: every figure, and no text."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.records import read, show, write
from rerail.eval.metrics import summarise
from rerail.eval.types import Trial
from rerail.types import Message, Outcome
from tests.eval.trials import FLAGGED, SAFE, trial

KEPT = sorted((Path(__file__).parents[2] / "benchmarks" / "records").glob("*.jsonl.gz"))


def trials() -> list[Trial]:
    sent = [Message("user", "Request about hedges")]
    steered = {"initial": FLAGGED, "final": SAFE, "outcome": Outcome.STEERED, "text": "Of hedges."}
    return [
        trial(1, "none", initial=FLAGGED, final=FLAGGED),
        trial(1, "fast", **steered, naturalness=-1 / 3, sent=sent),
        trial(2, "none"),
        trial(2, "fast", outcome=Outcome.ERROR, first_text=None, initial=None, final=None,
              error="hedges"),
    ]  # fmt: skip


def test_no_text_is_kept_and_every_figure_is(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.jsonl.gz"
    write(trials(), path)
    kept = read(path)
    assert not any("edge" in str(replace(each, benchmark="")) for each in kept)
    assert [each.key for each in kept] == [each.key for each in trials()]
    before, after = summarise(trials(), [])["methods"], summarise(kept, [])["methods"]
    assert before.keys() == after.keys()
    for method in before:
        assert after[method]["outcomes"] == before[method]["outcomes"]
        figures = ("neutralised_share", "flagged_before", "flagged_after", "generations_per_prompt")
        assert [after[method][name] for name in figures] == [
            before[method][name] for name in figures
        ]
    assert kept[1].naturalness == pytest.approx(-1 / 3, abs=1e-6)
    assert "| fast |" in show([path])
    write(trials(), again := tmp_path / "again.jsonl.gz")
    assert again.read_bytes() == path.read_bytes()


def test_records_of_both_real_models_are_kept() -> None:
    assert {path.name for path in KEPT} == {
        f"{recipe}-{model}.jsonl.gz"
        for recipe in ("real-model", "real-model-peers")
        for model in ("smollm2", "smollm2-safe")
    }


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_what_is_kept_is_read_and_has_no_text(path: Path) -> None:
    kept = read(path)
    assert kept
    assert all(not t.text and not t.first_text and t.sent is None for t in kept)
    assert all(not t.flagged_after for t in kept if t.method == "fast")
