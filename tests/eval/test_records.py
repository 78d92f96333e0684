"""The folder of a run: kept whole, read back the same, and never mixed with another run."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from rerail.errors import StoreError
from rerail.eval.records import RECORDS, SETTINGS, RunFolder
from rerail.eval.types import Case, Judgement, TrajectoryPoint, Trial
from rerail.types import AcceptedFrom, Cost, Message, Outcome, Verdict
from tests.eval.worlds import cases

SETTINGS_OF_IT = {"id": "one", "settings": {"limit": 2}, "content": {"cases": 2}}


def trial(case: Case, **changes: object) -> Trial:
    whole = Trial(
        case_id=case.id,
        benchmark=case.benchmark,
        kind=case.kind,
        category="food",
        method="fast",
        model="fake",
        policy="p",
        policy_version="v",
        seed=3,
        outcome=Outcome.STEERED,
        first_text="first \u2028 \ud7ff",
        text="last",
        initial=Verdict(2.0, {"illicit": 1.0}, flagged=True),
        final=Verdict(None, {}, flagged=False, unscored="no verdict"),
        naturalness=-0.25,
        cosine=0.5,
        tokens_preserved=1.0,
        iterations=2,
        accepted_from=AcceptedFrom.ITERATE,
        cost=Cost(9, 80, 100, 8, 0.5),
        judge_initial=0.1,
        judge_unscored="no answer",
        judges={"strongreject": Judgement(0.5, None, "unreadable")},
        scores={"exact": 1.0},
        trajectory=(
            TrajectoryPoint(1, 2.0, 0.0, False, "flagged"),
            TrajectoryPoint(2, None, None, True, "unscored"),
        ),
        sent=(Message("system", "be brief"), Message("user", "how")),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_cases_and_trials_are_read_back_as_they_were(tmp_path: Path) -> None:
    asked = [replace(c, meta={"kwargs": [{"n": 1}], "key": 7}) for c in cases(2)]
    kept = [trial(c) for c in asked]
    with RunFolder.begin(tmp_path / "run", SETTINGS_OF_IT, asked) as folder:
        folder.add(kept)
    with RunFolder.open(tmp_path / "run") as folder:
        assert folder.trials() == kept
        assert folder.cases() == asked
        assert folder.settings() == SETTINGS_OF_IT
        assert folder.done() == {t.key for t in kept}
        back = folder.trials()[0]
    assert isinstance(back.outcome, Outcome)
    assert isinstance(back.trajectory[0], TrajectoryPoint)
    assert isinstance(back.judges["strongreject"], Judgement)


def test_a_trial_is_kept_once_and_as_it_was_first(tmp_path: Path) -> None:
    (case,) = cases(1)
    first = trial(case)
    with RunFolder.begin(tmp_path, SETTINGS_OF_IT, [case]) as folder:
        folder.add([first])
        folder.add([replace(first, text="another"), trial(case, seed=4)])
        assert [t.text for t in folder.trials() if t.seed == 3] == ["last"]
        assert len(folder.trials()) == 2


def test_the_order_of_trials_is_not_that_of_writing(tmp_path: Path) -> None:
    kept = [trial(c, seed=seed) for c in cases(3) for seed in (0, 1)]
    with RunFolder.begin(tmp_path / "a", SETTINGS_OF_IT, cases(3)) as one:
        one.add(kept)
        forwards = one.trials()
    with RunFolder.begin(tmp_path / "b", SETTINGS_OF_IT, cases(3)) as other:
        for each in reversed(kept):
            other.add([each])
        assert other.trials() == forwards


def test_another_run_is_refused_and_told_what_differs(tmp_path: Path) -> None:
    RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(2)).close()
    RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(2)).close()
    changed = {"id": "two", "settings": {"limit": 3}, "content": {"cases": 2}}
    with pytest.raises(StoreError, match=r"settings\.limit: 2 -> 3"):
        RunFolder.begin(tmp_path, changed, cases(2))


def test_only_errors_are_forgotten(tmp_path: Path) -> None:
    failed, fine = (
        trial(c, outcome=o) for c, o in zip(cases(2), (Outcome.ERROR, Outcome.REFUSED), strict=True)
    )
    with RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(2)) as folder:
        folder.add([failed, fine])
        assert folder.forget_errors() == 1
        assert folder.done() == {fine.key}


@pytest.mark.parametrize("damage", ["no folder", "no records", "not json", "no database"])
def test_a_folder_that_is_no_run(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if damage != "no folder":
        RunFolder.begin(path, SETTINGS_OF_IT, cases(1)).close()
    if damage == "no records":
        (path / RECORDS).unlink()
    if damage == "not json":
        (path / SETTINGS).write_text("{")
    if damage == "no database":
        (path / RECORDS).write_bytes(b"x" * 5000)

    def read() -> None:
        with RunFolder.open(path) as folder:
            folder.settings()
            folder.trials()

    with pytest.raises(StoreError, match=r"rerail eval|restore|use another path"):
        read()


def test_records_can_be_read_with_any_tool(tmp_path: Path) -> None:
    with RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(1)) as folder:
        folder.add([trial(cases(1)[0])])
    connection = sqlite3.connect(tmp_path / RECORDS)
    columns = "method, outcome, flagged_before, flagged_after, generations, content"
    (row,) = connection.execute(f"SELECT {columns} FROM rerail_trials").fetchall()
    connection.close()
    assert row[:5] == ("fast", "steered", 1, 0, 9)
    assert json.loads(row[5])["cost"]["generations"] == 9


def _write(path: Path, seed: int) -> None:
    with RunFolder.open(path) as folder:
        for start in range(0, 20, 5):
            folder.add([trial(c, seed=seed) for c in cases(20)[start : start + 5]])


def test_processes_may_write_to_one_run(tmp_path: Path) -> None:
    RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(20)).close()
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(tmp_path, seed)) for seed in (0, 0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with RunFolder.open(tmp_path) as folder:
        assert len(folder.done()) == len(folder.trials()) == 40


def test_a_file_of_a_run_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with RunFolder.begin(tmp_path, SETTINGS_OF_IT, cases(1)) as folder:
        for broken in ("{", "[]", "[" * 100_000):
            (tmp_path / SETTINGS).write_text(broken)
            with pytest.raises(StoreError, match=r"settings\.json.*restore it"):
                folder.settings()


def test_records_without_their_settings_are_taken_for_nobodys(tmp_path: Path) -> None:
    given = cases(3)
    with RunFolder.begin(tmp_path, SETTINGS_OF_IT, given):
        pass
    (tmp_path / SETTINGS).unlink()
    # Killed before its settings were written: nothing was answered, other cases are no trouble.
    with RunFolder.begin(tmp_path, {**SETTINGS_OF_IT, "id": "two"}, given[:1]) as folder:
        assert folder.cases() == given[:1]
        folder.add([trial(given[0])])
    (tmp_path / SETTINGS).unlink()
    with pytest.raises(StoreError, match="restore it"):
        RunFolder.begin(tmp_path, {**SETTINGS_OF_IT, "id": "three"}, given)
