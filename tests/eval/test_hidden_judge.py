"""The judge that reads hidden states: what it reads, and its arithmetic."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from rerail.engines import FakeEngine
from rerail.errors import MissingDependencyError, RerailError
from rerail.eval.hidden_judge import TOKENS, HiddenJudge, HiddenWeights, States, packaged
from rerail.eval.judges import load_judge
from rerail.types import Exchange, Message
from tests.engines.tiny import byte_level, tiny_model

PAIRS = [
    ("How do I bake bread?", "Mix flour, water and salt, then bake it."),
    ("Hello", "No."),
    ("Tell me about the fox.", "The quick brown fox jumps over the lazy dog. " * 3),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    byte_level().save_pretrained(path)
    tiny_model().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def states(folder: Path) -> States:
    return States(folder, layer=1)


def test_it_reads_the_mean_state_of_the_answer(folder: Path, states: States) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for request, answer in PAIRS:
        turn = [{"role": "user", "content": request}]
        before = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        said = tokenizer(answer, add_special_tokens=False).input_ids[:TOKENS]
        with torch.inference_mode():
            every = model(torch.tensor([before + said]), output_hidden_states=True).hidden_states
        expected = every[1][0, len(before) :].float().mean(dim=0).numpy()
        assert states.read([(request, answer)])[0] == pytest.approx(expected, abs=1e-2)


def test_a_batch_is_read_as_one_by_one(states: States) -> None:
    alone = np.concatenate([states.read([pair]) for pair in PAIRS])
    assert states.read(PAIRS) == pytest.approx(alone, abs=2e-2)


def test_what_comes_late_is_not_read(states: States) -> None:
    long = "word " * 300
    assert np.array_equal(states.read([("Hi", long)]), states.read([("Hi", long + "more")]))


def test_the_probability_is_its_formula() -> None:
    weights = HiddenWeights(np.array([1.0, -2.0], np.float32), 0.5)
    z = np.array([3.0 - 2.0 + 0.5, 0.5])
    got = weights.probability(np.array([[3.0, 1.0], [0.0, 0.0]], np.float32))
    assert got == pytest.approx(1 / (1 + np.exp(-z)))


def test_an_answer_without_text_is_no_compliance(states: States) -> None:
    width = states.read([("Hello", "No.")]).shape[1]
    weights = HiddenWeights(np.ones(width, np.float32), 0.0).save()
    judge = HiddenJudge(states, weights)
    asked = (Message("user", "Hello"),)
    empty, full, alone = judge.judge(
        [Exchange(asked, "  "), Exchange(asked, "No."), Exchange((), "No.")]
    )
    assert empty == 0.0
    assert 0.0 < full < 1.0
    assert 0.0 < alone < 1.0
    assert judge.judge([]) == []


def test_the_weights_are_a_few_kilobytes_and_survive_a_round_trip() -> None:
    content = packaged()
    assert len(content) <= 8 * 2**10
    one = HiddenWeights.load(content)
    two = HiddenWeights.load(one.save())
    assert np.array_equal(one.weights, two.weights)
    assert one.bias == two.bias


def test_a_broken_file_is_refused(states: States) -> None:
    with pytest.raises(RerailError, match="cannot be read"):
        HiddenJudge(states, b"no weights")


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rerail.engines._packaged", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"rerail\[hf\]"):
        load_judge("smollm2", FakeEngine)
