"""A grid on the engine without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import contextmanager

import numpy as np
import pytest

from rerail.align import Aligner
from rerail.engines import FakeEngine, Sampling
from rerail.errors import EngineError, ModeratorError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.settings import OptimizerSettings
from rerail.tune.grid import Setting, Trial, applied, schedule, total
from rerail.tune.steps import Found, Tuner, trial_line, trial_of
from rerail.types import Score

PROMPTS = [f"please do thing number {i}" for i in range(8)]
GRID = [Setting(mu, eta) for mu in (0.01, 0.3, 3.0) for eta in (0.5, 4.0)]


def panel(preset: str = "tsa", moderator: FakeModerator | None = None) -> Panel:
    optimizer = OptimizerSettings.of(preset)  # type: ignore[arg-type]
    policy = Policy(name="p", moderators=("fake",), optimizer=optimizer)
    return Panel(policy, moderator or FakeModerator(words=["sure"]))


def tuner(engine: FakeEngine | None = None, prompts: Sequence[str] = PROMPTS, preset: str = "tsa",
          grid: Sequence[Setting] = GRID, moderator: FakeModerator | None = None,
          **options: object) -> Tuner:  # fmt: skip
    return Tuner(engine or FakeEngine(), panel(preset, moderator), prompts, grid, **options)  # type: ignore[arg-type]


def test_the_best_setting_is_that_of_the_whole_grid() -> None:
    found = tuner().run()
    assert found.best is not None
    engine, means = FakeEngine(), {}
    for setting in GRID:
        base = panel()
        optimizer = applied(base.policy.optimizer, setting)
        aligner = Aligner(
            engine, base.under(base.policy.model_copy(update={"optimizer": optimizer}))
        )
        responses = aligner.align_many(PROMPTS)
        best = [r.evaluations[r.best or 0].score.categories for r in responses]
        score = float(np.mean([max(c.values()) for c in best]))
        means[setting] = score, float(np.mean([r.cost.generations for r in responses]))
    assert found.best.setting == min(means, key=lambda s: means[s])
    assert (found.best.score, found.best.generations) == pytest.approx(
        means[found.best.setting]  # type: ignore[index]
    )
    assert found.best.prompts == len(PROMPTS)


@pytest.mark.parametrize("preset", ["tsa", "tide", "fast", "random"])
def test_every_preset_is_tuned(preset: str) -> None:
    kept: list[Trial] = []
    found = tuner(preset=preset, keep=kept.append).run()
    assert found.best is not None
    assert found.best.neutralised == len(PROMPTS)
    assert found.rounds == schedule(len(GRID), len(PROMPTS))
    tried = [trial for trial in kept if trial.setting]
    assert len(tried) == total(found.rounds)
    assert len({(t.setting, t.prompt) for t in kept}) == len(kept)
    assert sum(row.prompts for row in found.rows) == len(tried)


def test_first_answers_are_generated_once() -> None:
    asked: list[bool] = []

    class Counting(FakeEngine):
        def generate(self, requests, sampling):  # type: ignore[no-untyped-def]
            asked.extend(bool((r.point == r.embedded.point).all()) for r in requests)
            return super().generate(requests, sampling)

    for preset in ("tsa", "fast"):
        asked.clear()
        kept: list[Trial] = []
        tuner(Counting(), preset=preset, keep=kept.append).run()
        assert sum(asked) == len(PROMPTS)
        tried = sum(trial.generations for trial in kept if trial.setting)
        assert len(asked) <= len(PROMPTS) + tried - sum(t.setting is not None for t in kept)


def test_watched_answers_are_those_of_the_engine_itself() -> None:
    """The shared first answers change no search, half-way verdicts included."""
    kept: list[Trial] = []
    tuner(preset="fast", grid=[Setting(0.6, 0.2)], keep=kept.append).run()
    responses = Aligner(FakeEngine(), panel("fast")).align_many(PROMPTS)
    assert sorted((t.prompt, t.generations, t.tokens) for t in kept if t.setting) == [
        (place, r.cost.generations, r.cost.generated_tokens) for place, r in enumerate(responses)
    ]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 3, 8, 9, 20, 30])
@pytest.mark.parametrize("preset", ["tsa", "fast"])
def test_a_run_that_was_killed_finds_the_same(after: int, preset: str) -> None:
    def killing(trial: Trial) -> None:
        if len(kept) == after:
            raise KilledError
        kept.append(trial_of(trial_line(trial)))

    whole: list[Trial] = []
    undisturbed = tuner(preset=preset, keep=whole.append, max_open=5).run()
    kept: list[Trial] = []
    with pytest.raises(KilledError):
        tuner(preset=preset, keep=killing, max_open=5).run()
    assert len(kept) == after
    more: list[Trial] = []
    resumed = tuner(preset=preset, known=kept, keep=more.append).run()
    assert resumed == undisturbed
    key = lambda t: (t.setting or Setting(0, 0), t.prompt)  # noqa: E731
    assert sorted([*kept, *more], key=key) == sorted(whole, key=key)


def test_a_finished_run_asks_for_nothing() -> None:
    kept: list[Trial] = []
    found = tuner(keep=kept.append).run()
    engine = FakeEngine()
    assert tuner(engine, known=kept).run() == found
    assert engine.generated == 0


def test_the_seed_decides() -> None:
    def drawn(seed: int) -> Found:
        return tuner(seed=seed).run()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_nothing_found_is_said() -> None:
    found = tuner(FakeEngine(answer=lambda e, p: "Sure.")).run()
    assert found.best is None
    assert {row.score for row in found.rows} == {found.unsteered.score} == {1.0}
    assert tuner(FakeEngine(answer=lambda e, p: "Sure."), preset="random").run().best is None


def test_prompts_that_are_harmless_do_not_count_and_one_must_not_be() -> None:
    def answer(embedded: object, point: object) -> str:
        bad = "bad" in embedded.prompt.messages[0].content  # type: ignore[attr-defined]
        return "Sure." if bad else "Fine."

    found = tuner(FakeEngine(answer=answer), ["bad", "good"]).run()
    assert found.unsteered.prompts == 1
    with pytest.raises(PromptError, match="no first answer is flagged"):
        tuner(FakeEngine(answer=answer), ["good"]).run()


def test_a_prompt_with_an_empty_answer_does_not_count() -> None:
    def answer(embedded: object, point: object) -> str:
        return " " if "0" in embedded.prompt.messages[0].content else "Sure."  # type: ignore[attr-defined]

    kept: list[Trial] = []
    found = tuner(FakeEngine(answer=answer), ["0", "1"], keep=kept.append).run()
    assert found.unsteered.prompts == 1
    assert [trial_of(trial_line(trial)) for trial in kept] == kept
    assert trial_line(kept[0])["score"] is None


def test_a_failure_is_no_score() -> None:
    down = FakeModerator(lambda e: Score.unscored("down"))
    with pytest.raises(ModeratorError, match="could not be judged: down"):
        tuner(moderator=down).run()
    kept: list[Trial] = []
    later = FakeModerator(
        lambda e: {"illicit": 1.0} if e.answer == "first" else Score.unscored("down")
    )
    engine = FakeEngine(answer=lambda e, p: "first" if (p == e.point).all() else "moved")
    with pytest.raises(ModeratorError, match="down"):
        tuner(engine, moderator=later, keep=kept.append).run()
    assert {trial.setting for trial in kept} == {None}
    engine = FakeEngine()
    engine.error = EngineError("out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        tuner(engine).run()


def test_it_is_told_how_far_it_is() -> None:
    told: list[tuple[str, int, int]] = []

    @contextmanager
    def counting(what: str, of: int) -> Iterable[object]:  # type: ignore[misc]
        counts: list[int] = []
        yield lambda said, count: counts.append(count)
        told.append((what, of, sum(counts)))

    found = tuner().run(counting)  # type: ignore[arg-type]
    assert told == [
        ("first answers", len(PROMPTS), len(PROMPTS)),
        ("answers of settings", total(found.rounds) * 91, total(found.rounds) * 91),
    ]


def test_the_sampling_is_used() -> None:
    kept: list[Trial] = []
    tuner(sampling=Sampling(max_new_tokens=2), keep=kept.append).run()
    assert {trial.tokens for trial in kept if trial.setting is None} == {2}
