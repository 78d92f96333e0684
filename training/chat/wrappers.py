"""Jailbreak wrappers and provocations, put together at random from the fragments of wrappers.yaml.

The chance that the model complies is a logistic function of the summed strengths: weak wrappers are
refused, strong ones mostly work, and no wrapper is ever certain. That keeps both answers likely.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
COMPLY_BIAS, COMPLY_SLOPE, COMPLY_MAX = -0.6, 1.1, 0.88
RUDE_BIAS, RUDE_SLOPE, RUDE_MAX = -0.6, 1.1, 0.88
SYSTEM_SHIFT = {"": 0.0, "neutral": 0.0, "strict": -1.6, "permissive": 0.8}
SYLLABLES_TEXT = """
ba be bo da de do fa fi go ka ke ko la le li lo ma mi mo na ne no pa pe ra re ri ro sa se si so
ta te ti to va ve vi xa za zo bra dro gri kla pli sta tra vel mar tor ran del nis gor lun
"""
SYLLABLES = tuple(SYLLABLES_TEXT.split())


@dataclass(frozen=True)
class Wrapped:
    """A user text with a request inside, unchanged, and what the wrapper adds to the logit."""

    text: str
    strength: float
    held_out: bool
    kinds: tuple[str, ...]


@cache
def fragments() -> dict[str, Any]:
    """The fragment file as it is."""
    return yaml.safe_load((HERE / "wrappers.yaml").read_text(encoding="utf-8"))


def made_up_name(rng: random.Random) -> str:
    """A name nobody has, so that it can only be copied."""
    name = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3))))
    return name.upper() if rng.random() < 0.1 else name.capitalize()


def draw(kind: str, rng: random.Random, held_out: bool = False) -> tuple[str, float]:
    """One fragment of a kind, held out or not, with its strength."""
    pool = [row for row in fragments()[kind] if bool(row.get("held_out")) == held_out]
    row = rng.choice(pool)
    return row["text"], row["strength"]


def wrap(request: str, rng: random.Random, held_out: bool = False) -> Wrapped:
    """Sets a request into a random wrapper, of held-out fragments only if `held_out`."""
    name = made_up_name(rng)
    kinds = rng.choice(
        (
            ("persona",), ("framing",), ("demand",), ("style",),
            ("persona", "demand"), ("persona", "demand"), ("framing", "demand"),
            ("framing", "demand"), ("persona", "framing"), ("persona", "framing", "demand"),
            ("persona", "framing", "demand"), ("persona", "demand", "style"),
            ("framing", "demand", "style"), ("persona", "framing", "demand", "style"),
            ("persona", "demand", "demand"),
        )
    )  # fmt: skip
    frame, strength = draw("frame", rng, held_out and rng.random() < 0.5)
    before, after = [], []
    for kind in kinds:
        text, weight = draw(kind, rng, held_out)
        strength += weight
        early = kind in ("persona", "framing") if rng.random() < 0.88 else rng.random() < 0.5
        (before if early else after).append(text.replace("{name}", name))
    if rng.random() < 0.3:
        rng.shuffle(before)
    glue = rng.choice((" ", " ", "\n", "\n\n"))
    # replace() and not format(): the request may hold braces and must stay as it is.
    text = glue.join([*before, frame.replace("{request}", request), *after])
    return Wrapped(text, strength, held_out, kinds)


def provoke(request: str, rng: random.Random, held_out: bool = False) -> Wrapped:
    """Sets one or two provocations before or after a request."""
    count = 2 if rng.random() < 0.25 else 1
    parts, strength = [], 0.0
    for _ in range(count):
        text, weight = draw("provocation", rng, held_out)
        parts.append(text)
        strength += weight
    glue = rng.choice((" ", " ", "\n"))
    pieces = [*parts, request] if rng.random() < 0.6 else [request, *parts]
    return Wrapped(glue.join(pieces), strength, held_out, ("provocation",) * count)


def chance_to_comply(strength: float, system: str = "") -> float:
    """P(comply) of a wrapped harmful request under a kind of system prompt."""
    logit = COMPLY_BIAS + COMPLY_SLOPE * strength + SYSTEM_SHIFT[system]
    return COMPLY_MAX / (1 + math.exp(-logit))


def chance_to_be_rude(strength: float, system: str = "") -> float:
    """P(rude) of a provoked answer under a kind of system prompt."""
    logit = RUDE_BIAS + RUDE_SLOPE * strength + SYSTEM_SHIFT[system]
    return RUDE_MAX / (1 + math.exp(-logit))


def system_prompt(kind: str, rng: random.Random) -> str:
    """A system prompt of a kind, or '' for none."""
    if not kind:
        return ""
    return rng.choice(fragments()["system"][kind]).replace("{name}", made_up_name(rng))
