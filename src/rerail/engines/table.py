"""Facts of an embedding table that a search needs, for tables of any size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rerail.types import FloatArray

CHUNK_ROWS = 8192
"""Rows that are looked at together."""


class ChunkedTable:
    """An embedding table read in chunks of rows; the `EmbeddingTable` of every engine.

    Sums are kept in float64, so the figures do not depend on the size of the chunks.

    Args:
        chunks: gives the table anew at each call, as ``(n, d_model)`` float32 arrays in the order
            of the tokens. Each row must be what the model's embedding *module* gives for its
            token, scale factors included.
    """

    def __init__(self, chunks: Callable[[], Iterable[FloatArray]]) -> None:
        self._chunks = chunks
        self._lock = threading.RLock()

    @classmethod
    def of(cls, matrix: Any) -> Self:
        """A table that lies in memory: ``(vocabulary, d_model)``, a numpy array or torch tensor."""
        if hasattr(matrix, "detach"):
            matrix = matrix.detach().cpu().float().numpy()
        rows: FloatArray = np.asarray(matrix, dtype=np.float32)
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"an embedding table is a matrix, not of shape {rows.shape}")

        def chunks() -> Iterator[FloatArray]:
            for start in range(0, len(rows), CHUNK_ROWS):
                yield rows[start : start + CHUNK_ROWS]

        return cls(chunks)

    @cached_property
    def _moments(self) -> tuple[int, NDArray[np.float64], float, float]:
        """Number of rows, their mean, the sum of squares of all entries, the sum of row norms."""
        count, squares, norms = 0, 0.0, 0.0
        total: NDArray[np.float64] = np.zeros(1)
        for chunk in self._chunks():
            wide = chunk.astype(np.float64)
            row_squares = np.einsum("nd,nd->n", wide, wide)
            count += len(wide)
            total = total + wide.sum(axis=0)
            squares += float(row_squares.sum())
            norms += float(np.sqrt(row_squares).sum())
        return count, total / count, squares, norms

    @property
    def rms(self) -> float:
        """Root mean square of all entries."""
        with self._lock:
            count, mean, squares, _ = self._moments
        return float(np.sqrt(squares / (count * len(mean))))

    @property
    def mean_row_norm(self) -> float:
        """Mean Euclidean norm of a row."""
        with self._lock:
            count, _, _, norms = self._moments
        return norms / count

    @cached_property
    def _principal(self) -> FloatArray:
        """``(d_model, d_model)`` eigenvectors of the covariance as rows, leading first."""
        _, mean, _, _ = self._moments
        covariance = np.zeros((len(mean), len(mean)))
        for chunk in self._chunks():
            centred = chunk - mean.astype(np.float32)
            covariance += centred.T @ centred
        _, vectors = np.linalg.eigh(covariance)
        rows = vectors[:, ::-1].T
        peaks = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
        return np.ascontiguousarray(rows * np.sign(peaks)[:, None], dtype=np.float32)

    def principal_directions(self, rank: int) -> FloatArray:
        """``(rank, d_model)`` orthonormal leading principal directions of the centred table.

        The sign of each is such that its entry of largest magnitude is positive.

        Raises:
            ValueError: rank is not between 1 and d_model.
        """
        with self._lock:
            directions = self._principal
        if not 1 <= rank <= len(directions):
            raise ValueError(f"rank is {rank}: it must lie between 1 and {len(directions)}")
        return directions[:rank].copy()

    def nearest_tokens(self, rows: FloatArray) -> NDArray[np.int64]:
        """``(n,)`` token of the nearest table row by cosine, for ``(n, d_model)`` rows.

        Of equally near tokens the first one is given.
        """
        asked = _unit(np.asarray(rows, dtype=np.float32))
        best = np.full(len(asked), -np.inf, dtype=np.float32)
        tokens = np.zeros(len(asked), dtype=np.int64)
        start = 0
        for chunk in self._chunks():
            cosines = asked @ _unit(chunk).T
            nearest = cosines.argmax(axis=1)
            values = cosines[np.arange(len(asked)), nearest]
            closer = values > best
            best[closer] = values[closer]
            tokens[closer] = nearest[closer] + start
            start += len(chunk)
        return tokens


def _unit(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: FloatArray = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
