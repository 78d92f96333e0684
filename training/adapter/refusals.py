"""Refusals of our own writing: each declines, says why in few words, and offers something safe."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
_SLOT = re.compile(r"\{(\w+)\}")


@cache
def kinds() -> list[dict[str, Any]]:
    """The kinds of refusals, in the order in which requests are matched with them."""
    return yaml.safe_load((HERE / "refusals.yaml").read_text(encoding="utf-8"))["kinds"]


def kind_of(request: str) -> dict[str, Any]:
    """The first kind whose words the request has; the last kind takes the rest."""
    return next(kind for kind in kinds() if re.search(kind["words"], request, re.IGNORECASE))


def draw(request: str, rng: random.Random) -> str:
    """A refusal for a request."""
    kind = kind_of(request)
    return fill(rng.choice(kind["templates"]), kind, rng)


def fill(template: str, kind: dict[str, Any], rng: random.Random) -> str:
    """A template of a kind with its slots filled."""
    return _SLOT.sub(lambda slot: rng.choice(kind[slot[1] + "s"]), template)


@cache
def _openings() -> re.Pattern[str]:
    templates = [template for kind in kinds() for template in kind["templates"]]
    openings = {" ".join(template.split()[:4]) for template in templates}
    return re.compile("|".join(map(re.escape, sorted(openings))))


def opens_like_ours(answer: str) -> bool:
    """Whether an answer begins with the first four words of one of the refusals."""
    return bool(_openings().match(answer.strip()))
