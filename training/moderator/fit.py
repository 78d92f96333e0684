"""Logistic regressions over hashed n-grams: soft labels, weights, sources held down."""

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
FOR, AGAINST = 2000.0, 800.0
"""What one source weighs at most, for a head and against it."""


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
    penalty: float,
    iterations: int,
) -> tuple[NDArray[np.float64], float]:
    """Minimise Σ_i w_i · CE(y_i, σ(x_i·v + b)) + penalty/2 · ‖v‖².

    One head at a time: of many fitted together, the rare ones are not done when the others are.

    Args:
        x: ``(n, d)`` features.
        labels: ``(n,)`` in [0, 1].
        weights: ``(n,)``.
        penalty: of the weights; the bias is free.
        iterations: of L-BFGS.

    Returns:
        ``(d,)`` weights and the bias.
    """
    used = np.flatnonzero(np.bincount(x.indices, minlength=x.shape[1]))
    xs = csr_matrix(x[:, used])
    xt = csr_matrix(xs.T)
    y, w = labels.astype(np.float32), weights.astype(np.float32)

    def loss(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = xs @ v[:-1].astype(np.float32) + np.float32(v[-1])
        value = float((w * (np.logaddexp(0, z) - y * z)).sum(dtype=np.float64))
        value += 0.5 * penalty * float((v[:-1] ** 2).sum())
        g = w * (0.5 * (1 + np.tanh(0.5 * z)) - y)
        grad = np.append(xt @ g + penalty * v[:-1], g.sum(dtype=np.float64))
        return value, grad

    start = np.zeros(len(used) + 1)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxcor": 8}
    )
    full = np.zeros(x.shape[1])
    full[used] = found.x[:-1]
    return full, float(found.x[-1])


def capped(
    sources: Sequence[str], y: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``(2, n)`` what each row says for a head, ``w · y``, and against it, ``w · (1 − y)``.

    No source says more than `FOR` and `AGAINST` in all: a large one would drown the others, and
    with them the kinds of text that it does not have.
    """
    said = np.stack((w * y, w * (1.0 - y)))
    names = np.array(sources)
    for name in dict.fromkeys(sources):
        mine = names == name
        total = np.maximum(said[:, mine].sum(axis=1), 1e-9)
        said[:, mine] *= np.minimum(1.0, np.array([FOR, AGAINST]) / total)[:, None]
    return said


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
