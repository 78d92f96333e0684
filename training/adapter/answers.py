"""Greedy answers of the model itself, kept in a file so that none is computed twice.

They are what the adapter learns to say to harmless requests: what the model says without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerail.engines import Engine, GenerationRequest, Sampling
from rerail.types import Message, Prompt

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, text), the last of them the user's."""

BATCH = 32


@dataclass(frozen=True)
class Answer:
    """A model's answer: its text, its tokens, and whether the model ended it."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


class Answers:
    """Greedy answers of one model, computed where the file lacks them.

    Args:
        engine: the model.
        file: where answers are kept, a JSON object on each line.
    """

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._file = file
        self._known: dict[str, Answer] = {}
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                answer = Answer(row["text"], tuple(row["tokens"]), row["ended"])
                self._known[row["key"]] = answer

    def to(self, conversations: Sequence[Turns], max_tokens: int) -> list[Answer]:
        """An answer of at most so many tokens to each conversation, in order."""
        keys = [_key(turns, max_tokens) for turns in conversations]
        lacking = {
            key: turns
            for key, turns in zip(keys, conversations, strict=True)
            if key not in self._known
        }
        order = sorted(lacking, key=lambda key: sum(len(text) for _, text in lacking[key]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            self._compute({key: lacking[key] for key in batch}, max_tokens)
        return [self._known[key] for key in keys]

    def _compute(self, batch: dict[str, Turns], max_tokens: int) -> None:
        requests = []
        for turns in batch.values():
            prompt = Prompt(tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
            embedded = self._engine.embed(prompt)
            requests.append(GenerationRequest(embedded, embedded.point, 0))
        given = self._engine.generate(requests, Sampling(max_new_tokens=max_tokens))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            for key, generation in zip(batch, given, strict=True):
                answer = Answer(
                    generation.text, generation.token_ids, generation.finish_reason == "stop"
                )
                self._known[key] = answer
                row = {"key": key, "text": answer.text, "tokens": answer.tokens}
                file.write(json.dumps({**row, "ended": answer.ended}) + "\n")


def _key(turns: Turns, max_tokens: int) -> str:
    text = json.dumps([max_tokens, turns], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
