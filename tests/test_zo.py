"""Estimators against closed forms; identities of directions and projections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rerail import zo

ROWS, WIDTH = 3, 6


def orthonormal(rank, width=WIDTH, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, rank)))
    return q.T.astype(np.float32)


BASIS = orthonormal(2)
FAMILIES = {
    "rows": zo.independent_rows,
    "shared": zo.shared_offset,
    "rows in subspace": zo.within(zo.independent_rows, BASIS),
    "shared in subspace": zo.within(zo.shared_offset, BASIS),
    "mixed": zo.mixture([zo.independent_rows, zo.shared_offset], [0.5, 0.5]),
    "orthogonal rows": zo.orthogonal(zo.independent_rows),
    "orthogonal shared in subspace": zo.orthogonal(zo.within(zo.shared_offset, BASIS)),
}


def second_moment(name):
    """E[u uᵀ] of a flattened direction, in closed form."""
    eye_rows, ones = np.eye(ROWS), np.ones((ROWS, ROWS))
    eye, plane = np.eye(WIDTH), WIDTH / len(BASIS) * BASIS.T @ BASIS
    return {
        "rows": np.kron(eye_rows, eye),
        "shared": np.kron(ones, eye),
        "rows in subspace": np.kron(eye_rows, plane),
        "shared in subspace": np.kron(ones, plane),
        "mixed": np.kron((eye_rows + ones) / 2, eye),
        "orthogonal rows": np.kron(eye_rows, eye),
        "orthogonal shared in subspace": np.kron(ones, plane),
    }[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_family_has_its_closed_form_moments(name, rng):
    blocks = [FAMILIES[name](rng, 4, ROWS, WIDTH).reshape(4, -1) for _ in range(5000)]
    u = np.concatenate(blocks)
    assert u.dtype == np.float32
    np.testing.assert_allclose(u.mean(axis=0), 0, atol=0.08)
    np.testing.assert_allclose(u.T @ u / len(u), second_moment(name), atol=0.16)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_every_family_have_the_same_mean_square_length(name, rng):
    u = np.concatenate([FAMILIES[name](rng, 4, ROWS, WIDTH) for _ in range(5000)])
    assert np.mean(np.sum(u**2, axis=-1)) == pytest.approx(WIDTH, rel=0.03)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_repeats_with_its_seed(name):
    first, second = (FAMILIES[name](np.random.default_rng(7), 5, ROWS, WIDTH) for _ in "ab")
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_difference_of_a_linear_function_is_the_moment_times_its_slope(name, rng):
    # f(x) = <a, x>: E[g] = E[u uᵀ] a, whatever the scale.
    slope = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    u = np.concatenate([FAMILIES[name](rng, 4, ROWS, WIDTH) for _ in range(10000)])
    values = 0.3 * np.tensordot(u, slope, axes=2)
    g = zo.forward_difference(0.0, values, u, 0.3)
    expected = (second_moment(name) @ slope.ravel()).reshape(ROWS, WIDTH)
    np.testing.assert_allclose(g, expected, atol=0.12 * np.abs(expected).max() + 0.1)


def test_centered_difference_of_few_directions_is_unbiased(rng):
    # f(x) = <a, x> + c: E[g] = a for N = 3, whatever c.
    slope = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    estimates = []
    for _ in range(20000):
        u = zo.independent_rows(rng, 3, ROWS, WIDTH)
        values = 7.0 + 0.3 * np.tensordot(u, slope, axes=2)
        estimates.append(zo.centered_difference(values, u, 0.3))
    np.testing.assert_allclose(np.mean(estimates, axis=0), slope, atol=0.15)


def test_centered_difference_does_not_see_what_all_values_share(rng):
    u = zo.independent_rows(rng, 8, ROWS, WIDTH)
    values = rng.standard_normal(8)
    g = zo.centered_difference(values, u, 0.3)
    np.testing.assert_allclose(zo.centered_difference(values + 100.0, u, 0.3), g, atol=1e-4)
    centred = zo.forward_difference(float(values.mean()), values, u, 0.3)
    np.testing.assert_allclose(g, centred * 8 / 7, rtol=1e-5)


def test_antithetic_difference_of_a_quadratic_is_exact_in_expectation(rng):
    # f(x) = ½ xᵀAx: the even part cancels, E[g] = A x.
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    diagonal = rng.uniform(0.5, 2, (ROWS, WIDTH)).astype(np.float32)

    def f(points):
        return 0.5 * np.sum(diagonal * points**2, axis=(-2, -1))

    u = zo.independent_rows(rng, 60000, ROWS, WIDTH)
    g = zo.antithetic_difference(f(x + 0.5 * u), f(x - 0.5 * u), u, 0.5)
    np.testing.assert_allclose(g, diagonal * x, atol=0.1)


def test_full_orthogonal_set_of_antithetic_differences_is_the_exact_gradient(rng):
    # With N = dimension orthogonal directions of length √dimension, uᵢuᵢᵀ sums to N·identity.
    dimension = ROWS * WIDTH
    x = rng.standard_normal((ROWS, WIDTH))
    u = zo.orthogonal(zo.independent_rows)(rng, dimension, ROWS, WIDTH)
    u *= np.sqrt(dimension) / np.linalg.norm(u, axis=(1, 2), keepdims=True)

    def f(points):
        return 0.5 * np.sum(points**2, axis=(-2, -1))

    g = zo.antithetic_difference(f(x + 0.1 * u), f(x - 0.1 * u), u, 0.1)
    np.testing.assert_allclose(g, x, atol=1e-3)


def test_forward_difference_of_a_step_is_the_gaussian_density_at_the_step(rng):
    # f(x) = 1[x₀ > c]: f_μ is a normal cdf, so ∂f_μ/∂x₀ = φ((x₀ − c)/μ)/μ, and 0 elsewhere.
    scale, gap = 0.5, 0.4
    u = zo.independent_rows(rng, 200000, 1, 2)
    values = (scale * u[:, 0, 0] > gap).astype(float)
    g = zo.forward_difference(0.0, values, u, scale)
    density = np.exp(-0.5 * (gap / scale) ** 2) / np.sqrt(2 * np.pi) / scale
    np.testing.assert_allclose(g, [[density, 0.0]], atol=0.01)


def test_equal_values_give_exactly_no_gradient(rng):
    u = zo.independent_rows(rng, 8, ROWS, WIDTH)
    assert not zo.forward_difference(0.7, np.full(8, 0.7), u, 0.1).any()
    assert not zo.antithetic_difference(np.full(8, 0.7), np.full(8, 0.7), u, 0.1).any()
    assert not zo.centered_difference(np.full(8, 0.75), u, 0.1).any()


def test_shared_family_moves_all_rows_alike(rng):
    u = zo.shared_offset(rng, 4, ROWS, WIDTH)
    np.testing.assert_array_equal(u, np.broadcast_to(u[:, :1], u.shape))


def test_within_stays_in_the_span(rng):
    u = FAMILIES["rows in subspace"](rng, 8, ROWS, WIDTH)
    np.testing.assert_allclose(u - u @ BASIS.T @ BASIS, 0, atol=1e-5)


def test_within_rejects_another_width(rng):
    with pytest.raises(ValueError, match="d_model = 6, not 5"):
        FAMILIES["rows in subspace"](rng, 1, ROWS, 5)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.6], [-0.5, 1.5]])
def test_mixture_rejects_shares_that_are_no_shares(shares):
    with pytest.raises(ValueError, match="share"):
        zo.mixture([zo.independent_rows, zo.shared_offset], shares)


@given(num=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_orthogonal_keeps_lengths_and_orthogonality(num, seed):
    plain = zo.independent_rows(np.random.default_rng(seed), num, ROWS, WIDTH)
    u = zo.orthogonal(zo.independent_rows)(np.random.default_rng(seed), num, ROWS, WIDTH)
    lengths = np.linalg.norm(plain, axis=(1, 2))
    flat = u.reshape(num, -1)
    np.testing.assert_allclose(flat @ flat.T, np.diag(lengths**2), atol=1e-3)


def test_orthogonal_begins_a_new_set_when_the_span_is_full(rng):
    u = FAMILIES["orthogonal shared in subspace"](rng, 6, ROWS, WIDTH).reshape(6, -1)
    assert np.isfinite(u).all()
    gram = u @ u.T / np.outer(np.linalg.norm(u, axis=1), np.linalg.norm(u, axis=1))
    for first in (0, 2, 4):
        assert abs(gram[first, first + 1]) < 1e-3
    np.testing.assert_allclose(u.reshape(6, ROWS, WIDTH) @ (np.eye(WIDTH) - BASIS.T @ BASIS), 0,
                               atol=1e-4)  # fmt: skip


finite = st.floats(-100, 100, width=32)
matrices = arrays(np.float32, (ROWS, WIDTH), elements=finite)


@given(matrices)
def test_normalized_rows_have_length_one_or_zero(g):
    lengths = np.linalg.norm(zo.normalize_rows(g), axis=1)
    zero = np.linalg.norm(g, axis=1) <= 1e-6
    np.testing.assert_allclose(lengths[~zero], 1, rtol=1e-3)
    assert not zo.normalize_rows(np.zeros_like(g)).any()


@given(matrices, st.floats(0.1, 10))
def test_clipped_rows_keep_direction_and_never_exceed_the_limit(g, limit):
    clipped = zo.clip_rows(g, limit)
    assert (np.linalg.norm(clipped, axis=1) <= limit * (1 + 1e-4)).all()
    short = np.linalg.norm(g, axis=1) <= limit
    np.testing.assert_array_equal(clipped[short], g[short])
    np.testing.assert_allclose(np.cross(clipped[:, :3], g[:, :3]), 0, atol=0.05)


@given(matrices, matrices, st.floats(-0.99, 0.99))
def test_projection_keeps_the_length_and_reaches_the_floor(x, x0, floor):
    if np.linalg.norm(x0) < 1e-2 or np.linalg.norm(x) < 1e-2:
        return
    y = zo.project_cosine(x, x0, floor)
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-4)
    assert zo.cosine(y, x0) >= floor - 1e-4
    np.testing.assert_allclose(zo.project_cosine(y, x0, floor - 1e-4), y, rtol=1e-5)


def test_projection_leaves_a_point_within_the_floor_alone(rng):
    x0 = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    x = x0 + 0.1
    assert zo.project_cosine(x, x0, 0.5) is x


def test_projection_of_the_opposite_point_falls_back_on_the_original_direction(rng):
    x0 = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(zo.project_cosine(-2 * x0, x0, 0.3), 2 * x0, rtol=1e-5)


def test_projection_is_the_nearest_such_point(rng):
    x0 = rng.standard_normal((2, 2)).astype(np.float32)
    x = rng.standard_normal((2, 2)).astype(np.float32) - 2 * x0
    y = zo.project_cosine(x, x0, 0.6)
    for _ in range(2000):
        other = x0 / np.linalg.norm(x0) + 1.5 * rng.standard_normal((2, 2)).astype(np.float32)
        other *= np.linalg.norm(x) / np.linalg.norm(other)
        if zo.cosine(other, x0) >= 0.6:
            assert np.linalg.norm(other - x) >= np.linalg.norm(y - x) - 1e-4


@given(st.integers(1, 9), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_fade_takes_a_share_of_at_least_one_row_and_leaves_the_others(rows, one, other, share):
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    shift = zo.fade(x, min(one, other), max(one, other), share)
    gone = shift.any(axis=1)
    assert gone.any() or share < 1e-30
    assert shift[gone] == pytest.approx(-share * x[gone])
    places = np.flatnonzero(gone)
    assert len(places) == 0 or places.tolist() == list(range(places[0], places[-1] + 1))
    assert not (x + zo.fade(x, 0.0, 1.0, 1.0)).any()
