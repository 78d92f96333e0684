"""Records survive whatever kills the process, are written once and never changed."""

import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from rerail.errors import StoreError
from rerail.store import Record, Store, differences
from rerail.types import (
    AcceptedFrom,
    Cost,
    Evaluation,
    Generation,
    Layer,
    Outcome,
    PolicyTag,
    Prompt,
    Rejection,
    Response,
    Score,
    Screened,
    StopReason,
    Verdict,
)
from tests.judged import judged


def evaluation(score: Score, harm: float, text: str = "an answer") -> Evaluation:
    return Evaluation(
        origin=AcceptedFrom.PERTURBATION,
        point=None,
        generation=Generation(text, (1, 2, 3)),
        judged=judged(score, harm),
        naturalness=None if harm >= 1 else -0.25,
        rejection=Rejection.FLAGGED if harm >= 1 else None,
    )


def response(text: str = "the answer that left", outcome: Outcome = Outcome.STEERED) -> Response:
    evaluations = (
        evaluation(Score.of({"illicit": 0.9}), 1.8, "the first answer"),
        evaluation(Score.unscored("fake: raised ValueError"), float("inf")),
        evaluation(Score.of({"illicit": 0.1}), 0.2, text),
    )
    return Response(
        outcome=outcome,
        text=text,
        policy=PolicyTag("default", "0123456789ab", audit=True),
        initial=evaluations[0].judged.verdict,
        final=evaluations[2].judged.verdict,
        cost=Cost(3, 9, 30, 3, 0.5),
        iterations=1,
        accepted_from=AcceptedFrom.PERTURBATION,
        naturalness=-0.25,
        cosine=0.97,
        tokens_preserved=1.0,
        stop_reason=StopReason.ACCEPTED,
        seed=2**63 - 1,
        model="fake",
        evaluations=evaluations,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def only(store: Store, run: str = "run") -> Record:
    (record,) = store.records(run)
    return record


def test_a_record_holds_the_whole_response(path: Path) -> None:
    with Store.open(path) as store:
        assert store.add("run", "a", response())
        record = only(store)
    public = response().to_json()
    for key in ("outcome", "stop_reason", "accepted_from", "iterations", "initial", "final"):
        assert getattr(record, key) == public[key]
    for key in ("naturalness", "cosine", "tokens_preserved", "seed", "model", "error"):
        assert getattr(record, key) == public[key]
    for key, value in public["cost"].items():
        assert getattr(record, key) == value
    assert (record.policy, record.policy_version, record.audit) == (
        "default",
        "0123456789ab",
        True,
    )
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_every_evaluation_has_its_row_and_unscored_is_no_number(path: Path) -> None:
    with Store.open(path) as store:
        store.add("run", "a", response())
        first, failed, last = only(store).evaluations
    assert [e.number for e in (first, failed, last)] == [0, 1, 2]
    assert (first.harm, first.scores, first.rejection) == (1.8, {"illicit": 0.9}, "flagged")
    assert (failed.harm, failed.scores, failed.unscored) == (None, {}, "fake: raised ValueError")
    assert (last.naturalness, last.generated_tokens) == (-0.25, 3)


def test_a_borderline_answer_is_recorded_as_such(path: Path) -> None:
    between = replace(evaluation(Score.of({"illicit": 0.4}), 0.8), rejection=Rejection.BORDERLINE)
    given = response()
    with Store.open(path) as store:
        store.add("run", "a", replace(given, evaluations=(*given.evaluations, between)))
        last = only(store).evaluations[-1]
    assert (last.harm, last.rejection) == (0.8, "borderline")


def test_text_is_kept_only_with_a_prompt(path: Path) -> None:
    secret = "zebra-crossing"
    with Store.open(path) as store:
        store.add("run", "a", response(secret))
    raw = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret.encode() not in raw
    with Store.open(path) as store:
        store.add("run", "b", response(secret), Prompt.of("what is striped?"))
        without, with_text = store.records("run")
    assert (without.prompt, without.first_answer, without.final_answer) == (None, None, None)
    assert with_text.prompt == [{"role": "user", "content": "what is striped?"}]
    assert (with_text.first_answer, with_text.final_answer) == ("the first answer", secret)


def test_a_record_is_never_written_twice_and_never_changed(path: Path) -> None:
    with Store.open(path) as store:
        assert store.add("run", "a", response(outcome=Outcome.STEERED))
        before = only(store)
        assert not store.add("run", "a", response(outcome=Outcome.REFUSED))
        assert only(store) == before


def test_runs_are_apart(path: Path) -> None:
    with Store.open(path) as store:
        store.add("one", "a", response())
        store.add("two", "a", response())
        store.add("two", "b", response())
        assert store.done("one") == {"a"}
        assert store.done("two") == {"a", "b"}
        assert store.done("three") == set()
        store.forget("two")
        assert store.done("two") == set()
        assert len(only(store, "one").evaluations) == 3


def test_the_first_few_differences_are_named_the_outermost_first() -> None:
    deep = {"policy": {"budget": {f"limit {i}": i for i in range(9)}, "text": "x" * 500}}
    said = differences(deep | {"seed": 0}, deep | {"seed": 1})
    assert said == "seed: 0 -> 1"
    said = differences(deep | {"seed": 0}, {"seed": 1})
    assert said.startswith("seed: 0 -> 1; policy.text: 'xxx")
    assert said.endswith("-> None; and 6 more")
    assert len(said) < 300
    assert differences(deep, deep) == ""


def test_a_run_goes_on_only_under_its_own_settings(path: Path) -> None:
    with Store.open(path) as store:
        store.begin("run", {"seed": 0, "model": "a"})
        store.begin("run", {"seed": 0, "model": "a"})
        assert store.settings("run") == {"seed": 0, "model": "a"}
        with pytest.raises(StoreError, match="seed: 0 -> 1"):
            store.begin("run", {"seed": 1, "model": "a"})
        assert store.settings("run") == {"seed": 0, "model": "a"}


def test_sqlite_url_and_path_are_the_same_store(path: Path) -> None:
    with Store.open(str(path)) as store:
        store.add("run", "a", response())
    with Store.open(f"sqlite:///{path}") as store:
        assert store.done("run") == {"a"}


def test_the_log_is_written_ahead_and_to_the_disk(path: Path) -> None:
    with Store.open(path) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_threads_write_each_record_once(path: Path) -> None:
    written: list[bool] = []
    with Store.open(path) as store:

        def work() -> None:
            written.extend(store.add("run", str(item), response()) for item in range(20))

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(written) == 20
        assert store.done("run") == {str(item) for item in range(20)}
        assert all(len(record.evaluations) == 3 for record in store.records("run"))


def _write(path: Path, items: range) -> None:
    with Store.open(path) as store:
        for item in items:
            store.add("run", str(item), response())


def test_processes_open_and_write_a_new_store_at_once(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_write, args=(path, range(start, start + 15)))
        for start in (0, 5, 10, 15)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Store.open(path) as store:
        assert store.done("run") == {str(item) for item in range(30)}
        assert len(list(store.records("run"))) == 30


KILLED = """
import sys
from tests.test_store import response
from rerail.store import Store
store = Store.open(sys.argv[1])
for item in range(100_000):
    store.add("run", str(item), response())
    print(item, flush=True)
"""


def test_a_killed_process_loses_no_finished_record(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", "src"])},
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    finished = {line.strip() for line in said if line.endswith("\n")}
    with Store.open(path) as store:
        assert finished <= store.done("run")
        assert len(store.done("run")) <= len(finished) + 1
        assert all(len(record.evaluations) == 3 for record in store.records("run"))
        assert store.add("run", "after", response())


def test_a_store_of_before_is_brought_up(path: Path) -> None:
    with Store.open(path) as store:
        store.add("run", "old", response())
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE rerail_records DROP COLUMN reasoning")
        connection.execute("ALTER TABLE rerail_records DROP COLUMN sent_tokens")
        connection.execute("DELETE FROM rerail_schema")
        connection.execute("INSERT INTO rerail_schema VALUES (2)")
    connection.close()
    thoughtful = replace(response(), reasoning="hm", reasoning_tokens=3, sent_tokens=2)
    with Store.open(path) as store:
        store.add("run", "new", thoughtful, Prompt.of("hello"))
        store.add("run", "untold", thoughtful)
        found = {r.item: (r.reasoning, r.sent_tokens) for r in store.records("run")}
    assert found == {"old": (None, None), "new": ("hm", 2), "untold": (None, 2)}
    Store.open(path).close()


def test_a_store_from_before_layers_is_brought_up(path: Path) -> None:
    with Store.open(path) as store:
        store.add("run", "old", response())
    with sqlite3.connect(path) as connection:
        for name in ("layer", "gate", "noted"):
            connection.execute(f"ALTER TABLE rerail_records DROP COLUMN {name}")
        connection.execute("DELETE FROM rerail_schema")
        connection.execute("INSERT INTO rerail_schema VALUES (3)")
    connection.close()
    verdict = Verdict(1.2, {"illicit": 0.6}, flagged=True)
    screened = Screened("refuse", ("illicit",), (), verdict)
    refused = replace(
        response("message", Outcome.REFUSED),
        initial=None, final=None, evaluations=(), stop_reason=StopReason.GATE,
        layer=Layer.GATE, gate=screened, noted=("hate",),
    )  # fmt: skip
    with Store.open(path) as store:
        store.add("run", "new", refused, Prompt.of("hello"))
        old, new = store.records("run")
    assert (old.layer, old.gate, old.noted) == (None, None, None)
    assert (new.layer, new.gate, new.noted) == ("gate", screened.to_json(), ["hate"])
    assert (new.initial, new.evaluations, new.first_answer) == (None, (), None)
    Store.open(path).close()


class TestClearErrors:
    def test_newer_schema(self, path: Path) -> None:
        Store.open(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE rerail_schema SET version = 99")
        connection.close()
        with pytest.raises(StoreError, match=r"schema 99.*upgrade rerail"):
            Store.open(path)

    def test_not_a_database(self, path: Path) -> None:
        path.write_text("dear diary, " * 100)
        with pytest.raises(StoreError, match="not an SQLite database"):
            Store.open(path)
        assert path.read_text().startswith("dear diary")

    def test_damaged(self, path: Path) -> None:
        with Store.open(path) as store:
            for item in range(50):
                store.add("run", str(item), response())
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        with pytest.raises(StoreError, match="damaged"), Store.open(path) as store:
            list(store.records("run"))

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="folder exists"):
            Store.open(tmp_path / "nowhere" / "records.sqlite")

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anything")
    def test_not_writable(self, path: Path) -> None:
        Store.open(path).close()
        path.chmod(0o400)
        path.parent.chmod(0o500)
        try:
            with pytest.raises(StoreError, match="permissions"), Store.open(path) as store:
                store.add("run", "a", response())
        finally:
            path.parent.chmod(0o700)

    def test_read_only_database(self, path: Path) -> None:
        Store.open(path).close()
        with (
            pytest.raises(StoreError, match="permissions"),
            Store.open(f"sqlite:///file:{path}?mode=ro&uri=true") as store,
        ):
            store.add("run", "a", response())

    def test_locked(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rerail.store._BUSY_SECONDS", 0.05)
        with Store.open(path) as store:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                with pytest.raises(StoreError, match="locked by another process"):
                    store.add("run", "a", response())
            finally:
                other.close()
            assert store.add("run", "a", response())

    def test_url_that_is_none(self) -> None:
        with pytest.raises(StoreError, match="URL cannot be read"):
            Store.open("://hunter2")

    def test_a_driver_that_is_missing_and_the_password_stays_secret(self) -> None:
        with pytest.raises(StoreError, match="no driver") as caught:
            Store.open("nosuchdb://me:hunter2@host/db")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://me:hun@ter2@127.0.0.1:1/db",
            "postgresql://me:hun@ter/2@127.0.0.1:1/db",
            "postgresql://me:hun@ter?2@127.0.0.1:1/db",
            "postgresql://me:hun@7/ter2@127.0.0.1:1/db",
            "postgresql://m/e:hunter2@127.0.0.1:1/db",
            "postgresql://me:hunter2/db",
            "postgresql:/me:hunter2@127.0.0.1:1/db",
            "postgresql:me:hunter2@127.0.0.1/db",
            "postgresql://me:hunter2@[::1/db",
            "postgresql://me:hunter2@127.0.0.1:port/db",
            "sqlite://me:hunter2@host/file",
        ],
    )
    def test_of_a_url_that_cannot_be_read_nothing_is_told(self, url: str) -> None:
        with pytest.raises(StoreError, match=r"URL cannot be read.*%40 for @") as caught:
            Store.open(url)
        assert not re.search("hun|ter|127", str(caught.value))

    def test_no_password_is_told_where_the_database_is_not_there(self) -> None:
        for url in (
            "postgresql://me:hunter%402%2F@127.0.0.1:1/db",
            "postgresql://me@corp:hun/ter?2@127.0.0.1:1",
            "postgresql://127.0.0.1:1?password=hunter2",
            "postgresql://me:hunter2@[::1]:1/db",
        ):
            with pytest.raises(StoreError, match="check the database") as caught:
                Store.open(url)
            assert not re.search("hun|ter.?2", str(caught.value))

    def test_a_path_may_hold_an_at(self, tmp_path: Path) -> None:
        (tmp_path / "me@home").mkdir()
        Store.open(str(tmp_path / "me@home" / "s@re.db")).close()
        Store.open(f"sqlite:///{tmp_path}/me@home/s@re.db").close()
        assert [file.name for file in (tmp_path / "me@home").iterdir()] == ["s@re.db"]

    def test_of_what_a_database_says_only_the_first_line_is_told(self, path: Path) -> None:
        fault = "null value in a column\nDETAIL:  Failing row contains (zebra-crossing)."
        with (
            Store.open(path) as store,
            pytest.raises(StoreError, match="null value in a column: check") as caught,
            store._faults(),
        ):
            raise DBAPIError("INSERT", None, Exception(fault))
        assert "zebra" not in str(caught.value)

    def test_errors_hold_no_text(self, path: Path) -> None:
        with Store.open(path) as store:
            with sqlite3.connect(path) as connection:
                connection.execute("DROP TABLE rerail_evaluations")
            connection.close()
            with pytest.raises(StoreError) as caught:
                store.add("run", "a", response("zebra-crossing"), Prompt.of("stripes"))
        assert "zebra" not in str(caught.value)
        assert "stripes" not in str(caught.value)
        with Store.open(path) as store:
            assert store.done("run") == set()
