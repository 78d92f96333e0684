"""What keeping the beginnings of prompts saves, where they are long.

    python -m benchmarks.prefixes --repetitions 3 --policy default
    python -m benchmarks.prefixes --repetitions 3 --policy strict     # no offsets are known
    python -m benchmarks.prefixes --random-model
    python -m benchmarks.prefixes --soak 3200

The demo's prompts behind a system prompt of some 150 words (``system``), and behind that and two
earlier turns of their own (``conversation``), answered with and without beginnings that are kept.
Both engines run the same model in the same process, in turns; each starts with nothing kept.
Figures are medians over the repetitions.

The embedded model is so small that reading a prompt costs it little. The third line times rounds of
two candidates per conversation, cut after 8 tokens, on a model of 100 million random weights. The
last line answers conversations that all begin differently, and shows the memory that they take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rerail.align import Aligner
from rerail.bench import resident_bytes
from rerail.demo import demo_prompts
from rerail.engines import GenerationRequest, Sampling, load_engine
from rerail.engines.base import EmbeddedPrompt
from rerail.engines.transformers import TransformersEngine
from rerail.moderators import load_moderator
from rerail.panel import Panel
from rerail.policy import PolicyStore
from rerail.types import Message, Outcome, Prompt

SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SYSTEM = (
    "You are the assistant of a public library. People write to you about books, opening hours, "
    "reservations and fees. Answer in short sentences and in a friendly tone. Say so when you do "
    "not know something, and name the desk that does. The library opens at nine in the morning and "
    "closes at seven in the evening, on Saturdays at two; on Sundays and holidays it stays closed. "
    "A card costs ten a year, for pupils and students nothing. Books may be kept for four weeks "
    "and renewed twice, unless somebody else waits for them. A book that is late costs ten cents a "
    "day. Whoever loses a book pays for a new one. There are rooms to read and to learn in, which "
    "can be booked for two hours a day. Children are read to on Wednesdays at three. Do not "
    "promise what the desk decides, and never ask for passwords or numbers of bank cards. "
)


def prompts(kind: str) -> list[Prompt]:
    """The demo's prompts in longer ones; no two conversations are the same."""
    made = []
    for number, item in enumerate(demo_prompts(toy=True)):
        earlier = [
            Message(
                "user", f"Good morning. My card has the number {number}. Until when may I keep it?"
            ),
            Message("assistant", "A book may be kept for four weeks, and you may renew it twice."),
            Message("user", f"And what do I pay if I bring it back {number + 1} days late?"),
            Message(
                "assistant", "Ten cents a day, which you can pay at the desk when you come in."
            ),
        ]
        made.append(
            Prompt.of(
                [
                    Message("system", SYSTEM),
                    *(earlier if kind == "conversation" else []),
                    *item.prompt.messages,
                ]
            )
        )
    return made


def measure(kind: str, max_open: int, repetitions: int, name: str) -> dict[str, Any]:
    """Seconds with beginnings kept and without, and how many responses are the same."""
    kept: Any = load_engine("embedded")
    engines = {
        "kept": kept,
        "anew": TransformersEngine(kept._model, kept.tokenizer, name=kept.name, prefix_tokens=0),
    }
    policy = PolicyStore.shipped().get(name)
    moderator = load_moderator(policy)
    asked = prompts(kind)
    seconds: dict[str, list[float]] = {which: [] for which in engines}
    texts: dict[str, list[str]] = {}
    outcomes: dict[str, int] = {}
    for _ in range(repetitions):
        for which, engine in engines.items():
            engine.forget_prefixes()
            aligner = Aligner(
                engine,
                Panel(policy, moderator),
                sampling=Sampling(max_new_tokens=96),
                max_open=max_open,
            )
            start = time.perf_counter()
            responses = list(aligner.align_many(asked))
            seconds[which].append(time.perf_counter() - start)
            texts[which] = [response.text for response in responses]
            outcomes = {o: sum(r.outcome is o for r in responses) for o in Outcome}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "kind": kind,
        "policy": name,
        "max_open": max_open,
        "rows": statistics.mean(len(kept.embed(prompt).token_ids) for prompt in asked),
        "outcomes": outcomes,
        "same_text": sum(a == b for a, b in zip(*texts.values(), strict=True)),
        "seconds": median,
        "ratio": median["kept"] / median["anew"],
    }


def rounds(conversations: int, repetitions: int) -> dict[str, Any]:
    """Seconds of one round of candidates on a larger model, the first round left out."""
    config = AutoConfig.for_model("llama", **SHAPE)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokenizer = cast("Any", load_engine("embedded")).tokenizer
    median, answers = {}, {}
    engines = {
        "anew": TransformersEngine(model, tokenizer, prefix_tokens=0),
        "kept": TransformersEngine(model, tokenizer),
    }
    for which, engine in engines.items():
        requests = [
            candidate(engine.embed(prompt), seed)
            for prompt in prompts("conversation")[:conversations]
            for seed in range(2)
        ]
        seconds = []
        for _ in range(repetitions + 1):
            start = time.perf_counter()
            answers[which] = engine.generate(requests, Sampling(max_new_tokens=8))
            seconds.append(time.perf_counter() - start)
        median[which] = statistics.median(seconds[1:])
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "conversations": conversations,
        "same_answers": answers["kept"] == answers["anew"],
        "seconds": median,
        "ratio": median["kept"] / median["anew"],
    }


def soak(conversations: int) -> Iterator[dict[str, Any]]:
    """Resident memory and tokens kept, ten times on the way."""
    engine: Any = load_engine("embedded")
    for start in range(0, conversations, 16):
        requests = []
        for number in range(start, start + 16):
            asked = [
                Message("system", f"Branch {number}. {SYSTEM}"),
                Message("user", f"May I keep number {number}?"),
                Message("assistant", "You may renew it twice, and then you bring it back. " * 4),
                Message("user", "Thanks. And on Sundays?"),
            ]
            embedded = engine.embed(Prompt.of(asked))
            requests.append(GenerationRequest(embedded, embedded.point))
        engine.generate(requests, Sampling(max_new_tokens=4))
        done = start + 16
        if done * 10 // conversations > start * 10 // conversations:
            kept = len(engine._prefixes)
            yield {
                "conversations": done,
                "kept_tokens": kept,
                "resident_mib": resident_bytes() / 2**20,
            }


def candidate(embedded: EmbeddedPrompt, seed: int) -> GenerationRequest:
    """The prompt, the words of its last turn moved a little."""
    noise = np.random.default_rng(seed).standard_normal(embedded.point.shape).astype(np.float32)
    moved = 0.02 * embedded.steerable("last_user")[:, None] * noise
    return GenerationRequest(embedded, embedded.point + moved, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--policy", default="quick")
    parser.add_argument("--soak", type=int)
    parser.add_argument("--random-model", action="store_true")
    options = parser.parse_args()
    if options.soak:
        for row in soak(options.soak):
            print(json.dumps(row), flush=True)
        return
    if options.random_model:
        for conversations in (1, 16):
            print(json.dumps(rounds(conversations, options.repetitions)), flush=True)
        return
    for kind in ("system", "conversation"):
        for max_open in (1, 64):
            print(
                json.dumps(measure(kind, max_open, options.repetitions, options.policy)), flush=True
            )


if __name__ == "__main__":
    main()
