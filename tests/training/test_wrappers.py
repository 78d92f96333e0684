"""Wrappers leave the request as it is, and stronger ones work more often."""

import random

import pytest

from training.chat import wrappers

KINDS = ("persona", "framing", "demand", "style", "frame", "provocation")
ODD = 'What about {name}, {request} and "quotes"?\n\nAnd  two spaces '


@pytest.mark.parametrize("held_out", [False, True])
def test_the_request_stands_unchanged_in_its_wrapper(held_out: bool) -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert ODD in wrappers.wrap(ODD, rng, held_out).text
        assert ODD in wrappers.provoke(ODD, rng, held_out).text


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifth_of_the_fragments_is_held_out(kind: str) -> None:
    rows = wrappers.fragments()[kind]
    held_out = {row["text"] for row in rows if row.get("held_out")}
    known = {row["text"] for row in rows if not row.get("held_out")}
    assert len(held_out) >= 0.18 * len(rows)
    assert not held_out & known


def test_training_draws_no_held_out_fragment() -> None:
    rng = random.Random(0)
    held_out = {
        row["text"] for kind in KINDS for row in wrappers.fragments()[kind] if row.get("held_out")
    }
    drawn = {wrappers.draw(kind, rng)[0] for kind in KINDS for _ in range(500)}
    assert not drawn & held_out


def test_no_wrapper_is_certain() -> None:
    chances = [wrappers.chance_to_comply(strength / 2) for strength in range(12)]
    assert chances == sorted(chances)
    assert chances[0] > 0.1
    assert chances[-1] < 0.9


def test_system_prompts_shift_the_chance() -> None:
    strict, none, permissive = (
        wrappers.chance_to_comply(2.0, kind) for kind in ("strict", "", "permissive")
    )
    assert strict < none < permissive


def test_the_same_seed_gives_the_same_wrapper() -> None:
    assert wrappers.wrap("x", random.Random(3)) == wrappers.wrap("x", random.Random(3))
