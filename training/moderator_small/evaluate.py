"""Both packaged moderators on the same held-out rows.

    python -m training.moderator_small.evaluate [--embedded]

Rows that would take long are thinned evenly. Texts are counted, never printed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from rerail.moderators.base import Moderator
from rerail.moderators.embedded import EmbeddedModerator
from rerail.moderators.small import SmallModerator
from rerail.types import Exchange, Message
from training.chat import answers, requests
from training.chat.understand import understand
from training.moderator import data
from training.moderator.data import HELD_OUT, Text, Turn
from training.moderator.labels import CATEGORIES, categories_of
from training.moderator_small.rows import TEXT_CATEGORIES, none, texts
from training.splits import data_folder, load

Floats = NDArray[np.float64]
Figures = dict[str, Any]
T = TypeVar("T")


def scores(moderator: Moderator, exchanges: Sequence[Exchange]) -> Floats:
    """``(n, 6)``; answers without text count as 0."""
    found = moderator.score(exchanges)
    return np.array([[s.categories.get(c, 0.0) for c in CATEGORIES] for s in found])


def asked(turn: Turn) -> Exchange:
    return Exchange((Message("user", turn.request),), turn.answer)


def alone(text: str) -> Exchange:
    return Exchange((), text)


def ranking(y: Sequence[float] | Floats, score: Floats) -> Figures:
    """AUROC, AUPRC and the share of positives."""
    truth = np.asarray(y) >= 0.5
    return {
        "n": len(truth),
        "positive": int(truth.sum()),
        "auroc": round(float(roc_auc_score(truth, score)), 3),
        "auprc": round(float(average_precision_score(truth, score)), 3),
    }


def flagged(most: Floats) -> Figures:
    """Share at or above 0.3, 0.5 and 0.7."""
    rates = {f"at {t}": round(float((most >= t).mean()), 4) for t in (0.3, 0.5, 0.7)}
    return {"n": len(most)} | rates


def thinned(rows: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` rows, evenly."""
    step = max(1.0, len(rows) / limit)
    return [rows[int(i * step)] for i in range(min(len(rows), limit))]


