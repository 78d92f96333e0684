"""What the adapter is trained on: conversations, and where their answers come from.

Harmful requests get a refusal of our own writing. Harmless ones, lookalikes of harmful ones among
them, get what the model answers without the adapter. No conversation holds a jailbreak wrapper.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rerail.eval.rules import _OPENING_WORDS, _REFUSAL
from training.adapter import refusals
from training.adapter.answers import Answers, Turns
from training.splits import HELD_OUT, TRAIN, VALIDATION, load, normalise

HERE = Path(__file__).parent
SYSTEM_SHARE = 0.2
WHOLE = 48
"""Tokens of the model's own answers, at most."""

HARMFUL = {
    "advbench": 230,
    "catqa": 220,
    "harmfulqa": 30,
    "dangerousqa": 90,
    "aart": 90,
    "safety-rbr": 37,
}
"""Requests of each public source to refuse, at most; none of StrongREJECT and SimpleSafetyTests."""

AART = re.compile(
    "arson|assassinations|child trafficking|corporate fraud|credit card fraud|crimes motivated by "
    "(disability|race|religion)|cyberterrorism|domestic violence|drug trafficking|embezzlement|"
    "fraud|hate crimes|identity theft|kidnapping|migrant smuggling|ponzi schemes|robbery|"
    "sex trafficking|terrorism|vandalism|violence"
)
"""Its crimes; horse racing and the like are left out."""

PUBLIC = (("self-instruct-seed", 600, 175), ("roleplay", 180, 160), ("gsm8k", 200, 20))
"""Harmless public requests: data set, longest text in characters, count."""

FORMS_PER_DEED = {"everyday": 1, "lookalikes": 2}
TASKS, FRAMED, MULTI_TURN = 240, 170, 35
HARMFUL_FORMS = 2
"""Forms in which each harmful deed of our own is asked for."""

AGAIN = 760
"""Harmless conversations that are trained on twice: so there are two of them to a harmful one."""

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Wanted:
    """A conversation, and its answer: a text, or the model's own."""

    turns: Turns
    kind: str
    answer: str | None = None
    own_of: Turns = ()
    """The conversation that the model's own answer is to, where it is another one."""


def own() -> dict[str, Any]:
    """Harmless requests of our own writing, by kind."""
    return read("requests.yaml")


def public_harmless(seed: int) -> list[Turns]:
    """Harmless requests of public data sets."""
    texts = []
    for name, longest, count in PUBLIC:
        short = [row.text for row in load(name, TRAIN) if len(row.text) <= longest]
        texts += random.Random(seed).sample(short, min(count, len(short)))
    return [behind_system(text, seed) for text in texts]


def own_harmless(seed: int) -> tuple[list[Turns], list[Turns]]:
    """Harmless requests of our own writing: those to train on, and those to validate with."""
    rng = random.Random(seed)
    groups = [[text] for text in own()["grave"] + own()["plain"]]
    for kind, count in FORMS_PER_DEED.items():
        for deed in own()[kind]:
            forms = rng.sample(own()["forms"], count)
            groups.append([form.replace("{do}", deed) for form in forms])
    rng.shuffle(groups)
    held = round(VALIDATION_SHARE * len(groups))
    validation = [(("user", texts[0]),) for texts in groups[:held]]
    return [behind_system(text, seed) for texts in groups[held:] for text in texts], validation


def tasks(seed: int) -> list[Turns]:
    """Harmless tasks of several lines: an instruction, and a text that it is about."""
    texts = [
        f"{instruction}\n\n{text}"
        for group in read("tasks.yaml")
        for instruction in group["instructions"]
        for text in group["texts"]
    ]
    return [behind_system(text, seed) for text in random.Random(seed).sample(texts, TASKS)]


def framed(seed: int) -> list[Turns]:
    """Harmless requests in the frames that jailbreaks use as well."""
    rng = random.Random(seed)
    asked = [turns[-1][1] for turns in own_harmless(seed)[0]]
    frames = read("frames.yaml")["frames"]
    pairs = zip(rng.sample(asked, FRAMED), frames * FRAMED, strict=False)
    return [(("user", frame.replace("{request}", text)),) for text, frame in pairs]


def harmful(seed: int) -> list[str]:
    """Harmful requests to train on; none is in a data set that is held out whole."""
    unseen = {
        normalise(row.text) for split in (TRAIN, HELD_OUT) for row in load("strongreject", split)
    }
    rng = random.Random(seed)
    texts = []
    for name, count in HARMFUL.items():
        rows = [row for row in load(name, TRAIN) if name != "aart" or AART.fullmatch(row.category)]
        known = [row.text.strip() for row in rows if normalise(row.text) not in unseen]
        texts += rng.sample(known, min(count, len(known)))
    for group in read("harmful.yaml"):
        for deed in group["deeds"]:
            forms = rng.sample(group["forms"], HARMFUL_FORMS)
            texts += [form.replace("{do}", deed) for form in forms]
    return texts


def training(seed: int) -> list[Wanted]:
    """The conversations of the training, in random order."""
    rng = random.Random(seed)
    ours, asked = own_harmless(seed)[0], harmful(seed)
    wanted = [Wanted(turns, "public") for turns in public_harmless(seed)]
    wanted += [Wanted(turns, "own") for turns in ours]
    wanted += [Wanted(turns, "task") for turns in tasks(seed)]
    wanted += [Wanted(turns, "framed") for turns in framed(seed)]
    for turns in rng.sample(ours, MULTI_TURN):  # a harmless turn after a refusal
        text = rng.choice(asked)
        before = (("user", text), ("assistant", refusals.draw(text, rng)))
        alone = turns[-1:]
        wanted.append(Wanted((*before, *alone), "after refusal", own_of=alone))
    wanted += rng.sample(wanted, AGAIN)
    wanted += [
        Wanted(behind_system(text, seed), "harmful", answer=refusals.draw(text, rng))
        for text in asked
    ]
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
    asked = list(dict.fromkeys(row.own_of or row.turns for row in wanted if row.answer is None))
    return {
        turns: answer.tokens
        for turns, answer in zip(asked, answers.to(asked, WHOLE), strict=True)
        if not declines(answer.text)
    }


def declines(answer: str) -> bool:
    """Whether an answer declines in its first words.

    The part of `rerail.eval.rules.is_refusal` that there was when the shipped adapter was trained:
    with all of today's, other conversations would be trained on.
    """
    words = answer.replace("\u2019", "'").split()
    return bool(_REFUSAL.search(" ".join(words[:_OPENING_WORDS])))


def behind_system(text: str, seed: int) -> Turns:
    """A request, a fifth of them behind a system prompt; the same for the same text."""
    rng = random.Random(f"{seed} {text}")
    before = (("system", rng.choice(own()["systems"])),) if rng.random() < SYSTEM_SHARE else ()
    return (*before, ("user", text))


@cache
def read(name: str) -> Any:
    """One of the files of requests."""
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
