"""Make the hidden-state judge's weights: ``python -m training.judge.hidden --out DIR``.

The same labelled answers as the other judge's (half ``b``, which the moderator never sees), read
by smollm2. States are kept in ``--work`` block by block, so that a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from rerail.engines._packaged import packaged_folder
from rerail.eval.hidden_judge import LAYER, HiddenWeights, States
from training.judge.train import hh_pairs
from training.moderator import data
from training.moderator.data import TRAIN

_BLOCK = 64
_PENALTY = 300.0
_SPREAD = 1e-3


def rows(seed: int = 0) -> list[tuple[str, str, float, float]]:
    """Request, answer, label and weight of what the judge learns from."""
    rng = random.Random(seed)
    labelled = data.gptfuzz(TRAIN, "b")
    complied = [t for t in labelled if t.harmful]
    declined = [t for t in labelled if not t.harmful]
    turns = rng.sample(complied, 250) + rng.sample(declined, 250) + data.rbr(TRAIN, "b")
    turns += rng.sample(data.benign_turns(TRAIN), 200)
    found = [(t.request, t.answer, t.harmful, 1.0) for t in turns]
    pairs = [pair for pair in hh_pairs(TRAIN) if data.half(pair.first) == "b"]
    for pair in rng.sample(pairs, 100):
        found += [
            (pair.request, pair.chosen, 0.0, 0.3),
            (pair.request, pair.rejected, 1.0, 0.3),
        ]
    return found


def states(pairs: list[tuple[str, str]], work: Path) -> NDArray[np.float32]:
    """The states of all pairs; those read before are in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    reader, blocks = None, []
    for at in range(0, len(pairs), _BLOCK):
        block = pairs[at : at + _BLOCK]
        name = hashlib.sha256(repr((LAYER, block)).encode()).hexdigest()[:16]
        path = work / f"{name}.npy"
        if not path.exists():
            reader = reader or States(packaged_folder("smollm2"))
            partial = work / f"{name}.partial.npy"
            np.save(partial, reader.read(block))
            os.replace(partial, path)
        blocks.append(np.load(path))
    return np.concatenate(blocks)


def fit(x: NDArray[np.float32], y: NDArray[np.float64], w: NDArray[np.float64]) -> HiddenWeights:
    """A logistic model of standardised states, the standardising folded into its weights."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + _SPREAD
    model = LogisticRegression(C=1.0 / _PENALTY, max_iter=1000)
    model.fit((x - mean) / spread, y >= 0.5, w)
    weights = (model.coef_[0] / spread).astype(np.float32)
    return HiddenWeights(weights, float(model.intercept_[0] - mean @ weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write hidden.npz to")
    parser.add_argument("--work", type=Path, default=Path("build/judge"), help="folder of states")
    args = parser.parse_args()
    learnt = rows()
    x = states([(request, answer) for request, answer, _, _ in learnt], args.work)
    y, w = (np.array([row[k] for row in learnt]) for k in (2, 3))
    content = fit(x, y, w).save()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "hidden.npz").write_bytes(content)
    print(f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
