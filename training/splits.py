"""Which rows of which public data set are for training, validation or held-out evaluation.

The one place that says so: everything under `training/`, and every evaluation that claims to use
unseen prompts, takes its rows from here.

    from training.splits import load, HELD_OUT, TRAIN
    load("advbench", HELD_OUT)          # a list of Prompt
    python -m training.splits           # the counts of every source and split

The data folder is `$RERAIL_DATA`, or `../shared/data` beside the repository.

| source | train | validation | held out |
|---|---|---|---|
| advbench | rows 0-399 | rows 400-419 | rows 420-519 |
| simple-safety-tests | - | - | all |
| strongreject, catqa, harmfulqa, dangerousqa | 90 % by hash | - | 10 % by hash |
| aart | 90 % by hash | - | 10 % by hash |
| safety-rbr (first turns that call for a refusal) | 90 % by hash | - | 10 % by hash |
| self-instruct-seed | all | - | - |
| self-instruct-user | - | - | all |
| roleplay, gsm8k | 85 % by hash | 5 % by hash | 10 % by hash |
| jailbreaks-in-the-wild, do-not-answer | - | - | all (do-not-answer is non-commercial) |

Rows of different sources with the same words fall into the same split: a row of a training split
whose normalised text is held out elsewhere is dropped.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"
SPLITS = (TRAIN, VALIDATION, HELD_OUT)


@dataclass(frozen=True)
class Prompt:
    """One request of a public data set, with the row it came from (counted from 0)."""

    text: str
    source: str
    row: int
    split: str
    category: str = ""


@dataclass(frozen=True)
class Source:
    """How a data set is read and which split each of its rows belongs to."""

    folder: str
    licence: str
    harmful: bool
    rows: Callable[[Path], Iterator[tuple[str, str]]]  # (text, category)
    split: Callable[[int, str], str]
    may_ship: bool = True  # its licence allows rows, or weights trained on them, to be shipped


def data_folder() -> Path:
    """The folder of public data: `$RERAIL_DATA` or `../shared/data` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RERAIL_DATA", default))
    if not folder.is_dir():
        raise FileNotFoundError(f"no data folder at {folder}: set RERAIL_DATA to it")
    return folder


