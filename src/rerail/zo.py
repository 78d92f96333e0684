"""Zeroth-order estimation as pure functions of arrays and an explicit generator.

Notation: a point x is ``(n_rows, d_model)``; directions u are ``(num, n_rows, d_model)``; f is a
loss that can be evaluated but not differentiated; μ is the length scale of the smoothing

    f_μ(x) = E[f(x + μu)],    ∇f_μ(x) = E[(f(x + μu) − f(x)) u] / μ    (u standard Gaussian),

Nesterov & Spokoiny, "Random Gradient-Free Minimization of Convex Functions", 2017, eqs. 9 and 22.
The row normalisation and the cosine floor are those of arXiv 2602.02498.

A *direction family* draws directions. Every family here draws rows with E‖row‖² = d_model, so
that a scale μ means the same length whatever the family. With P the projection on the space a
family covers and k its dimension per row, E[uuᵀ] = (d_model/k)·P for independent rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rerail.types import FloatArray

Directions = Callable[[np.random.Generator, int, int, int], FloatArray]
"""``family(generator, num, n_rows, d_model)`` gives ``(num, n_rows, d_model)`` directions."""

_TINY = 1e-12
_DEPENDENT = 1e-3
_ROUNDING = 1e-6


def independent_rows(
    generator: np.random.Generator, num: int, n_rows: int, d_model: int
) -> FloatArray:
    """Standard Gaussian entries, every row by itself: the published family."""
    return generator.standard_normal((num, n_rows, d_model), dtype=np.float32)


def shared_offset(
    generator: np.random.Generator, num: int, n_rows: int, d_model: int
) -> FloatArray:
    """One standard Gaussian offset per direction, the same for all rows."""
    offsets = generator.standard_normal((num, 1, d_model), dtype=np.float32)
    return np.repeat(offsets, n_rows, axis=1)


def within(family: Directions, basis: FloatArray) -> Directions:
    """The family drawn inside the span of ``basis``: u = √(d_model/k) · z V.

    Args:
        family: draws the coordinates z, ``(num, n_rows, k)``.
        basis: V, ``(k, d_model)`` with orthonormal rows.
    """
    rank, width = basis.shape
    lift = np.float32(np.sqrt(width / rank)) * basis

    def draw(generator: np.random.Generator, num: int, n_rows: int, d_model: int) -> FloatArray:
        if d_model != width:
            raise ValueError(f"the basis is for d_model = {width}, not {d_model}")
        return family(generator, num, n_rows, rank) @ lift

    return draw


def mixture(families: Sequence[Directions], shares: Sequence[float]) -> Directions:
    """The sum Σ √share · u of independent draws of several families.

    Args:
        families: at least one.
        shares: of the variance, one per family, not negative; they sum to 1.
    """
    if len(families) != len(shares) or min(shares) < 0 or not np.isclose(sum(shares), 1.0):
        raise ValueError("a mixture needs one share per family, not negative, with sum 1")

    def draw(generator: np.random.Generator, num: int, n_rows: int, d_model: int) -> FloatArray:
        parts = [
            np.float32(np.sqrt(share)) * family(generator, num, n_rows, d_model)
            for family, share in zip(families, shares, strict=True)
        ]
        return np.asarray(np.sum(parts, axis=0), dtype=np.float32)

    return draw


def orthogonal(family: Directions) -> Directions:
    """The family's directions made orthogonal to each other by Gram-Schmidt, lengths kept.

    A direction that depends linearly on those before it begins a new orthogonal set: with more
    directions than dimensions, each full set is orthogonal in itself.
    """

    def draw(generator: np.random.Generator, num: int, n_rows: int, d_model: int) -> FloatArray:
        directions = family(generator, num, n_rows, d_model).reshape(num, -1)
        frame: list[FloatArray] = []
        for i, direction in enumerate(directions):
            length = float(np.linalg.norm(direction))
            residual = direction.copy()
            for axis in frame:
                residual -= (axis @ residual) * axis
            rest = float(np.linalg.norm(residual))
            if rest <= _DEPENDENT * length:
                frame, residual, rest = [], direction, length
            axis = residual / max(rest, _TINY)
            frame.append(axis)
            directions[i] = length * axis
        return directions.reshape(num, n_rows, d_model)

    return draw


def fade(x: FloatArray, first: float, last: float, share: float) -> FloatArray:
    """The shift −s·xᵢ of the rows between two parts of x, and none of the others.

    Args:
        x: ``(n_rows, d_model)``.
        first: part of n_rows, in [0, 1], behind which rows fade.
        last: part behind which they do not; at least one row does.
        share: s; where it is 1 nothing is left of them.
    """
    start = min(round(first * len(x)), len(x) - 1)
    rows = slice(start, max(round(last * len(x)), start + 1))
    shift = np.zeros_like(x)
    shift[rows] = -share * x[rows]
    return shift


def forward_difference(
    base: float, values: NDArray[np.float64], directions: FloatArray, scale: float
) -> FloatArray:
    """Estimate ∇f_μ(x) without bias by g = 1/N Σᵢ (f(x + μuᵢ) − f(x)) / μ · uᵢ.

    Args:
        base: f(x).
        values: ``(N,)``, f(x + μuᵢ).
        directions: ``(N, n_rows, d_model)``, uᵢ.
        scale: μ > 0.
    """
    return _weighted_mean((np.asarray(values) - base) / scale, directions)


def antithetic_difference(
    plus: NDArray[np.float64], minus: NDArray[np.float64], directions: FloatArray, scale: float
) -> FloatArray:
    """Estimate ∇f_μ(x) without bias by g = 1/N Σᵢ (f(x + μuᵢ) − f(x − μuᵢ)) / 2μ · uᵢ.

    Args:
        plus: ``(N,)``, f(x + μuᵢ).
        minus: ``(N,)``, f(x − μuᵢ).
        directions: ``(N, n_rows, d_model)``, uᵢ.
        scale: μ > 0.
    """
    return _weighted_mean((np.asarray(plus) - np.asarray(minus)) / (2 * scale), directions)


def centered_difference(
    values: NDArray[np.float64], directions: FloatArray, scale: float
) -> FloatArray:
    """Estimate ∇f_μ(x) without bias by g = 1/(N − 1) Σᵢ (f(x + μuᵢ) − f̄) / μ · uᵢ.

    f̄ is the mean of the N values. A constant that all of them share drops out, where a forward
    difference adds it times Σ uᵢ: noise wherever f(x) is not what f(x + μu) is on average.

    Args:
        values: ``(N,)`` with N ≥ 2, f(x + μuᵢ).
        directions: ``(N, n_rows, d_model)``, uᵢ.
        scale: μ > 0.
    """
    spread = np.asarray(values) - np.mean(values)
    return _weighted_mean(spread * (len(spread) / (len(spread) - 1)) / scale, directions)


def normalize_rows(gradient: FloatArray) -> FloatArray:
    """Every row at unit length; a row of zeros stays."""
    norms = np.linalg.norm(gradient, axis=-1, keepdims=True)
    safe = np.where(norms > _TINY, norms, 1.0)
    return np.asarray(np.where(norms > _TINY, gradient / safe, 0.0), dtype=np.float32)


def normalize_matrix(gradient: FloatArray) -> FloatArray:
    """All rows together at unit length (arXiv 2604.26167, Algorithm 1); zeros stay."""
    norm = float(np.linalg.norm(gradient))
    return np.asarray(gradient / norm if norm > _TINY else gradient, dtype=np.float32)


def clip_rows(gradient: FloatArray, limit: float = 1.0) -> FloatArray:
    """Every row at most at length ``limit``."""
    norms = np.linalg.norm(gradient, axis=-1, keepdims=True)
    shrink = np.minimum(1.0, limit / np.maximum(norms, _TINY))
    return np.asarray(gradient * shrink, dtype=np.float32)


def project_cosine(x: FloatArray, x0: FloatArray, min_cosine: float) -> FloatArray:
    """The nearest point of x's length whose cosine with x0, both flattened, is at least τ.

    x stays if cos(x, x0) ≥ τ; else ‖x‖ · (τ e₀ + √(1 − τ²) e⊥) with e₀ = x0/‖x0‖ and e⊥ the
    direction of x's part orthogonal to x0. Where x has none, ‖x‖ · e₀.
    """
    length = float(np.linalg.norm(x))
    if length <= _TINY or cosine(x, x0) >= min_cosine:
        return x
    unit = x0.astype(np.float64) / np.linalg.norm(x0)
    across = x - np.vdot(unit, x.astype(np.float64)) * unit
    height = np.linalg.norm(across)
    if height <= _ROUNDING * length:
        return np.asarray(length * unit, dtype=np.float32)
    sine = np.sqrt(1.0 - min_cosine**2)
    tilted = min_cosine * unit + sine * across / height
    return np.asarray(length * tilted, dtype=np.float32)


def cosine(x: FloatArray, y: FloatArray) -> float:
    """Cosine of the flattened arrays; 0 if one of them is zero."""
    x64, y64 = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    norms = np.linalg.norm(x64) * np.linalg.norm(y64)
    return float(x64 @ y64 / norms) if norms > _TINY else 0.0


def _weighted_mean(weights: NDArray[np.float64], directions: FloatArray) -> FloatArray:
    mean = np.tensordot(weights, directions, axes=1) / len(weights)
    return np.asarray(mean, dtype=np.float32)
