"""Make the embedded moderator's weights: ``python -m training.moderator.train --out DIR``."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerail.moderators.embedded import Layout, Table, Weights
from training.moderator import data
from training.moderator.calibrate import calibrated
from training.moderator.data import TRAIN, Text, Turn, kept_for_calibration
from training.moderator.fit import counts, fit_logistic, masses, quantised, scaled
from training.moderator.labels import CATEGORIES, categories_of

TEXT_HEADS = tuple(f"text/{c}" for c in CATEGORIES if c != "illicit")
SUBJECT_HEADS = ("subject/any", *(f"subject/{c}" for c in CATEGORIES))
HEADS = TEXT_HEADS + SUBJECT_HEADS
TOPIC_LAYOUT = Layout(bits=18, chars=(4,), words=(1, 2, 3))
SOURCE_WEIGHT = {
    "own-alarming": 2.0,
    "own-paragraphs": 3.0,
    "own-tasks": 4.0,
    "own-wrappers": 3.0,
    "own-lookalikes": 5.0,
    "harmfulqa": 0.7,
    "self-instruct-seed": 3.0,
}
STRONGER = ("text/harassment", "text/hate", "subject/any", "subject/illicit")
TOPIC_PENALTY = [0.3 if head in STRONGER else 0.1 for head in HEADS]
_FIRST = len(TEXT_HEADS)
GROUPS = (list(range(_FIRST)), [_FIRST], list(range(_FIRST + 1, len(HEADS))))
ANSWER_LAYOUT = Layout(bits=16, chars=(), words=(1, 2, 3), opening=25)


def requests_to_fit() -> tuple[list[Text], list[Text]]:
    """Harmful and harmless requests, less those kept for calibration."""
    harmful = [r for r in data.harmful_requests(TRAIN) if not kept_for_calibration(r.text)]
    harmful += [r for r in data.harmful_acts() if not kept_for_calibration(r.text)]
    benign = [r for r in data.benign_requests(TRAIN) if not kept_for_calibration(r.text)]
    benign += [r for r in data.lookalikes() if not kept_for_calibration(r.text)]
    benign += data.everyday_requests((10, 100)) + data.odd_requests(2400, random.Random(1))
    return harmful, benign


def topic_rows(
    turns: Sequence[Turn], rng: random.Random
) -> list[tuple[str, dict[str, float], float]]:
    """Texts with soft labels per head of the topic table."""
    rows: list[tuple[str, dict[str, float], float]] = []

    def add(text: str, labels: dict[str, float], weight: float, *kinds: str) -> None:
        heads = {f"{kind}/{name}": y for kind in kinds for name, y in labels.items()}
        rows.append((text, heads, weight))

    def clean(row: Text) -> dict[str, float]:
        return dict.fromkeys(row.labels, 0.0)

    for row in data.texts(TRAIN):
        if kept_for_calibration(row.text, data.TEXT_PERCENT):
            continue
        add(row.text, row.labels, row.weight, "text")
        if max(row.labels.values()) < 0.15 and rng.random() < 0.4:
            add(row.text, {"any": 0.0, "illicit": 0.0}, 0.3, "subject")
    manners = data.grammar_manners(
        [r for r in data.benign_requests(TRAIN) if not kept_for_calibration(r.text)][:1000], rng
    )
    for row in data.seeds() + data.insults(rng) + manners:
        add(row.text, row.labels, row.weight * 2, "text")
        if "self-harm" in row.labels:
            add(row.text, {"any": 0.9} | row.labels, row.weight, "subject")

    harmful, benign = requests_to_fit()
    alarming = data.alarming_requests()
    for row in data.harmless_windows():
        add(row.text, row.labels, row.weight * SOURCE_WEIGHT.get(row.source, 1.0), "subject")
    for request in dict.fromkeys(t.request for t in turns if t.source == "gptfuzz"):
        add(request, {"any": 1.0} | categories_of(request), 1.0, "subject")
    plain = data.everyday_texts() + data.advbench_targets() + data.red_team_requests()
    for row in harmful + benign + alarming + plain:
        weight = row.weight * SOURCE_WEIGHT.get(row.source, 1.0)
        add(row.text, row.labels, weight, "subject")
        if rng.random() < 0.5:
            add(data.wrapped(row.text, rng), row.labels, weight, "subject")
        add(data.diluted(row.text, rng), row.labels, 0.7 * weight, "subject")
        if row.labels["any"] == 0:
            add(row.text, row.labels, weight, "text")
    for turn in turns:
        weight = 0.5 * turn.weight
        if turn.source in ("own", "grammar"):
            if turn.complies:
                add(turn.answer, turn.labels, weight, "subject")
            else:
                add(turn.answer, _zero(CATEGORIES), weight, "text")
        elif turn.source in ("gptfuzz", "rbr") and turn.complies:
            labels = turn.labels or {"any": 1.0} | categories_of(turn.request)
            add(turn.answer, labels, turn.weight, "subject")
        elif turn.source in ("gptfuzz", "rbr"):
            add(turn.answer, _zero(("self-harm", "violence", "sexual", "hate")), weight, "text")
        else:
            add(turn.answer, turn.labels, turn.weight, "subject", "text")
    return rows


def _zero(names: Sequence[str]) -> dict[str, float]:
    return dict.fromkeys(names, 0.0)


def matrix(
    rows: Sequence[tuple[str, dict[str, float], float]], heads: Sequence[str]
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Texts, labels and weights (0 = unknown) as arrays."""
    y, w = np.zeros((len(rows), len(heads))), np.zeros((len(rows), len(heads)))
    place = {name: k for k, name in enumerate(heads)}
    for i, (_, labels, weight) in enumerate(rows):
        for name, value in labels.items():
            if name in place:
                y[i, place[name]], w[i, place[name]] = value, weight
    return [text for text, _, _ in rows], y, w


