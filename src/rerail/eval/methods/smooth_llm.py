"""SmoothLLM: answers to randomly misspelt copies of the prompt, and the majority's verdict.

Robey et al. 2023, "SmoothLLM: Defending large language models against jailbreaking attacks",
arXiv 2310.03684, algorithm 1 with swap perturbations. Whether an answer is a refusal is told by
rule, as published; no moderator is asked. Misspelt words have more tokens: a copy that no longer
fits the model's context has no vote.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from rerail.errors import PromptTooLongError
from rerail.eval.methods.steps import Attempt, Reply, Steps, Stepwise
from rerail.eval.rules import is_refusal
from rerail.rounds import Ask
from rerail.types import FrozenDict, Message, Prompt

_ALPHABET = np.array(list(string.printable[:95]))


class SmoothLLM(Stepwise):
    """Returns an answer, drawn at random, of those that agree with the majority.

    Args:
        copies: N of the paper.
        share: q of the paper, the share of characters that are replaced.
    """

    name = "smoothllm"

    def __init__(self, copies: int = 10, share: float = 0.1) -> None:
        self.copies = copies
        self.share = share

    @property
    def settings(self) -> Mapping[str, Any]:
        return FrozenDict({"copies": self.copies, "share": self.share})

    def steps(self, attempt: Attempt) -> Steps:
        *earlier, last = attempt.prompt.messages
        asks: list[Ask] = []
        for draw in range(self.copies):
            text = swapped(last.content, self.share, attempt.rng)
            prompt = Prompt((*earlier, Message("user", text)), attempt.prompt.template)
            with suppress(PromptTooLongError):
                asks.append(attempt.ask(prompt, draw=draw))
        if not asks:
            raise PromptTooLongError("no misspelt copy of the prompt fits the model's context")
        replies = yield asks
        return vote(replies, attempt.rng)


def swapped(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with a share of its characters, at random places, replaced by random ones."""
    characters = list(text)
    places = rng.choice(len(text), round(share * len(text)), replace=False)
    for place, new in zip(places, rng.choice(_ALPHABET, len(places)), strict=True):
        characters[place] = str(new)
    # A prompt of spaces only would be none.
    return "".join(characters) if "".join(characters).strip() else text


def vote(replies: list[Reply], rng: np.random.Generator) -> Reply:
    """An answer, drawn at random, that agrees with the majority on whether to refuse.

    A tie counts as a refusal.
    """
    refused = [is_refusal(reply.text) for reply in replies]
    majority = 2 * sum(refused) >= len(replies)
    agreeing = [r for r, declines in zip(replies, refused, strict=True) if declines == majority]
    return agreeing[int(rng.integers(len(agreeing)))]
