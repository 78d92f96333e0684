"""What steering costs, beside plain generation and beside the published loop.

Everything is measured in one process on one engine, with what is compared run in turn, and given
as ratios: seconds mean little on another machine. Tokens and outcomes are the same on every run;
times are medians over repetitions, with bootstrap intervals.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rerail.align import Aligner
from rerail.demo import with_naturalness
from rerail.engines.base import (
    Engine,
    GenerationRequest,
    Sampling,
)
from rerail.errors import PolicyError, PromptError
from rerail.eval.statistics import bootstrap_interval
from rerail.moderators.base import Moderator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.search import Search, advance, prompt_seed
from rerail.settings import OptimizerSettings
from rerail.types import Outcome, Prompt, Response
from rerail.window import Release

METHODS = ("fast", "tsa", "tide", "random")
SIZES = (1, 8, 64, 512)
STREAM_SIZES = (1, 8)
OVERHEAD_SIZES = (1, 64)
OVERHEAD_PROMPTS = 8
"""Answered, in batches of each size, to compare alignment with plain generation."""
MIN_OVERHEAD_REPETITIONS = 9
REPEATED_TEMPERATURE = 0.7
PARTS = ("generation", "moderation", "log_likelihood", "embedding", "python")


class Job(NamedTuple):
    """A prompt with the seed of its search."""

    prompt: Prompt
    seed: int


class Figure(NamedTuple):
    """A measured value with the bounds of its 95 % bootstrap interval; None where it is unknown."""

    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what.

    Attributes:
        engine: runs the model.
        moderator: judges.
        confirm: must accept, too, if the policy has such moderators.
        gate: the moderators of its gate, if it has one.
        policy: its optimiser is replaced by the preset of each method but its own.
        prompts: what is asked. Where more are needed they are asked again, with other seeds.
        max_new_tokens: of each answer.
        repetitions: of each time that is measured.
        seed: of searches and intervals.
    """

    engine: Engine
    moderator: Moderator
    policy: Policy
    prompts: Sequence[Prompt]
    confirm: Moderator | None = None
    gate: Sequence[Moderator] = ()
    max_new_tokens: int = 128
    repetitions: int = 3
    seed: int = 0

    def run(
        self,
        methods: Sequence[str] | None = None,
        sizes: Sequence[int] = SIZES,
        said: Callable[[str], None] = lambda step: None,
    ) -> dict[str, Any]:
        """All figures, as one document.

        Args:
            methods: presets; by default all that have step sizes for the model.
            sizes: prompts at once.
            said: is told what begins.

        Raises:
            PromptError: there are no prompts, or one cannot be answered.
            PolicyError: a preset has no step sizes for the model.
        """
        if not self.prompts:
            raise PromptError("there are no prompts: give at least one")
        document: dict[str, Any] = {
            "model": self.engine.name,
            "policy": self.policy.name,
            "policy_version": self.policy.version,
            "prompts": len(self.prompts),
            "seed": self.seed,
            "repetitions": self.repetitions,
        }
        said("warming up")
        self._aligner("fast").align(self.prompts[0])
        document |= self._compare(methods or self._known(said), said)
        document["benign_overhead"] = {}
        for size in OVERHEAD_SIZES:
            said(f"plain generation beside alignment, {size} at once")
            document["benign_overhead"][str(size)] = self._overhead(size)
        document["seconds_per_prompt"] = self._throughput(sizes, said)
        per_prompt = {n: f["value"] for n, f in document["seconds_per_prompt"].items()}
        if {"1", "512"} <= per_prompt.keys():
            document["seconds_per_prompt_512_vs_1"] = per_prompt["512"] / per_prompt["1"]
        said("profile")
        document["profile"] = self._profile()
        return document

    def _known(self, said: Callable[[str], None]) -> list[str]:
        """The methods that have step sizes for the model."""
        found = []
        for method in METHODS:
            try:
                self._aligner(method)
            except PolicyError as error:
                said(f"left out: {error}")
            else:
                found.append(method)
        return found

    @property
    def sampling(self) -> Sampling:
        """To compare methods: greedy."""
        return Sampling(self.max_new_tokens)

    @property
    def repeated_sampling(self) -> Sampling:
        """Where prompts are asked more than once: equal answers would be scored only once."""
        return Sampling(self.max_new_tokens, REPEATED_TEMPERATURE)

    def settings(self, method: str) -> OptimizerSettings:
        """The policy's own optimiser where the method is its preset, else the preset."""
        own = self.policy.optimizer
        return own if own.preset == method else OptimizerSettings.model_validate(method)

    def _aligner(
        self, method: str, engine: Engine | None = None, release: str = "whole"
    ) -> Aligner:
        """An aligner that remembers no verdict yet, and whose moderators remember none."""
        for moderator in filter(None, (self.moderator, self.confirm, *self.gate)):
            if forget := getattr(moderator, "forget", None):
                forget()
        changes = {"optimizer": self.settings(method), "release": release}
        policy = self.policy.model_copy(update=changes)
        return Aligner(
            engine or self.engine,
            Panel(policy, self.moderator, self.confirm, self.gate),
            sampling=self.sampling,
            seed=self.seed,
            max_open=max(64, len(self.prompts)),
        )

    # --- methods ---

    def _compare(self, methods: Sequence[str], said: Callable[[str], None]) -> dict[str, Any]:
        """Figures of each method, all prompts open at once, 64 at most."""
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        responses: dict[str, list[Response]] = {}
        for repetition in range(self.repetitions):
            for method in methods:
                said(f"method {method}, {repetition + 1} of {self.repetitions}")
                aligner = self._aligner(method)
                aligner.max_open = 64
                started = time.perf_counter()
                responses[method] = aligner.align_many(self.prompts)
                seconds[method].append(time.perf_counter() - started)
        measured = {
            method: [
                with_naturalness(self.engine, prompt, response)
                for prompt, response in zip(self.prompts, own, strict=True)
            ]
            for method, own in responses.items()
        }
        points = [self.engine.embed(prompt) for prompt in self.prompts]
        plain = self.engine.generate([GenerationRequest(e, e.point) for e in points], self.sampling)
        lengths = [len(generation.token_ids) for generation in plain]
        return {method: self._figures(method, measured, seconds, lengths) for method in methods}

    def _figures(
        self,
        method: str,
        responses: Mapping[str, Sequence[Response]],
        seconds: Mapping[str, Sequence[float]],
        lengths: Sequence[int],
    ) -> dict[str, Any]:
        """Of a method, beside the lengths in tokens of the model's whole first answers."""
        own = [r for r in responses[method] if r.flagged]
        steered = [r for r in own if r.neutralised]
        full = [n for n, r in zip(lengths, responses[method], strict=True) if r.flagged]
        tokens = [r.cost.generated_tokens for r in steered]
        tide = [r.cost.generated_tokens for r in responses.get("tide", ()) if r.neutralised]
        ratio = {
            "generation_equivalents_per_steered": self._ratio(tokens, full),
            "tokens_vs_tide": self._ratio(tokens, tide),
            "generated_tokens_per_steered": self._mean(tokens),
            "generated_tokens_per_flagged": self._mean([r.cost.generated_tokens for r in own]),
            "generations_per_steered": self._mean([r.cost.generations for r in steered]),
            "moderator_calls_per_steered": self._mean([r.cost.moderator_calls for r in steered]),
            "neutralised_share": self._mean([r.neutralised for r in own]),
            "naturalness_median": self._figure(
                [r.naturalness for r in steered if r.naturalness is not None], np.median
            ),
            "naturalness_above_tide": self._mean(
                [
                    r.naturalness - other.naturalness
                    for r, other in zip(responses[method], responses.get("tide", ()), strict=False)
                    if r.outcome is other.outcome is Outcome.STEERED
                    and r.naturalness is not None
                    and other.naturalness is not None
                ]
            ),
            "seconds_64": self._figure(seconds[method], np.median),
            "seconds_vs_tide_64": self._figure(
                [a / b for a, b in zip(seconds[method], seconds.get("tide", ()), strict=False)],
                np.median,
            ),
        }
        preserved = [r.tokens_preserved for r in steered if r.tokens_preserved is not None]
        return {
            "flagged": len(own),
            "steered": len(steered),
            **{name: figure.value for name, figure in ratio.items()},
            "tokens_preserved_min": min(preserved, default=None),
            "accepted_from": dict(Counter(str(r.accepted_from) for r in steered)),
            "intervals": {n: f.interval for n, f in ratio.items() if f.interval is not None},
        }

    def _mean(self, values: Sequence[float]) -> Figure:
        return self._figure(values, np.mean)

    def _ratio(self, values: Sequence[float], base: Sequence[float]) -> Figure:
        """The ratio of means; its interval draws both anew."""
        if not values or not base:
            return Figure(None)
        interval = bootstrap_interval(
            lambda x, y: x.mean(axis=1) / y.mean(axis=1), values, base, seed=self.seed
        )
        return Figure(statistics.fmean(values) / statistics.fmean(base), interval)

    def _figure(self, values: Sequence[float], statistic: Callable[..., Any]) -> Figure:
        if not values:
            return Figure(None)
        array = np.asarray(values, dtype=np.float64)
        if len(values) == 1:
            return Figure(float(array[0]))
        interval = bootstrap_interval(lambda x: statistic(x, axis=1), array, seed=self.seed)
        return Figure(float(statistic(array)), interval)

    # --- streams ---

    def stream(
        self, sizes: Sequence[int] = STREAM_SIZES, said: Callable[[str], None] = lambda step: None
    ) -> dict[str, Any]:
        """Streams that pass, under ``release: window`` and under ``whole``, in turn.

        Of each size as many answers as there are that pass and are as long as they may be.

        Raises:
            PromptError: there are no prompts, or no such answer.
            PolicyError: the model or the policy does not go with ``release: window``.
        """
        if not self.prompts:
            raise PromptError("there are no prompts: give at least one")
        self._aligner("fast", release="window")  # what does not fit is found now
        said("answers that pass")
        jobs = self._long(max(sizes))
        if not jobs:
            raise PromptError(
                f"no answer passes and has {self.max_new_tokens} tokens: give other prompts, or "
                "a smaller max_new_tokens"
            )
        streams = {}
        for size in sizes:
            said(f"streams, {size} at once")
            streams[str(size)] = self._streams(jobs[:size])
        return {
            "model": self.engine.name,
            "policy": self.policy.name,
            "policy_version": self.policy.version,
            "lookahead": self.policy.lookahead,
            "tokens": self.max_new_tokens,
            "seed": self.seed,
            "repetitions": self.repetitions,
            "streams": streams,
        }

    def _long(self, count: int) -> list[Job]:
        """Jobs whose first answers pass and are as long as they may be."""
        aligner = self._aligner("fast")
        found: list[Job] = []
        jobs = iter(self._jobs(max(4 * count, len(self.prompts))))
        while len(found) < count and (batch := list(itertools.islice(jobs, count))):
            searches = [self._open(aligner, job) for job in batch]
            advance(searches)
            for job, search in zip(batch, searches, strict=True):
                if search.done and (left := search.response().left) == 0:
                    generation = search.evaluations[left].generation
                    found += [job] if generation.finish_reason == "length" else []
        return found[:count]

    def _streams(self, jobs: Sequence[Job]) -> dict[str, Any]:
        first, throughput, pieces = [], [], [0]
        for repetition in range(self.repetitions):
            took = {}
            for release in (("whole", "window"), ("window", "whole"))[repetition % 2]:
                took[release] = self._streamed(jobs, release)
            (whole, all_whole, _), (window, all_window, pieces) = took["whole"], took["window"]
            first.append(window / whole)
            throughput.append(all_whole / all_window)
        return {
            "streams": len(jobs),
            "first_text_vs_whole": self._figure(first, np.median)._asdict(),
            "throughput_vs_whole": self._figure(throughput, np.median)._asdict(),
            "pieces_per_stream": statistics.fmean(pieces),
        }

    def _streamed(self, jobs: Sequence[Job], release: str) -> tuple[float, float, list[int]]:
        """Mean seconds until there is text, seconds of all, and how many pieces left of each."""
        aligner = self._aligner("fast", release=release)
        shown: list[list[float]] = [[] for _ in jobs]
        started = time.perf_counter()

        def note(own: list[float], piece: str) -> None:
            own.append(time.perf_counter())

        pairs = zip(jobs, shown, strict=True)
        _finish([self._open(aligner, job, partial(note, own)) for job, own in pairs])
        ended = time.perf_counter()
        first = statistics.fmean((own[0] if own else ended) - started for own in shown)
        return first, ended - started, [len(own) for own in shown]

    # --- times ---

    def _jobs(self, count: int) -> list[Job]:
        """So many jobs: the prompts in turn, with another seed each time round."""
        many = len(self.prompts)
        return [Job(self.prompts[i % many], self.seed + i // many) for i in range(count)]

    def _overhead(self, size: int) -> dict[str, Any]:
        """Seconds of alignment over those of plain generation, for answers that pass.

        Plain generation renders, embeds and generates. Both answer the same batches in turn, the
        first of each pair alternating, and alignment remembers no verdict from the last time.
        """
        batches = self._passing(size)
        if not batches:
            return {**Figure(None)._asdict(), "prompts": 0}
        ratios = []
        for repetition in range(max(MIN_OVERHEAD_REPETITIONS, self.repetitions)):
            aligner = self._aligner("fast")
            took = [0.0, 0.0]
            for place, batch in enumerate(batches):
                for which in ((0, 1), (1, 0))[(place + repetition) % 2]:
                    started = time.perf_counter()
                    if which:
                        _finish([self._open(aligner, job) for job in batch])
                    else:
                        self._plainly(batch)
                    took[which] += time.perf_counter() - started
            ratios.append(took[1] / took[0])
        figure = self._figure(ratios, np.median)
        prompts = sum(len(batch) for batch in batches)
        return {**figure._asdict(), "prompts": prompts}

    def _passing(self, size: int) -> list[list[Job]]:
        """Batches of so many jobs whose first answers pass; several where they are small."""
        wanted = size * max(1, OVERHEAD_PROMPTS // size)
        aligner = self._aligner("fast")
        passed: list[Job] = []
        jobs = self._jobs(8 * max(size, len(self.prompts)))
        for start in range(0, len(jobs), size):
            searches = [(job, self._open(aligner, job)) for job in jobs[start : start + size]]
            advance([search for _, search in searches])
            passed += [job for job, search in searches if _passed(search)]
            if len(passed) >= wanted:
                break
        passed = passed[:wanted]
        return [passed[start : start + size] for start in range(0, len(passed), size)]

    def _open(self, aligner: Aligner, job: Job, release: Release | None = None) -> Search:
        return aligner.open(
            job.prompt, seed=job.seed, sampling=self.repeated_sampling, release=release
        )

    def _plainly(self, jobs: list[Job]) -> None:
        """Answer as without rerail."""
        embedded = [self.engine.embed(job.prompt) for job in jobs]
        requests = [
            GenerationRequest(prompt, prompt.point, prompt_seed(job.seed, job.prompt))
            for prompt, job in zip(embedded, jobs, strict=True)
        ]
        self.engine.generate(requests, self.repeated_sampling)

    def _throughput(
        self, sizes: Sequence[int], said: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """Seconds per prompt with so many open at once, the same prompts and seeds for each size.

        Some prompts take fifty times as long as others: two sizes are only to be compared on equal
        work.
        """
        taken: dict[int, list[float]] = {size: [] for size in sizes}
        jobs = self._jobs(max(*sizes, len(self.prompts)))
        for repetition, size in itertools.product(range(self.repetitions), sizes):
            said(f"{size} at once, {repetition + 1} of {self.repetitions}")
            aligner = self._aligner("fast")
            started = time.perf_counter()
            for start in range(0, len(jobs), size):
                _finish([self._open(aligner, job) for job in jobs[start : start + size]])
            taken[size].append((time.perf_counter() - started) / len(jobs))
        figures = {size: self._figure(values, np.median) for size, values in taken.items()}
        return {str(size): figure._asdict() for size, figure in figures.items()}

    def _profile(self) -> dict[str, Any]:
        """Shares of the time of all prompts at once, and of prefill in plain generation."""
        clock = Clock()
        engine = timed(self.engine, clock)
        policy = self.policy.model_copy(update={"optimizer": self.settings("fast")})
        confirm = timed(self.confirm, clock) if self.confirm else None
        gate = [timed(moderator, clock) for moderator in self.gate]
        aligner = Aligner(
            engine,
            Panel(policy, timed(self.moderator, clock), confirm, gate),
            sampling=self.sampling,
            seed=self.seed,
        )
        with clock.part("python"):
            aligner.align_many(self.prompts)
        total = sum(clock.seconds.values())
        points = [self.engine.embed(prompt) for prompt in self.prompts[:64]]
        requests = [GenerationRequest(p, p.point, self.seed) for p in points]
        took = []
        for tokens in (1, self.sampling.max_new_tokens):
            started = time.perf_counter()
            self.engine.generate(requests, Sampling(max_new_tokens=tokens))
            took.append(time.perf_counter() - started)
        return {
            "seconds": total,
            "shares": {part: clock.seconds[part] / total for part in PARTS},
            "prefill_share_of_plain_generation": took[0] / took[1],
        }


def soak(aligner: Aligner, prompts: Sequence[Prompt], requests: int) -> dict[str, Any]:
    """Memory of this process over so many requests, after a tenth as many as warm-up.

    It goes up and down with the batches; ``resident_mib`` has its course, in tenths.
    """
    endless = itertools.cycle(prompts)
    tenth = max(1, requests // 10)
    for _ in aligner.align_iter(itertools.islice(endless, tenth)):
        pass
    course = [resident_bytes()]
    outcomes: Counter[str] = Counter()
    answered = aligner.align_iter(itertools.islice(endless, requests))
    for count, (_, response) in enumerate(answered, start=1):
        outcomes[str(response.outcome)] += 1
        if count % tenth == 0 or count == requests:
            course.append(resident_bytes())
    return {
        "requests": requests,
        "outcomes": dict(outcomes),
        "resident_mib_before": course[0] / 2**20,
        "resident_mib_after": course[-1] / 2**20,
        "resident_mib": [held / 2**20 for held in course],
        "growth_bytes_per_request": (course[-1] - course[0]) / requests,
    }


def resident_bytes() -> int:
    """Memory that this process holds: at this moment on Linux, elsewhere the most so far."""
    gc.collect()
    with contextlib.suppress(OSError, ValueError, IndexError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Clock:
    """Seconds by part; time in an inner part is not counted for the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inner: list[float] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside for this part."""
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - started
            self.seconds[name] += took - self._inner.pop()  # type: ignore[assignment]
            if self._inner:
                self._inner[-1] += took


T = TypeVar("T", Engine, Moderator)

_TIMED = {
    "embed": "embedding",
    "generate": "generation",
    "generate_watched": "generation",
    "log_likelihood": "log_likelihood",
    "score": "moderation",
}
"""Methods of engines and moderators to the part that their time is counted for."""


def timed(one: T, clock: Clock) -> T:
    """A twin of an engine or a moderator, of the same class, the time of whose calls is counted."""
    twin = copy.copy(one)
    for name, part in _TIMED.items():
        if hasattr(one, name):
            object.__setattr__(twin, name, clock.part(part)(getattr(one, name)))
    return twin


def _passed(search: Search) -> bool:
    return search.done and search.response().outcome is Outcome.PASSED


def _finish(searches: list[Search]) -> None:
    while searches:
        advance(searches)
        searches = [search for search in searches if not search.done]


def markdown(document: Mapping[str, Any]) -> str:
    """The document as tables for people."""
    methods = [method for method in METHODS if method in document]
    rows = (
        ("first answers flagged", "flagged", "{:.0f}"),
        ("of these steered", "neutralised_share", "{:.1%}"),
        ("full generations per steered answer", "generation_equivalents_per_steered", "{:.2f}"),
        ("generated tokens per steered answer", "generated_tokens_per_steered", "{:.0f}"),
        ("tokens, `tide` = 1", "tokens_vs_tide", "{:.3f}"),
        ("seconds at 64 open, `tide` = 1", "seconds_vs_tide_64", "{:.3f}"),
        ("answers generated per steered one", "generations_per_steered", "{:.1f}"),
        ("verdicts per steered answer", "moderator_calls_per_steered", "{:.1f}"),
        ("naturalness, median", "naturalness_median", "{:+.2f}"),
        (
            "naturalness where both steered, `tide` = 0",
            "naturalness_above_tide",
            "{:+.2f}",
        ),
        ("tokens preserved, least", "tokens_preserved_min", "{:.2f}"),
    )
    lines = [
        f"{document['model']}, policy {document['policy']} {document['policy_version']}, "
        f"{document['prompts']} prompts, seed {document['seed']}",
        "",
        "| | " + " | ".join(f"`{method}`" for method in methods) + " |",
        "|---" * (len(methods) + 1) + "|",
    ]
    for title, key, form in rows:
        cells = [_cell(document[m].get(key), document[m]["intervals"].get(key), form)
                 for m in methods]  # fmt: skip
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", "| prompts at once | seconds per prompt | benign, plain generation = 1 |",
              "|---|---|---|"]  # fmt: skip
    per_prompt, overhead = document["seconds_per_prompt"], document["benign_overhead"]
    for size in sorted({*per_prompt, *overhead}, key=int):
        cells = [_cell((t.get(size) or {}).get("value"), (t.get(size) or {}).get("interval"), form)
                 for t, form in ((per_prompt, "{:.3f}"), (overhead, "{:.3f}"))]  # fmt: skip
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    shares = document["profile"]["shares"]
    lines += ["", "| part | share of the time |", "|---|---|"]
    lines += [f"| {part.replace('_', ' ')} | {share:.1%} |" for part, share in shares.items()]
    return "\n".join(lines) + "\n"


def stream_markdown(document: Mapping[str, Any]) -> str:
    """The figures of streams as a table for people."""
    lines = [
        f"{document['model']}, policy {document['policy']} {document['policy_version']}, answers "
        f"of {document['tokens']} tokens, lookahead {document['lookahead']}, seed "
        f"{document['seed']}; `release: whole` = 1",
        "",
        "| streams at once | time to first text | throughput | pieces before the rest |",
        "|---|---|---|---|",
    ]
    for own in document["streams"].values():
        figures = (own["first_text_vs_whole"], own["throughput_vs_whole"])
        cells = [_cell(f["value"], f["interval"], "{:.3f}") for f in figures]
        pieces = f"{own['pieces_per_stream']:.1f}"
        lines.append("| " + " | ".join([str(own["streams"]), *cells, pieces]) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, interval: Sequence[float] | None, form: str) -> str:
    if value is None:
        return "–"
    if interval is None:
        return form.format(value)
    low, high = (form.format(bound) for bound in interval)
    return f"{form.format(value)} ({low} to {high})"
