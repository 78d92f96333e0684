"""Requests to train on: real ones of the training splits, forms filled with random words, facts."""

from __future__ import annotations

import random
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from training.chat.wrappers import made_up_name
from training.splits import TRAIN, Prompt, load

HERE = Path(__file__).parent
HARMFUL_SOURCES = {
    "advbench": 1.0, "strongreject": 1.2, "catqa": 1.5, "harmfulqa": 0.5, "dangerousqa": 1.0,
    "aart": 0.35, "safety-rbr": 1.0,
}  # fmt: skip
BENIGN_SOURCES = {"roleplay": 0.5, "gsm8k": 0.2, "self-instruct-seed": 0.3}
OWN_HARMFUL_SHARE = 0.28
MAX_REQUEST_CHARS = 700

# Harmful requests about minors are refused in training, however they are wrapped, and the demo
# prompts leave them out.
_CHILDREN = re.compile(
    r"\b(?:child\w*|minors?|kids?|underage\w*|teen\w*|toddlers?|infants?|bab(?:y|ies)|p(?:a)?edo\w*"
    r"|schoolgirls?|schoolboys?|incest\w*|girls?|boys?|lolita|csam|groom\w*|preteens?|youths?"
    r"|daughters?|sons?|pupils?|adolescents?|juveniles?|school\w*)\b",
    re.IGNORECASE,
)
_NOUN_AFTER = re.compile(r"\b(?:an?|the|of|for|with|his|her|their|my|its|some)\s+([a-z]{3,12})\b")
_NOT_NOUNS_TEXT = """
same other most few first last next own only very more less such own best great new old all any
each every both this that these those which what who when where one two three four five six
seven eight nine ten and are was were has have had been being not can will would should could
may might must here there then than too also just about into over under some many much good bad
own following given entire whole various certain due part kind type way lot total number
"""
_NOT_NOUNS = frozenset(_NOT_NOUNS_TEXT.split())


def is_about_children(text: str) -> bool:
    """Whether a harmful request speaks of minors; such requests are never answered in training."""
    return bool(_CHILDREN.search(text))


@cache
def forms() -> dict[str, Any]:
    """The file of forms as it is."""
    return yaml.safe_load((HERE / "requests.yaml").read_text(encoding="utf-8"))


@cache
def facts() -> dict[str, Any]:
    """The file of facts as it is."""
    return yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))


@cache
def harmful(split: str = TRAIN) -> dict[str, list[Prompt]]:
    """Harmful requests by source."""
    return {name: load(name, split) for name in HARMFUL_SOURCES}


@cache
def benign(split: str = TRAIN) -> tuple[Prompt, ...]:
    """Real benign requests, the overlong ones left out."""
    rows = [prompt for name in BENIGN_SOURCES for prompt in load(name, split)]
    return tuple(row for row in rows if len(row.text) <= MAX_REQUEST_CHARS)


def draw_benign(rng: random.Random) -> str:
    """One real benign request; the small set of everyday tasks comes up more than its share."""
    name = rng.choices(list(BENIGN_SOURCES), list(BENIGN_SOURCES.values()))[0]
    while True:
        row = rng.choice(benign())
        if row.source == name:
            return row.text


@cache
def nouns() -> tuple[str, ...]:
    """Words that follow an article or a preposition in the benign training prompts.

    Some are no nouns; for learning to copy that doesn't matter. Words that are commoner in harmful
    prompts than in benign ones are left out.
    """
    found: Counter[str] = Counter()
    for prompt in (
        load("roleplay", TRAIN) + load("gsm8k", TRAIN) + load("self-instruct-seed", TRAIN)
    ):
        found.update(set(_NOUN_AFTER.findall(prompt.text)))
    bad: Counter[str] = Counter()
    for rows in harmful().values():
        for prompt in rows:
            bad.update(set(re.findall(r"[a-z]+", prompt.text.lower())))
    keep = (word for word, n in found.items() if word not in _NOT_NOUNS and n >= bad[word])
    return tuple(sorted(keep))


def draw_harmful(rng: random.Random) -> str:
    """One harmful request of the training split, or one of our own naming a harmful act."""
    if rng.random() < OWN_HARMFUL_SHARE:
        own = forms()["harmful"]
        act = rng.choice(own["acts"]).replace("{person}", rng.choice(own["persons"]))
        return rng.choice(own["forms"]).replace("{bad}", act)
    names = list(HARMFUL_SOURCES)
    weights = [HARMFUL_SOURCES[name] * len(harmful()[name]) for name in names]
    while True:
        text = rng.choice(harmful()[rng.choices(names, weights)[0]]).text.strip()
        if len(text) <= MAX_REQUEST_CHARS:
            return text


@cache
def about_children() -> tuple[str, ...]:
    """The harmful training requests that speak of minors."""
    rows = (row.text.strip() for rows in harmful().values() for row in rows)
    return tuple(row for row in rows if is_about_children(row) and len(row) <= MAX_REQUEST_CHARS)


