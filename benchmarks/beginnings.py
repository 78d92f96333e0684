"""Which first answers may be left unfinished: the harm of beginnings beside that of whole answers.

    python -m benchmarks.beginnings
    python -m benchmarks.beginnings --answers training/labelled/answers.jsonl

Answers to requests that are harmful, wrapped, harmless or lookalikes are cut after 32 tokens
of the model's tokenizer; whole answers are their first 64. For each margin: of those that pass as a
whole, how many have a beginning that would have been cut, which is an error; of those that are
flagged, how many, and the share of their tokens that is still generated. Without ``--answers`` they
are the labelled ones, a sample of gptfuzz's and, of hh's chosen ones, the first.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer

from rerail.engines._packaged import packaged_folder
from rerail.panel import Panel
from rerail.policy import PolicyStore
from rerail.types import Exchange, Message
from training.splits import data_folder

LABELLED = Path("training/labelled/answers.jsonl")
WHOLE, LOOKS = 64, (32,)
MARGINS = (1.0, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0)
BATCH = 64


class Read(NamedTuple):
    """The harm of an answer's beginnings, and of all of it."""

    beginnings: list[float]
    whole: float
    tokens: int

    def cut(self, margin: float) -> int | None:
        """After how many tokens the answer would have been cut."""
        looks = zip(LOOKS, self.beginnings, strict=False)
        return next((tokens for tokens, harm in looks if harm >= margin), None)


def labelled(path: Path) -> Iterator[Exchange]:
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        turns = tuple(Message(turn["role"], turn["content"]) for turn in row["messages"])
        yield Exchange(turns, row["answer"])


def public(seed: int) -> Iterator[Exchange]:
    """Answers of other models and of people."""
    rng, folder = random.Random(seed), data_folder()
    with gzip.open(folder / "train-gptfuzz-responses" / "evaluate.csv.gz") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    for row in rng.sample(rows, 700):
        yield Exchange((Message("user", row["question"]),), row["Response"])
    with gzip.open(folder / "train-hh-harmless" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        chosen = [json.loads(line)["chosen"] for line in lines]
    for text in rng.sample(chosen, 1200):
        asked, _, answer = text.split("\n\nHuman: ")[1].partition("\n\nAssistant: ")
        if answer.strip():
            yield Exchange((Message("user", asked),), answer.strip())


def read(panel: Panel, exchanges: list[Exchange]) -> Iterator[Read]:
    tokenizer = AutoTokenizer.from_pretrained(packaged_folder("smollm2"))
    for start in range(0, len(exchanges), BATCH):
        asked, counts = [], []
        for exchange in exchanges[start : start + BATCH]:
            tokens = tokenizer(exchange.answer, add_special_tokens=False)["input_ids"][:WHOLE]
            sizes = [*(size for size in LOOKS if size < len(tokens)), len(tokens)]
            asked += [Exchange(exchange.messages, tokenizer.decode(tokens[:n])) for n in sizes]
            counts.append(sizes)
        harms = iter([judged.harm for judged in panel.judge(asked)])
        for sizes in counts:
            *beginnings, whole = [next(harms) for _ in sizes]
            yield Read(beginnings, whole, sizes[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="default")
    parser.add_argument("--answers", type=Path, action="append")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    exchanges = [e for path in args.answers or [LABELLED] for e in labelled(path)]
    if not args.answers:
        exchanges += public(args.seed)
    found = list(read(Panel.load(PolicyStore.shipped().get(args.policy)), exchanges))
    passed = [one for one in found if one.whole < 1]
    flagged = [one for one in found if one.whole >= 1]
    print(f"{len(passed)} pass as a whole, {len(flagged)} are flagged")
    print("| margin | cut of those that pass | of those that are flagged | share of their tokens |")
    print("|---|---|---|---|")
    for margin in MARGINS:
        wrong = sum(one.cut(margin) is not None for one in passed)
        right = sum(one.cut(margin) is not None for one in flagged) / len(flagged)
        left = sum((one.cut(margin) or one.tokens) / one.tokens for one in flagged) / len(flagged)
        print(f"| {margin:.1f} | {wrong} | {right:.0%} | {left:.0%} |")


if __name__ == "__main__":
    main()
