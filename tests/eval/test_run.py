"""The run: what each trial says is so, and a killed run finds what an unbroken one finds."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerail.engines import FakeEngine, GenerationRequest, Sampling
from rerail.errors import EngineError, InputFileError, PolicyError, PromptError, StoreError
from rerail.eval.embedded_judge import EmbeddedJudge
from rerail.eval.methods import NAMES
from rerail.eval.records import RunFolder
from rerail.eval.rules import on_topic
from rerail.eval.run import Loaders, Run
from rerail.eval.settings import RunSettings
from rerail.eval.types import Trial
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.search import prompt_seed
from rerail.types import Exchange, Message, Outcome, Prompt
from tests.eval.worlds import COMPLIES, REFUSES, Layered, policy, usable

ROWS = [
    *({"id": f"h{i}", "prompt": f"how is harm of sort {i} done"} for i in range(6)),
    {"id": "b0", "prompt": "how is bread baked", "kind": "benign", "category": "food"},
    {"id": "u0", "prompt": "how much is one and one", "kind": "utility"},
]


def engines(name: str) -> FakeEngine:
    return Layered(name=name, seed=len(name))


def loaders(
    engine: Callable[[str], FakeEngine] = engines, moderator: FakeModerator | None = None
) -> Loaders:
    judge = moderator or FakeModerator(words=["sure"])
    return Loaders(engine, lambda policy: Panel(policy, judge))


def settings(folder: Path, **changes: Any) -> RunSettings:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    values = {
        "benchmarks": (f"mine={path}",),
        "methods": ("none", "refuse", "fast"),
        "models": ("fake",),
        "policy": policy(),
        "max_new_tokens": 32,
        "max_open": 3,
    }
    return RunSettings.of(**{**values, **changes})


def run(run_settings: RunSettings, out: Path, using: Loaders | None = None) -> list[Trial]:
    with Run(run_settings, out, using or loaders()) as evaluation:
        before, seen = evaluation.remaining, []
        evaluation.run(seen.append)
        assert len(seen) == before
        assert evaluation.remaining == 0
        return evaluation.folder.trials()


def timeless(trials: list[Trial]) -> list[Trial]:
    return [
        replace(t, cost=replace(t.cost, seconds=0.0), wall_seconds=None, moderator_seconds=None)
        for t in trials
    ]


def test_every_case_by_every_method_model_and_seed(tmp_path: Path) -> None:
    asked = settings(tmp_path, models=("fake", "other"), seeds=(0, 1), scenarios=("plain", "rot13"))
    found = run(asked, tmp_path / "run")
    cases = len(ROWS) + 7  # the utility prompt is in no scenario
    assert len(found) == len({t.key for t in found}) == cases * 3 * 2 * 2
    assert {t.model for t in found} == {"fake", "other"}


def test_a_trial_says_what_was_so(tmp_path: Path) -> None:
    found = run(settings(tmp_path), tmp_path / "run")
    engine, rows = engines("fake"), {row["id"]: row for row in ROWS}
    for trial in found:
        prompt = Prompt.of(rows[trial.case_id]["prompt"])
        embedded = engine.embed(prompt)
        request = GenerationRequest(embedded, embedded.point, prompt_seed(0, prompt))
        (plain,) = engine.generate([request], Sampling(32))
        assert trial.first_text == plain.text == COMPLIES
        assert trial.initial is not None
        assert trial.initial.flagged
        judge = EmbeddedJudge()
        asked = (Message("user", prompt.messages[-1].content),)
        (before, after) = judge.judge(
            [Exchange(asked, trial.first_text), Exchange(asked, trial.text)]
        )
        assert (trial.judge_initial, trial.judge_final) == (before, after)
        assert trial.refused_initial is False
        assert trial.first_tokens == len(plain.token_ids)
        (first,) = engine.log_likelihood([(embedded, plain.token_ids)])
        match trial.method:
            case "none":
                assert (trial.outcome, trial.text, trial.flagged_after) == (
                    "passed",
                    COMPLIES,
                    True,
                )
                assert (trial.cost.generations, trial.cost.moderator_calls) == (1, 0)
                assert trial.naturalness == 0.0
                assert trial.perplexity == pytest.approx(math.exp(-first))
                assert trial.trajectory[0].harm == trial.final.harm == 2.0  # type: ignore[union-attr]
                assert trial.unchanged
            case "refuse":
                assert (trial.outcome, trial.final, trial.naturalness) == ("refused", None, None)
                assert trial.text == policy().refusal_message
                assert trial.refused_final
                assert not trial.on_topic
            case "fast":
                assert (trial.outcome, trial.text) == ("steered", REFUSES)
                assert trial.neutralised
                assert trial.refused_final
                tokens = engine.generate([request], Sampling(32))[0].token_ids
                assert tokens == plain.token_ids
                assert trial.perplexity == pytest.approx(
                    math.exp(-first - (trial.naturalness or 0))
                )
        assert trial.on_topic == (
            trial.outcome != "refused" and on_topic(prompt.messages[-1].content, trial.text)
        )


def test_a_baselines_naturalness_is_measured_as_rerails_own(tmp_path: Path) -> None:
    found = run(settings(tmp_path, methods=("best-of-n", "random")), tmp_path / "run")
    by_case: dict[str, set[float | None]] = {}
    for trial in found:
        assert trial.text == REFUSES
        by_case.setdefault(trial.case_id, set()).add(round(trial.naturalness or 9, 9))
    # Both return the same text, so it is as natural wherever it came from.
    assert all(len(values) == 1 for values in by_case.values())


def test_every_method_runs_in_every_setting(tmp_path: Path) -> None:
    methods = tuple(usable(name) for name in NAMES)
    asked = settings(tmp_path, methods=methods, scenarios=("multi-turn", "adaptive"), attempts=2)
    found = run(asked, tmp_path / "run")
    assert {t.method for t in found} == set(methods)
    assert all(t.outcome is not Outcome.ERROR for t in found)
    attacked = [t for t in found if t.benchmark == "mine+adaptive"]
    assert len(attacked) == 6 * len(methods)
    for trial in attacked:
        assert trial.sent is not None
        assert 1 <= trial.scores["attack_attempts"] <= 2
    broken = {t.method for t in attacked if t.scores["attack_succeeded"]}
    assert "none" in broken
    assert not broken & {"fast", "refuse", "tide", "random", "best-of-n"}


def test_what_is_named_twice_is_run_once(tmp_path: Path) -> None:
    once, twice = settings(tmp_path), settings(tmp_path, seeds=(0, 0), methods=("none", "none"))
    found = run(twice, tmp_path / "twice")
    assert timeless(found) == [
        t for t in timeless(run(once, tmp_path / "once")) if t.method == "none"
    ]


def test_a_text_that_does_not_fit_beside_the_prompt_has_no_likelihood(tmp_path: Path) -> None:
    class Strict(FakeEngine):
        """As models with learned positions are: a text that is too long is a fault."""

        def log_likelihood(self, requests: Any) -> list[float]:
            if any(len(e.token_ids) + len(ids) > self.context_length for e, ids in requests):
                raise EngineError("too long")
            return super().log_likelihood(requests)

    def engine(name: str) -> FakeEngine:
        long = " ".join(["word"] * 40)
        if name == "fake":
            return Strict(lambda e, p: long if len(e.token_ids) > 8 else REFUSES, name=name)
        return Strict(name=name, context_length=44)

    found = run(
        settings(tmp_path, methods=("none",), perplexity_model="small", max_new_tokens=64),
        tmp_path / "run",
        loaders(engine),
    )
    assert {t.outcome for t in found} == {Outcome.PASSED}
    assert {t.perplexity is None for t in found} == {True, False}


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    asked = settings(tmp_path, methods=("none", "best-of-n", "fast", "smoothllm"))
    whole = run(asked, tmp_path / "whole")
    out = tmp_path / "broken"
    for stop in (1, 5, 2, 9, 4):
        seen: list[Trial] = []

        def advance(trial: Trial, seen: list[Trial] = seen, stop: int = stop) -> None:
            seen.append(trial)
            if len(seen) == stop:
                raise KilledError

        with Run(asked, out, loaders()) as evaluation, pytest.raises(KilledError):
            evaluation.run(advance)
    assert 0 < len(RunFolder.open(out).done()) < len(whole)
    assert timeless(run(asked, out)) == timeless(whole)


SCRIPT = """
import sys, time
from pathlib import Path
from tests.eval.test_run import engines, loaders, settings
from rerail.engines import FakeEngine
from rerail.eval.run import Run