def normalise(text: str) -> str:
    """The words of a text in lower case: what hashing and comparing go by."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def bucket(text: str) -> int:
    """A number in 0..99, fixed by the words of the text alone (not by row order or a seed)."""
    return int.from_bytes(hashlib.sha256(normalise(text).encode()).digest()[:4], "big") % 100


def _open(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _csv(name: str, text: str, category: str = "") -> Callable[[Path], Iterator[tuple[str, str]]]:
    def rows(folder: Path) -> Iterator[tuple[str, str]]:
        with _open(folder / name) as file:
            for row in csv.DictReader(file):
                yield row[text], row[category] if category else ""

    return rows


def _catqa(folder: Path) -> Iterator[tuple[str, str]]:
    tree = json.loads((folder / "catqa_english.json").read_text(encoding="utf-8"))
    for category, parts in tree.items():
        for questions in parts.values():
            yield from ((question, category) for question in questions)


def _harmfulqa(folder: Path) -> Iterator[tuple[str, str]]:
    tree = json.loads((folder / "harmfulqa.json").read_text(encoding="utf-8"))
    for category, parts in tree.items():
        for questions in parts.values():
            yield from ((question, category) for question in questions)


def _strings(name: str) -> Callable[[Path], Iterator[tuple[str, str]]]:
    def rows(folder: Path) -> Iterator[tuple[str, str]]:
        with _open(folder / name) as file:
            yield from ((text, "") for text in json.load(file))

    return rows


def _self_instruct(name: str) -> Callable[[Path], Iterator[tuple[str, str]]]:
    def rows(folder: Path) -> Iterator[tuple[str, str]]:
        with _open(folder / name) as file:
            for line in file:
                row = json.loads(line)
                instances = row["instances"]
                given = instances[0]["input"].strip() if instances else ""
                yield row["instruction"].strip() + (f"\n\n{given}" if given else ""), ""

    return rows


def _roleplay(folder: Path) -> Iterator[tuple[str, str]]:
    with _open(folder / "roleplay-simple-deduped-roleplay-dataset.json.gz") as file:
        for row in json.load(file):
            given = row["input"].strip()
            yield row["instruction"].strip() + (f"\n\n{given}" if given else ""), ""


def _safety_rbr(folder: Path) -> Iterator[tuple[str, str]]:
    with _open(folder / "train.jsonl.gz") as file:
        for line in file:
            row = json.loads(line)
            asked = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"]
            if "Refuse" in row["response_type"] and len(asked) == 1:
                yield asked[0].strip(), row["category"]


def _gsm8k(folder: Path) -> Iterator[tuple[str, str]]:
    with _open(folder / "test.jsonl.gz") as file:
        for line in file:
            yield json.loads(line)["question"].strip(), ""


def _all(split: str) -> Callable[[int, str], str]:
    return lambda row, text: split


def _advbench_split(row: int, text: str) -> str:
    return TRAIN if row < 400 else VALIDATION if row < 420 else HELD_OUT


def _hash_split(held_out: int, validation: int = 0) -> Callable[[int, str], str]:
    def split(row: int, text: str) -> str:
        place = bucket(text)
        if place < held_out:
            return HELD_OUT
        return VALIDATION if place < held_out + validation else TRAIN

    return split


SOURCES: dict[str, Source] = {
    "advbench": Source(
        "advbench", "MIT", True, _csv("harmful_behaviors.csv", "goal"), _advbench_split
    ),
    "simple-safety-tests": Source(
        "simple-safety-tests",
        "CC-BY-4.0",
        True,
        _csv("SimpleSafetyTests_-_test_cases.csv", "prompts_final", "harm_area"),
        _all(HELD_OUT),
    ),
    "strongreject": Source(
        "strongreject",
        "MIT",
        True,
        _csv("strongreject.csv", "forbidden_prompt", "category"),
        _hash_split(10),
    ),
    "catqa": Source("catqa-harmfulqa", "Apache-2.0", True, _catqa, _hash_split(10)),
    "harmfulqa": Source("catqa-harmfulqa", "Apache-2.0", True, _harmfulqa, _hash_split(10)),
    "dangerousqa": Source(
        "catqa-harmfulqa", "Apache-2.0", True, _strings("dangerousqa.json"), _hash_split(10)
    ),
    "aart": Source(
        "train-aart",
        "CC-BY-4.0",
        True,
        _csv("aart-v1-20231117.csv.gz", "prompt", "crime"),
        _hash_split(10),
    ),
    "safety-rbr": Source("safety-rbr-gold", "MIT", True, _safety_rbr, _hash_split(10)),
    "self-instruct-seed": Source(
        "self-instruct", "Apache-2.0", False, _self_instruct("seed_tasks.jsonl"), _all(TRAIN)
    ),
    "self-instruct-user": Source(
        "self-instruct",
        "Apache-2.0",
        False,
        _self_instruct("user_oriented_instructions.jsonl"),
        _all(HELD_OUT),
    ),
    "roleplay": Source("benign-roleplay", "MIT", False, _roleplay, _hash_split(10, 5)),
    "gsm8k": Source("gsm8k-test", "MIT", False, _gsm8k, _hash_split(10, 5)),
    "jailbreaks-in-the-wild": Source(
        "jailbreak-prompts-in-the-wild",
        "Apache-2.0",
        True,
        _strings("inthewild_jailbreak_llms.json.gz"),
        _all(HELD_OUT),
    ),
    "do-not-answer": Source(
        "do-not-answer",
        "CC-BY-NC-SA-4.0",
        True,
        _csv("data_en.csv.gz", "question", "risk_area"),
        _all(HELD_OUT),
        may_ship=False,
    ),
}


@cache
def _read(name: str) -> tuple[Prompt, ...]:
    source = SOURCES[name]
    rows = source.rows(data_folder() / source.folder)
    return tuple(
        Prompt(text, name, row, source.split(row, text), category)
        for row, (text, category) in enumerate(rows)
    )


@cache
def _held_out_texts() -> frozenset[str]:
    prompts = (prompt for name in SOURCES for prompt in _read(name))
    return frozenset(normalise(prompt.text) for prompt in prompts if prompt.split == HELD_OUT)


def load(name: str, split: str) -> list[Prompt]:
    """The rows of one source that belong to a split, in the source's order."""
    if name not in SOURCES:
        raise KeyError(f"no source {name!r}; there are {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    rows = [prompt for prompt in _read(name) if prompt.split == split]
    if split == HELD_OUT:
        return rows
    return [prompt for prompt in rows if normalise(prompt.text) not in _held_out_texts()]


def main() -> None:
    for name, source in SOURCES.items():
        counts = "  ".join(f"{split} {len(load(name, split)):>5}" for split in SPLITS)
        print(f"{name:<24} {source.licence:<16} {counts}")


if __name__ == "__main__":
    main()
