"""Limits and defaults of a server, each written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from rerail.types import FrozenDict


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
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
        hosts: names that the server answers to, whatever the port; None: any.

    Raises:
        ValueError: an origin or a host is none.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "cors_origins", tuple(map(origin_of, self.cors_origins)))
        if self.hosts is not None:
            object.__setattr__(self, "hosts", tuple(map(host_of, self.hosts)))


def origin_of(text: str) -> str:
    """An origin as browsers write it: in small letters, without the usual port and a path.

    Raises:
        ValueError: it is none, or stands for several.
    """
    parts = _parts(text)
    if parts is None or not parts.scheme or not parts.hostname or parts.path.strip("/"):
        raise ValueError(
            f"{text!r} is not the origin of a page: write scheme and name, as in "
            "https://app.example, once for each origin"
        )
    port = "" if parts.port in {None, _PORTS.get(parts.scheme)} else f":{parts.port}"
    return f"{parts.scheme}://{_bracketed(parts.hostname)}{port}"


def host_of(text: str) -> str:
    """The name in a value of the ``Host`` header, which may have a port.

    Raises:
        ValueError: there is none, or it stands for several.
    """
    bare = text.count(":") > 1 and not text.startswith("[")  # an IPv6 address
    parts = _parts(f"//[{text}]" if bare else f"//{text}")
    if parts is None or not parts.hostname or parts.netloc != parts.geturl().removeprefix("//"):
        raise ValueError(f"{text!r} is not the name of a server: write it as in app.example")
    return parts.hostname.removesuffix(".")


_PORTS = {"http": 80, "https": 443}


def _parts(url: str) -> SplitResult | None:
    """The parts of an address; None if it is malformed, a pattern, or not in its ASCII form."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    strange = "*" in url or "@" in parts.netloc or parts.query or parts.fragment
    return None if strange or not url.isascii() or any(map(str.isspace, url)) else parts


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
