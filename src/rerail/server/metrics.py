"""Prometheus metrics, in a registry of their own per app. No label holds what a client wrote."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rerail import __version__
from rerail.types import Response

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_GENERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUND = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What is counted; `text` is the page that Prometheus reads.

    Attributes:
        labels: of every metric, by its name.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {}
        of_answer = ("model", "policy", "outcome")
        self.responses = self._counter("responses", "Answers by outcome.", of_answer)
        self.layers = self._counter(
            "layers",
            "Answers by the layer that acted: gate, answer, none.",
            ("model", "policy", "layer"),
        )
        self.seconds = self._histogram(
            "search_seconds", "Seconds of a search, without its wait.", of_answer, _SECONDS
        )
        self.waited = self._histogram(
            "wait_seconds", "Seconds that a search waited for a place.", ("model",), _SECONDS
        )
        self.generations = self._histogram(
            "generations", "Generations per answer, the first included.", of_answer, _GENERATIONS
        )
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated.", ("model",))
        self.moderator_calls = self._counter("moderator_calls", "Verdicts asked for.", ("policy",))
        self.http = self._counter(
            "http_requests", "Requests by route and status.", ("route", "status")
        )
        self.handed_back = self._counter(
            "handed_back",
            "Requests that were not answered, by reason: full, deadline, disconnected, stopping.",
            ("reason",),
        )
        self.round_size = self._histogram(
            "round_searches", "Searches that shared an engine round.", ("model",), _ROUND
        )
        self.policy_changes = self._counter(
            "policy_changes", "Changes of policies: put, remove, rollback, rejected.", ("action",)
        )
        self.record_failures = self._counter(
            "record_failures", "Requests whose record could not be written."
        )
        self._waiting = self._gauge("waiting", "Searches that wait for a place.", ("model",))
        self._open = self._gauge("open", "Searches in the round.", ("model",))
        self._gauge("build_info", "Version of rerail.", ("version",)).labels(__version__).set(1)

    def _named(self, name: str, labels: tuple[str, ...]) -> str:
        self.labels[f"rerail_{name}"] = labels
        return f"rerail_{name}"

    def _counter(self, name: str, says: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(self._named(name, labels), says, labels, registry=self.registry)

    def _gauge(self, name: str, says: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(self._named(name, labels), says, labels, registry=self.registry)

    def _histogram(
        self, name: str, says: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(
            self._named(name, labels), says, labels, buckets=buckets, registry=self.registry
        )

    def watch(self, model: str, waiting: Callable[[], int], open_: Callable[[], int]) -> None:
        """Read a worker's queue whenever the page is asked for."""
        self._waiting.labels(model).set_function(waiting)
        self._open.labels(model).set_function(open_)

    def answered(self, model: str, response: Response, waited: float) -> None:
        """Count one answer."""
        labels = (model, response.policy.name, str(response.outcome))
        self.responses.labels(*labels).inc()
        self.layers.labels(model, response.policy.name, str(response.layer)).inc()
        self.seconds.labels(*labels).observe(response.cost.seconds)
        self.generations.labels(*labels).observe(response.cost.generations)
        self.waited.labels(model).observe(waited)
        self.generated_tokens.labels(model).inc(response.cost.generated_tokens)
        self.moderator_calls.labels(response.policy.name).inc(response.cost.moderator_calls)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
