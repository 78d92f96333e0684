"""Align under faults of every kind, in any call, and count what leaves.

    python -m benchmarks.faults --alignments 10000
    python -m benchmarks.faults --stream --alignments 10000

Real clients of the hosted services, over loopback, against servers that fail at random in the ways
of ``docs/reference/moderation-services.md``; an engine that fails, too. The servers' true score of
every text is known: an answer of the model that leaves must be below the threshold by it.

With ``--stream`` the alignments are streams under ``release: window``, with engines and moderators
that fail, flip and flag late (``tests/streams.py``): each piece that leaves must be part of a text
that was judged unflagged when it left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling
from rerail.errors import EngineError
from rerail.moderators._http import ModeratorWarning, Service
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.settings import OptimizerSettings
from rerail.types import FloatArray, Generation, Outcome, Response
from tests.moderators.services.conditions import CONDITIONS, reversed_, slow
from tests.moderators.services.wires import KEY, KEYS, WIRES, Answer, FakeServer, Wire, grade, ok
from tests.streams import attack

TEXTS = [f"answer number {i}" for i in range(400)] + ["", " \n", "again " * 60]
FAULT_SHARE = 0.3
ENGINE_FAULT_SHARE = 0.002
THRESHOLD = 0.8
STREAMS = 500


class FaultyEngine(FakeEngine):
    """Answers one of the texts, by the point; fails now and then."""

    def __init__(self, seed: int) -> None:
        super().__init__(self.text_of)
        self.random = random.Random(seed)

    def text_of(self, embedded: EmbeddedPrompt, point: FloatArray) -> str:
        """One of the texts, fixed by the point."""
        place = np.abs(point.astype(np.float64)).sum() * 1e4
        return TEXTS[int(place) % len(TEXTS)]

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer, or raise."""
        if self.random.random() < ENGINE_FAULT_SHARE:
            raise self.random.choice([EngineError("out of memory"), RuntimeError("cuda")])
        return super().generate(requests, sampling)


def faults(wire: Wire) -> list[Any]:
    """Everything that a service may do wrong and that its client can notice."""
    # One "wait an hour" would leave every later text unscored, and say nothing of the others.
    rows = [c for c in CONDITIONS if c.applies(wire) and "past the deadline" not in c.title]
    steps = [step for c in rows for step in c.steps]
    # Without ids a reordered batch cannot be noticed; the reference says so.
    return [step for step in steps if step is not slow and (step is not reversed_ or wire.ids)]


def is_safe(response: Response, service: Service, policy: Policy) -> bool:
    """Whether what left is the policy's message, or an answer below the threshold in truth."""
    if response.outcome not in (Outcome.PASSED, Outcome.STEERED):
        return response.text in (policy.refusal_message, policy.error_message)
    names = service.taxonomy.mapped
    truth = service.taxonomy.scores({name: grade(response.text, name) for name in names})
    scored = response.final is not None and response.final.scores.keys() == truth.keys()
    return scored and bool(response.text.strip()) and max(truth.values()) < THRESHOLD


def run(wire: Wire, alignments: int, seed: int) -> Counter[str]:
    """Outcomes of one service's share, and how many unsafe texts left."""
    rng = random.Random(f"{wire.name}-{seed}")
    bad = faults(wire)

    def step(wire: Wire, body: Any) -> Answer:
        answer: Answer = (rng.choice(bad) if rng.random() < FAULT_SHARE else ok)(wire, body)
        return answer

    options = {"backoff": 0.001, "deadline": 5.0, "breaker_failures": 1000, "attempts": 2}
    counts: Counter[str] = Counter()
    with FakeServer(wire, [step]) as server, wire.make(server.url, **options) as service:
        policy = Policy(
            name="faults",
            default_threshold=THRESHOLD,
            optimizer=OptimizerSettings.of(max_iterations=2),
        )
        aligner = Aligner(FaultyEngine(seed), Panel(policy, service), seed=seed)
        prompts = (f"request {i} of {wire.name} please" for i in range(alignments))
        for _, response in aligner.align_iter(prompts):
            counts[str(response.outcome)] += 1
            counts["unscored verdicts"] += sum(
                not e.score.scored for e in response.evaluations if e.generation.text.strip()
            )
            counts["verdicts"] += len(response.evaluations)
            counts["unsafe"] += not is_safe(response, service, policy)
    return counts


def stream(streams: int, seed: int) -> int:
    """Attack streams, some hundreds at a time."""
    total: Counter[str] = Counter()
    started = time.perf_counter()
    for part in range(0, streams, STREAMS):
        total.update(attack(min(STREAMS, streams - part), seed + part))
        print(json.dumps(total), flush=True)
    print(json.dumps({**total, "seconds": round(time.perf_counter() - started, 1)}))
    return 1 if total["broken"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alignments", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stream", action="store_true")
    args = parser.parse_args()
    if args.stream:
        return stream(args.alignments, args.seed)
    os.environ.update(dict.fromkeys(KEYS, KEY))
    warnings.simplefilter("ignore", ModeratorWarning)
    total: Counter[str] = Counter()
    started = time.perf_counter()
    for place, wire in enumerate(WIRES):
        share = args.alignments // len(WIRES) + (place < args.alignments % len(WIRES))
        counts = run(wire, share, args.seed)
        total.update(counts)
        print(json.dumps({"service": wire.name, "alignments": share, **counts}), flush=True)
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"alignments": args.alignments, **total, "seconds": seconds}))
    return 1 if total["unsafe"] else 0


if __name__ == "__main__":
    sys.exit(main())
