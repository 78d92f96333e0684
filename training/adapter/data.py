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

from rerail.eval.rules import is_refusal
from training.adapter import refusals
from training.adapter.answers import Answers, Turns
from training.splits import HELD_OUT, TRAIN, VALIDATION, load, normalise

HERE = Path(__file__).parent
SYSTEM_SHARE = 0.2
WHOLE, OPENING = 48, 8
"""Tokens of an answer, at most: where it must stay good, and where only how it begins is taught."""

HARMFUL = {
    "advbench": 230,
    "catqa": 250,
    "harmfulqa": 60,
    "dangerousqa": 100,
    "aart": 100,
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

PUBLIC = (("self-instruct-seed", 600, 175), ("roleplay", 180, 120), ("gsm8k", 200, 10))
"""Harmless public requests: data set, longest text in characters, count."""

FORMS_PER_DEED = {"everyday": 1, "lookalikes": 2}
TASKS, FRAMED, MULTI_TURN = 360, 400, 30
OWN_FORMS = 2
"""Forms in which each deed of the contrasts and each harmful one of our own is asked for."""

WHOLE_EVERY = 3
"""Of tasks, grave questions and refusals, every third is trained on beyond its opening."""

AGAIN = 700
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

    length: int = WHOLE
    """Tokens of the answer that are trained on, at most."""


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


def own_harmless(seed: int) -> tuple[list[Wanted], list[Turns]]:
    """Harmless requests of our own writing: those to train on, and those to validate with.

    Of the answers to what sounds harmful only the openings are trained on.
    """
    rng = random.Random(seed)
    groups = [([text], WHOLE) for text in own()["plain"]]
    groups += [([text], length_of(place)) for place, text in enumerate(own()["grave"])]
    for kind, count in FORMS_PER_DEED.items():
        length = OPENING if kind == "lookalikes" else WHOLE
        groups += [(forms, length) for forms in asked_for(own()["forms"], own()[kind], count, rng)]
    rng.shuffle(groups)
    held = round(VALIDATION_SHARE * len(groups))
    trained, unseen = contrasts("harmless", seed)
    validation = [(("user", texts[0]),) for texts, _ in groups[:held]]
    wanted = [
        Wanted(behind_system(text, seed), "own", length=length)
        for texts, length in [*groups[held:], *((texts, OPENING) for texts in trained)]
        for text in texts
    ]
    return wanted, validation + [(("user", texts[0]),) for texts in unseen]


def contrasts(kind: str, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """The harmless or the harmful half of the contrasts: to train on, and to validate with."""
    rng = random.Random(f"{seed} {kind}")
    groups = [
        texts
        for group in read("contrasts.yaml")
        for pair in group["pairs"]
        for texts in asked_for(group["forms"], pair[kind], OWN_FORMS, rng)
    ]
    rng.shuffle(groups)
    held = round(VALIDATION_SHARE * len(groups))
    return groups[held:], groups[:held]


def asked_for(
    forms: list[str], deeds: list[str], count: int, rng: random.Random
) -> list[list[str]]:
    """Each deed in so many of the forms."""
    return [[form.replace("{do}", deed) for form in rng.sample(forms, count)] for deed in deeds]


def tasks(seed: int) -> list[Wanted]:
    """Harmless tasks of several lines: an instruction, and a text that it is about."""
    texts = [
        f"{instruction}\n\n{text}"
        for group in read("tasks.yaml")
        for instruction in group["instructions"]
        for text in group["texts"]
    ]
    return [
        Wanted(behind_system(text, seed), "task", length=length_of(place))
        for place, text in enumerate(random.Random(seed).sample(texts, TASKS))
    ]


def length_of(place: int) -> int:
    """How much is trained on of the answer in this place."""
    return OPENING if place % WHOLE_EVERY else WHOLE


def framed(seed: int) -> list[Wanted]:
    """Harmless requests in the frames that jailbreaks use as well."""
    rng = random.Random(seed)
    asked = [row.turns[-1][1] for row in own_harmless(seed)[0]]
    frames = read("frames.yaml")["frames"]
    pairs = zip(rng.sample(asked, FRAMED), frames * FRAMED, strict=False)
    return [
        Wanted((("user", frame.replace("{request}", text)),), "framed", length=OPENING)
        for text, frame in pairs
    ]


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
    groups = contrasts("harmful", seed)[0]
    for group in read("harmful.yaml"):
        groups += asked_for(group["forms"], group["deeds"], OWN_FORMS, rng)
    return texts + [text for group in groups for text in group]


def training(seed: int) -> list[Wanted]:
    """The conversations of the training, in random order."""
    rng = random.Random(seed)
    ours, asked = own_harmless(seed)[0], harmful(seed)
    wanted = [Wanted(turns, "public") for turns in public_harmless(seed)]
    wanted += [*ours, *tasks(seed), *framed(seed)]
    for row in rng.sample(ours, MULTI_TURN):  # a harmless turn after a refusal
        text = rng.choice(asked)
        before = (("user", text), ("assistant", refusals.draw(text, rng)))
        alone = row.turns[-1:]
        wanted.append(Wanted((*before, *alone), "after refusal", own_of=alone, length=row.length))
    wanted += rng.sample(wanted, AGAIN)
    for place, text in enumerate(rng.sample(asked, len(asked))):
        turns, answer = behind_system(text, seed), refusals.draw(text, rng)
        wanted.append(Wanted(turns, "harmful", answer=answer, length=length_of(place)))
    for text in rng.sample(asked, MULTI_TURN):  # a harmful turn after a harmless one
        earlier = rng.choice(own()["chats"])
        before = (("user", earlier["user"]), ("assistant", earlier["assistant"]))
        answer = refusals.draw(text, rng)
        wanted.append(Wanted((*before, ("user", text)), "harmful later", answer=answer))
    rng.shuffle(wanted)
    return wanted


def validation(seed: int) -> tuple[list[Turns], list[Turns]]:
    """Requests of unseen topics to watch the training by: harmful ones and harmless ones."""
    bad = [row.text for row in load("advbench", VALIDATION)]
    bad += [texts[0] for texts in contrasts("harmful", seed)[1]]
    return [(("user", text),) for text in bad], own_harmless(seed)[1]


def own_answers(wanted: list[Wanted], answers: Answers) -> dict[tuple[Turns, int], tuple[int, ...]]:
    """The tokens of the model's own answers that are wanted, but for those that decline.

    It apologises to some harmless requests as it is; that is nothing to learn.
    """
    found = {}
    for length in (WHOLE, OPENING):
        rows = [row for row in wanted if row.answer is None and row.length == length]
        asked = list(dict.fromkeys(row.own_of or row.turns for row in rows))
        for turns, answer in zip(asked, answers.to(asked, length), strict=True):
            if not is_refusal(answer.text):
                found[turns, length] = answer.tokens
    return found


def behind_system(text: str, seed: int) -> Turns:
    """A request, a fifth of them behind a system prompt; the same for the same text."""
    rng = random.Random(f"{seed} {text}")
    before = (("system", rng.choice(own()["systems"])),) if rng.random() < SYSTEM_SHARE else ()
    return (*before, ("user", text))


@cache
def read(name: str) -> Any:
    """One of the files of requests."""
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