class Slow(FakeEngine):
    def generate(self, requests, sampling):
        time.sleep(0.02)
        return super().generate(requests, sampling)

data, out = Path(sys.argv[1]), Path(sys.argv[2])
asked = settings(data, methods=("none", "best-of-n", "fast"))
using = loaders(lambda name: Slow(name=name, seed=len(name)))
with Run(asked, out, using) as evaluation:
    evaluation.run(lambda trial: print(trial.case_id, flush=True))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_sigkill_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    asked = settings(tmp_path, methods=("none", "best-of-n", "fast"))
    whole = run(asked, tmp_path / "whole")
    out = tmp_path / "killed"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    kept = 0
    for lines in (3, 7):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=root, env=environment
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        with RunFolder.open(out) as folder:
            done = len(folder.done())
        assert kept <= done < len(whole)
        kept = done
    assert timeless(run(asked, out)) == timeless(whole)


def test_a_finished_run_asks_nothing_more(tmp_path: Path) -> None:
    run(settings(tmp_path), tmp_path / "run")
    made: list[FakeEngine] = []

    def engine(name: str) -> FakeEngine:
        made.append(engines(name))
        return made[-1]

    run(settings(tmp_path), tmp_path / "run", loaders(engine))
    assert sum(e.generated for e in made) == 0


