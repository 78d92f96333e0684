"""Make the embedded moderator's weights: ``python -m training.moderator.train --out DIR``."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerail.moderators.embedded import Layout, Table, Weights
from training.moderator import data
from training.moderator.calibrate import calibrated
from training.moderator.data import TRAIN, Text, Turn, kept_for_calibration
from training.moderator.fit import capped, counts, fit_logistic, masses, quantised, scaled
from training.moderator.labels import CATEGORIES, categories_of

Floats = NDArray[np.float64]

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
PENALTY = 0.3
KEPT = "rtp-scores"
"""Texts that only calibration sees, so that there are some to be measured on."""
ANSWER_LAYOUT = Layout(bits=16, chars=(), words=(1, 2, 3), opening=25)


def requests_to_fit() -> tuple[list[Text], list[Text]]:
    """Harmful and harmless requests, less those kept for calibration."""
    harmful = [r for r in data.harmful_requests(TRAIN) if not kept_for_calibration(r.text)]
    harmful += [r for r in data.harmful_acts() if not kept_for_calibration(r.text)]
    benign = [r for r in data.benign_requests(TRAIN) if not kept_for_calibration(r.text)]
    benign += [r for r in data.lookalikes() if not kept_for_calibration(r.text)]
    benign += data.everyday_requests((10, 100)) + data.odd_requests(2400, random.Random(1))
    return harmful, benign


def subject_rows(turns: Sequence[Turn], rng: random.Random) -> list[Text]:
    """Texts labelled ``any``: is what they are about harmful?"""
    rows: list[Text] = []

    def add(text: str, harmful: float, weight: float, source: str) -> None:
        rows.append(Text(text, {"any": harmful}, source, weight))

    for row in data.texts(TRAIN):
        kept = kept_for_calibration(row.text, data.TEXT_PERCENT)
        if not kept and max(row.labels.values()) < 0.15 and rng.random() < 0.4:
            add(row.text, 0.0, 0.3, row.source)
    for row in data.seeds():
        if "self-harm" in row.labels:
            add(row.text, 0.9, row.weight, row.source)
    for row in data.harmless_windows():
        add(row.text, 0.0, row.weight * SOURCE_WEIGHT.get(row.source, 1.0), row.source)
    for question in dict.fromkeys(t.request for t in turns if t.source == "gptfuzz"):
        add(question, 1.0, 1.0, "gptfuzz")

    harmful, benign = requests_to_fit()
    plain = data.everyday_texts() + data.advbench_targets() + data.red_team_requests()
    for row in harmful + benign + data.alarming_requests() + plain:
        any_harm, weight = row.labels["any"], row.weight * SOURCE_WEIGHT.get(row.source, 1.0)
        add(row.text, any_harm, weight, row.source)
        if rng.random() < 0.5:
            add(data.wrapped(row.text, rng), any_harm, weight, row.source)
        add(data.diluted(row.text, rng), any_harm, 0.7 * weight, row.source)
    for turn in turns:
        if turn.complies:
            made = turn.source in ("own", "grammar")
            known = turn.labels.get("any", 1.0)
            add(turn.answer, known, turn.weight * (0.5 if made else 1.0), turn.source)
    return rows


def text_rows(turns: Sequence[Turn], rng: random.Random, without: str = "") -> list[Text]:
    """Texts with labels for the categories: real ones, requests, and answers.

    Args:
        turns: exchanges to take answers from.
        rng: for what is put together at random.
        without: a source of real texts to leave out, to be measured on.
    """
    real = [row for row in data.texts(TRAIN) if row.source != without]
    rows = [row for row in real if not kept_for_calibration(row.text, data.TEXT_PERCENT)]
    manners = data.grammar_manners(
        [r for r in data.benign_requests(TRAIN) if not kept_for_calibration(r.text)][:1000], rng
    )
    rows += [replace(r, weight=2 * r.weight) for r in data.seeds() + data.insults(rng) + manners]
    harmful, benign = requests_to_fit()
    asked = harmful + benign + data.alarming_requests() + data.everyday_texts()
    rows += [
        replace(r, weight=r.weight * SOURCE_WEIGHT.get(r.source, 1.0))
        for r in asked + data.advbench_targets()
    ]
    for question in dict.fromkeys(t.request for t in turns if t.source == "gptfuzz"):
        rows.append(Text(question, categories_of(question), "gptfuzz-questions"))
    for turn in turns:
        labels = turn.labels or categories_of(turn.request)
        if not turn.complies:
            labels = dict.fromkeys(CATEGORIES, 0.0)
        source = f"{turn.source}-{'complied' if turn.complies else 'declined'}"
        rows.append(Text(turn.answer, labels, source, turn.weight))
    return rows


def columns(rows: Sequence[Text], heads: Sequence[str], cap: bool) -> tuple[Floats, Floats]:
    """``(n, heads)`` labels and weights; 0 = unknown."""
    y, w = np.zeros((len(rows), len(heads))), np.zeros((len(rows), len(heads)))
    for k, head in enumerate(heads):
        for i, row in enumerate(rows):
            if head in row.labels:
                y[i, k], w[i, k] = row.labels[head], row.weight
        if cap:
            known = np.flatnonzero(w[:, k])
            said = capped([rows[i].source for i in known], y[known, k], w[known, k])
            w[known, k] = said.sum(axis=0)
            y[known, k] = said[0] / np.maximum(w[known, k], 1e-9)
    return y, w


def fit_table(
    texts: Sequence[str], y: Floats, w: Floats, layout: Layout, iterations: int = 60
) -> Table:
    """Fit a table, each head by itself on the rows that know it."""
    x = counts(texts, layout)
    mass, unit = masses(x, min_df=2)
    x = scaled(x, mass, unit)
    v, bias = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
    for k in range(y.shape[1]):
        rows = np.flatnonzero(w[:, k])
        v[:, k], bias[k] = fit_logistic(x[rows], y[rows, k], w[rows, k], PENALTY, iterations)
    return quantised(layout, v, bias, mass, unit)


def topic_table(turns: Sequence[Turn], rng: random.Random, without: str = "") -> Table:
    """Seven heads: ``any`` of the subject, uncapped, then the categories of texts, capped."""
    subject, text = subject_rows(turns, rng), text_rows(turns, rng, without)
    y, w = (np.zeros((len(subject) + len(text), 1 + len(CATEGORIES))) for _ in range(2))
    n = len(subject)
    y[:n, :1], w[:n, :1] = columns(subject, ("any",), cap=False)
    y[n:, 1:], w[n:, 1:] = columns(text, CATEGORIES, cap=True)
    return fit_table([row.text for row in subject + text], y, w, TOPIC_LAYOUT)


def labelled_turns() -> list[Turn]:
    """Half ``a`` of the labelled answers of gptfuzz, less those kept for calibration."""
    return [t for t in data.gptfuzz(TRAIN, "a") if not kept_for_calibration(t.request)]


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


def along_table(turns: Sequence[Turn]) -> Table:
    """One head: does an answer go along?"""
    weight = {"gptfuzz": 1.0, "rbr": 3.0, "own": 0.8, "grammar": 0.4, "roleplay": 0.3, "gsm8k": 0.2}
    y = np.array([[turn.complies] for turn in turns])
    w = np.array([[weight.get(turn.source, 1.0)] for turn in turns])
    return fit_table([turn.answer for turn in turns], y, w, ANSWER_LAYOUT, 100)


def train(seed: int = 0) -> Weights:
    """The moderator, from the data folder."""
    rng = random.Random(seed)
    turns = training_turns(rng)
    topic = topic_table(turns, rng, KEPT)
    return calibrated(Weights(topic, along_table(turns), np.zeros((2, 4))), rng)


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
