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

SOURCES = ("advbench", "catqa", "harmfulqa", "dangerousqa", "aart", "safety-rbr")
"""Of harmful requests; none of StrongREJECT and SimpleSafetyTests."""


@dataclass(frozen=True)
class Part:
    """A part of the training.

    Attributes:
        harmful: requests of each of the sources; where they suffice, of none that was before.
        public: harmless public requests.
        forms: which forms the harmless requests of our own writing come in.
        rate: share of the learning rate.
    """

    harmful: tuple[int, ...]
    public: int
    forms: int
    rate: float


PARTS = (
    Part((230, 160, 100, 25, 50, 37), 282, 0, 1.0),
    Part((20, 70, 20, 40, 30, 37), 120, 1, 0.5),  # mends that too much is refused
)

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


def own_harmless(seed: int, forms: int = 0) -> tuple[list[Turns], list[Turns]]:
    """Harmless requests of our own writing: those to train on, and those to validate with.

    The same things are asked for in other forms where ``forms`` is another number.
    """
    rng = random.Random(seed)
    groups = [([text], "") for text in own()["grave"] + own()["plain"]]
    for kind, count in FORMS_PER_DEED.items():
        for deed in own()[kind]:
            groups.append((_asked(deed, count, rng), deed))
    rng.shuffle(groups)
    held = round(VALIDATION_SHARE * len(groups))
    validation = [(("user", texts[0]),) for texts, _ in groups[:held]]
    if forms:
        rng = random.Random(f"{seed} {forms}")
        groups = [(_asked(d, len(texts), rng) if d else texts, d) for texts, d in groups]
    return [behind_system(text, rng) for texts, _ in groups[held:] for text in texts], validation


def _asked(deed: str, count: int, rng: random.Random) -> list[str]:
    forms = rng.sample(own()["forms"], count)
    return [form.replace("{do}", deed) for form in forms]


def harmful(seed: int, part: int = 0) -> list[str]:
    """Harmful requests to train on; none is in a data set that is held out whole."""
    unseen = {
        normalise(row.text) for split in (TRAIN, HELD_OUT) for row in load("strongreject", split)
    }
    before = {text for earlier in range(part) for text in harmful(seed, earlier)}
    rng = random.Random(seed)
    texts = []
    for name, count in zip(SOURCES, PARTS[part].harmful, strict=True):
        rows = [row.text.strip() for row in load(name, TRAIN) if normalise(row.text) not in unseen]
        if part:
            rng = random.Random(f"{seed} {part}")
            rows = [text for text in rows if text not in before] or rows
        texts += rng.sample(rows, min(count, len(rows)))
    return texts


def training(seed: int, part: int = 0) -> list[Wanted]:
    """The conversations of one of `PARTS`, in random order."""
    rng = random.Random(f"{seed} {part}" if part else seed)
    public, asked = public_harmless(seed), harmful(seed, part)
    ours, _ = own_harmless(seed, PARTS[part].forms)
    if part:
        public = rng.sample(public, PARTS[part].public)
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