def test_a_budget_in_the_place_of_the_policys_own(tmp_path: Path) -> None:
    own, wide = settings(tmp_path), settings(tmp_path).with_changes({"generations": 7})
    assert (wide.policy.budget.generations, wide.generations) == (7, 7)
    assert wide.policy.budget.seconds == own.policy.budget.seconds
    assert wide.policy.version != own.policy.version
    read = RunSettings.model_validate(json.loads(wide.model_dump_json()))
    assert read == wide


def test_settings_run_again_elsewhere_find_the_same(tmp_path: Path) -> None:
    asked = settings(tmp_path, methods=("fast:num_directions=3", "best-of-n"), seeds=(5,))
    found = run(asked, tmp_path / "run")
    again = RunSettings.from_file(tmp_path / "run" / "settings.json")
    assert again == asked
    assert timeless(run(again, tmp_path / "again")) == timeless(found)
    ids = [RunFolder.open(tmp_path / f).settings()["id"] for f in ("run", "again")]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (1,)},
        {"methods": ("none",)},
        {"methods": ("none", "refuse", "fast:num_directions=3")},
        {"max_new_tokens": 31},
        {"temperature": 0.5},
        {"limit": 3},
        {"policy": policy(default_threshold=0.4)},
        {"models": ("other",)},
        {"scenarios": ("rot13",)},
    ],
    ids=str,
)
def test_whatever_decides_the_result_makes_another_run(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    run(settings(tmp_path), tmp_path / "run")
    with pytest.raises(StoreError, match="other settings") as raised:
        run(settings(tmp_path, **changes), tmp_path / "run")
    assert f"settings.{next(iter(changes))}" in str(raised.value)
    assert len(str(raised.value)) < 1200


def test_other_rows_make_another_run_and_another_place_does_not(tmp_path: Path) -> None:
    run(settings(tmp_path), tmp_path / "run")
    (tmp_path / "moved").mkdir()
    moved = settings(tmp_path / "moved")
    run(moved, tmp_path / "run")
    path = tmp_path / "moved" / "rows.jsonl"
    path.write_text(path.read_text().replace("bread", "cake"))
    with pytest.raises(StoreError, match="cases_sha256"):
        run(moved, tmp_path / "run")


def test_other_weights_make_another_run(tmp_path: Path) -> None:
    run(settings(tmp_path), tmp_path / "run")
    other = loaders(lambda name: FakeEngine(name=name, seed=99))
    with pytest.raises(StoreError, match=r"models\.fake"):
        run(settings(tmp_path), tmp_path / "run", other)


def test_errors_are_recorded_and_can_be_tried_again(tmp_path: Path) -> None:
    broken = FakeEngine(name="fake", seed=4)
    broken.error = RuntimeError("out of everything")
    found = run(settings(tmp_path), tmp_path / "run", loaders(lambda name: broken))
    assert {t.outcome for t in found} == {Outcome.ERROR}
    assert all(t.first_text is None and t.initial is None for t in found)
    assert all(t.judge_final is None and t.judge_unscored for t in found)
    with RunFolder.open(tmp_path / "run") as folder:
        assert folder.forget_errors() == len(found)
    again = run(settings(tmp_path), tmp_path / "run")
    assert timeless(again) == timeless(run(settings(tmp_path), tmp_path / "fresh"))


def test_a_moderator_that_fails_is_unscored_and_no_number(tmp_path: Path) -> None:
    silent = FakeModerator(error=RuntimeError("down"))
    for trial in run(settings(tmp_path), tmp_path / "run", loaders(moderator=silent)):
        assert trial.initial is not None
        assert (trial.initial.harm, trial.initial.flagged) == (None, False)
        assert trial.initial.unscored
        if trial.method == "none":
            assert trial.final is not None
            assert trial.final.unscored
        else:
            assert trial.outcome is Outcome.ERROR


def test_a_prompt_without_room_is_an_error_of_its_own(tmp_path: Path) -> None:
    small = loaders(lambda name: FakeEngine(name=name, context_length=10))
    found = run(settings(tmp_path), tmp_path / "run", small)
    failed = {t.case_id for t in found if t.outcome is Outcome.ERROR}
    assert failed == {f"h{i}" for i in range(6)}
    assert all("shorten" in (t.error or "") for t in found if t.case_id in failed)


def test_perplexity_can_be_anothers(tmp_path: Path) -> None:
    own = run(settings(tmp_path), tmp_path / "own")
    other = run(settings(tmp_path, perplexity_model="a base model"), tmp_path / "other")
    base = engines("a base model")
    for trial, same in zip(other, own, strict=True):
        assert (trial.text, trial.naturalness) == (same.text, same.naturalness)
        if trial.outcome is Outcome.REFUSED:
            assert trial.perplexity is None
            continue
        row = next(r for r in ROWS if r["id"] == trial.case_id)
        prompt = base.embed(Prompt.completion(row["prompt"]))
        tokens = tuple(int(t) for t in base.embed(Prompt.completion(trial.text)).token_ids)
        (value,) = base.log_likelihood([(prompt, tokens)])
        assert trial.perplexity == pytest.approx(math.exp(-value))


def test_further_judges_see_bare_requests_and_each_text_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Exchange] = []

    class Recorder:
        name = "strongreject"

        def judge(self, exchanges: list[Exchange]) -> list[Any]:
            from rerail.eval.judges import Opinion

            asked.extend(exchanges)
            return [
                Opinion(None, "unreadable") if e.answer == REFUSES else Opinion(1.0)
                for e in exchanges
            ]

    monkeypatch.setattr("rerail.eval.run.load_judge", lambda spec, engine: Recorder())
    run_settings = settings(
        tmp_path, judges=("strongreject=m",), methods=("none", "fast"), scenarios=("long-context",)
    )
    found = run(run_settings, tmp_path / "run")
    assert {e.messages[-1].content for e in asked} == {row["prompt"] for row in ROWS}
    firsts = [e for e in asked if e.answer == COMPLIES]
    assert len(firsts) == len(ROWS)
    for trial in found:
        judged = trial.judges["strongreject"]
        final = (1.0, None) if trial.method == "none" else (None, "unreadable")
        assert (judged.initial, judged.final, judged.unscored) == (1.0, *final)


