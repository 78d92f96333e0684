"""The last stage: what logits mean as probabilities, fitted on rows that the tables never saw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from rerail.moderators.embedded import Readings, Table, Weights, sigmoid, subject_probability
from rerail.types import Exchange, Message
from training.moderator import data
from training.moderator.data import TRAIN, VALIDATION, Text, Turn, kept_for_calibration
from training.moderator.labels import CATEGORIES, categories_of

Floats = NDArray[np.float64]
TEXT_FALSE_POSITIVES = 0.001
EXPECTED = ((0.2, 1.0, 0.0, 0.0), (0.6, 0.3, 0.3, 0.0))
STRENGTH = 3.0
FALSE_POSITIVES = 0.03


def exchange(turn: Turn) -> Exchange:
    return Exchange((Message("user", turn.request),), turn.answer)


def calibration_turns(rng: random.Random) -> list[tuple[list[Turn], float]]:
    """Groups of exchanges with the weight of each whole group."""
    real = data.gptfuzz(TRAIN, "a") + data.rbr(TRAIN, "a")
    real = [turn for turn in real if kept_for_calibration(turn.request)]
    benign = [t for t in data.benign_turns(TRAIN) if kept_for_calibration(t.request)]
    benign += data.benign_turns(VALIDATION)
    inside = [replace(t, request=data.wrapped(t.request, rng)) for t in benign]
    harmful = [r for r in data.harmful_requests(TRAIN) if kept_for_calibration(r.text)]
    harmless = [Text(t.request, t.labels, t.source) for t in rng.sample(benign, 150)]
    harmless += data.everyday_requests((0, 10)) + data.odd_requests(60, rng)
    harmful += [r for r in data.harmful_acts() if kept_for_calibration(r.text)]
    harmless += [r for r in data.lookalikes() if kept_for_calibration(r.text)] * 2
    own = data.own_turns(harmful + harmless, rng)
    drawn = [r for r in data.chat_requests(500, 1500, rng) if kept_for_calibration(r.text)]
    grammar = data.grammar_turns(harmful + harmless + drawn, rng)
    complied = [turn for turn in real if turn.harmful]
    elsewhere = [
        replace(t, answer=rng.choice(benign).answer, harmful=0.0) for t in rng.sample(real, 200)
    ]
    astray = [
        replace(t, request=rng.choice(benign).request, labels=_labels(t))
        for t in rng.sample(complied, 100)
    ]
    declined = [turn for turn in own + grammar if not turn.complies]
    groups = (real, benign, inside, own, grammar, declined, elsewhere, astray)
    return list(zip(groups, (1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 0.2, 0.15), strict=True))


def _labels(turn: Turn) -> dict[str, float]:
    return turn.labels or {"any": 1.0} | categories_of(turn.request)


def calibrated(weights: Weights, rng: random.Random) -> Weights:
    """Weights whose scores are probabilities on the calibration rows, 0.5 a sensible threshold."""
    groups = calibration_turns(rng)
    turns = [turn for group, _ in groups for turn in group]
    share = np.concatenate([_balanced(g) * w for g, w in groups])
    readings = weights.read([exchange(turn) for turn in turns])
    benign = np.array([turn.labels.get("any") == 0 and turn.complies == 1 for turn in turns])

    weights = _calibrate_subject(weights, readings, turns, share, benign)
    return _calibrate_text(weights, readings.answer[benign, 1:])


def _balanced(turns: Sequence[Turn]) -> Floats:
    """Weights that sum to 1, a rarer kind raised as the square root of its share."""
    harmful = np.array([turn.harmful for turn in turns])
    if not 0 < harmful.sum() < len(turns):
        return np.full(len(turns), 1 / len(turns))
    share = np.sqrt(harmful.mean()) / (np.sqrt(harmful.mean()) + np.sqrt(1 - harmful.mean()))
    return np.where(harmful == 1, share / harmful.sum(), (1 - share) / (1 - harmful).sum())


def _calibrate_subject(
    weights: Weights,
    readings: Readings,
    turns: Sequence[Turn],
    share: Floats,
    benign: NDArray[np.bool_],
) -> Weights:
    """Fit S · G to ``harmful``, then shift S so that few harmless answers reach 0.5.

    S is `subject_probability`, G = σ(g · along + h).
    """
    harmful = np.array([turn.harmful for turn in turns])

    def product(p: Floats, shift: float = 0.0) -> Floats:
        mixing = p[:8].reshape(2, 4) - np.array([0.0, 0.0, 0.0, shift])
        subject = subject_probability(mixing, readings)
        return np.clip(subject * sigmoid(p[8] * readings.along + p[9]), 1e-7, 1 - 1e-7)

    def loss(p: Floats) -> float:
        spread = (p[:8].reshape(2, 4) - np.array(EXPECTED))[:, :3]
        fit = (_cross_entropy(harmful, product(p)) * share).sum()
        return float(fit + STRENGTH * (spread**2).mean() + 0.1 * (p[8] - 1.5) ** 2)

    start = [*np.ravel(EXPECTED), 1.5, 0.0]
    p = minimize(loss, start, method="L-BFGS-B").x
    low, high = -8.0, 8.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        flagged = (product(p, middle)[benign] >= 0.5).mean()
        low, high = (middle, high) if flagged > FALSE_POSITIVES else (low, middle)
    print("mixing", p.round(2), "shift", round(high, 2))
    mixing = p[:8].reshape(2, 4) - np.array([0.0, 0.0, 0.0, high])
    along = _affine(weights.along, p[8], p[9], 0)
    return replace(weights, along=along, mixing=mixing)


def _calibrate_text(weights: Weights, benign: Floats) -> Weights:
    """Platt scaling of each text head, then a shift until few harmless answers reach 0.5."""
    rows = [r for r in data.texts(TRAIN) if kept_for_calibration(r.text, data.TEXT_PERCENT)]
    rows += [r for r in data.harmful_requests(TRAIN) if kept_for_calibration(r.text)]
    logits = weights.read([Exchange((), row.text) for row in rows]).answer[:, 1:]
    for i, category in enumerate(CATEGORIES):
        mine = [j for j, row in enumerate(rows) if category in row.labels]
        z = np.concatenate((logits[mine, i], benign[:, i]))
        y = np.concatenate(([rows[j].labels[category] for j in mine], np.zeros(len(benign))))
        w = np.concatenate(
            (np.full(len(mine), 1 / len(mine)), np.full(len(benign), 1 / len(benign)))
        )

        def loss(p: Floats, z: Floats = z, y: Floats = y, w: Floats = w) -> float:
            q = np.clip(sigmoid(p[0] * z + p[1]), 1e-7, 1 - 1e-7)
            return float((w * _cross_entropy(y, q)).sum())

        slope, offset = minimize(loss, [1.0, 0.0], method="L-BFGS-B").x
        top = float(np.quantile(slope * benign[:, i] + offset, 1 - TEXT_FALSE_POSITIVES))
        print(category, slope.round(2), offset.round(2), "top", round(top, 2))
        offset -= max(0.0, top)
        weights = replace(weights, topic=_affine(weights.topic, slope, offset, i + 1))
    return weights


def _affine(table: Table, slope: float, offset: float, head: int) -> Table:
    """The table with ``slope · logit + offset`` in place of one head's logit."""
    scale, bias = table.scale.copy(), table.bias.copy()
    scale[head] *= slope
    bias[head] = slope * bias[head] + offset
    return replace(table, scale=scale, bias=bias)


def _cross_entropy(y: Floats, q: Floats) -> Floats:
    return np.asarray(-(y * np.log(q) + (1 - y) * np.log(1 - q)))
