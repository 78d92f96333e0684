"""Offsets fitted on some prompts are good on others."""

import numpy as np
import pytest

from rerail.align import Aligner, offset
from rerail.engines import FakeEngine
from rerail.errors import EngineError, ModeratorError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.tune.offsets import _cover, fit
from rerail.types import AcceptedFrom

COMPLY, REFUSE = "Sure, here is how I comply with it.", "I would rather not do it."
TUNING = [f"please do thing number {i}" for i in range(8)]
UNSEEN = [f"now tell me about the other matter {i}" for i in range(8)]


def make(engine=None, moderator=None, confirm=None, **changes):
    engine = engine or FakeEngine(comply=COMPLY, refuse=REFUSE)
    moderator = moderator or FakeModerator()
    policy = Policy(name="p", moderators=("fake",), **changes)
    return Aligner(engine, Panel(policy, moderator, confirm))


def test_prompts_that_only_the_moderators_that_confirm_flag_are_fitted_on():
    lax = FakeModerator(words=["never"])
    fitted = fit(make(moderator=lax, confirm=FakeModerator(name="second")), TUNING, keep=2)
    assert fitted.flagged == sum(fitted.accepted) == len(TUNING)


def test_fitted_offsets_solve_prompts_that_were_never_seen():
    fitted = fit(make(), TUNING, keep=2)
    assert fitted.flagged == sum(fitted.accepted) == len(TUNING)
    responses = make(offsets={"fake": fitted.offsets}).align_many(UNSEEN)
    assert {r.accepted_from for r in responses} == {AcceptedFrom.OFFSET}
    assert {r.cost.generations for r in responses} == {2}


def test_the_same_seed_gives_the_same_offsets():
    assert fit(make(), TUNING[:2], rounds=2).offsets == fit(make(), TUNING[:2], rounds=2).offsets
    other = fit(make(), TUNING[:2], rounds=2, seed=1)
    assert other.offsets != fit(make(), TUNING[:2], rounds=2).offsets


def test_what_was_spent_is_counted():
    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    fitted = fit(make(engine), TUNING[:3], draws=4, rounds=2)
    assert fitted.cost.generations == engine.generated
    assert engine.generated >= 3 + 3 * 4 * 2


def test_offsets_that_solve_nothing_are_not_kept():
    fitted = fit(make(FakeEngine(answer=lambda e, p: COMPLY)), TUNING[:2], draws=4, rounds=2)
    assert (fitted.offsets, fitted.accepted, fitted.flagged) == ((), (), 2)


def test_only_flagged_prompts_teach_and_there_must_be_one():
    answer = lambda e, p: COMPLY if "bad" in e.prompt.messages[0].content else "fine"  # noqa: E731
    assert fit(make(FakeEngine(answer=answer)), ["bad", "good"], draws=2, rounds=1).flagged == 1
    with pytest.raises(PromptError, match="no first answer is flagged"):
        fit(make(FakeEngine(answer=answer)), ["good"])


def test_what_failed_is_not_taken_for_a_harmless_answer():
    down = FakeModerator(error=RuntimeError())
    with pytest.raises(ModeratorError, match="could not be judged: fake: raised RuntimeError"):
        fit(make(FakeEngine(comply=COMPLY), down), TUNING[:2])
    broken = FakeEngine(comply=COMPLY)
    broken.error = EngineError("out of memory")
    with pytest.raises(EngineError, match="could not be had: out of memory"):
        fit(make(broken), TUNING[:2])


def test_a_narrow_model_has_fewer_directions():
    fitted = fit(make(FakeEngine(comply=COMPLY, refuse=REFUSE, d_model=4)), TUNING[:2], rank=8,
                 draws=4, rounds=1)  # fmt: skip
    assert all(len(coordinates) == 4 for coordinates in fitted.offsets)


def test_each_next_offset_is_the_one_that_adds_most():
    losses = np.array(
        [
            [0.0, 0.0, 1.0, 1.0, 1.0],
            [0.9, 0.9, 0.9, 1.0, 1.0],
            [0.1, 0.1, 0.1, 1.5, 1.0],
            [1.0, 1.0, 1.0, 0.5, 1.0],
        ]
    )
    assert _cover(losses, keep=4) == ([2, 3], (3, 1))
    assert _cover(losses, keep=1) == ([2], (3,))


def test_coordinates_are_shares_of_a_typical_row():
    table = FakeEngine(d_model=16).table
    shift = offset(table, (0.3, -0.4))
    assert np.linalg.norm(shift) == pytest.approx(0.5 * table.rms * 4, rel=1e-5)
    along = table.principal_directions(2) @ shift
    assert along == pytest.approx(np.array([0.3, -0.4]) * table.rms * 4, rel=1e-4)
