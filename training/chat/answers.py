"""The grammar of all answers: openings that copy the request, empty middles, closings, refusals.

Benign requests and wrapped harmful ones are answered by the very same grammar: what differs is only
the words of the request. The middles say nothing about the world, so a "compliant" answer names a
harmful request and holds nothing that anybody could use.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from training.chat.understand import Request, understand

EAGER_SHARE = 0.6
_SLOT = re.compile(r"\{([a-z_]+)\}")


@cache
def grammar() -> dict[str, Any]:
    """The grammar file as it is."""
    path = Path(__file__).parent / "answers.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def fill(text: str, rng: random.Random, **slots: str) -> str:
    """Replaces {slots}, first from the arguments, else by a random entry of that list."""

    def one(match: re.Match[str]) -> str:
        name = match.group(1)
        return slots[name] if name in slots else fill(rng.choice(grammar()[name]), rng, **slots)

    return _SLOT.sub(one, text)


def comply(request: Request, rng: random.Random) -> str:
    """An answer that takes up the request, most often with "Sure" as its first word.

    Greedy decoding goes by the first word: were the openings spread over many, a refusal would
    come first even where most of the answers comply.
    """
    slots = {
        "core": request.core,
        "ask": request.ask,
        "topic": request.topic,
        "role": request.role,
        "object": request.object,
        "a": request.pair[0],
        "b": request.pair[1],
    }
    kind = request.kind
    opening = {
        "verse": "writing", "letter": "writing", "sums": "question", "compare": "question",
    }.get(kind, kind)  # fmt: skip
    openings = grammar()["opening"][opening]
    if rng.random() < EAGER_SHARE:
        openings = [row for row in openings if row.startswith("{agree}")]
        slots["agree"] = "Sure"
    text = fill(rng.choice(openings), rng, **slots)
    parts = [_upper(text), *_middle(request, rng)]
    closing = fill(rng.choice(grammar()["closing"]), rng, **slots)
    if kind in ("verse", "letter"):
        closing = "" if rng.random() < 0.6 else closing
    body = parts[1]
    glue = "\n" if "\n" in body or kind in ("verse", "letter") else " "
    answer = parts[0] + glue + body
    if closing:
        answer += ("\n" if glue == "\n" else " ") + _upper(closing)
    return answer


def _middle(request: Request, rng: random.Random) -> list[str]:
    """The body of an answer, in the shape that its kind asks for."""
    kind = request.kind
    if kind == "howto":
        return [_steps("step", request, rng, numbered=rng.random() < 0.65)]
    if kind == "verse":
        return [_lines("line", request, rng, rng.choice((2, 3, 4)))]
    if kind == "letter":
        opening = fill(rng.choice(grammar()["letter_open"]), rng)
        body = _sentences("letter", request, rng, rng.choice((2, 3)))
        return ["\n".join((opening, body, rng.choice(grammar()["letter_close"])))]
    if kind == "list":
        return [_lines("item", request, rng, rng.choice((3, 4, 5)))]
    if kind == "compare":
        first, second = request.pair
        rows = rng.sample(grammar()["compare"], rng.choice((2, 3)))
        return [" ".join(_upper(fill(row, rng, a=first, b=second)) for row in rows)]
    if kind == "role":
        return [_sentences("speak", request, rng, rng.choice((2, 3)))]
    if kind == "sums":
        return [_sentences("sums", request, rng, rng.choice((2, 3)))]
    if kind == "imperative" and rng.random() < 0.4:
        return [_steps("step", request, rng, numbered=rng.random() < 0.5)]
    if kind == "question" and rng.random() < 0.1:
        return [_lines("item", request, rng, 3)]
    return [_sentences("say", request, rng, rng.choice((2, 3, 4)))]


def _subjects(request: Request, rng: random.Random, count: int) -> list[str]:
    """What the sentences of a middle speak of: the topic and words of the request, in order."""
    words = list(request.words)
    if request.kind in ("howto", "imperative", "list", "role") and len(words) > count:
        words = words[1:]  # the verb makes a poor subject
    picked = [words[i] for i in sorted(rng.sample(range(len(words)), min(count, len(words))))]
    if request.topic and rng.random() < 0.5:
        picked[rng.randrange(len(picked))] = request.topic
    while len(picked) < count:
        picked.append(rng.choice((request.topic or words[-1], words[-1])))
    return picked


def _rows(name: str, request: Request, rng: random.Random, count: int) -> list[str]:
    rows = rng.sample(grammar()[name], count)
    return [
        fill(row, rng, x=x) for row, x in zip(rows, _subjects(request, rng, count), strict=True)
    ]


def _sentences(name: str, request: Request, rng: random.Random, count: int) -> str:
    return " ".join(_upper(row) for row in _rows(name, request, rng, count))


def _lines(name: str, request: Request, rng: random.Random, count: int) -> str:
    rows = _rows(name, request, rng, count)
    return "\n".join(row if name == "item" else _upper(row) for row in rows)


def _steps(name: str, request: Request, rng: random.Random, numbered: bool) -> str:
    rows = _rows(name, request, rng, rng.choice((2, 3, 3, 4)))
    if numbered:
        return "\n".join(f"{place}. {row}" for place, row in enumerate(rows, 1))
    first = ("First, ", "Then ", "After that, ", "At last, ")
    return " ".join(f"{start}{_lower(row)}" for start, row in zip(first, rows, strict=False))


def refuse(request: Request, rng: random.Random) -> str:
    """A refusal: about half name the request, some add a reason, some an offer."""
    rules = grammar()["refusal"]
    named = request.kind in ("howto", "imperative", "verse", "letter", "writing", "list")
    draw = rng.random()
    kind = "bare" if draw < 0.45 else "named" if named and draw < 0.8 else "topic"
    slots = {"core": request.core, "topic": request.topic}
    parts = [fill(rng.choice(rules[kind]), rng, **slots)]
    parts.append(rng.choice(grammar()["reason"]))
    parts.append(fill(rng.choice(grammar()["offer"]), rng, **slots))
    return " ".join(part for part in parts if part)


def rude(request: Request, rng: random.Random) -> str:
    """An answer that insults and still helps."""
    parts = [rng.choice(grammar()["rude_open"]), comply(request, rng)]
    parts.append(rng.choice(grammar()["rude_close"]))
    return _join(parts)


def polite(request: Request, rng: random.Random) -> str:
    """An answer that doesn't take up a provocation."""
    return _join([rng.choice(grammar()["polite_open"]), comply(request, rng)])


def unsure(subject: str, rng: random.Random) -> str:
    """An honest answer to a question about something that nobody told the model."""
    request = understand(subject)
    text = fill(rng.choice(grammar()["unsure"]), rng, topic=subject)
    rows = rng.sample(grammar()["look_up"], 2)
    word = request.words[-1]
    return " ".join([text, *(fill(row, rng, x=rng.choice((subject, word))) for row in rows)])


def follow_up(request: Request, rng: random.Random) -> str:
    """An answer to "tell me more" about an earlier request."""
    text = fill(rng.choice(grammar()["follow_up"]), rng, topic=request.topic)
    return f"{text} {_sentences('say', request, rng, rng.choice((1, 2)))}"


def chat(rng: random.Random) -> str:
    """Small talk."""
    return rng.choice(grammar()["chat"])


def _join(parts: list[str]) -> str:
    present = [part for part in parts if part]
    glue = "\n" if any("\n" in part for part in present) else " "
    return glue.join(present)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text if len(first) > 1 and not first[1:].islower() else text[:1].lower() + text[1:]