def fit_table(
    texts: Sequence[str],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    layout: Layout,
    penalty: Sequence[float],
    iterations: int,
    groups: Sequence[list[int]] = ([0],),
) -> Table:
    """Fit a table; heads of one group share their rows and are fitted together."""
    x = counts(texts, layout)
    mass, unit = masses(x, min_df=2)
    x, shrink = scaled(x, mass, unit), np.asarray(penalty)
    v, bias = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for heads in groups:
        rows = np.flatnonzero(w[:, heads].any(axis=1))
        part = y[rows][:, heads], w[rows][:, heads], shrink[heads]
        v[:, heads], bias[heads] = fit_logistic(x[rows], *part, iterations)
    return quantised(layout, v, bias, mass, unit)


def labelled_turns() -> list[Turn]:
    """Half ``a`` of the labelled answers, less those kept for calibration."""
    turns = data.gptfuzz(TRAIN, "a") + data.rbr(TRAIN, "a")
    return [turn for turn in turns if not kept_for_calibration(turn.request)]


def training_turns(rng: random.Random) -> list[Turn]:
    """Labelled answers, harmless answers and self-written ones."""
    harmful, benign = requests_to_fit()
    own = data.own_turns(rng.sample(harmful, 2500) + rng.sample(benign, 2000), rng)
    own += data.own_turns(data.alarming_requests(), rng)
    asked = [r for r in harmful + benign if r.source not in ("own-odd", "own-everyday")]
    asked += [r for r in benign if r.source in ("own-odd", "own-lookalikes")]
    drawn = [r for r in data.chat_requests(1500, 3000, rng) if not kept_for_calibration(r.text)]
    grammar = data.grammar_turns(asked + drawn, rng)
    harmless = [t for t in data.benign_turns(TRAIN) if not kept_for_calibration(t.request)]
    return labelled_turns() + harmless + own + grammar


def answer_rows(turns: Sequence[Turn]) -> list[tuple[str, dict[str, float], float]]:
    """Answers with the label ``goes along``."""
    weight = {"gptfuzz": 1.0, "rbr": 3.0, "own": 0.8, "grammar": 0.4, "roleplay": 0.3, "gsm8k": 0.2}
    return [
        (turn.answer, {"goes-along": turn.complies}, weight.get(turn.source, 1.0)) for turn in turns
    ]


def train(seed: int = 0) -> Weights:
    """The moderator, from the data folder."""
    rng = random.Random(seed)
    turns = training_turns(rng)
    rows = topic_rows(turns, rng)
    topic = fit_table(*matrix(rows, HEADS), TOPIC_LAYOUT, TOPIC_PENALTY, 60, GROUPS)
    along = fit_table(*matrix(answer_rows(turns), ("goes-along",)), ANSWER_LAYOUT, [0.3], 100)
    mixing = np.zeros((2, 4))
    return calibrated(Weights(topic, HEADS, along, mixing), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write weights.npz to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    content = train(args.seed).save()
    args.out.mkdir(parents=True, exist_ok=True)
    partial = args.out / "weights.npz.partial"
    partial.write_bytes(content)
    os.replace(partial, args.out / "weights.npz")
    print(f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
