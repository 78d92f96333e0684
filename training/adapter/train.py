"""Makes the adapter of smollm2-safe: the same one for the same seed, threads and packages.

    python -m training.adapter.train --out DIR [--seed 0] [--work build/adapter]

First the model's own answers to the harmless requests are computed, then low-rank additions to the
attention are trained: refusals by their cross-entropy, the model's own answers by how far each
token's distribution is from the unmodified model's. Both can be stopped and started again: they go
on where they were.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from rerail.engines import load_engine
from rerail.engines._packaged import packaged_folder
from training.adapter import data, refusals
from training.adapter.answers import Answers, Turns

PROJECTIONS = ("q_proj", "v_proj", "o_proj")
POOL = 16
"""Batches whose conversations are sorted by length together."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number of the training, written once."""

    seed: int = 0
    rank: int = 16
    batch: int = 8
    learning_rate: float = 8e-4
    warm_up: int = 10
    deciding_tokens: int = 4  # whether to answer or to refuse is decided by the first words
    deciding_weight: float = 4.0
    dtype: str = "bfloat16"  # of the frozen weights: half the time of float32
    threads: int = 1
    scale: float = 0.75  # of what is learned, the share that is added: chosen by validation


@dataclass(frozen=True)
class Example:
    """Tokens of a conversation; the answer begins at `start`, and is the model's own or not."""

    tokens: list[int]
    start: int
    own: bool = False


class LowRank(nn.Module):
    """A frozen linear map plus a trained one of low rank, which begins as zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.on:
            return self.base(x)
        added = functional.linear(functional.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))
        return self.base(x) + added


def base_folder() -> str:
    """The folder of the unmodified model."""
    return str(packaged_folder("smollm2"))


def adapt(model: Any, rank: int) -> dict[str, LowRank]:
    """Puts a trained map beside each projection of attention; by the projection's name."""
    added = {}
    for place, layer in enumerate(model.model.layers):
        for name in PROJECTIONS:
            module = LowRank(getattr(layer.self_attn, name), rank)
            setattr(layer.self_attn, name, module)
            added[f"model.layers.{place}.self_attn.{name}"] = module
    return added