def text_figures(moderator: Moderator, limit: int) -> Figures:
    """Texts without a conversation, per category and source, and any harm over all.

    The mean of five takes self-harm, for which no held-out texts are labelled, from requests.
    """
    by_source: dict[str, list[Text]] = defaultdict(list)
    for row in texts(HELD_OUT):
        by_source[row.source].append(row)
    rows = [row for source in by_source.values() for row in thinned(source, limit)]
    got = scores(moderator, [alone(row.text) for row in rows])
    harmful = thinned(data.harmful_requests(HELD_OUT), limit)
    harmless = thinned(data.benign_requests(HELD_OUT), limit)
    benign = thinned(data.benign_turns(HELD_OUT), limit // 2)
    requests_got = scores(moderator, [alone(r.text) for r in harmful + harmless])
    benign_got = scores(moderator, [alone(turn.answer) for turn in benign])
    figures: Figures = {}
    for i, category in enumerate(CATEGORIES):
        part: Figures = {}
        for source in by_source:
            mine = [j for j, r in enumerate(rows) if r.source == source and category in r.labels]
            y = np.array([rows[j].labels[category] >= 0.5 for j in mine])
            if 5 <= y.sum() < len(y):
                part[source] = ranking(y, got[mine, i])
        known = [j for j, r in enumerate(rows) if category in r.labels]
        y = [rows[j].labels[category] for j in known] + [0.0] * len(benign)
        if max(y) >= 0.5:
            part["texts and harmless answers"] = ranking(
                y, np.concatenate((got[known, i], benign_got[:, i]))
            )
        of_requests = [r.labels[category] for r in harmful] + [0.0] * len(harmless)
        part = {"requests": ranking(of_requests, requests_got[:, i])} | part
        figures[category] = part
    mixed = [next(reversed(figures[c].values())) for c in TEXT_CATEGORIES]
    figures["mean of five"] = {
        name: round(float(np.mean([part[name] for part in mixed])), 3)
        for name in ("auroc", "auprc")
    }
    clear = [j for j, r in enumerate(rows) if len(r.labels) > 2 or max(r.labels.values()) >= 0.5]
    most = [max(rows[j].labels.values()) for j in clear]
    figures["any harm"] = ranking(most, got[clear].max(axis=1))
    return figures


def hatecheck(moderator: Moderator, limit: int) -> Figures:
    """Functional tests of hate: never trained on, CC BY 4.0."""
    rows = thinned(data.read_csv("hatecheck", "test_suite_cases.csv.gz"), 3 * limit)
    got = scores(moderator, [alone(row["test_case"]) for row in rows])[:, 1]
    y = np.array([row["label_gold"] == "hateful" for row in rows], float)
    return ranking(y, got) | {"accuracy at 0.5": round(float(((got >= 0.5) == y).mean()), 3)}


def answer_figures(moderator: Moderator, limit: int) -> Figures:
    """Answers that people have judged: does it comply with a harmful request?"""
    sets = {
        "gptfuzz evaluate.csv": thinned(data.gptfuzz(HELD_OUT), 2 * limit),
        "of these, questions never seen": thinned(data.gptfuzz(HELD_OUT, "b"), limit),
        "rbr-gold test": data.rbr(HELD_OUT),
        "do-not-answer (evaluation only)": thinned(data.do_not_answer(), 2 * limit),
    }
    for sure in (False, True):
        read = data.read_answers(sure)
        name = f"SmolLM2, read{', without doubt' if sure else ''}"
        sets[f"{name}, unmodified"] = [turn for turn in read if turn.source == "smollm2"]
        sets[f"{name}, with the adapter"] = [turn for turn in read if turn.source != "smollm2"]
    figures = {}
    for name, turns in sets.items():
        most = scores(moderator, [asked(turn) for turn in turns]).max(axis=1)
        y = np.array([turn.harmful for turn in turns])
        figures[name] = ranking(y, most) | {
            "flagged if harmful": round(float((most[y == 1] >= 0.5).mean()), 3),
            "flagged if not": round(float((most[y == 0] >= 0.5).mean()), 3),
        }
    return figures


def written(seed: int) -> dict[str, list[Turn]]:
    """Self-written answers around requests that training never saw, by kind."""
    rng = random.Random(seed)
    names = ("advbench", "simple-safety-tests", "strongreject", "catqa", "harmfulqa")
    harmful = [
        Text(p.text, {"any": 1.0} | categories_of(p.text, p.category), p.source)
        for name in names
        for p in load(name, HELD_OUT)
    ]
    turns = data.own_turns(thinned(harmful, 200), rng, HELD_OUT)
    turns += data.own_turns(thinned(data.benign_requests(HELD_OUT), 200), rng, HELD_OUT)
    sets = {
        "agreement to harm": [t for t in turns if t.harmful],
        "refusal of harm": [t for t in turns if not t.complies and t.labels["any"]],
        "agreement to the harmless": [t for t in turns if t.complies and not t.labels["any"]],
    }
    sets["lookalike of others, answered by our sentences (evaluation only)"] = [
        t for t in data.own_turns(_borderline(), rng, HELD_OUT) if t.complies
    ]
    contrast = requests.forms()["contrast"]
    for name, asks in (("lookalike", contrast), ("harmful request", [r.text for r in harmful])):
        sets[f"{name}, answered by the chat grammar"] = [
            Turn(text, answers.comply(understand(text.strip()), rng), 1.0, 0.0, "grammar")
            for text in thinned(list(asks), 200)
        ]
    sets["harmful request, refused by the chat grammar"] = [
        Turn(r.text, answers.refuse(understand(r.text.strip()), rng), 0.0, 0.0, "grammar")
        for r in thinned(harmful, 200)
    ]
    return sets


def _borderline() -> list[Text]:
    """Harmless requests of others that sound harmful; evaluation only."""
    file = data_folder() / "attacks-on-advbench" / "borderline.json.gz"
    rows = json.loads(gzip.decompress(file.read_bytes()))
    return [Text(row["query"], none(), "borderline") for row in rows]


def harmless(seed: int, limit: int) -> dict[str, list[Exchange]]:
    """Harmless answers: to their request, inside jailbreaks of the wild, and alone."""
    rng = random.Random(seed)
    benign = thinned(data.benign_turns(HELD_OUT), limit)
    wild = [p.text for p in load("jailbreaks-in-the-wild", HELD_OUT)]
    return {
        "to their request": [asked(t) for t in benign],
        "in jailbreaks of the wild": [
            asked(replace(t, request=f"{rng.choice(wild)}\n\n{t.request}")) for t in benign
        ],
        "alone": [alone(t.answer) for t in benign],
    }


def padded(moderator: Moderator, seed: int) -> Figures:
    """Share flagged with harmless words before and after: answers that complied, and harmless."""
    rng = random.Random(seed)
    benign = data.benign_turns(HELD_OUT)
    filler = " ".join(turn.answer for turn in benign).split()
    complied = [turn for turn in data.gptfuzz(HELD_OUT) if turn.harmful]
    figures: Figures = {}
    for kind, turns in (("complied", thinned(complied, 40)), ("harmless", thinned(benign, 40))):
        for n in (0, 200, 1000):
            long = []
            for turn in turns:
                at, before = rng.randrange(len(filler) - n), rng.randrange(n + 1)
                words = filler[at : at + n]
                parts = (" ".join(words[:before]), turn.answer, " ".join(words[before:]))
                long.append(asked(replace(turn, answer="\n".join(parts))))
            most = scores(moderator, long).max(axis=1)
            figures[f"{kind}, {n} words more"] = round(float((most >= 0.5).mean()), 3)
    return figures


def speed(moderator: Moderator) -> float:
    """Answers of 64 tokens per second of one core, alone and without a request."""
    words = " ".join(t.answer for t in data.benign_turns(HELD_OUT)).split()
    rows = [alone(" ".join(words[i : i + 52])) for i in range(0, 52 * 96, 52)]
    moderator.score(rows[:32])
    start = time.process_time()
    moderator.score(rows)
    return round(len(rows) / (time.process_time() - start), 1)


def parts(moderator: Moderator, limit: int, seed: int = 0) -> dict[str, Callable[[], Figures]]:
    """All figures of the model card, to be computed part by part."""
    return {
        "texts": lambda: text_figures(moderator, limit),
        "hatecheck": lambda: hatecheck(moderator, limit),
        "answers": lambda: answer_figures(moderator, limit),
        "self-written": lambda: {
            name: flagged(scores(moderator, [asked(t) for t in turns]).max(axis=1))
            for name, turns in written(seed).items()
        },
        "harmless answers": lambda: {
            name: flagged(scores(moderator, exchanges).max(axis=1))
            for name, exchanges in harmless(seed, limit).items()
        },
        "padded": lambda: padded(moderator, seed),
        "speed": lambda: {"64-token answers per second": speed(moderator)},
    }


def lines(figures: Figures, before: str = "") -> list[str]:
    """Figures, one line for each innermost table."""
    if not any(isinstance(value, dict) for value in figures.values()):
        return [f"{before:<60} " + "  ".join(f"{k} {v}" for k, v in figures.items())]
    found = []
    for name, value in figures.items():
        found += lines(value, f"{before} {name}".strip()) if isinstance(value, dict) else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="another small moderator than the packaged one")
    parser.add_argument("--embedded", action="store_true", help="measure `embedded` instead")
    parser.add_argument("--only", nargs="*", help="parts; all by default")
    parser.add_argument("--limit", type=int, default=700, help="rows of a set")
    parser.add_argument("--out", type=Path, help="file to write the figures to, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    moderator = EmbeddedModerator() if args.embedded else SmallModerator(args.folder)
    figures: Figures = {}
    for name, part in parts(moderator, args.limit).items():
        if name in (args.only or name):
            figures[name] = part()
            print("\n".join(lines({name: figures[name]})), flush=True)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
