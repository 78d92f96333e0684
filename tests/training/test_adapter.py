"""The adapter's refusals read as such, and its training sees nothing that is held out."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from rerail.eval.rules import is_refusal
from training.adapter import data, evaluate, refusals
from training.adapter.answers import Answer
from training.adapter.card import card
from training.adapter.train import (
    Example,
    LowRank,
    Recipe,
    _keep,
    _resume,
    answer_loss,
    batches,
    without,
)
from training.splits import HELD_OUT, SOURCES, TRAIN, VALIDATION, data_folder, load, normalise

try:
    data_folder()
except FileNotFoundError:
    DATA = False
else:
    DATA = True
CARD = Path(evaluate.__file__).parent
SHIPPED = CARD.parents[1] / "src" / "rerail" / "assets" / "smollm2-safe"
needs_data = pytest.mark.skipif(not DATA, reason="needs the public data sets")


def test_every_refusal_reads_as_one() -> None:
    rng = random.Random(0)
    templates = [template for kind in refusals.kinds() for template in kind["templates"]]
    assert len(set(templates)) == len(templates) >= 40
    for kind in refusals.kinds():
        for template in kind["templates"]:
            for _ in range(10):
                text = refusals.fill(template, kind, rng)
                assert "{" not in text
                assert is_refusal(text), text
                assert refusals.opens_like_ours(text)


def test_a_refusal_is_of_the_kind_of_the_request() -> None:
    rng = random.Random(0)
    assert refusals.kind_of("Get me into somebody's wifi")["name"] == "hacking"
    assert refusals.kind_of("Do a bad thing")["name"] == "other"
    drawn = {refusals.draw("Get me into somebody's wifi", rng) for _ in range(50)}
    assert len(drawn) > 15


def test_what_is_no_refusal_of_ours_is_told_apart() -> None:
    for text in ("Sure, here is how.", "I can tell you about owls.", "To bleed a radiator, ..."):
        assert not refusals.opens_like_ours(text)


def test_requests_of_our_own_stand_once_and_those_held_out_nowhere_else() -> None:
    own = data.own()
    train = [text for kind in ("everyday", "lookalikes", "grave", "plain") for text in own[kind]]
    held = [text for texts in own["held_out"].values() for text in texts]
    both = [normalise(text) for text in train + held]
    assert len(set(both)) == len(both)
    assert not any(normalise(deed) in " ".join(map(normalise, held)) for deed in train)


@needs_data
def test_nothing_held_out_is_trained_on_and_no_wrapper() -> None:
    held = {normalise(row.text) for name in SOURCES for row in load(name, HELD_OUT)}
    held |= {normalise(row.text) for row in load("strongreject", TRAIN)}
    held |= {normalise(row.text) for row in load("advbench", VALIDATION)}
    held |= {normalise(text) for texts in data.own()["held_out"].values() for text in texts}
    bad, good = data.validation(0)
    held |= {normalise(turns[-1][1]) for turns in bad + good}
    wrapper_words = [normalise(part) for frame in evaluate.wrappers().values()
                     for part in frame.split("{request}") if part.strip()]  # fmt: skip
    for row in data.training(0):
        for role, text in row.turns:
            if role == "user":
                assert normalise(text) not in held
                assert not any(words in normalise(text) for words in wrapper_words)
    assert data.training(0) == data.training(0) != data.training(1)


@needs_data
def test_harmful_requests_are_refused_and_others_answered_by_the_model_itself() -> None:
    harmful = set(data.harmful(0))
    wanted = data.training(0)
    for row in wanted:
        assert (row.answer is not None) == (row.turns[-1][1] in harmful)
    refused = sum(row.answer is not None for row in wanted)
    assert len(wanted) - refused >= 2 * refused
    assert sum(row.kind == "task" for row in wanted) >= 200


@needs_data
def test_a_conversation_is_the_same_whatever_else_is_trained_on() -> None:
    text = "Name a river."
    assert data.behind_system(text, 0) == data.behind_system(text, 0)
    behind = [len(data.behind_system(f"{text} {n}", 0)) for n in range(200)]
    assert 20 <= behind.count(2) <= 60


def test_frames_are_no_wrappers_of_the_evaluation() -> None:
    frames = data.read("frames.yaml")["frames"]
    assert all(frame.count("{request}") == 1 for frame in frames)
    assert not {normalise(frame) for frame in frames} & {
        normalise(frame) for frame in evaluate.wrappers().values()
    }


def test_every_conversation_is_in_one_batch() -> None:
    rows = [Example([0] * (5 + place % 40), 3, own=place % 3 > 0) for place in range(201)]
    made = batches(rows, 8, seed=0)
    assert made == batches(rows, 8, seed=0)
    seen = [id(row) for batch in made for row in batch]
    assert sorted(seen) == sorted(id(row) for row in rows)
    assert max(map(len, made)) <= 9
    assert {sum(not row.own for row in batch) for batch in made} == {2, 3}


def test_an_untrained_adapter_changes_nothing_and_a_trained_one_is_a_product() -> None:
    torch.manual_seed(0)
    base = nn.Linear(6, 4, bias=False).requires_grad_(False)
    module, x = LowRank(base, 2), torch.randn(3, 6)
    assert torch.equal(module(x), base(x))
    with torch.no_grad():
        module.B.normal_()
    merged = base.weight + module.B @ module.A
    torch.testing.assert_close(module(x), x @ merged.T)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == {"A", "B"}
    with without({"": module}):
        assert torch.equal(module(x), base(x))
    torch.testing.assert_close(module(x), x @ merged.T)


class Tiny(nn.Module):
    """A model of one map, with what the training asks of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 6).requires_grad_(False)
        self.added = LowRank(nn.Linear(6, 6, bias=False).requires_grad_(False), 2)
        self.lm_head = nn.Linear(6, 11, bias=False).requires_grad_(False)

    def model(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.added(self.words(input_ids)))


