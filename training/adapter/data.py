"""What the adapter is trained on: conversations, and where their answers come from.

Harmful requests get a refusal of our own writing. Harmless ones, lookalikes of harmful ones among
them, get what the model answers without the adapter. No conversation holds a jailbreak wrapper.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rerail.eval.rules import is_refusal
from training.adapter import refusals
from training.adapter.answers import Answers, Turns
from training.splits import HELD_OUT, TRAIN, VALIDATION, load, normalise

HERE = Path(__file__).parent
SYSTEM_SHARE = 0.2
WHOLE, SHORT = 96, 40
"""Tokens of the model's own answers: to public requests, and to those of our own writing."""

HARMFUL = {
    "advbench": 230,
    "catqa": 160,
    "harmfulqa": 100,
    "dangerousqa": 25,
    "aart": 50,
    "safety-rbr": 37,
}
"""Harmful requests trained on, by data set; none of StrongREJECT and SimpleSafetyTests."""

PUBLIC = (("self-instruct-seed", 300, 120), ("roleplay", 180, 150), ("gsm8k", 200, 12))
"""Harmless public requests: data set, longest text in characters, count."""

FORMS_PER_DEED = {"everyday": 1, "lookalikes": 2}
MULTI_TURN = 35
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Wanted:
    """A conversation, and its answer: a text, or so many tokens of the model's own at most."""

    turns: Turns
    kind: str
    answer: str | None = None
    own_tokens: int = 0
    own_of: Turns = ()
    """The conversation that the model's own answer is to, where it is another one."""


@cache
def own() -> dict[str, Any]:
    """Requests of our own writing, by kind."""
    return yaml.safe_load((HERE / "requests.yaml").read_text(encoding="utf-8"))


def public_harmless(seed: int) -> list[Turns]:
    """Short harmless requests of public data sets, a fifth of them behind a system prompt."""
    rng = random.Random(seed)
    texts = []
    for name, longest, count in PUBLIC:
        short = [row.text for row in load(name, TRAIN) if len(row.text) <= longest]
        texts += rng.sample(short, min(count, len(short)))
    return [behind_system(text, rng) for text in texts]


def own_harmless(seed: int) -> tuple[list[Turns], list[Turns]]:
    """Harmless requests of our own writing: those to train on, and those to validate with."""
    rng = random.Random(seed)
    groups: list[list[str]] = [[text] for text in own()["grave"] + own()["plain"]]
    for kind, count in FORMS_PER_DEED.items():
        for deed in own()[kind]:
            forms = rng.sample(own()["forms"], count)
            groups.append([form.replace("{do}", deed) for form in forms])
    rng.shuffle(groups)
    held = round(VALIDATION_SHARE * len(groups))
    validation = [(("user", group[0]),) for group in groups[:held]]
    return [behind_system(text, rng) for group in groups[held:] for text in group], validation


def harmful(seed: int) -> list[str]:
    """Harmful requests to train on; none is in a data set that is held out whole."""
    rng = random.Random(seed)
    unseen = {
        normalise(row.text) for split in (TRAIN, HELD_OUT) for row in load("strongreject", split)
    }
    texts = []
    for name, count in HARMFUL.items():
        rows = [row.text.strip() for row in load(name, TRAIN) if normalise(row.text) not in unseen]
        texts += rng.sample(rows, min(count, len(rows)))
    return texts


def training(seed: int) -> list[Wanted]:
    """All conversations of the training, in random order."""
    rng = random.Random(seed)
    public, (ours, _), asked = public_harmless(seed), own_harmless(seed), harmful(seed)
    wanted = [Wanted(turns, "public", own_tokens=WHOLE) for turns in public]
    wanted += [Wanted(turns, "own", own_tokens=SHORT) for turns in ours]
    wanted += [
        Wanted(behind_system(text, rng), "harmful", answer=refusals.draw(text, rng))
        for text in asked
    ]
    for turns in rng.sample(ours, MULTI_TURN):  # a harmless turn after a refusal
        text = rng.choice(asked)
        before = (("user", text), ("assistant", refusals.draw(text, rng)))
        alone = turns[-1:]
        wanted.append(Wanted((*before, *alone), "after refusal", own_tokens=SHORT, own_of=alone))
    for text in rng.sample(asked, MULTI_TURN):  # a harmful turn after a harmless one
        earlier = rng.choice(own()["chats"])
        before = (("user", earlier["user"]), ("assistant", earlier["assistant"]))
        answer = refusals.draw(text, rng)
        wanted.append(Wanted((*before, ("user", text)), "harmful later", answer=answer))
    rng.shuffle(wanted)
    return wanted


def validation(seed: int) -> tuple[list[Turns], list[Turns]]:
    """Requests of unseen topics to watch the training by: harmful ones and harmless ones."""
    bad = [(("user", row.text),) for row in load("advbench", VALIDATION)]
    _, good = own_harmless(seed)
    return bad, good


def own_answers(wanted: list[Wanted], answers: Answers) -> dict[Turns, tuple[int, ...]]:
    """The tokens of the model's own answers that are wanted, but for those that decline.

    It apologises to some harmless requests as it is; that is nothing to learn.
    """
    found: dict[Turns, tuple[int, ...]] = {}
    for tokens in sorted({row.own_tokens for row in wanted if row.own_tokens}):
        asked = [row.own_of or row.turns for row in wanted if row.own_tokens == tokens]
        given = answers.to(asked, tokens)
        found |= {
            turns: answer.tokens
            for turns, answer in zip(asked, given, strict=True)
            if not is_refusal(answer.text)
        }
    return found


def behind_system(text: str, rng: random.Random) -> Turns:
    """A request, sometimes behind a system prompt."""
    before = (("system", rng.choice(own()["systems"])),) if rng.random() < SYSTEM_SHARE else ()
    return (*before, ("user", text))
