"""A real chat model's answers to harmless requests, for `rows.real_rows`.

    python -m training.moderator_small.own_answers --answers FILE --out FILE

``--answers`` is the file in which the training of `smollm2-safe` keeps what the unmodified model
says; only what is there is taken.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.adapter import data
from training.adapter.answers import _key


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    lines = args.answers.read_text(encoding="utf-8").splitlines()
    known = {row["key"]: row["text"] for row in map(json.loads, lines)}
    wanted = [row.own_of or row.turns for row in data.training(0) if row.answer is None]
    with args.out.open("w", encoding="utf-8") as file:
        for turns in dict.fromkeys(wanted):
            answer = known.get(_key(turns, data.WHOLE), "")
            if answer.strip() and not data.declines(answer):
                messages = [{"role": role, "content": text} for role, text in turns]
                file.write(json.dumps({"messages": messages, "answer": answer}) + "\n")


if __name__ == "__main__":
    main()