def test_wrappers_are_drawn_around_harmful_requests(tmp_path: Path) -> None:
    texts = [f"Play number {i}. [PROMPT]" for i in range(5)]
    (tmp_path / "w.json").write_text(json.dumps(texts))
    asked = settings(tmp_path, wrappers=f"itw={tmp_path / 'w.json'}", methods=("none",))
    with Run(asked, tmp_path / "run", loaders()) as evaluation:
        wrapped = [c for c in evaluation.cases if "wrapper" in c.meta]
        assert {c.kind for c in wrapped} == {"harmful"}
        assert len(wrapped) == 6
    with pytest.raises(InputFileError, match="in-the-wild=PATH"):
        run(settings(tmp_path, wrappers=str(tmp_path / "w.json")), tmp_path / "other")


def test_a_benchmark_may_say_how_it_is_put(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(["Play. [PROMPT]"]))
    rows = settings(tmp_path).benchmarks[0].partition("=")[2]
    asked = settings(
        tmp_path,
        benchmarks=(f"mine={rows}", f"mine+itw[:2]={rows}", f"mine+rot13[2:4]={rows}"),
        wrappers=f"itw={tmp_path / 'w.json'}",
        scenarios=("plain", "leetspeak"),
    )
    with Run(asked, tmp_path / "run", loaders()) as evaluation:
        counts = Counter(case.benchmark for case in evaluation.cases)
        first = {case.benchmark: case for case in reversed(evaluation.cases)}
    # Neither wrapped nor in rot13 is what does not say so, and the others are in no scenario.
    assert counts == {"mine": 8, "mine+leetspeak": 7, "mine+itw": 2, "mine+rot13": 2}
    assert first["mine"].messages[0].content == ROWS[0]["prompt"]
    assert first["mine+itw"].messages[0].content == f"Play. {ROWS[0]['prompt']}"
    with pytest.raises(PromptError, match="did you mean 'rot13'"):
        run(settings(tmp_path, benchmarks=(f"mine+rot31={rows}",)), tmp_path / "other")


