"""OpenTelemetry traces: one span per request. Without the extra, or switched off, nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rerail.errors import MissingDependencyError
from rerail.types import Prompt, Response


class Span:
    """What is told about a request.

    Args:
        span: of OpenTelemetry; None is told nothing.
    """

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def answered(self, prompt: Prompt, response: Response, record_text: bool) -> None:
        """Figures; texts only where the policy records them."""
        if self._span is None:
            return
        cost = response.cost
        self._span.add_event(
            "rerail.response",
            {
                "rerail.outcome": str(response.outcome),
                "rerail.layer": str(response.layer),
                "rerail.policy": response.policy.name,
                "rerail.policy_version": response.policy.version,
                "rerail.generations": cost.generations,
                "rerail.generated_tokens": cost.generated_tokens,
                "rerail.moderator_calls": cost.moderator_calls,
                "rerail.seconds": cost.seconds,
            }
            | (
                {"rerail.prompt": prompt.messages[-1].content, "rerail.answer": response.said}
                if record_text
                else {}
            ),
        )


class Tracing:
    """Makes spans.

    Args:
        provider: an OpenTelemetry ``TracerProvider``; None makes no spans.
    """

    def __init__(self, provider: Any = None) -> None:
        self._tracer = provider.get_tracer("rerail") if provider is not None else None

    @classmethod
    def otlp(cls) -> Tracing:
        """Traces over OTLP, to where the usual ``OTEL_...`` variables say.

        Raises:
            MissingDependencyError: the extra ``otel`` is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError as error:
            raise MissingDependencyError("opentelemetry", "otel") from error
        resource = Resource.create({"service.name": "rerail"})
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def request(self, route: str, model: str, policy: str) -> Iterator[Span]:
        """The span of one request."""
        if self._tracer is None:
            yield Span()
            return
        from opentelemetry.trace import StatusCode

        attributes = {"http.route": route, "rerail.model": model, "rerail.policy": policy}
        # A message may quote a prompt: of an error only the type is told.
        with self._tracer.start_as_current_span(
            f"POST {route}",
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield Span(span)
            except Exception as error:
                span.set_status(StatusCode.ERROR, type(error).__name__)
                raise
