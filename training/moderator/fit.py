"""Many logistic regressions at once over hashed n-grams: soft labels, unknown labels, weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, diags

from rerail.moderators._ngrams import split_words
from rerail.moderators.embedded import Layout, Table

PRIOR = 1000
"""Mass of an empty text: about that of a word of six letters."""


def counts(texts: Sequence[str], layout: Layout) -> csr_matrix:
    """``(n_texts, 2**bits)`` how often each bucket occurs in each text."""
    parts = []
    for at in range(0, len(texts), 2000):
        words = split_words(texts[at : at + 2000])
        n = len(words.texts) - 1
        text = np.repeat(np.arange(n), np.diff(words.texts))
        rows, columns = [], []
        for buckets, first in layout.grams(words):
            rows.append(text[first])
            columns.append(buckets)
        row, column = np.concatenate(rows), np.concatenate(columns)
        ones = np.ones(len(row), np.float32)
        parts.append(csr_matrix((ones, (row, column)), shape=(n, 1 << layout.bits)))
    return _stack(parts)


def _stack(parts: list[csr_matrix]) -> csr_matrix:
    from scipy.sparse import vstack

    return csr_matrix(vstack(parts, format="csr"))


def masses(x: csr_matrix, min_df: int) -> tuple[NDArray[np.uint8], float]:
    """Squared idf of each bucket as 8-bit integers, and the unit; rare buckets still count."""
    df = np.bincount(x.indices, minlength=x.shape[1])
    idf = np.log((1 + x.shape[0]) / (1 + np.maximum(df, min_df))) + 0.3
    squared = idf**2
    unit = float(squared.max() / 255)
    return np.maximum(1, np.rint(squared / unit)).astype(np.uint8), unit


def scaled(x: csr_matrix, mass: NDArray[np.uint8], unit: float) -> csr_matrix:
    """tf · idf / sqrt(prior + Σ tf · idf²): what a `Table` sees of a whole text."""
    norm = np.sqrt(unit * (PRIOR + x @ mass.astype(np.float64)))
    idf = np.sqrt(unit * mass.astype(np.float64))
    return csr_matrix(diags(1 / norm) @ x @ diags(idf)).astype(np.float32)


def fit_logistic(
    x: csr_matrix,
    labels: NDArray[np.float64],
    weights: NDArray[np.float64],
    penalty: Sequence[float],
    iterations: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimise Σ_i w_ik · CE(y_ik, σ(x_i·v_k + b_k)) + penalty_k/2 · ‖v_k‖² for all heads k.

    Args:
        x: ``(n, d)`` features.
        labels: ``(n, heads)`` in [0, 1].
        weights: ``(n, heads)``; 0 = label unknown.
        penalty: ``(heads,)``, of the weights; the biases are free.
        iterations: of L-BFGS.

    Returns:
        ``(d, heads)`` weights and ``(heads,)`` biases.
    """
    used = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))
    xs = csr_matrix(x[:, used])
    xt = csr_matrix(xs.T)
    heads = labels.shape[1]
    shrink = np.asarray(penalty, float)
    y, w = labels.astype(np.float32), weights.astype(np.float32)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        v = flat.reshape(-1, heads)
        z = np.asarray(xs @ v[:-1].astype(np.float32)) + v[-1].astype(np.float32)
        p = 0.5 * (1 + np.tanh(0.5 * z))
        value = float((w * (np.logaddexp(0, z) - y * z)).sum(dtype=np.float64))
        value += 0.5 * float(((v[:-1] ** 2).sum(axis=0) * shrink).sum())
        g = w * (p - y)
        grad = np.empty_like(v)
        grad[:-1] = np.asarray(xt @ g) + shrink * v[:-1]
        grad[-1] = g.sum(axis=0, dtype=np.float64)
        return value, grad.ravel()

    start = np.zeros((len(used) + 1) * heads)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 8}
    )
    v = found.x.reshape(-1, heads)
    full = np.zeros((x.shape[1], heads))
    full[used] = v[:-1]
    return full, v[-1]


def quantised(
    layout: Layout,
    v: NDArray[np.float64],
    bias: NDArray[np.float64],
    mass: NDArray[np.uint8],
    unit: float,
) -> Table:
    """The models as integers: idf folded into the weights, the largest 0.05 % clipped."""
    folded = v * np.sqrt(unit * mass.astype(np.float64))[:, None]
    scale = np.empty(v.shape[1])
    for k in range(v.shape[1]):
        size = np.abs(folded[:, k])
        live = size[size > 0]
        scale[k] = (np.quantile(live, 0.9995) if live.size else 1.0) / 127
    weights = np.clip(np.rint(folded / scale), -127, 127).astype(np.int8)
    return Table(layout, weights, mass, scale, bias, unit, PRIOR)