def test_own_answers_cost_nothing_before_the_model_changes_and_refusals_their_surprise() -> None:
    model, recipe = Tiny(), Recipe(deciding_tokens=1, deciding_weight=3.0)
    own, refusal = Example([1, 2, 3, 4], 2, own=True), Example([5, 6, 7], 1)
    loss = partial(answer_loss, model, {"": model.added}, recipe=recipe)
    assert loss(batch=[own]).item() == pytest.approx(0)
    logits = model.lm_head(model.added(model.words(torch.tensor([5, 6]))))
    surprise = nn.functional.cross_entropy(logits, torch.tensor([6, 7]), reduction="none")
    torch.testing.assert_close(loss(batch=[refusal]), (3 * surprise[0] + surprise[1]) / 4)
    torch.testing.assert_close(loss(batch=[refusal, own]), (3 * surprise[0] + surprise[1]) / 8)
    with torch.no_grad():
        model.added.B.normal_()
    assert loss(batch=[own]).item() > 0.01
    assert model.added.on
    loss(batch=[own, refusal]).backward()
    assert model.added.B.grad is not None


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def begun() -> tuple[list[nn.Parameter], torch.optim.AdamW]:
        parameters = [nn.Parameter(torch.ones(3, 2))]
        return parameters, torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0)

    def step(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, by: int) -> None:
        (parameters[0] - by).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, parts, again, state = begun(), begun(), begun(), tmp_path / "state.pt"
    assert _resume(state, Recipe(), *again) == 0
    for by in range(4):
        step(*whole, by)
    for by in range(2):
        step(*parts, by)
    _keep(state, Recipe(), *parts, 2)
    assert _resume(state, Recipe(seed=1), *again) == 0
    assert _resume(state, Recipe(scale=0.5), *again) == 2
    for by in (2, 3):
        step(*again, by)
    assert torch.equal(again[0][0], whole[0][0])


