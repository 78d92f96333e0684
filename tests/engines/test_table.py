"""Facts of the table against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rerail.engines import ChunkedTable, EmbeddingTable
from rerail.types import FloatArray


@pytest.fixture
def matrix(rng: np.random.Generator) -> FloatArray:
    stretch = np.linspace(3.0, 0.1, 12)
    return (rng.standard_normal((500, 12)) * stretch + 5.0).astype(np.float32)


def chunked(matrix: FloatArray, size: int) -> ChunkedTable:
    return ChunkedTable(
        lambda: (matrix[start : start + size] for start in range(0, len(matrix), size))
    )


@pytest.mark.parametrize("size", [1, 7, 500])
def test_figures_equal_numpys_in_any_chunks(matrix: FloatArray, size: int) -> None:
    table = chunked(matrix, size)
    assert isinstance(table, EmbeddingTable)
    assert table.rms == pytest.approx(np.sqrt((matrix.astype(float) ** 2).mean()))
    assert table.mean_row_norm == pytest.approx(np.linalg.norm(matrix, axis=1).mean())
    _, _, right = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    directions = table.principal_directions(5)
    np.testing.assert_allclose(np.abs(directions @ right[:5].T), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(directions @ directions.T, np.eye(5), atol=1e-5)
    peaks = directions[np.arange(5), np.abs(directions).argmax(axis=1)]
    assert (peaks > 0).all()


def test_directions_are_the_same_each_time_and_nobody_elses(matrix: FloatArray) -> None:
    table = chunked(matrix, 100)
    first = table.principal_directions(3)
    first[:] = 0
    np.testing.assert_array_equal(
        table.principal_directions(3), chunked(matrix, 100).principal_directions(3)
    )
    np.testing.assert_array_equal(table.principal_directions(2), table.principal_directions(12)[:2])
    for rank in (0, 13):
        with pytest.raises(ValueError, match="between 1 and 12"):
            table.principal_directions(rank)


@pytest.mark.parametrize("size", [1, 7, 500])
def test_nearest_tokens_are_nearest_by_cosine(
    matrix: FloatArray, size: int, rng: np.random.Generator
) -> None:
    table = chunked(matrix, size)
    rows = rng.standard_normal((20, 12)).astype(np.float32) + 4
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    np.testing.assert_array_equal(table.nearest_tokens(rows), (rows @ unit.T).argmax(axis=1))
    np.testing.assert_array_equal(table.nearest_tokens(3 * matrix), np.arange(500))


def test_rows_of_zeros_are_nobodys_nearest() -> None:
    table = ChunkedTable.of(np.array([[0, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32))
    assert table.nearest_tokens(np.array([[2, 1], [0, 0]], dtype=np.float32)).tolist() == [1, 0]


def test_a_table_of_torch_or_of_nothing() -> None:
    weight = torch.nn.Embedding(9, 4).weight
    assert ChunkedTable.of(weight).rms == pytest.approx(weight.pow(2).mean().sqrt().item())
    for wrong in (np.zeros(3), np.zeros((0, 4))):
        with pytest.raises(ValueError, match="matrix"):
            ChunkedTable.of(wrong)
