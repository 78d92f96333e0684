"""Makes the embedded chat model: tokenizer, corpus and weights, the same for the same seed.

    python -m training.chat.train --out DIR [--seed 0]

Writes a folder that `AutoModelForCausalLM.from_pretrained` loads. Training is by tokens, not by time,
in a fixed number of threads, so that a second run takes the same steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from training.chat.corpus import stream
from training.chat.tokenizer import CONTEXT, Encoder, train_tokenizer

TOKENIZER_SAMPLES = 12_000
LENGTHS = (48, 64, 80, 96, 112, 128, 160, 192, 256, 384)  # few shapes: each new one is compiled
HEAD_ROWS = 512
IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every number of the training, written once."""

    seed: int = 0
    steps: int = 2000
    batch_tokens: int = 4096
    learning_rate: float = 2.5e-3
    warm_up: int = 60
    weight_decay: float = 0.05
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    feed_forward: int = 704
    threads: int = 2


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


def batches(
    encode: Encoder, recipe: Recipe, pad: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of shape (batch, length), padded on the right, about `batch_tokens` each."""
    conversations = stream(recipe.seed + 1)
    waiting: dict[int, list[tuple[list[int], list[bool]]]] = {length: [] for length in LENGTHS}
    while True:
        ids, mask = encode(next(conversations).messages)
        length = next((length for length in LENGTHS if len(ids) <= length), None)
        if length is None:
            continue
        waiting[length].append((ids, mask))
        if len(waiting[length]) * length >= recipe.batch_tokens:
            yield _tensors(waiting[length], length, pad)
            waiting[length] = []


def _tensors(
    rows: list[tuple[list[int], list[bool]]], length: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), IGNORE)
    for place, (row, mask) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        kept = [token if on else IGNORE for token, on in zip(row, mask, strict=True)]
        labels[place, : len(row)] = torch.tensor(kept)
    return ids, labels


def answer_loss(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the answer tokens; the head is computed at their places only."""
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    places = (targets != IGNORE).nonzero().squeeze(1)
    # Their number is rounded up with ignored places: each new shape costs the CPU a compilation.
    extra = -len(places) % HEAD_ROWS
    targets = torch.cat([targets[places], torch.full((extra,), IGNORE)])
    places = torch.cat([places, places.new_zeros(extra)])
    return functional.cross_entropy(model.lm_head(hidden[places]).float(), targets)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    done = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    cosine = 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
    return recipe.learning_rate * (0.05 + 0.95 * cosine)


def save(model: LlamaForCausalLM, tokenizer: object, recipe: Recipe, folder: Path) -> None:
    """Writes the model's folder at once: files are made aside and then renamed into place."""
    aside = folder.with_name(folder.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(aside, state_dict=state)
    config = json.loads((aside / "config.json").read_text())
    config["dtype"] = "bfloat16"
    (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(aside)
    GenerationConfig(
        do_sample=False,
        max_new_tokens=160,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    ).save_pretrained(aside)
    (aside / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
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
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        fused=True,
    )
    data = batches(Encoder(tokenizer), recipe, tokenizer.pad_token_id)
    start, tokens, mean = time.time(), 0, 0.0
    for step in range(recipe.steps):
        ids, labels = next(data)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        with torch.autocast("cpu", torch.bfloat16):
            loss = answer_loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += ids.numel()
        mean = loss.item() if step == 0 else 0.97 * mean + 0.03 * loss.item()
        if step % 50 == 0:
            spent = time.time() - start
            print(f"{step} loss {mean:.3f} tokens {tokens:,} seconds {spent:.0f}", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
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
