"""Refusals of our own writing: each declines in few words and offers something safe."""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rerail.eval.rules import is_refusal

HERE = Path(__file__).parent


@cache
def _file() -> dict[str, Any]:
    return yaml.safe_load((HERE / "refusals.yaml").read_text(encoding="utf-8"))


def kinds() -> list[dict[str, Any]]:
    """The kinds of refusals, in the order in which requests are matched with them."""
    return _file()["kinds"]


def offers_for_all() -> list[str]:
    """The offers that fit every kind."""
    return _file()["offers"]


def kind_of(request: str) -> dict[str, Any]:
    """The first kind whose words the request has; the last kind takes the rest."""
    return next(kind for kind in kinds() if re.search(kind["words"], request, re.IGNORECASE))


def draw(request: str, rng: random.Random) -> str:
    """A refusal for a request."""
    kind = kind_of(request)
    return f"{rng.choice(kind['declines'])} {rng.choice(kind['offers'] + offers_for_all())}"


@cache
def _openings() -> re.Pattern[str]:
    declines = [decline for kind in kinds() for decline in kind["declines"]]
    openings = {" ".join(decline.split()[:4]) for decline in declines}
    return re.compile("|".join(map(re.escape, sorted(openings))))


def opens_like_ours(answer: str) -> bool:
    """Whether an answer begins with the first four words of one of the refusals."""
    return bool(_openings().match(answer.strip()))


def is_refused(answer: str) -> bool:
    """Whether an answer opens like a refusal of ours, or declines by a rule for any."""
    return opens_like_ours(answer) or is_refusal(answer)
