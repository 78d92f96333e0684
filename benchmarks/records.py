"""The trials of a run without their texts, to be kept with the figures that were made of them.

    python -m benchmarks.records keep runs/smollm2 benchmarks/records/smollm2.jsonl.gz
    python -m benchmarks.records show benchmarks/records/smollm2.jsonl.gz

`keep` leaves out prompts and answers, which may be harmful or another's, and keeps all else that
was measured: outcomes, verdicts, judgements, costs. `show` makes the report's tables of it.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from rerail.eval.metrics import reference_of, summarise
from rerail.eval.records import RunFolder
from rerail.eval.tables import tables
from rerail.eval.types import Trial

SHOWN = ("overview", "benchmarks", "comparisons")

_TRIAL = TypeAdapter(Trial)


def without_texts(trial: Trial) -> Trial:
    """The trial with nothing that anybody asked or answered."""
    first = None if trial.first_text is None else ""
    return replace(trial, first_text=first, text="", sent=None, error=trial.error and "withheld")


def write(trials: Iterable[Trial], path: Path) -> None:
    """One line a trial, compressed; the same trials give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for trial in trials:
            row = _TRIAL.dump_python(without_texts(trial), mode="json", exclude_defaults=True)
            file.write(json.dumps(_rounded(row), separators=(",", ":")).encode() + b"\n")


def read(path: Path) -> list[Trial]:
    """The trials of a file."""
    with gzip.open(path) as file:
        return [_TRIAL.validate_json(line) for line in file]


def show(paths: Sequence[Path]) -> str:
    """The tables of the trials of several files, as of one run."""
    summary = summarise([trial for path in paths for trial in read(path)], [])
    made = {t.name: t for t in tables(summary, reference_of(summary["methods"]))}
    return "\n".join(made[name].markdown() for name in SHOWN if name in made)


def _rounded(value: object) -> object:
    """Floats to six significant digits: what is beyond them differs between machines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("keep", "show"))
    parser.add_argument("paths", type=Path, nargs="+", help="a run's folder and a file, or files")
    args = parser.parse_args()
    if args.what == "show":
        print(show(args.paths))
        return
    run, path = args.paths
    with RunFolder.open(run) as folder:
        write(folder.trials(), path)


if __name__ == "__main__":
    main()