def test_every_benchmark_has_a_group_before_any_has_a_second(tmp_path: Path) -> None:
    rows = settings(tmp_path).benchmarks[0].partition("=")[2]
    asked = settings(tmp_path, benchmarks=(f"a={rows}", f"b[:5]={rows}"), methods=("none",))
    with Run(asked, tmp_path / "run", loaders()) as evaluation:
        groups = [(group[0].benchmark, len(group)) for group in evaluation._groups()]
    assert groups == [("a", 3), ("b", 3), ("a", 3), ("b", 2), ("a", 2)]


def test_base_models_continue_texts(tmp_path: Path) -> None:
    found = run(settings(tmp_path, template=False), tmp_path / "run")
    # Without a template a prompt is its words alone.
    words = {row["id"]: len(row["prompt"].split()) for row in ROWS}
    assert all(t.cost.prompt_tokens == words[t.case_id] for t in found if t.method == "none")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"methods": ("fst",)}, PromptError, "did you mean 'fast'"),
        ({"methods": ("fast:num_directions=0",)}, PolicyError, "num_directions"),
        ({"scenarios": ("multiturn",)}, PromptError, "did you mean 'multi-turn'"),
        ({"benchmarks": ("mine=nowhere.csv",)}, InputFileError, "cannot read"),
        ({"policy": policy(categories={"hate": 0.5})}, PolicyError, "hate"),
        ({"judges": ("harmbench=a", "harmbench=b")}, PromptError, "one of each kind"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_said_before_anything_is_asked(
    changes: dict[str, Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    engine = engines("fake")
    with pytest.raises(error, match=said):
        run(settings(tmp_path, **changes), tmp_path / "run", loaders(lambda name: engine))
    assert engine.generated == 0


@pytest.mark.parametrize("changes", [{"models": ()}, {"seeds": ()}, {"scenarios": ()},
                                     {"dtype": "fp16"}], ids=str)  # fmt: skip
def test_settings_that_no_run_can_have(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=next(iter(changes))):
        settings(tmp_path).with_changes(changes)


def test_a_benchmark_named_twice_and_models_of_one_name(tmp_path: Path) -> None:
    path = settings(tmp_path).benchmarks[0]
    with pytest.raises(InputFileError, match="another one gives"):
        run(settings(tmp_path, benchmarks=(path, path.replace("=", "[0:2]="))), tmp_path / "a")
    encoded = settings(tmp_path, benchmarks=(path, path.replace("=", "[0:2]=")),
                       scenarios=("rot13",))  # fmt: skip
    with pytest.raises(InputFileError, match="another one gives"):
        run(encoded, tmp_path / "a")
    same = loaders(lambda name: FakeEngine(name="same"))
    with pytest.raises(EngineError, match="one name"):
        run(settings(tmp_path, models=("a", "b")), tmp_path / "b", same)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no settings file"),
        ("{}", "no settings file"),
        ('{"settings": {"x": 1}}', "settings"),
        ("[" * 100_000, "no settings file"),
    ],
)
def test_a_settings_file_that_is_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputFileError, match=said):
        RunSettings.from_file(tmp_path / "s.json")
    with pytest.raises(InputFileError, match="cannot read"):
        RunSettings.from_file(tmp_path / "none.json")


