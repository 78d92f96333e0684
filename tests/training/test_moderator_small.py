"""The small moderator's training: what real answers it sees, and that it goes on as it was."""

from __future__ import annotations

import json
import random
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rerail.moderators._encoder import unpacked
from rerail.moderators.small import marked
from training.moderator_small.rows import HEADS, real_rows
from training.moderator_small.train import Example, Run

LABELLED = Path(__file__).resolve().parents[2] / "training" / "labelled" / "answers.jsonl"


def test_labelled_answers_that_are_held_out_train_nothing() -> None:
    lines = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    kept = {row["answer"] for row in lines if row["split"] == "train"}
    rows = real_rows([LABELLED], random.Random(0))
    assert {row.answer for row in rows} == {answer for answer in kept if answer.strip()}


def test_a_line_without_a_label_is_a_harmless_answer(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    turns = [{"role": "user", "content": "Name a river."}]
    file.write_text(json.dumps({"messages": turns, "answer": "The Rhine."}) + "\n", "utf-8")
    for row in real_rows([file], random.Random(0)):
        assert (row.answer, row.labels["any"], row.labels["along"]) == ("The Rhine.", 0.0, 1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the published encoder's: float weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    asset = Path(str(files("rerail") / "assets" / "moderator-small"))
    save_file(unpacked(load_file(asset / "model.safetensors")), folder / "model.safetensors")
    words = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    (folder / "tokenizer.json").write_text(json.dumps(words), encoding="utf-8")
    return folder


def batch(seed: int) -> list[Example]:
    """Two made-up rows."""
    rng = random.Random(seed)
    inputs = [(marked([rng.randrange(1000, 9000) for _ in range(5)]), []) for _ in range(2)]
    return [(row, torch.full((len(HEADS),), 0.5), torch.ones(len(HEADS))) for row in inputs]


def test_a_training_that_was_stopped_ends_as_one_that_was_not(base: Path, tmp_path: Path) -> None:
    whole, first = Run(base, tmp_path / "whole", 0), Run(base, tmp_path / "parts", 0)
    (tmp_path / "parts").mkdir()
    for step in range(3):
        whole.update(batch(step))
    first.update(batch(0))
    first.save()
    again = Run(base, tmp_path / "parts", 0)
    assert again.step == 1
    for step in (1, 2):
        again.update(batch(step))
    assert all(torch.equal(whole.mine[name], tensor) for name, tensor in again.mine.items())
