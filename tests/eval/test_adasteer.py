"""AdaSteer: its directions, how far it goes, and that it is left out where it cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rerail.engines import FakeEngine
from rerail.engines.transformers import TransformersEngine
from rerail.errors import EngineError, PromptError
from rerail.eval.methods import load_method
from rerail.eval.methods.adasteer import AdaSteer, Directions, contrast, directions
from rerail.eval.methods.base import Context
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.types import FloatArray, Outcome, Prompt
from tests.engines import tiny
from tests.eval.worlds import REFUSES, Layered, answers, context, policy, prompts

TOKENIZER = tiny.byte_level()


def unit(place: int) -> FloatArray:
    found: FloatArray = np.eye(4, dtype=np.float32)[place]
    return found


FOUND = Directions(0, 2 * unit(0), unit(2), 4 * unit(1), np.zeros(4, dtype=np.float32))
"""Rejection is 2 along the first axis from (0, 0, 1, 0); harmfulness 4 along the second."""


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [
        ([0, 4, 0, 0], [2, 0, 0, 0]),  # harmful, answered: all the way to declining
        ([1, 4, 0, 0], [1, 0, 0, 0]),  # half-way there: the other half
        ([2, 4, 0, 0], [0, 0, 0, 0]),  # declined already
        ([9, 9, 0, 0], [0, 0, 0, 0]),  # beyond: never back
        ([-9, 9, 0, 0], [2, 0, 0, 0]),  # never further than the whole way
        ([0, 0, 0, 0], [0, 0, 0, 0]),  # harmless
        ([0, 1, 0, 0], [0, -1, 0, 0]),  # looks a little harmful: back
        ([0, -3, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_how_far_depends_on_where_the_prompt_is(activation: list[int], wanted: list[int]) -> None:
    given = np.array(activation, dtype=np.float32)
    np.testing.assert_allclose(FOUND.shift(given, 1.0), wanted)
    np.testing.assert_allclose(FOUND.shift(given, 0.0), 0.0)
    np.testing.assert_allclose(FOUND.shift(given, 0.5), np.array(wanted) / 2)


def test_directions_are_differences_of_means() -> None:
    declines = {"harm two", "harm three"}
    engine = Layered(
        d_model=8,
        answer=lambda e, p: REFUSES if e.prompt.messages[-1].content in declines else "Sure.",
    )
    asked = {"harm one": True, "harm two": True, "harm three": True, "bread": False, "oats": False}
    found = directions(engine, [(Prompt.of(t), harm) for t, harm in asked.items()], 1)
    act = {t: engine.activations([engine.embed(Prompt.of(t))])[0, 1] for t in asked}
    harmless = (act["bread"] + act["oats"]) / 2
    refused = (act["harm two"] + act["harm three"]) / 2
    np.testing.assert_allclose(found.rejection, refused - act["harm one"], atol=1e-5)
    np.testing.assert_allclose(found.harmfulness, act["harm one"] - harmless, atol=1e-5)
    never = Layered(d_model=8, answer=lambda e, p: "Sure.")
    found = directions(never, [(Prompt.of(t), harm) for t, harm in asked.items()], 1)
    harmful = (act["harm one"] + act["harm two"] + act["harm three"]) / 3
    np.testing.assert_allclose(found.rejection, harmful - harmless, atol=1e-5)
    np.testing.assert_allclose(found.harmfulness, found.rejection, atol=1e-5)


def test_contrast_prompts_are_of_both_kinds_and_may_be_ones_own(tmp_path: Path) -> None:
    kinds = [harmful for _, harmful in contrast(None)]
    assert {True, False} == set(kinds)
    path = tmp_path / "mine.jsonl"
    rows = [{"prompt": "a"}, {"prompt": "b", "kind": "benign"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [harmful for _, harmful in contrast(str(path))] == [True, False]
    with pytest.raises(PromptError, match="kinds harmful and benign"):
        directions(Layered(), [(Prompt.of("a"), True)], 0)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_no_strength_is_no_defence(architecture: str, tmp_path: Path) -> None:
    """On a real, tiny model: with zero coefficients every answer is the model's own."""
    model = tiny.tiny_model(architecture, len(TOKENIZER), max_position_embeddings=2048)
    engine = TransformersEngine(model, TOKENIZER)
    setup = Context(engine, Panel(policy(), FakeModerator(words=["sure"])))
    setup.sampling = type(setup.sampling)(max_new_tokens=8)
    texts = ["Hello world", "How do I bake a loaf of bread?", "dog 1"]
    asked = prompts(texts)
    own = tmp_path / "own.jsonl"
    rows = [*({"prompt": text} for text in texts), {"prompt": "kind", "kind": "benign"}]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = engine.weights_sha256()
    plain = answers(load_method("none"), setup, *asked)
    still = answers(AdaSteer(strength=0.0, contrast=str(own)), setup, *asked)
    assert [a.text for a in still] == [a.text for a in plain]
    assert [a.scored for a in still] == [a.scored for a in plain]
    steered = answers(AdaSteer(strength=40.0, contrast=str(own)), setup, *asked)
    assert [a.text for a in steered] != [a.text for a in plain]
    assert all(a.cost.generations == 1 for a in steered)
    assert engine.weights_sha256() == before


def test_an_engine_without_hidden_states_is_told() -> None:
    plain = FakeEngine()
    assert "transformers" in (AdaSteer().lacks(plain) or "")
    assert AdaSteer().lacks(Layered()) is None

    class Compiled(Layered):
        def layer_count(self) -> int:
            raise EngineError("compiled: load it without")

    assert AdaSteer().lacks(Compiled()) == "compiled: load it without"
    (answered,) = answers(AdaSteer(), context(plain), Prompt.of("how is it done"))
    assert answered.outcome is Outcome.ERROR
    assert "shows no hidden states" in (answered.error or "")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("adasteer:depth=2", "a number from 0 to 1"),
        ("adasteer:contrast=1", "a text"),
        ("resta:units=rows", "table or absolute"),
        ("resta:prefix=-1", "a whole number from 1"),
    ],
)
def test_settings_that_are_not_valid_are_told(spec: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        load_method(spec)
