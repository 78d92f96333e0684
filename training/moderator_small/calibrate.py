"""From a snapshot to the packaged files, with 0.5 as the threshold.

    python -m training.moderator_small.calibrate --base FOLDER --weights FILE --out DIR

The matrices become int8; the logits of each category get a slope and an offset, fitted on rows that
training never saw, so that scores are probabilities there and few harmless answers reach 0.5.
"""

from __future__ import annotations

import argparse
import gzip
import random
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize
from torch import Tensor

from rerail.moderators._encoder import packed
from rerail.moderators.embedded import sigmoid
from rerail.moderators.small import SmallModerator
from rerail.types import Exchange, Message
from training.moderator import data
from training.moderator.data import TRAIN, VALIDATION, kept_for_calibration
from training.moderator.labels import CATEGORIES
from training.moderator_small.rows import Row, harm, none, texts

Floats = NDArray[np.float64]

FALSE_ALARMS = 0.006
"""Share of harmless answers that a category may flag."""


def exchange(row: Row) -> Exchange:
    return Exchange((Message("user", row.asked),) if row.asked else (), row.answer)


def calibration_rows(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Rows of all kinds, and the harmless answers among them."""
    found = [r for r in texts(TRAIN) if kept_for_calibration(r.text, data.TEXT_PERCENT)]
    rows = [Row(r.text, "", r.labels, r.source) for r in rng.sample(found, min(1500, len(found)))]
    judged = [t for t in data.gptfuzz(TRAIN, "a") + data.rbr(TRAIN, "a") if _kept(t.request)]
    harmful = [r for r in data.harmful_requests(TRAIN) if _kept(r.text)]
    alike = [r for r in data.lookalikes() if _kept(r.text)]
    judged += data.own_turns(rng.sample(harmful, 120) + alike, rng)
    for turn in rng.sample(judged, min(900, len(judged))):
        labels = harm(turn) if turn.harmful else none()
        rows.append(Row(turn.answer, turn.request, labels, turn.source))
    benign = [t for t in data.benign_turns(TRAIN) if _kept(t.request)]
    benign = rng.sample(benign + data.benign_turns(VALIDATION), 600)
    harmless = [
        Row(t.answer, t.request if i % 3 else "", none(), t.source) for i, t in enumerate(benign)
    ]
    return rows + harmless, harmless


def _kept(text: str) -> bool:
    return kept_for_calibration(text)


def affine(z: Floats, y: Floats, harmless: Floats) -> tuple[float, float]:
    """Slope and offset of a category's logits.

    Args:
        z: logits.
        y: soft labels, NaN where unknown.
        harmless: logits of harmless answers.
    """
    z, y = z[~np.isnan(y)], y[~np.isnan(y)]

    def loss(p: Floats) -> float:
        q = np.clip(sigmoid(p[0] * z + p[1]), 1e-7, 1 - 1e-7)
        return float(-(y * np.log(q) + (1 - y) * np.log(1 - q)).mean())

    slope, offset = minimize(loss, [1.0, 0.0], method="L-BFGS-B").x
    top = float(np.quantile(slope * harmless + offset, 1 - FALSE_ALARMS))
    return float(slope), float(offset) - max(0.0, top)


def export(tensors: dict[str, Tensor], base: Path, out: Path) -> SmallModerator:
    """Write the files of a moderator, and load it."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.partial")
    (out / "model.partial").replace(out / "model.safetensors")
    packed = gzip.compress((base / "tokenizer.json").read_bytes(), mtime=0)
    (out / "tokenizer.json.gz").write_bytes(packed)
    return SmallModerator(out)


def calibrated(weights: Path, base: Path, out: Path, seed: int) -> None:
    """Pack a snapshot's weights, calibrate them, and write them."""
    tensors = load_file(weights)
    for name in ("heads.weight", "heads.bias"):
        tensors[name] = tensors[name][: len(CATEGORIES)].clone()
    tensors = packed(tensors)
    moderator = export(tensors, base, out)
    rows, harmless = calibration_rows(random.Random(seed))
    z = moderator.logits([exchange(row) for row in rows])
    y = np.array([[row.labels.get(c, np.nan) for c in CATEGORIES] for row in rows])
    for i, category in enumerate(CATEGORIES):
        slope, offset = affine(z[:, i], y[:, i], z[-len(harmless) :, i])
        print(f"{category}: slope {slope:.2f}, offset {offset:.2f}")
        tensors["heads.weight.scale"][i] *= slope
        tensors["heads.bias"][i] = slope * tensors["heads.bias"][i] + offset
    export(tensors, base, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--weights", type=Path, required=True, help="a snapshot of train")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    calibrated(args.weights, args.base, args.out, args.seed)


if __name__ == "__main__":
    main()