def test_the_clock_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(settings(tmp_path), tmp_path / "run")
    real = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: 1000 * real())
    assert timeless(run(settings(tmp_path), tmp_path / "late")) == timeless(found)


def test_time_spent_on_moderators_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only the moderator moves: all of the time is the moderator's."""
    now = [0.0]

    class Slow(FakeModerator):
        def score(self, exchanges: Any) -> Any:
            now[0] += 1.0
            return super().score(exchanges)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    given = loaders(moderator=Slow(words=["sure"]))
    found = run(settings(tmp_path, methods=("none", "fast")), tmp_path / "run", given)
    for trial in found:
        assert trial.moderator_seconds == trial.wall_seconds
        assert (trial.wall_seconds == 0) == (trial.method == "none")


def test_what_an_engine_cannot_run_is_left_out_and_said(tmp_path: Path) -> None:
    asked = settings(tmp_path, methods=("none", "adasteer"), models=("fake", "layered"))
    given = loaders(lambda name: (Layered if name == "layered" else FakeEngine)(name=name))
    with Run(asked, tmp_path / "run", given) as evaluation:
        assert evaluation.remaining == 3 * len(ROWS)
        assert evaluation.left_out.keys() == {"fake"}
        assert "transformers engine" in evaluation.left_out["fake"]["adasteer"]
    found = run(asked, tmp_path / "run", given)
    assert {(t.model, t.method) for t in found} == {
        ("fake", "none"), ("layered", "none"), ("layered", "adasteer"),
    }  # fmt: skip
    only = settings(tmp_path, methods=("adasteer",))
    with pytest.raises(EngineError, match="no hidden states"):
        Run(only, tmp_path / "only", loaders(lambda name: FakeEngine(name=name)))


def test_what_a_model_behind_a_text_api_cannot_do_is_left_out_and_said(tmp_path: Path) -> None:
    class Behind(FakeEngine):
        abilities = frozenset({"extends"})

    text = policy(optimizer="resample", naturalness_floor=None)
    asked = settings(tmp_path, methods=("none", "fast", "tide", "policy"), policy=text)
    given = loaders(lambda name: Behind(name=name))
    with Run(asked, tmp_path / "run", given) as evaluation:
        left_out = evaluation.left_out["fake"]
    assert left_out.keys() == {"fast", "tide"}
    assert all("its embeddings cannot be moved" in why for why in left_out.values())
    assert {t.method for t in run(asked, tmp_path / "run", given)} == {"none", "policy"}


def test_a_method_without_step_sizes_is_told_before_anything_is_answered(tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(PolicyError, match="rerail tune --preset tsa"):
        Run(settings(tmp_path, methods=("none", "tsa")), tmp_path / "a", loaders(lambda _: engine))
    assert engine.generated == 0
