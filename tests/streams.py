"""Streams under attack: engines and moderators that fail, flip and flag late, and what then leaves.

The promise, word for word: every piece that leaves was part of a text that was judged unflagged
when it left. Moderators keep a ledger of the verdicts that they gave, and each piece is held
against it in the moment in which it leaves.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling, Watch
from rerail.errors import EngineError
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.search import BEHIND
from rerail.server.worker import SearchWorker, Ticket
from rerail.settings import OptimizerSettings
from rerail.types import Exchange, FloatArray, Generation, Outcome, Prompt, Response, Score

MODES = ("honest", "late", "flips", "silent")
"""How the verdicts on a prompt's answers come about; the first word of the prompt."""

LOOKAHEAD = 12
MARK = "forbidden"
"""What an honest moderator flags."""

ENGINE_FAULTS = 0.01
VERDICT_FAULTS = 0.02
CUT = 0.1
OPEN = 32

_WORDS = (
    "tulips",
    "like",
    "cold",
    "water,",
    "naïve",
    "日本語",
    "and\n",
    "🌷🌷",
    "a",
    "cut.",
    "\tso",
)


def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
    """An answer that the prompt and the point fix: long or short, forbidden somewhere or not."""
    moved = float(np.abs(point - embedded.point).sum())
    rng = random.Random(f"{embedded.prompt.messages[-1].content} {moved:.6f}")
    words = [f"{rng.choice(_WORDS)}{i}" for i in range(rng.choice((0, 3, 40, 90, 120)))]
    if words and rng.random() < (0.6 if moved == 0 else 0.3):
        words[rng.randrange(len(words))] = MARK
    return " ".join(words)


class Ledger:
    """The verdicts that were given, by conversation."""

    def __init__(self) -> None:
        self._harmless: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()

    def note(self, exchange: Exchange, score: float) -> None:
        """A verdict that somebody may rely on."""
        with self._lock:
            known = self._harmless.setdefault(exchange.messages[-1].content, {})
            if score < known.get(exchange.answer, 1.0):
                known[exchange.answer] = score

    def allows(self, prompt: str, sent: str, beyond: int, below: float) -> bool:
        """Whether a text that begins so, with so many words more, had a score below a number."""
        with self._lock:
            return any(
                score < below
                and text.startswith(sent)
                and len(text.split()) >= len(sent.split()) + beyond
                for text, score in self._harmless.get(prompt, {}).items()
            )

    def score(self, prompt: str, text: str) -> float:
        """The least score that a text was given; 1 where it has none."""
        with self._lock:
            return self._harmless.get(prompt, {}).get(text, 1.0)


class Adversary:
    """A moderator that does as a prompt's mode says, and fails now and then."""

    categories = ("illicit",)

    def __init__(self, seed: int, ledger: Ledger, name: str = "adversary") -> None:
        self.name = name
        self.ledger = ledger
        self._random = random.Random(f"{name} {seed}")

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """Verdicts, too few of them, or none."""
        if self._random.random() < VERDICT_FAULTS:
            raise self._random.choice([RuntimeError("down"), TimeoutError("slow")])
        scores = [self._one(exchange) for exchange in exchanges]
        if self._random.random() < VERDICT_FAULTS:
            return scores[:-1]
        for exchange, score in zip(exchanges, scores, strict=True):
            if score.scored:
                self.ledger.note(exchange, score.categories["illicit"])
        return scores

    def _one(self, exchange: Exchange) -> Score:
        mode = exchange.messages[-1].content.split()[0]
        words = exchange.answer.split()
        bad = MARK in words
        if mode == "late":
            bad = bad and len(words) - words.index(MARK) > 2 * LOOKAHEAD
        elif mode == "flips":
            bad = self._random.random() < 0.4
        elif mode == "silent" and self._random.random() < 0.2:
            return Score.unscored("silent")
        return Score.of({"illicit": self._random.uniform(0.5, 1.0) if bad else 0.1})


