"""The search on functions of which everything is known: no model is near."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rerail import zo
from rerail.optimizer import FADES, Optimizer, Units, direction_family
from rerail.settings import OptimizerSettings
from rerail.types import AcceptedFrom, StopReason

ROWS, WIDTH = 4, 8
BASIS = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
UNITS = Units(1.0, math.sqrt(WIDTH), BASIS)
ALL_ROWS = np.ones(ROWS, dtype=bool)


def quadratic(x):
    return float(np.mean((x - 2.0) ** 2))


def linear(x):
    return float(np.mean(x)) + 5.0


def step(x):
    return float(np.mean(x) > -0.06)


def ill_conditioned(x):
    return float(np.mean(np.geomspace(0.1, 10, WIDTH) * (x - 0.5) ** 2))


FUNCTIONS = {"quadratic": quadratic, "linear": linear, "step": step, "ill": ill_conditioned}


def start(seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((ROWS, WIDTH)).astype(np.float32)


def run(optimizer, f, goal=-math.inf, rounds=1000):
    """Drive a search to its end; every told (candidate, loss)."""
    told = []
    for _ in range(rounds):
        if optimizer.stop():
            return told
        candidates = optimizer.ask()
        losses = [f(c.point) for c in candidates]
        told += zip(candidates, losses, strict=True)
        optimizer.tell(losses, [loss < goal for loss in losses])
    raise AssertionError("the search does not end")


def make(preset="fast", mask=ALL_ROWS, x0=None, seed=3, units=UNITS, **changes):
    chosen = OptimizerSettings.of(preset, **{"use_fades": False} | changes)
    x0 = start() if x0 is None else x0
    return Optimizer(x0, mask, chosen, lambda: units, np.random.default_rng(seed))


DESCENTS = {
    "tide": {"preset": "tide"},
    "tsa": {"preset": "tsa", "perturbation_scale": 0.1, "step_size": 1.0},
    "fast": {"preset": "fast", "subspace_rank": None, "accept_perturbations": False,
             "anchored": True, "step_size": 1.2},
    "rows forward": {"directions": "rows", "subspace_rank": None},
    "rows antithetic": {"directions": "rows", "subspace_rank": None, "estimator": "antithetic"},
    "shared forward": {"directions": "shared", "subspace_rank": None},
    "shared antithetic": {"directions": "shared", "estimator": "antithetic"},
    "shared centered": {"directions": "shared", "estimator": "centered"},
    "mixed": {"directions": "mixed", "subspace_rank": None, "orthogonalize": True},
    "subspace": {"directions": "shared", "subspace_rank": WIDTH},
    "clip": {"directions": "rows", "subspace_rank": None, "normalization": "clip",
             "step_size": 0.3},
    "unnormalised": {"directions": "rows", "subspace_rank": None, "normalization": "none",
                     "step_size": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", DESCENTS)
def test_every_optimiser_descends_on_every_function(name, function):
    changes = {
        "max_iterations": 80, "num_directions": 16, "step_size": 0.05, "min_cosine": -1.0,
        "perturbation_scale": 0.2, "max_perturbation_scale": 1.0, "spread_floor": 0.0,
        "anchored": False,
    } | DESCENTS[name]  # fmt: skip
    optimizer = make(**changes)
    f = FUNCTIONS[function]
    run(optimizer, f)
    first = f(start())
    goal = {"step": 0.5, "linear": first - 1, "quadratic": 0.6 * first, "ill": 0.75 * first}
    assert optimizer.best.loss < goal[function]


def test_anchored_steps_stay_at_their_length_and_turn_to_the_slope():
    told = run(make("fast", max_iterations=60, subspace_rank=None, spread_floor=0.0), linear)
    moves = [c.point - start() for c, _ in told if c.origin is AcceptedFrom.ITERATE]
    norms = [np.linalg.norm(move, axis=1) for move in moves]
    np.testing.assert_allclose(norms, 0.2 * UNITS.step, rtol=1e-3)
    down = -np.ones_like(moves[0])
    assert zo.cosine(moves[-1], down) > max(0.9, zo.cosine(moves[0], down))


@pytest.mark.parametrize("preset", ["fast", "tide", "random"])
def test_first_ask_is_the_start_itself(preset):
    optimizer = make(preset)
    (first,) = optimizer.ask()
    assert first.origin is AcceptedFrom.INITIAL
    np.testing.assert_array_equal(first.point, start())


@pytest.mark.parametrize("preset", ["fast", "tide", "random"])
def test_an_accepted_start_costs_one_evaluation(preset):
    optimizer = make(preset)
    told = run(optimizer, quadratic, goal=math.inf)
    assert optimizer.stop() is StopReason.ACCEPTED
    assert len(told) == 1
    assert optimizer.ask() == []


@pytest.mark.parametrize("preset", ["fast", "tide", "random"])
def test_no_iterations_is_one_evaluation(preset):
    optimizer = make(preset, max_iterations=0)
    assert len(run(optimizer, quadratic)) == 1
    assert optimizer.stop() is StopReason.BUDGET


def test_fades_come_once_after_what_is_known_and_are_no_directions():
    optimizer = make(use_fades=True, min_cosine=-1.0)
    (first,) = optimizer.ask()
    optimizer.tell([1.5], [False])
    faded = []
    while optimizer.next is AcceptedFrom.FADE:
        asked = optimizer.ask()
        faded += asked
        optimizer.tell([1.4] * len(asked), [False] * len(asked))
    assert optimizer.iterations == 0
    shares = [(1 - c.point / first.point).mean(axis=1) for c in faded]
    assert len(shares) == len(FADES)
    size = len(first.point)
    for share, (begin, end, part) in zip(shares, FADES, strict=True):
        within = [round(begin * size) <= i < round(end * size) for i in range(size)]
        assert share == pytest.approx(np.where(within, part, 0.0), abs=1e-6)
    assert {c.origin for c in optimizer.ask()} == {AcceptedFrom.PERTURBATION}


def test_known_offsets_are_asked_before_anything_else_and_within_the_cosine_floor():
    mask = np.array([True, False, True, True])
    offsets = (np.full(WIDTH, 0.01), np.full(WIDTH, -5.0))
    units = Units(1.0, math.sqrt(WIDTH), BASIS, offsets)
    told = run(make("fast", mask=mask, units=units, max_iterations=1), linear)
    assert [c.origin for c, _ in told[:4]] == [
        AcceptedFrom.INITIAL, AcceptedFrom.OFFSET, AcceptedFrom.OFFSET, AcceptedFrom.PERTURBATION
    ]  # fmt: skip
    x0, near, far = (candidate.point for candidate, _ in told[:3])
    np.testing.assert_allclose((near - x0)[mask], 0.01, rtol=1e-4)
    np.testing.assert_array_equal(near[1], x0[1])
    assert zo.cosine(far[mask], x0[mask]) == pytest.approx(0.2, abs=1e-5)


def test_known_offsets_change_nothing_of_what_follows_them():
    units = Units(1.0, math.sqrt(WIDTH), BASIS, (np.full(WIDTH, 0.01),))
    after = [t for t in run(make("fast", units=units), step) if t[0].origin != "offset"]
    without = run(make("fast"), step)
    assert len(after) == len(without)
    for (one, loss), (other, same) in zip(after, without, strict=True):
        np.testing.assert_array_equal(one.point, other.point)
        assert loss == same


@pytest.mark.parametrize("preset", ["tide", "random"])
def test_presets_for_comparison_know_no_offsets(preset):
    units = Units(1.0, math.sqrt(WIDTH), BASIS, (np.full(WIDTH, 0.01),))
    told = run(make(preset, units=units, max_iterations=1), linear)
    assert AcceptedFrom.OFFSET not in {candidate.origin for candidate, _ in told}


def test_as_published_an_iterate_is_asked_for_alone_and_the_last_step_is_not_answered():
    optimizer = make("tide", max_iterations=3)
    sizes, origins = [], []
    while not optimizer.stop():
        asked = optimizer.ask()
        sizes.append(len(asked))
        origins.append(asked[0].origin)
        optimizer.tell([quadratic(c.point) for c in asked], [False] * len(asked))
    assert sizes == [1, 8, 1, 8, 1, 8]
    assert origins[2::2] == [AcceptedFrom.ITERATE] * 2
    assert optimizer.iterations == 3


def test_small_asks_double():
    optimizer = make(num_directions=11, first_ask=1, max_iterations=1, descend=False)
    sizes = []
    while not optimizer.stop():
        asked = optimizer.ask()
        sizes.append(len(asked))
        optimizer.tell([quadratic(c.point) for c in asked], [False] * len(asked))
    assert sizes == [1, 1, 2, 4, 4]


def test_ask_keeps_to_a_limit_and_loses_nothing():
    optimizer = make(num_directions=5, first_ask=4, max_iterations=1, descend=False)
    seen = 0
    while not optimizer.stop():
        asked = optimizer.ask(limit=2)
        assert 1 <= len(asked) <= 2
        seen += len(asked)
        optimizer.tell([1.0 + seen] * len(asked), [False] * len(asked))
    assert seen == 6


def test_as_published_no_perturbation_is_accepted():
    optimizer = make("tide", max_iterations=2)
    optimizer.ask()
    optimizer.tell([3.0], [False])
    asked = optimizer.ask()
    optimizer.tell(list(range(len(asked))), [True] * len(asked))
    assert optimizer.stop() is None
    (iterate,) = optimizer.ask()
    assert iterate.origin is AcceptedFrom.ITERATE
    optimizer.tell([0.0], [True])
    assert optimizer.stop() is StopReason.ACCEPTED


def test_one_step_is_the_published_step():
    # x₁ = x₀ − η·g/‖g‖ per row, g the forward difference over the asked directions.
    optimizer = make("tide", max_iterations=2, min_cosine=-1.0, step_size=0.5,
                     perturbation_scale=0.1, units=Units(2.0, 3.0))  # fmt: skip
    x0 = start()
    (first,) = optimizer.ask()
    optimizer.tell([quadratic(first.point)], [False])
    asked = optimizer.ask()
    losses = np.array([quadratic(c.point) for c in asked])
    directions = np.stack([(c.point - x0) / (0.1 * 2.0) for c in asked])
    optimizer.tell(losses, [False] * len(asked))
    (iterate,) = optimizer.ask()
    g = np.tensordot(losses - quadratic(x0), directions, axes=1)
    expected = x0 - 0.5 * 3.0 * g / np.linalg.norm(g, axis=1, keepdims=True)
    np.testing.assert_allclose(iterate.point, expected, atol=2e-4)


@pytest.mark.parametrize("name", DESCENTS)
def test_rows_that_may_not_move_never_do(name):
    mask = np.array([False, True, True, False])
    optimizer = make(mask=mask, max_iterations=4, **DESCENTS[name])
    for candidate, _ in run(optimizer, quadratic):
        np.testing.assert_array_equal(candidate.point[~mask], start()[~mask])


@given(
    floor=st.floats(0, 0.99), seed=st.integers(0, 1000), preset=st.sampled_from(["fast", "random"])
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_candidates_that_may_be_accepted_keep_the_cosine_floor(floor, seed, preset):
    optimizer = make(preset, seed=seed, min_cosine=floor, max_iterations=4, step_size=2.0,
                     perturbation_scale=1.0, max_perturbation_scale=2.0)  # fmt: skip
    for candidate, _ in run(optimizer, quadratic):
        assert zo.cosine(candidate.point, start()) >= floor - 1e-4


def test_best_point_is_kept_and_belongs_to_its_loss():
    optimizer = make("tide", step_size=1.5, max_iterations=6)
    told = run(optimizer, quadratic)
    best = min(told, key=lambda pair: pair[1])
    assert optimizer.best.loss == best[1]
    assert quadratic(optimizer.best.candidate.point) == best[1]


@pytest.mark.parametrize("preset", ["fast", "tide", "random"])
def test_same_seed_same_search_other_seed_other_search(preset):
    def points(seed):
        return [c.point for c, _ in run(make(preset, seed=seed, max_iterations=2), quadratic)]

    for first, second in zip(points(5), points(5), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(points(5)[1], points(6)[1])


def test_flat_iteration_widens_and_takes_no_step():
    optimizer = make(perturbation_scale=0.1, perturbation_growth=2.0, max_perturbation_scale=0.5,
                     plateau_patience=2, max_iterations=50)  # fmt: skip
    scales = []
    while not optimizer.stop():
        asked = optimizer.ask()
        assert all(c.origin is not AcceptedFrom.ITERATE for c in asked)
        optimizer.tell([1.0] * len(asked), [False] * len(asked))
        scales.append(optimizer.perturbation_scale)
    assert optimizer.stop() is StopReason.PLATEAU
    assert sorted(set(scales)) == [0.1, 0.2, 0.4, 0.5]
    assert optimizer.iterations == 3 + 2


@pytest.mark.parametrize("preset", ["random", "fast"])
@pytest.mark.parametrize(
    ("flat", "ends_after"),
    [
        ([True] * 3, 3),
        ([True, False] * 6, None),
        ([True, True, False] * 4, None),
        ([True, True, False, True, True, True], 6),
    ],
)
def test_only_flat_iterations_in_a_row_are_a_plateau(preset, flat, ends_after):
    """Undirected search has as much patience as a descent."""
    optimizer = make(preset, perturbation_growth=2.0, plateau_patience=3, first_ask=None,
                     max_perturbation_scale=0.6, max_iterations=len(flat) + 1)  # fmt: skip
    optimizer.tell([1.5] * len(optimizer.ask()), [False])
    for number, level in enumerate(flat, 1):
        asked = optimizer.ask()
        losses = [1.5 if level else 1.0 + i / 10 for i in range(len(asked))]
        optimizer.tell(losses, [False] * len(asked))
        assert (optimizer.stop() is StopReason.PLATEAU) == (number == ends_after)
    assert optimizer.iterations == len(flat)


def test_published_loop_repeats_on_a_plateau_until_its_budget():
    optimizer = make("tide", max_iterations=4)
    told = run(optimizer, lambda x: 1.0)
    assert optimizer.stop() is StopReason.BUDGET
    assert len(told) == 4 * (8 + 1)


def test_widening_crosses_a_step_that_the_first_scale_does_not_see():
    def far_step(x):
        return float(abs(np.mean(x)) < 1.5)

    optimizer = make(perturbation_scale=0.05, max_perturbation_scale=4, perturbation_growth=2.0,
                     min_cosine=-1.0, max_iterations=40)  # fmt: skip
    run(optimizer, far_step, goal=0.5)
    assert optimizer.stop() is StopReason.ACCEPTED
    assert optimizer.best.loss == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_missing_loss_counts_as_worst_and_never_as_best(bad):
    optimizer = make("tide", max_iterations=2)
    told = []
    while not optimizer.stop():
        asked = optimizer.ask()
        losses = [bad if i % 3 == 1 else quadratic(c.point) for i, c in enumerate(asked)]
        told += [loss for loss in losses if math.isfinite(loss)]
        optimizer.tell(losses, [False] * len(asked))
    assert optimizer.best.loss == min(told)


def test_no_loss_at_all_ends_the_search():
    optimizer = make("fast")
    run(optimizer, lambda x: math.nan)
    assert optimizer.stop() is StopReason.NON_FINITE


def test_overflow_ends_the_search():
    optimizer = make("tide", step_size=1e30, max_iterations=20, min_cosine=-1.0,
                     units=Units(1.0, 1e20))  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        run(optimizer, lambda x: float(np.clip(np.nan_to_num(np.mean(x)), -1, 1)))
    assert optimizer.stop() is StopReason.NON_FINITE


def test_random_search_never_moves_its_centre():
    optimizer = make("random", max_iterations=5)
    origins = {c.origin for c, _ in run(optimizer, quadratic)}
    assert origins == {AcceptedFrom.INITIAL, AcceptedFrom.PERTURBATION}


def test_ask_twice_and_tell_of_another_number_are_errors():
    optimizer = make()
    optimizer.ask()
    with pytest.raises(RuntimeError, match="before tell"):
        optimizer.ask()
    with pytest.raises(ValueError, match="1 candidates were asked for"):
        optimizer.tell([1.0, 2.0], [False, False])


def test_faults_of_the_caller_are_named():
    with pytest.raises(ValueError, match="no row may move"):
        make(mask=np.zeros(ROWS, dtype=bool))
    with pytest.raises(ValueError, match="does not fit"):
        make(mask=np.ones(ROWS + 1, dtype=bool))
    with pytest.raises(ValueError, match="basis"):
        direction_family(OptimizerSettings.of("fast", subspace_rank=2), None)
