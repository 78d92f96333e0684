"""Makes the embedded chat model: tokenizer, corpus and weights, the same for the same seed.

    python -m training.chat.train --out DIR [--seed 0]

Writes a folder that `AutoModelForCausalLM.from_pretrained` loads. Training is by tokens, not by
time, in a fixed number of threads, so that a second run takes the same steps.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from training.chat.corpus import Sample, copying, stream
from training.chat.tokenizer import CONTEXT, Encoder, train_tokenizer

TOKENIZER_SAMPLES = 12_000
LENGTHS = (48, 64, 80, 96, 112, 128, 160, 192, 256, 384)  # few shapes: each new one is compiled
HEAD_ROWS = 512
TYPICAL_ANSWER = 40
DECIDING_TOKENS, DECIDING_WEIGHT = 2, 4.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number of the training, written once."""

    seed: int = 0
    copy_steps: int = 350  # of copying alone, before the mixed corpus
    copy_batch_tokens: int = 2048
    steps: int = 1900
    batch_tokens: int = 4096
    learning_rate: float = 3e-3
    matrix_rate: float = 0.02
    warm_up: int = 30
    weight_decay: float = 0.05
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    feed_forward: int = 704
    threads: int = 1


def build_model(recipe: Recipe, vocabulary: int, pad: int, end: int) -> LlamaForCausalLM:
    """A small Llama with fresh weights."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=end,
        initializer_range=0.03,
    )
    return LlamaForCausalLM(config)


def weigh(mask: list[bool]) -> list[float]:
    """The weight of each token in the loss, 0 where the assistant doesn't speak.

    Whether to answer or to refuse is decided by the first words of an answer, and a short fact by
    few: both would drown among the many tokens of long answers.
    """
    weights, run = [0.0] * len(mask), 0
    for place, on in enumerate([*mask, False]):
        if on:
            run += 1
        elif run:
            each = (TYPICAL_ANSWER / run) ** 0.5
            weights[place - run : place] = [each] * run
            for first in range(place - run, min(place, place - run + DECIDING_TOKENS)):
                weights[first] = each * DECIDING_WEIGHT
            run = 0
    return weights


def batches(
    conversations: Iterator[Sample], encode: Encoder, batch_tokens: int, pad: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, weights) of shape (batch, length), padded on the right, about `batch_tokens` each."""
    waiting: dict[int, list[tuple[list[int], list[float]]]] = {length: [] for length in LENGTHS}
    while True:
        ids, mask = encode(next(conversations).messages)
        length = next((length for length in LENGTHS if len(ids) <= length), None)
        if length is None:
            continue
        waiting[length].append((ids, weigh(mask)))
        if len(waiting[length]) * length >= batch_tokens:
            yield _tensors(waiting[length], length, pad)
            waiting[length] = []


def _tensors(
    rows: list[tuple[list[int], list[float]]], length: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad)
    weights = torch.zeros((len(rows), length))
    for place, (row, weighed) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, : len(row)] = torch.tensor(weighed)
    return ids, weights


def answer_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of the answers; the head is computed at their places only."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    places = weights.nonzero().squeeze(1)
    # Their number is rounded up with places of no weight: each new shape costs a compilation.
    places = torch.cat([places, places.new_zeros(-len(places) % HEAD_ROWS)])
    losses = functional.cross_entropy(
        model.lm_head(hidden[places]).float(), targets[places], reduction="none"
    )
    return (losses * weights[places]).sum() / weights[places].sum()


def build_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embeddings and the norms."""
    inner = [p for p in model.model.layers.parameters() if p.dim() == 2]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    muon = torch.optim.Muon(
        inner,
        lr=recipe.matrix_rate,
        weight_decay=recipe.weight_decay,
        momentum=0.95,
    )
    adam = torch.optim.AdamW(
        outer, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def schedule(step: int, total: int, warm_up: int) -> float:
    """The share of the peak learning rate: linear warm-up, then a cosine to a twentieth."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def save(model: LlamaForCausalLM, tokenizer: object, recipe: Recipe, folder: Path) -> None:
    """Writes the model's folder at once: files are made aside and then renamed into place."""
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    model.save_pretrained(aside, state_dict=state)
    config = json.loads((aside / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(aside, save_jinja_files=False)
    GenerationConfig(
        do_sample=False,
        max_new_tokens=160,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    ).save_pretrained(aside)
    (aside / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.chmod(0o644)
        file.replace(folder / file.name)
    aside.rmdir()


def train(recipe: Recipe, out: Path, save_every: int) -> None:
    """Trains and writes checkpoints to `out`."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    texts = stream(recipe.seed + 3)
    drawn = (next(texts).messages for _ in range(TOKENIZER_SAMPLES))
    tokenizer = train_tokenizer(turn["content"] for messages in drawn for turn in messages)
    model = build_model(recipe, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    optimizers = build_optimizers(model, recipe)
    encode, pad = Encoder(tokenizer), tokenizer.pad_token_id
    copies = batches(copying(recipe.seed + 2), encode, recipe.copy_batch_tokens, pad)
    mixed = batches(stream(recipe.seed + 1), encode, recipe.batch_tokens, pad)
    total = recipe.copy_steps + recipe.steps
    start, tokens, mean = time.time(), 0, 0.0
    for step in range(total):
        ids, weights = next(copies if step < recipe.copy_steps else mixed)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, total, recipe.warm_up)
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        if step % 50 == 0:
            spent = time.time() - start
            print(f"{step} loss {mean:.3f} tokens {tokens:,} seconds {spent:.0f}", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == total:
            save(model, tokenizer, recipe, out)
    print(f"done: {tokens:,} tokens in {time.time() - start:.0f} seconds", flush=True)


def main() -> None:
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--layers", type=int, default=default.layers)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--save-every", type=int, default=250)
    args = parser.parse_args()
    recipe = Recipe(
        seed=args.seed, steps=args.steps, layers=args.layers, learning_rate=args.learning_rate
    )
    train(recipe, args.out, args.save_every)


if __name__ == "__main__":
    main()