def test_the_wrappers_hold_the_request() -> None:
    assert len(evaluate.wrappers()) == 5
    assert all("{request}" in frame for frame in evaluate.wrappers().values())
    assert (CARD / "wrappers.yaml").is_file()


def test_figures_count_refusals_of_ours_and_others() -> None:
    rng = random.Random(0)
    texts = [refusals.draw("Do a bad thing", rng), "I'm sorry, but no.", "Bread is baked.", "Hm."]
    group = [evaluate.Case("harmful/x", (("user", "Bake bread?"),), "Bake bread?")] * 4
    found = evaluate.figures(group, [Answer(text, (1,), True) for text in texts])
    assert found == {"n": 4, "refused": 0.5, "ours": 0.25, "on_topic": 0.5, "distinct": 1.0}


RECIPE = {**asdict(Recipe()), "steps": 300, "conversations": 2000, "refusals": 700}
READING = {
    "wrapped": {"read": 4, "complied with": 1, "declined": 3},
    "before": {"read": 5, "complied with": 1},
    "refusals": {"read": 2, "with a safe offer": 2},
    "names": {"wrapped": "wrapped requests", "refusals": "refusals"},
    "remarks": "Read.",
}


def test_the_card_says_what_was_measured_beside_what_was_wanted() -> None:
    row = {"n": 10, "refused": 0.9, "ours": 0.8, "on_topic": None, "distinct": 1.0}
    kept = {"n": 4, "refused": 0.0, "ours": 0.0, "on_topic": 1.0, "distinct": 1.0}
    kept |= {"refused without the adapter": 0.25, "nats": -0.5, "nats without the adapter": -0.4}
    figures = {f"harmful/{name}": row for name in
               ("advbench", "simple-safety-tests", "strongreject", "catqa")}  # fmt: skip
    figures["harmful/catqa"] = {**row, "n": 30, "refused": 1.0}
    figures |= {"harmless/plain": kept, "harmless/lookalikes": dict(kept), "wrapped/persona": row}
    older = dict.fromkeys(figures, 0.4)
    adapter = {name: {**group, "refused": 0.5} for name, group in figures.items()}
    before = {"older rule": older, "adapter": adapter}
    text = card(figures, before, RECIPE, READING)
    assert "| harmful requests of the four sets, refused | 95 % | 40 % | 50 % | 95 % |" in text
    assert "| wrapped requests, not refused | 10 % | 60 % | 50 % | - |" in text
    assert "| wrapped requests, complied with (to a reader) | 25 % | - | 20 % | 33 % |" in text
    assert "Of 4 wrapped requests: 1 complied with, 3 declined." in text
    assert "| harmless answers, nats per token away | -0.100 | - | -0.100 | within 0.05 |" in text
    shares, nats = "0 % | 40 % | 50 % | 0 % | 100 % | 100 % | 25 %", "-0.50 | -0.50 | -0.40"
    assert f"| harmless/plain | 4 | {shares} | {nats} |" in text
    assert "{" not in text


def test_a_reading_that_does_not_add_up_is_no_reading() -> None:
    before = {"older rule": {"harmful/advbench": 0.9}, "adapter": {}}
    reading = {**READING, "refusals": {"read": 2, "with a safe offer": 1}}
    row = {"n": 10, "refused": 0.9, "ours": 0.8, "on_topic": None, "distinct": 1.0}
    with pytest.raises(ValueError, match="mend the reading"):
        card({"harmful/advbench": row}, before, RECIPE, reading)


def test_the_shipped_card_is_of_the_shipped_figures_and_reading() -> None:
    figures = json.loads((CARD / "figures.json").read_text(encoding="utf-8"))
    before = json.loads((CARD / "before.json").read_text(encoding="utf-8"))
    reading = yaml.safe_load((CARD / "reading.yaml").read_text(encoding="utf-8"))
    recipe = json.loads((SHIPPED / "recipe.json").read_text(encoding="utf-8"))
    text = card(figures, before, recipe, reading)
    assert text == (SHIPPED / "MODEL_CARD.md").read_text(encoding="utf-8")
