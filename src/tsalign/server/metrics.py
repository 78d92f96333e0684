"""Prometheus metrics, in a registry of their own per app. No label holds what a client wrote."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tsalign import __version__
from tsalign.types import Response

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GENERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUND = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What is counted; `text` is the page that Prometheus reads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        of_answer = ("model", "policy", "outcome")
        self.responses = Counter(
            "tsalign_responses", "Answers by outcome.", of_answer, registry=registry
        )
        self.seconds = Histogram(
            "tsalign_search_seconds",
            "Seconds of a search, its wait for a place excluded.",
            of_answer,
            buckets=_SECONDS,
            registry=registry,
        )
        self.waited = Histogram(
            "tsalign_wait_seconds",
            "Seconds that a search waited for a place.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.generations = Histogram(
            "tsalign_generations",
            "Generations per answer, the first one included.",
            of_answer,
            buckets=_GENERATIONS,
            registry=registry,
        )
        self.generated_tokens = Counter(
            "tsalign_generated_tokens", "Tokens generated.", ("model",), registry=registry
        )
        self.moderator_calls = Counter(
            "tsalign_moderator_calls", "Verdicts asked for.", ("policy",), registry=registry
        )
        self.http = Counter(
            "tsalign_http_requests",
            "Requests by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self.handed_back = Counter(
            "tsalign_handed_back",
            "Requests that were not answered, by reason: full, deadline, disconnected, stopping.",
            ("reason",),
            registry=registry,
        )
        self.round_size = Histogram(
            "tsalign_round_searches",
            "Searches that shared an engine round.",
            ("model",),
            buckets=_ROUND,
            registry=registry,
        )
        self.policy_changes = Counter(
            "tsalign_policy_changes",
            "Changes of policies: put, remove, rollback, rejected.",
            ("action",),
            registry=registry,
        )
        self.record_failures = Counter(
            "tsalign_record_failures", "Records that could not be written.", registry=registry
        )
        self._waiting = Gauge(
            "tsalign_waiting", "Searches that wait for a place.", ("model",), registry=registry
        )
        self._open = Gauge("tsalign_open", "Searches in the round.", ("model",), registry=registry)
        Gauge("tsalign_build_info", "Version of tsalign.", ("version",), registry=registry).labels(
            __version__
        ).set(1)

    def watch(self, model: str, waiting: Callable[[], int], open_: Callable[[], int]) -> None:
        """Read a worker's queue whenever the page is asked for."""
        self._waiting.labels(model).set_function(waiting)
        self._open.labels(model).set_function(open_)

    def answered(self, model: str, response: Response, waited: float) -> None:
        """Count one answer."""
        labels = (model, response.policy.name, str(response.outcome))
        self.responses.labels(*labels).inc()
        self.seconds.labels(*labels).observe(response.cost.seconds)
        self.generations.labels(*labels).observe(response.cost.generations)
        self.waited.labels(model).observe(waited)
        self.generated_tokens.labels(model).inc(response.cost.generated_tokens)
        self.moderator_calls.labels(response.policy.name).inc(response.cost.moderator_calls)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
