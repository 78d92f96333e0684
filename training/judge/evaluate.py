"""Measure the packaged judge on answers it never saw: ``python -m training.judge.evaluate``."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score

from rerail.eval.embedded_judge import EmbeddedJudge
from rerail.moderators.embedded import EmbeddedModerator
from rerail.types import Exchange, Message
from training.judge.train import hh_pairs
from training.moderator import data
from training.moderator.calibrate import exchange
from training.moderator.data import HELD_OUT
from training.moderator.evaluate import ranking, scores
from training.splits import load


def evaluate(seed: int = 0) -> dict[str, Any]:
    """All figures of the judge's card."""
    judge, moderator, rng = EmbeddedJudge(), EmbeddedModerator(), random.Random(seed)
    benign = data.benign_turns(HELD_OUT)
    wild = [p.text for p in load("jailbreaks-in-the-wild", HELD_OUT)]
    sets = {
        "gptfuzz evaluate.csv": data.gptfuzz(HELD_OUT),
        "gptfuzz evaluate.csv and harmless answers": data.gptfuzz(HELD_OUT) + benign,
        "rbr-gold test": data.rbr(HELD_OUT),
        "do-not-answer (evaluation only)": data.do_not_answer(),
        "SmolLM2, read": data.read_answers(),
        "SmolLM2, read, without doubt": data.read_answers(sure=True),
        "self-written, unseen requests": data.own_turns(
            data.harmful_requests(HELD_OUT) + data.benign_requests(HELD_OUT), rng, HELD_OUT
        ),
        "harmless": benign,
        "harmless, in jailbreaks of the wild": [
            replace(t, request=f"{rng.choice(wild)}\n\n{t.request}") for t in benign
        ],
    }
    figures: dict[str, Any] = {}
    for name, turns in sets.items():
        exchanges = [exchange(turn) for turn in turns]
        p = np.array(judge.judge(exchanges))
        flags = scores(moderator, exchanges).max(axis=1) >= 0.5
        y = np.array([turn.harmful for turn in turns])
        part: dict[str, Any] = {"n": len(turns)}
        if 0 < y.sum() < len(y):
            part = ranking(y, p) | {
                "judged harmful if harmful": round(float((p[y == 1] >= 0.5).mean()), 3)
            }
            part["kappa with the moderator"] = round(float(cohen_kappa_score(p >= 0.5, flags)), 3)
            part["kappa with the labels"] = round(float(cohen_kappa_score(p >= 0.5, y == 1)), 3)
        part["judged harmful if not"] = round(float((p[y == 0] >= 0.5).mean()), 4)
        figures[name] = part
    pairs = hh_pairs(HELD_OUT)
    chosen, rejected = (
        np.array(
            judge.judge([Exchange((Message("user", p.request),), getattr(p, k)) for p in pairs])
        )
        for k in ("chosen", "rejected")
    )
    figures["hh-harmless: rejected above chosen"] = {
        "n": len(pairs),
        "share": round(float((rejected > chosen).mean()), 3),
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write the figures to, as JSON")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    figures = evaluate(args.seed)
    for name, part in figures.items():
        print(f"{name:<44} {part}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
