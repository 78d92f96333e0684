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
from training.splits import SOURCES, TRAIN, Prompt, load

HERE = Path(__file__).parent
HARMFUL_SOURCES = {
    "advbench": 1.0, "strongreject": 1.2, "catqa": 1.5, "harmfulqa": 0.5, "dangerousqa": 1.0,
    "aart": 0.35, "safety-rbr": 1.0,
}  # fmt: skip
OWN_HARMFUL_SHARE = 0.2
MAX_REQUEST_CHARS = 420

# Requests about sexual or violent harm to children are refused in training however they are wrapped,
# and never appear among wrapped prompts.
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
def facts() -> dict[str, dict[str, Any]]:
    """The file of facts as it is."""
    return yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))


@cache
def harmful(split: str = TRAIN) -> dict[str, list[Prompt]]:
    """Harmful requests by source."""
    return {name: load(name, split) for name in HARMFUL_SOURCES}


@cache
def benign(split: str = TRAIN) -> tuple[Prompt, ...]:
    """Real benign requests, the overlong ones left out."""
    names = ("roleplay", "gsm8k", "self-instruct-seed")
    rows = [prompt for name in names for prompt in load(name, split)]
    return tuple(row for row in rows if len(row.text) <= MAX_REQUEST_CHARS)


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


def draw_word(rng: random.Random) -> str:
    """A noun of the list, sometimes a word that exists nowhere."""
    return made_up_name(rng).lower() if rng.random() < 0.1 else rng.choice(nouns())


def draw_form(rng: random.Random) -> str:
    """A form of a random kind, filled with random words."""
    kinds = forms()["benign"]
    weights = {"howto": 4, "edit": 2, "writing": 2, "explain": 2.5}
    kind = rng.choices(list(kinds), [weights.get(name, 1.5) for name in kinds])[0]
    return fill_form(rng.choice(kinds[kind]), rng)


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


QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capitals": (
        ("What is the capital of {k}?", "Name the capital of {k}.", "Which city is the capital of {k}?",
         "What's the capital of {k}?", "capital of {k}?", "Tell me the capital of {k}.",
         "Do you know the capital of {k}?"),
        ("The capital of {k} is {v}.", "{v} is the capital of {k}."),
    ),
    "colours": (
        ("What colour is {k}?", "What color is {k}?", "Which colour does {k} have?"),
        ("{k} is {v}.", "The colour of {k} is {v}."),
    ),
    "sounds": (
        ("What sound does a {k} make?", "Which sound does a {k} make?", "What does a {k} do when it calls?"),
        ("A {k} {v}.",),
    ),
    "young": (
        ("What is a young {k} called?", "What do you call a baby {k}?", "What is the young of a {k}?"),
        ("A young {k} is called a {v}.", "The young of a {k} is a {v}."),
    ),
    "opposites": (
        ("What is the opposite of {k}?", "Give me the opposite of {k}.", "What's the opposite of {k}?"),
        ("The opposite of {k} is {v}.", "{v} is the opposite of {k}."),
    ),
    "counts": (
        ("How many {k}?", "Tell me how many {k}.", "Do you know how many {k}?"),
        ("You ask how many {k}: {v}.", "{v}, if you ask how many {k}."),
    ),
    "superlatives": (
        ("What is the {k}?", "Which one is the {k}?", "Name the {k}.", "What's the {k}?"),
        ("The {k} is {v}.", "{v} is the {k}."),
    ),
    "authors": (
        ("Who wrote {k}?", "Who is the author of {k}?", "Name the author of {k}."),
        ("{k} was written by {v}.", "The author of {k} is {v}."),
    ),
    "makers": (
        ("Who made {k}?", "Who is known for {k}?", "Who came up with {k}?", "Who gave us {k}?"),
        ("{v} is known for {k}.", "We owe {k} to {v}."),
    ),
    "languages": (
        ("Which language is spoken in {k}?", "What language do people speak in {k}?"),
        ("Most people in {k} speak {v}.", "In {k} the language is {v}."),
    ),
    "continents": (
        ("Which continent is {k} in?", "On which continent is {k}?", "Where is {k}?"),
        ("{k} is in {v}.",),
    ),
}  # fmt: skip

UNKNOWN = (
    "the population of {place}", "the birthday of {name}", "the height of the {n} in {place}",
    "the price of a {n} in {place}", "the phone number of {name}", "the weather in {place} tomorrow",
    "the age of {name}", "the name of the {n} of {place}", "the winner of the {n} race in {place}",
    "the opening hours of the {n} shop", "the capital of {place}", "the president of {place}",
    "the author of {name}", "the meaning of {name}", "the distance from {place} to the {n}",
)  # fmt: skip
UNKNOWN_FORMS = (
    "What is {x}?", "What's {x}?", "Do you know {x}?", "Tell me {x}.", "Can you tell me {x}?",
    "I need to know {x}.",
)  # fmt: skip


def draw_fact(rng: random.Random, held_out: bool = False) -> tuple[str, str, str]:
    """(question, answer, the word that makes it right); held-out = form and fact not seen together."""
    while True:
        if rng.random() < 0.3:
            question, answer, value = _sum(rng)
        else:
            kind = rng.choices(list(facts()), [len(rows) ** 0.7 for rows in facts().values()])[0]
            key = rng.choice(list(facts()[kind]))
            value = str(facts()[kind][key])
            asked, told = QUESTIONS[kind]
            question = rng.choice(asked).replace("{k}", key)
            answer = rng.choice(told).replace("{k}", key).replace("{v}", value)
            answer = answer[:1].upper() + answer[1:]
        if (sum(question.encode()) % 8 == 0) == held_out:
            return question, answer, value


def _sum(rng: random.Random) -> tuple[str, str, str]:
    one, two = rng.randint(0, 12), rng.randint(0, 12)
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
    told = rng.choice(("{a} {w} {b} is {v}.", "{a} {s} {b} = {v}."))
    filled = [text.format(a=one, b=two, s=sign, w=word, v=value) for text in (asked, told)]
    return filled[0], filled[1], str(value)


def draw_unknown(rng: random.Random) -> tuple[str, str]:
    """(question, subject) about something that cannot be known."""
    subject = fill_form(rng.choice(UNKNOWN), rng)
    subject = subject[:1].lower() + subject[1:]
    return rng.choice(UNKNOWN_FORMS).replace("{x}", subject), subject


def sources_used() -> list[str]:
    """Names and licences of the data sets in the corpus, for the model card."""
    names = [*HARMFUL_SOURCES, "roleplay", "gsm8k", "self-instruct-seed"]
    return [f"{name} ({SOURCES[name].licence})" for name in names]