class FaultyEngine(FakeEngine):
    """Fails at any time, also half-way, and now and then forgets what an answer begins with."""

    def __init__(self, seed: int) -> None:
        super().__init__(answer)
        self._random = random.Random(f"engine {seed}")

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answers; of another beginning, too few, or none."""
        fate = self._random.random() / ENGINE_FAULTS
        if fate < 0.5:
            raise self._random.choice([EngineError("out of memory"), RuntimeError("cuda")])
        made = super().generate(requests, sampling)
        if fate < 0.75:
            return made[:-1]
        if fate < 1.0:
            return [Generation("elsewhere", (7, 8), "stop") for _ in made]
        return made

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        """As `generate`; or it fails once some of it was shown."""
        left = self._random.randrange(6) if self._random.random() < 4 * ENGINE_FAULTS else -1

        def watched(places: Sequence[int], answers: Sequence[Generation]) -> Sequence[bool]:
            nonlocal left
            stops = watch(places, answers)
            left -= 1
            if left == 0:
                raise EngineError("out of memory, half-way")
            return stops

        return super().generate_watched(requests, sampling, watched)


@dataclass(eq=False)
class Stream:
    """One stream, and what is wrong with what left."""

    prompt: str
    ledgers: Sequence[Ledger]
    cut_at: int
    pieces: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    ticket: Ticket | None = None
    cut: Response | None = None

    def release(self, piece: str) -> None:
        """Hold a piece against the ledgers, in the moment in which it leaves."""
        if self.cut is not None:
            self.faults["a piece left after the cut"] += 1
        self.pieces.append(piece)
        sent = "".join(self.pieces)
        if not piece or "\ufffd" in piece:
            self.faults["not text"] += 1
        for ledger in self.ledgers:
            if not ledger.allows(self.prompt, sent, LOOKAHEAD, 0.5):
                self.faults["a piece left unjudged"] += 1
        if self.prompt.startswith("honest") and MARK in sent:
            self.faults["what an honest moderator flags left"] += 1
        if len(self.pieces) == self.cut_at:
            self.end()

    def end(self) -> None:
        """As a client does that leaves."""
        assert self.ticket is not None
        self.ticket.cancel()
        if self.ticket.search is not None:
            self.cut = self.ticket.search.cut()

    def check(self, policy: Policy) -> str:
        """What became of it."""
        assert self.ticket is not None
        sent = "".join(self.pieces)
        if self.ticket.cancelled:
            if self.cut is not None and self.cut.text != sent:
                self.faults["a record of what did not leave"] += 1
            return "cut"
        try:
            response = self.ticket.future.result().response
        except Exception:
            self.faults["no response"] += 1
            return "failed"
        words = len(sent.split())
        if not response.text.startswith(sent) or response.sent_tokens != words:
            self.faults["what had left is not what is told"] += 1
        if response.outcome in (Outcome.PASSED, Outcome.STEERED):
            steered = response.outcome is Outcome.STEERED
            most = 0.5 * policy.accept_below + 1e-9 if steered else 0.4999
            for ledger in self.ledgers:
                if ledger.score(self.prompt, response.text) > most:
                    self.faults["an answer left unjudged"] += 1
        else:
            message = policy.refusal_message
            if response.outcome is Outcome.ERROR:
                message = policy.error_message
            if response.text != (f"{sent}{BEHIND}" if sent else "") + message:
                self.faults["something stands behind what had left"] += 1
        return str(response.outcome)


def attack(streams: int, seed: int = 0) -> Counter[str]:
    """Outcomes of so many streams, and how often the promise was broken (``broken``)."""
    rng = random.Random(seed)
    total: Counter[str] = Counter()
    for confirming in (False, True):
        share = streams // 2 if confirming else streams - streams // 2
        total.update(_attack(share, rng, confirming=confirming))
    return total


def _attack(streams: int, rng: random.Random, *, confirming: bool) -> Counter[str]:
    changes: dict[str, Any] = {"confirm": ("adversary",)} if confirming else {}
    policy = Policy(
        name="window",
        release="window",
        lookahead=LOOKAHEAD,
        default_threshold=0.5,
        naturalness_floor=-5.0,
        budget={"generations": 6},
        optimizer=OptimizerSettings.of(subspace_rank=None, max_iterations=1),
        **changes,
    )
    seed = rng.randrange(2**32)
    ledgers = [Ledger() for _ in range(1 + confirming)]
    judges = [Adversary(seed, one, f"judge-{i}") for i, one in enumerate(ledgers)]
    aligner = Aligner(FaultyEngine(seed), Panel(policy, *judges), sampling=Sampling(130))
    worker = SearchWorker("fake", max_open=OPEN, max_waiting=streams)
    made = [
        Stream(
            f"{rng.choice(MODES)} {seed} {i}",
            ledgers,
            cut_at=rng.choice((1, 2, 3)) if rng.random() < CUT else 0,
        )
        for i in range(streams)
    ]
    worker.start()
    try:
        for one in made:
            one.ticket = Ticket(
                "tenant", aligner, Prompt.of(one.prompt), aligner.sampling, seed,
                time.monotonic() + 3600, release=one.release,
            )  # fmt: skip
            worker.submit([one.ticket])
        for one in rng.sample(made, streams // 20):  # at any moment, from another thread
            one.end()
        wait([one.ticket.future for one in made if one.ticket], timeout=7200)
    finally:
        worker.stop()
    counts: Counter[str] = Counter(streams=streams)
    for one in made:
        outcome = one.check(policy)
        counts[outcome] += 1
        counts[f"{outcome}, after pieces"] += bool(one.pieces)
        counts["pieces"] += len(one.pieces)
        counts["broken"] += sum(one.faults.values())
        counts.update({f"fault: {what}": count for what, count in one.faults.items()})
    return counts
