"""All of AdvBench in three wrappers, killed and resumed: every prompt answered, none twice.

    python -m benchmarks.resume --folder build/resume --kills 1

Runs ``rerail align --input`` over 3 × 520 prompts on the embedded model, ends it with SIGKILL when
a share of the records is there, runs the same command again, and compares output and store.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from rerail.store import Store
from training.chat import wrappers
from training.splits import data_folder

WRAPPERS = 3
ADVBENCH = "advbench/harmful_behaviors.csv"


def write_prompts(path: Path, seed: int, limit: int | None) -> int:
    """Each request in three wrappers of its own draw, one of them of held-out fragments."""
    rng = random.Random(seed)
    with (data_folder() / ADVBENCH).open(encoding="utf-8", newline="") as file:
        requests = [row["goal"].strip() for row in csv.DictReader(file)][:limit]
    lines = [
        {"id": f"{row}-{turn}", "prompt": wrappers.wrap(request, rng, turn == 0).text}
        for row, request in enumerate(requests)
        for turn in range(WRAPPERS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def finished(path: Path) -> list[str]:
    """Ids of the whole lines of an output; a line torn by a kill doesn't count."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line)["id"] for line in lines]


def run(folder: Path, total: int, kills: int) -> dict[str, object]:
    """Run to the end, killed ``kills`` times on the way at even distances."""
    source, output = folder / "prompts.jsonl", folder / "answers.jsonl"
    command = [sys.executable, "-m", "rerail", "align", "--json",
               "--model", "embedded", "--policy", "quick",
               "--input", str(source), "--output", str(output)]  # fmt: skip
    killed_at = []
    for kill in range(kills):
        goal = total * (kill + 1) // (kills + 1)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and len(finished(output)) < goal:
                time.sleep(0.2)
            process.send_signal(signal.SIGKILL)
        killed_at.append(len(finished(output)))
    last = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    ids = finished(output)
    summary = json.loads(last.stdout)
    with Store.open(folder / "answers.sqlite") as store:
        records = store.done(summary["run"])
    return {
        "prompts": total,
        "killed_at": killed_at,
        "resumed": summary["resumed"],
        "lines": len(ids),
        "distinct": len(set(ids)),
        "records": len(records),
        "same_ids": Counter(map(str, ids)) == Counter(records),
        "outcomes": summary["outcomes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="requests; all by default")
    parser.add_argument("--kills", type=int, default=1)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    total = write_prompts(args.folder / "prompts.jsonl", args.seed, args.limit)
    print(json.dumps(run(args.folder, total, args.kills), indent=2))


if __name__ == "__main__":
    main()
