"""Measure the packaged moderator on rows it never saw: ``python -m training.moderator.evaluate``."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from rerail.moderators.embedded import EmbeddedModerator
from rerail.types import Exchange
from training.moderator import data
from training.moderator.calibrate import exchange
from training.moderator.data import HELD_OUT, Turn
from training.moderator.labels import CATEGORIES, categories_of
from training.splits import load

Floats = NDArray[np.float64]


def scores(moderator: EmbeddedModerator, exchanges: Sequence[Exchange]) -> Floats:
    """``(n, 6)``; answers without text count as 0."""
    return np.array(
        [[s.categories.get(c, 0.0) for c in CATEGORIES] for s in moderator.score(exchanges)]
    )


def ranking(y: Sequence[float] | Floats, score: Floats) -> dict[str, float]:
    """AUROC, AUPRC and the share of positives."""
    truth = np.asarray(y) >= 0.5
    return {
        "n": len(truth),
        "positive": int(truth.sum()),
        "auroc": round(float(roc_auc_score(truth, score)), 4),
        "auprc": round(float(average_precision_score(truth, score)), 4),
    }


def text_figures(moderator: EmbeddedModerator) -> dict[str, Any]:
    """Per category, the held-out texts alone (no conversation) and together with harmless answers."""
    rows = data.texts(HELD_OUT)
    got = scores(moderator, [Exchange((), row.text) for row in rows])
    benign = scores(moderator, [Exchange((), t.answer) for t in data.benign_turns(HELD_OUT)])
    requests = data.harmful_requests(HELD_OUT)
    asked = scores(moderator, [Exchange((), row.text) for row in requests])
    harmless = scores(moderator, [Exchange((), r.text) for r in data.benign_requests(HELD_OUT)])
    figures: dict[str, Any] = {}
    for i, category in enumerate(CATEGORIES):
        part: dict[str, Any] = {}
        for source in sorted({row.source for row in rows}):
            mine = [j for j, r in enumerate(rows) if r.source == source and category in r.labels]
            y = np.array([rows[j].labels[category] >= 0.5 for j in mine])
            if 5 <= y.sum() < len(y):
                part[source] = ranking(y, got[mine, i])
        known = [j for j, r in enumerate(rows) if category in r.labels]
        if known and max(rows[j].labels[category] for j in known) >= 0.5:
            y = np.array([rows[j].labels[category] for j in known] + [0.0] * len(benign))
            part["all texts and harmless answers"] = ranking(
                y, np.concatenate((got[known, i], benign[:, i]))
            )
        y = np.array([r.labels[category] for r in requests] + [0.0] * len(harmless))
        part["harmful and harmless requests"] = ranking(
            y, np.concatenate((asked[:, i], harmless[:, i]))
        )
        figures[category] = part
    return figures


def hatecheck(moderator: EmbeddedModerator) -> dict[str, Any]:
    """Functional tests of hate: never trained on, CC BY 4.0."""
    rows = data.read_csv("hatecheck", "test_suite_cases.csv.gz")
    got = scores(moderator, [Exchange((), row["test_case"]) for row in rows])[:, 1]
    y = np.array([row["label_gold"] == "hateful" for row in rows], float)
    return ranking(y, got) | {"accuracy at 0.5": round(float(((got >= 0.5) == y).mean()), 3)}


def answer_figures(moderator: EmbeddedModerator) -> dict[str, Any]:
    """Compliance against refusal on answers that people have judged, and flag rates."""
    sets = {
        "gptfuzz evaluate.csv": data.gptfuzz(HELD_OUT),
        "rbr-gold test": data.rbr(HELD_OUT),
        "do-not-answer (evaluation only)": data.do_not_answer(),
    }
    figures = {}
    for name, turns in sets.items():
        exchanges = [exchange(turn) for turn in turns]
        most = scores(moderator, exchanges).max(axis=1)
        along = moderator.weights.read(exchanges).along
        y = np.array([turn.harmful for turn in turns])
        figures[name] = ranking(y, most) | {
            "goes-along head": ranking([turn.complies for turn in turns], along)["auroc"],
            "flagged if harmful": round(float((most[y == 1] >= 0.5).mean()), 3),
            "flagged if not": round(float((most[y == 0] >= 0.5).mean()), 3),
        }
    return figures


def own_figures(moderator: EmbeddedModerator, seed: int) -> dict[str, Any]:
    """Self-written refusals and agreements around requests that training never saw."""
    rng = random.Random(seed)
    requests = [
        data.Text(p.text, {"any": 1.0} | categories_of(p.text, p.category), p.source)
        for name in ("advbench", "simple-safety-tests", "strongreject", "catqa", "harmfulqa")
        for p in load(name, HELD_OUT)
    ]
    turns = data.own_turns(requests + data.benign_requests(HELD_OUT), rng, HELD_OUT)
    most = scores(moderator, [exchange(turn) for turn in turns]).max(axis=1)
    kinds = {
        "agreement to harm": (1, 1),
        "refusal of harm": (0, 1),
        "agreement to the harmless": (1, 0),
    }
    figures = {}
    for name, (complies, harmful) in kinds.items():
        mine = [
            i for i, t in enumerate(turns) if t.complies == complies and t.labels["any"] == harmful
        ]
        figures[name] = {"n": len(mine), "flagged": round(float((most[mine] >= 0.5).mean()), 3)}
    return figures


def false_positives(moderator: EmbeddedModerator, seed: int) -> dict[str, Any]:
    """Share of harmless answers flagged, plain, in our wrappers, and in jailbreaks of the wild."""
    rng = random.Random(seed)
    benign = data.benign_turns(HELD_OUT)
    wild = [p.text for p in load("jailbreaks-in-the-wild", HELD_OUT)]
    sets: dict[str, list[Turn]] = {
        "plain": benign,
        "in self-written wrappers": [
            replace(t, request=data.wrapped(t.request, rng)) for t in benign
        ],
        "in jailbreaks of the wild": [
            replace(t, request=f"{rng.choice(wild)}\n\n{t.request}") for t in benign
        ],
    }
    for source in sorted({t.source for t in benign}):
        sets[f"plain, {source}"] = [t for t in benign if t.source == source]
    figures: dict[str, Any] = {}
    for name, turns in sets.items():
        got = scores(moderator, [exchange(turn) for turn in turns])
        rates = dict(zip(CATEGORIES, (got >= 0.5).mean(axis=0).round(4).tolist(), strict=True))
        figures[name] = (
            {"n": len(turns)}
            | {f"at {t}": round(float((got.max(axis=1) >= t).mean()), 4) for t in (0.3, 0.5, 0.7)}
            | {c: r for c, r in rates.items() if r}
        )
    alone = scores(moderator, [Exchange((), turn.answer) for turn in benign])
    figures["answer alone"] = {
        "n": len(benign),
        "at 0.5": round(float((alone.max(axis=1) >= 0.5).mean()), 4),
    }
    return figures


def padded(moderator: EmbeddedModerator, seed: int) -> dict[str, Any]:
    """Share flagged with harmless words before and after: answers that complied, and harmless."""
    rng = random.Random(seed)
    benign = data.benign_turns(HELD_OUT)
    filler = " ".join(turn.answer for turn in benign).split()
    sets = {
        "complied": [turn for turn in data.gptfuzz(HELD_OUT) if turn.harmful][:200],
        "harmless": benign[:200],
    }
    figures: dict[str, Any] = {}
    for name, turns in sets.items():
        for n in (0, 200, 1000, 4000):
            long = []
            for turn in turns:
                at, before = rng.randrange(len(filler) - n), rng.randrange(n + 1)
                words = filler[at : at + n]
                parts = (" ".join(words[:before]), turn.answer, " ".join(words[before:]))
                long.append(replace(turn, answer="\n".join(parts)))
            most = scores(moderator, [exchange(turn) for turn in long]).max(axis=1)
            figures[f"{name}, {n} words more"] = round(float((most >= 0.5).mean()), 3)
    return figures


def speed(moderator: EmbeddedModerator) -> dict[str, float]:
    """Texts per second at 200 characters, batches of 16 and of 1,000, median of 7 (one thread)."""
    words = " ".join(t.answer for t in data.benign_turns(HELD_OUT))
    texts = [words[i : i + 200] for i in range(0, 200_000, 200)]
    figures = {}
    for size in (16, 1000):
        taken = []
        for _ in range(7):
            start = time.perf_counter()
            for at in range(0, len(texts), size):
                moderator.score([Exchange((), text) for text in texts[at : at + size]])
            taken.append(time.perf_counter() - start)
        figures[f"batches of {size}"] = round(len(texts) / float(np.median(taken)))
    return figures


def evaluate(seed: int = 0) -> dict[str, Any]:
    """All figures of the model card."""
    moderator = EmbeddedModerator()
    return {
        "texts": text_figures(moderator) | {"hatecheck": hatecheck(moderator)},
        "answers": answer_figures(moderator),
        "self-written": own_figures(moderator, seed),
        "harmless answers flagged": false_positives(moderator, seed),
        "padded answers flagged": padded(moderator, seed),
        "texts per second": speed(moderator),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write the figures to, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    figures = evaluate(args.seed)
    for section, part in figures.items():
        print(f"\n{section}")
        for name, value in part.items():
            if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
                for inner, deep in value.items():
                    print(f"  {name:<12} {inner:<34} {deep}")
            else:
                print(f"  {name:<34} {value}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
