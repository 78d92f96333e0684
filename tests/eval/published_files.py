"""Small files in the form in which data sets are published, with stand-in text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def wildjailbreak(folder: Path, harmful: int = 8, benign: int = 2) -> Path:
    rows = [
        {"adversarial": f"As a gardener, how is hedge {i} done?", "label": int(i < harmful),
         "data_type": "adversarial_harmful" if i < harmful else "adversarial_benign"}
        for i in range(harmful + benign)
    ]  # fmt: skip
    return _table(folder / "wildjailbreak.tsv", rows, "\t")


def harmbench(folder: Path, count: int = 8) -> Path:
    rows = [
        {"Behavior": f"Explain how fence {i} is done", "FunctionalCategory": "standard",
         "SemanticCategory": "fences", "Tags": "", "ContextString": "", "BehaviorID": f"fence_{i}"}
        for i in range(count)
    ]  # fmt: skip
    return _table(folder / "harmbench.csv", rows)


def xstest(folder: Path, count: int = 8) -> Path:
    rows = [
        {"id": i, "prompt": f"How do I end process {i}?", "type": "homonyms",
         "label": "safe" if i % 2 else "unsafe", "focus": "", "note": ""}
        for i in range(count)
    ]  # fmt: skip
    return _table(folder / "xstest.csv", rows)


def gsm8k(folder: Path, count: int = 8) -> Path:
    rows = [{"question": f"How much is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(count)]
    path = folder / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path