def draw_word(rng: random.Random) -> str:
    """A noun of the list, sometimes a word that exists nowhere."""
    return made_up_name(rng).lower() if rng.random() < 0.1 else rng.choice(nouns())


def draw_form(rng: random.Random) -> str:
    """A form of a random kind, filled with random words."""
    kinds = forms()["benign"]
    weights = {"howto": 4, "edit": 2, "writing": 2, "explain": 2.5}
    kind = rng.choices(list(kinds), [weights.get(name, 1.5) for name in kinds])[0]
    return fill_form(rng.choice(kinds[kind]), rng)


def draw_over_text(rng: random.Random) -> str:
    """An instruction with a text to apply it to, pasted from benign prompts."""
    pasted = " ".join(rng.choice(sentences()) for _ in range(rng.choice((1, 1, 2, 3, 4))))
    if rng.random() < 0.2:
        cells = (", ".join(draw_word(rng) for _ in range(3)) for _ in range(rng.choice((2, 3, 4))))
        pasted = "\n".join(cells)
    return fill_form(rng.choice(forms()["over_text"]), rng) + "\n\n" + pasted


def draw_repeat(rng: random.Random) -> tuple[str, str]:
    """(request, answer) of a text that is to be said again."""
    if rng.random() < 0.5:
        text = " ".join(draw_word(rng) for _ in range(rng.randint(3, 12)))
    else:
        text = rng.choice(sentences())
    return rng.choice(forms()["repeat"]).replace("{text}", text), text


@cache
def sentences() -> tuple[str, ...]:
    """Single sentences of the benign prompts."""
    parts = (part for row in benign() for part in re.split(r"(?<=[.!?])\s+|\n+", row.text))
    return tuple(dict.fromkeys(part for part in parts if 15 <= len(part) <= 140))


def fill_form(form: str, rng: random.Random) -> str:
    """Fills the slots of one form."""
    text = form.replace("{do}", rng.choice(forms()["dos"]))
    draws = {
        "n": lambda: (
            draw_word(rng) if rng.random() < 0.75 else f"{_adjective(rng)} {draw_word(rng)}"
        ),
        "n2": lambda: draw_word(rng),
        "adj": lambda: _adjective(rng),
        "name": lambda: made_up_name(rng),
        "name2": lambda: made_up_name(rng),
        "place": lambda: made_up_name(rng).capitalize(),
        "job": lambda: rng.choice(forms()["jobs"]),
        "doc": lambda: rng.choice(forms()["docs"]),
        "num": lambda: rng.choice(("3", "4", "5", "ten", "three", "five", "two", "a few")),
    }
    for slot, value in draws.items():
        if f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", value())
    text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
    return text[:1].upper() + text[1:]


def _adjective(rng: random.Random) -> str:
    return rng.choice(forms()["adjectives"])


def draw_fact(rng: random.Random, held_out: bool = False) -> tuple[str, str, str]:
    """(question, answer, the word that makes it right); held out = not seen in this form."""
    while True:
        if rng.random() < 0.3:
            question, answer, value = _sum(rng)
        else:
            known = facts()["facts"]
            kind = rng.choices(list(known), [len(rows) ** 0.7 for rows in known.values()])[0]
            key = rng.choice(list(known[kind]))
            value = str(known[kind][key])
            forms_of = facts()["questions"][kind]
            question = rng.choice(forms_of["ask"]).replace("{k}", key)
            answer = rng.choice(forms_of["tell"]).replace("{k}", key).replace("{v}", value)
            answer = answer[:1].upper() + answer[1:]
        if (sum(question.encode()) % 8 == 0) == held_out:
            return question, answer, value


def _sum(rng: random.Random) -> tuple[str, str, str]:
    one, two = rng.randint(0, 9), rng.randint(0, 9)
    sign, word, value = rng.choice(
        (
            ("+", "plus", one + two),
            ("+", "plus", one + two),
            ("-", "minus", max(one, two) - min(one, two)),
        )
    )
    if sign == "-":
        one, two = max(one, two), min(one, two)
    asked = rng.choice(("What is {a} {s} {b}?", "How much is {a} {w} {b}?", "{a} {s} {b} = ?",
                        "What is {a} {w} {b}?", "Calculate {a} {s} {b}."))  # fmt: skip
    told = rng.choice(("{v} is {a} {w} {b}.", "{v} = {a} {s} {b}."))
    filled = [text.format(a=one, b=two, s=sign, w=word, v=value) for text in (asked, told)]
    return filled[0], filled[1], str(value)


def draw_unknown(rng: random.Random) -> tuple[str, str]:
    """(question, subject) about something that cannot be known."""
    subject = fill_form(rng.choice(facts()["unknown"]), rng)
    subject = subject[:1].lower() + subject[1:]
    return rng.choice(facts()["unknown_forms"]).replace("{x}", subject), subject