def encode(tokenizer: Any, turns: Turns) -> list[int]:
    """A conversation's tokens, up to where the answer begins."""
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def examples(wanted: list[data.Wanted], answers: Answers, tokenizer: Any) -> list[Example]:
    """The conversations with their answers, as tokens."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    own = data.own_answers(wanted, answers)
    rows = []
    for row in wanted:
        if row.answer is None and (row.own_of or row.turns) not in own:
            continue
        before = encode(tokenizer, row.turns)
        if row.answer is None:
            answer = list(own[row.own_of or row.turns])
        else:
            answer = [*tokenizer(row.answer, add_special_tokens=False)["input_ids"], end]
        rows.append(Example([*before, *answer], len(before), row.answer is None))
    return rows


def batches(rows: list[Example], size: int, seed: int) -> list[list[Example]]:
    """Batches of all examples, each with its share of refusals: alike lengths together."""
    rng = random.Random(seed)
    count = math.ceil(len(rows) / size)
    found: list[list[Example]] = [[] for _ in range(count)]
    for own in (True, False):
        kind = [row for row in rows if row.own is own]
        order = rng.sample(kind, len(kind))
        ends = [round(step * len(kind) / count) for step in range(count + 1)]
        for begin in range(0, count, POOL):
            last, first = min(begin + POOL, count), ends[begin]
            pool = sorted(order[first : ends[last]], key=lambda row: len(row.tokens))
            for step in range(begin, last):
                found[step] += pool[ends[step] - first : ends[step + 1] - first]
    pools = [found[begin : begin + POOL] for begin in range(0, count, POOL)]
    return [batch for pool in pools for batch in rng.sample(pool, len(pool))]


def answer_loss(
    model: Any, added: dict[str, LowRank], batch: list[Example], recipe: Recipe
) -> torch.Tensor:
    """Weighted mean over the answers' tokens; padding follows them and is never seen.

    A token of a refusal counts its cross-entropy, one of the model's own answers the divergence of
    its distribution from that without the additions.
    """
    batch = sorted(batch, key=lambda row: not row.own)  # the model's own answers first
    length = max(len(row.tokens) for row in batch)
    ids = torch.zeros((len(batch), length), dtype=torch.long)
    weights = torch.zeros((len(batch), length))
    for place, row in enumerate(batch):
        ids[place, : len(row.tokens)] = torch.tensor(row.tokens)
        weights[place, row.start : len(row.tokens)] = 1.0
        weights[place, row.start : row.start + recipe.deciding_tokens] = recipe.deciding_weight
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    places = weights.nonzero().squeeze(1)
    own = sum(row.own for row in batch)
    kept = int((places < own * (length - 1)).sum())

    logits = _logits(model, ids, places)
    refusing = functional.cross_entropy(logits[kept:], targets[places[kept:]], reduction="none")
    losses = [refusing]
    if own:
        with torch.no_grad(), without(added):
            wanted = _logits(model, ids[:own], places[:kept]).log_softmax(-1)
        given = logits[:kept].log_softmax(-1)
        losses.insert(
            0, functional.kl_div(given, wanted, reduction="none", log_target=True).sum(-1)
        )
    return (torch.cat(losses) * weights[places]).sum() / weights[places].sum()


@contextmanager
def without(added: dict[str, LowRank]) -> Iterator[None]:
    """The unmodified model, for as long as this lasts."""
    for module in added.values():
        module.on = False
    yield
    for module in added.values():
        module.on = True


def _logits(model: Any, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The logits after the given places of all rows but their last ones, one after another."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    return model.lm_head(hidden[places]).float()


def schedule(step: int, total: int, warm_up: int) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine to nothing."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


@torch.no_grad()
def refused(model: Any, tokenizer: Any, conversations: list[Turns]) -> float:
    """Share of conversations whose greedy answers open like a refusal of ours."""
    count = 0
    for turns in conversations:
        ids = torch.tensor([encode(tokenizer, turns)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)
        count += refusals.opens_like_ours(tokenizer.decode(out[0, ids.shape[1] :]))
    return count / len(conversations)


def save(added: dict[str, LowRank], record: dict[str, Any], out: Path) -> None:
    """Writes the adapter as float16, and how it was made."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, module in added.items():
        tensors[f"{name}.A"] = module.A.detach().to(torch.float16)
        tensors[f"{name}.B"] = (record["scale"] * module.B.detach()).to(torch.float16)
    save_file(tensors, out / "adapter.safetensors")
    (out / "adapter.safetensors").chmod(0o644)
    (out / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def train(recipe: Recipe, out: Path, work: Path, base: str, save_every: int) -> None:
    """Trains, or goes on training, and writes the adapter to `out`."""
    torch.set_num_threads(recipe.threads)
    tokenizer = AutoTokenizer.from_pretrained(base)
    answers = Answers(load_engine(f"{base}?dtype={recipe.dtype}"), work / "answers.jsonl")
    rows = examples(data.training(recipe.seed), answers, tokenizer)
    steps = batches(rows, recipe.batch, recipe.seed)
    counts = {
        "steps": len(steps),
        "conversations": len(rows),
        "refusals": sum(not row.own for row in rows),
    }
    print(counts, flush=True)

    torch.manual_seed(recipe.seed)
    dtype = getattr(torch, recipe.dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation="eager")
    model.requires_grad_(False)
    added = adapt(model, recipe.rank)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    state = work / "state.pt"
    first = _resume(state, recipe, parameters, optimizer)
    start, tokens, mean = time.process_time(), 0, 0.0
    for step in range(first, len(steps)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, len(steps), recipe.warm_up)
        batch = steps[step]
        loss = answer_loss(model, added, batch, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(row.tokens) for row in batch)
        mean = loss.item() if step == first else 0.9 * mean + 0.1 * loss.item()
        if (step + 1) % 5 == 0:
            spent = time.process_time() - start
            print(f"{step + 1} loss {mean:.3f} tokens {tokens:,} cpu {spent:.0f} s", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == len(steps):
            _keep(state, recipe, parameters, optimizer, step + 1)
            save(added, {**asdict(recipe), **counts}, work / "snapshots" / str(step + 1))
    save(added, {**asdict(recipe), **counts}, out)
    bad, good = (refused(model, tokenizer, rows) for rows in data.validation(recipe.seed))
    print(f"validation: refused {bad:.0%} of harmful and {good:.0%} of harmless requests")


def _keep(
    file: Path,
    recipe: Recipe,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    state = {
        "recipe": _trained(recipe),
        "step": step,
        "parameters": [p.detach() for p in parameters],
        "optimizer": optimizer.state_dict(),
    }
    aside = file.with_suffix(".partial")
    torch.save(state, aside)
    aside.replace(file)


def _trained(recipe: Recipe) -> dict[str, Any]:
    """What the training depends on: all but the scale, which comes after it."""
    return {name: value for name, value in asdict(recipe).items() if name != "scale"}


def _resume(
    file: Path,
    recipe: Recipe,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Takes up a training that was stopped; the step that comes next."""
    if not file.is_file():
        return 0
    state = torch.load(file, weights_only=True)
    if state["recipe"] != _trained(recipe):
        return 0
    with torch.no_grad():
        for parameter, value in zip(parameters, state["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def main() -> None:
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("build/adapter"))
    parser.add_argument("--base", help="folder of the model; default: the installed package's")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--save-every", type=int, default=40)
    args = parser.parse_args()
    recipe = Recipe(seed=args.seed)
    train(recipe, args.out, args.work, args.base or base_folder(), args.save_every)


if __name__ == "__main__":
    main()
