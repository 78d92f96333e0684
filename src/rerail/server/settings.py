"""Limits and defaults of a server, each written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rerail.types import FrozenDict


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a server behaves.

    Attributes:
        default_policy: applies where neither request, key nor model names another.
        model_policies: model to the policy that is its default.
        max_open: searches that one model steers in lock-step.
        max_waiting: searches of one tenant that may wait for a place; more are told to come back.
        max_body_bytes: of a request.
        max_choices: answers that one request may ask for.
        max_new_tokens: tokens of an answer where the request names no number.
        max_new_tokens_limit: tokens of an answer at most, whatever the request names.
        temperature: where the request names none; 0 is greedy.
        seed: where the request names none.
        request_seconds: deadline of a request, its wait included; a request may shorten it.
        retry_after: seconds that a client is told to wait when the server is full or unwell.
        keep_alive: seconds between signs of life in a stream.
        grace: seconds that open requests get to finish when the server is told to stop.
        record: whether passed answers are recorded, too, or interventions only.
        retention_days: age at which records are deleted; None: never.
        cors_origins: origins whose pages may call the server; none by default.
        hosts: values of the ``Host`` header that are answered; None: any.
    """

    default_policy: str = "default"
    model_policies: Mapping[str, str] = field(default_factory=FrozenDict)
    max_open: int = 64
    max_waiting: int = 128
    max_body_bytes: int = 2 * 1024 * 1024
    max_choices: int = 8
    max_new_tokens: int = 256
    max_new_tokens_limit: int = 2048
    temperature: float = 0.0
    seed: int = 0
    request_seconds: float = 300.0
    retry_after: int = 5
    keep_alive: float = 5.0
    grace: float = 30.0
    record: Literal["interventions", "all"] = "interventions"
    retention_days: float | None = None
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
