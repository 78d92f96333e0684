"""Fine-tune the small moderator's encoder.

    python -m training.moderator_small.train --base FOLDER --out DIR

The first pass leaves the sources `LEFT_OUT` out, so that its snapshot tells how well what is
learned carries over to them; the others have all. May be stopped and started again.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from rerail.moderators._encoder import WIDTH, Inputs, logits
from rerail.moderators.small import ANSWER_TOKENS, asked_part, marked, plain
from training.moderator_small.rows import HEADS, Row, training_rows

LEFT_OUT = ("surge", "rtp-scores", "rtp-extremes")
ROWS = (22_400, 22_400, 22_400, 12_800)
"""Rows of each pass, drawn anew for each."""
BATCH = 32
STEPS = [-(-rows // BATCH) for rows in ROWS]
SORTED = 40 * BATCH
"""Rows that are sorted by length together."""
FROZEN = 2
"""Layers that stay as published, besides the embeddings of words."""
RATE, HEADS_RATE, DECAY = 1e-4, 1e-3, 0.01
WARM_UP = 0.04
EVERY = 150
"""Steps between snapshots."""

Example = tuple[Inputs, Tensor, Tensor]


def start(base: Path) -> dict[str, Tensor]:
    """The published encoder's tensors and new heads."""
    weights = {
        name: tensor.float()
        for name, tensor in load_file(base / "model.safetensors").items()
        if tensor.is_floating_point() and not name.startswith("pooler.")
    }
    weights["heads.weight"] = torch.randn(len(HEADS), 2 * WIDTH) * 0.02
    weights["heads.bias"] = torch.full((len(HEADS),), -1.5)
    return weights


def learns(name: str) -> bool:
    """Whether a tensor is trained."""
    if name.startswith("encoder.layer."):
        return int(name.split(".")[2]) >= FROZEN
    return name.startswith("heads.")


def tokenizer_of(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def examples(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Example]:
    """Tokens, labels and weights (0 = unknown) of each row."""
    answers = tokenizer.encode_batch([plain(r.answer) for r in rows], add_special_tokens=False)
    asked = tokenizer.encode_batch([plain(r.asked) for r in rows], add_special_tokens=False)
    made = []
    for row, said, asks in zip(rows, answers, asked, strict=True):
        at = int(row.start * max(0, len(said.ids) - 24))
        ids = said.ids[at : at + min(row.keep or ANSWER_TOKENS, ANSWER_TOKENS)]
        y, w = torch.zeros(len(HEADS)), torch.zeros(len(HEADS))
        for name, label in row.labels.items():
            y[HEADS.index(name)], w[HEADS.index(name)] = label, row.weight
        made.append(((marked(ids), asked_part(asks.ids)), y, w))
    return made


def batches(made: Sequence[Example], rng: random.Random) -> list[list[Example]]:
    """Runs of about the same length, in random order."""
    order = list(made)
    rng.shuffle(order)
    cut = []
    for at in range(0, len(order), SORTED):
        part = sorted(order[at : at + SORTED], key=lambda e: len(e[0][0]) + len(e[0][1]))
        runs = [part[i : i + BATCH] for i in range(0, len(part), BATCH)]
        rng.shuffle(runs)
        cut += runs
    return cut


def rates(step: int) -> float:
    """Share of the full rate: a rise and a fall, then a fall from half in the last pass."""
    first, last = sum(STEPS[:-1]), STEPS[-1]
    if step >= first:
        return 0.5 * (first + last - step) / last
    return min(1.0, (step + 1) / (WARM_UP * first), (first - step) / (first * (1 - WARM_UP)))


def loss_of(weights: dict[str, Tensor], batch: Sequence[Example]) -> Tensor:
    """Cross-entropy with soft labels, of the heads that are known."""
    with torch.autocast("cpu", torch.bfloat16):
        z = logits(weights, [inputs for inputs, _, _ in batch]).float()
    y, w = torch.stack([y for _, y, _ in batch]), torch.stack([w for _, _, w in batch])
    return (F.binary_cross_entropy_with_logits(z, y, reduction="none") * w).sum() / len(batch)


class Run:
    """A training that may be stopped: its weights, its optimiser, and how far it is."""

    def __init__(self, base: Path, out: Path, seed: int) -> None:
        self.out, self.tokenizer = out, tokenizer_of(base)
        torch.manual_seed(seed)
        self.weights, self.step = start(base), 0
        self.mine = {n: t.requires_grad_() for n, t in self.weights.items() if learns(n)}
        groups = [
            {
                "params": [t for n, t in self.mine.items() if n.startswith("heads.")],
                "top": HEADS_RATE,
            },
            {
                "params": [t for n, t in self.mine.items() if not n.startswith("heads.")],
                "top": RATE,
            },
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY)
        if (out / "state.pt").is_file():
            state = torch.load(out / "state.pt", weights_only=True)
            self.step = state["step"]
            self.optimiser.load_state_dict(state["optimiser"])
            with torch.no_grad():
                for name, tensor in state["weights"].items():
                    self.mine[name].copy_(tensor)

    def save(self) -> None:
        weights = {n: t.detach() for n, t in self.mine.items()}
        state = {"step": self.step, "weights": weights, "optimiser": self.optimiser.state_dict()}
        torch.save(state, self.out / "state.partial")
        (self.out / "state.partial").replace(self.out / "state.pt")

    def export(self, name: str) -> None:
        weights = {n: t.detach().contiguous() for n, t in self.weights.items()}
        save_file(weights, self.out / f"{name}.safetensors")

    def update(self, batch: Sequence[Example]) -> float:
        loss = loss_of(self.weights, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.mine.values()), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = group["top"] * rates(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return float(loss.detach())


def passes(run: Run, seed: int, real: Sequence[Path]) -> Iterator[list[list[Example]]]:
    """The batches of each pass; what is drawn depends on the seed alone."""
    for k, rows in enumerate(ROWS):
        if run.step >= sum(STEPS[: k + 1]):
            yield []
            continue
        left_out = LEFT_OUT if k == 0 else ()
        drawn = training_rows(seed + k, rows, left_out, real if k else ())
        yield batches(examples(run.tokenizer, drawn), random.Random(seed + k))


def train(base: Path, out: Path, seed: int, real: Sequence[Path]) -> None:
    """Train, and leave ``pass-1.safetensors`` and so on in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    run = Run(base, out, seed)
    clock, recent = time.perf_counter(), []
    for k, cut in enumerate(passes(run, seed, real)):
        for batch in cut[run.step - sum(STEPS[:k]) :]:
            recent.append(run.update(batch))
            if run.step % 25 == 0:
                spent = time.perf_counter() - clock
                mean = sum(recent[-100:]) / len(recent[-100:])
                print(f"step {run.step}/{sum(STEPS)} loss {mean:.4f} {spent:.0f} s", flush=True)
            if run.step % EVERY == 0:
                run.save()
        if cut:
            run.save()
            run.export(f"pass-{k + 1}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, required=True, help="folder for snapshots")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="see rows.real_rows")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.base, args.out, args.seed, args.real)


if __name__ == "__main__":
    main()
