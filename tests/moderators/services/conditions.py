"""What can happen on the wire, and what comes of it: the table of the reference, row by row."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.moderators.services.wires import Answer, Step, Wire, ok


def status(code: int, **headers: str) -> Step:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda wire, body: Answer(code, wire.error(code), named)


def key_refused(wire: Wire, body: Any) -> Answer:
    """As Google's APIs refuse a key (google.rpc.ErrorInfo)."""
    detail = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }
    error = {"code": 400, "message": "no", "status": "INVALID_ARGUMENT", "details": [detail]}
    return Answer(400, {"error": error})


def raw(content: bytes) -> Step:
    return lambda wire, body: Answer(200, content)


def changed(value: Callable[[Any], Any]) -> Step:
    def step(wire: Wire, body: Any) -> Answer:
        reply = wire.success(body)
        wire.change(reply, 0, value)
        return Answer(200, reply)

    return step


def set_to(value: Any) -> Step:
    return changed(lambda _: value)


def dropped(wire: Wire, body: Any) -> Answer:
    reply = wire.success(body)
    wire.drop(reply, 0)
    return Answer(200, reply)


def shortened(wire: Wire, body: Any) -> Answer:
    reply = wire.success(body)
    wire.verdicts(reply).pop()
    return Answer(200, reply)


def doubled(wire: Wire, body: Any) -> Answer:
    reply = wire.success(body)
    wire.verdicts(reply).append(wire.verdicts(reply)[0])
    return Answer(200, reply)


def reversed_(wire: Wire, body: Any) -> Answer:
    reply = wire.success(body)
    wire.verdicts(reply).reverse()
    return Answer(200, reply)


def repeated(wire: Wire, body: Any) -> Answer:
    """The first verdict twice, under one id, and the last one not at all."""
    reply = wire.success(body)
    verdicts = wire.verdicts(reply)
    verdicts[-1] = verdicts[0]
    return Answer(200, reply)


def cut_before(wire: Wire, body: Any) -> Answer:
    return Answer(200, wire.success(body), cut=0)


def cut_within(wire: Wire, body: Any) -> Answer:
    return Answer(200, wire.success(body), cut=20)


def slow(wire: Wire, body: Any) -> Answer:
    return Answer(200, wire.success(body), hang=True)


def redirection(wire: Wire, body: Any) -> Answer:
    return Answer(307, {}, {"Location": "http://127.0.0.1:9/elsewhere"})


def past_date(wire: Wire, body: Any) -> Answer:
    return Answer(429, wire.error(429), {"Retry-After": email.utils.formatdate(time.time() - 9)})


SCORED = "scored"


@dataclass(frozen=True)
class Condition:
    """One row: what the service does, how often it is asked, and the verdict on the text.

    Attributes:
        title: the row's name.
        steps: the service's answers.
        requests: how many it gets.
        verdict: ``scored``, or the cause that the verdict begins with.
        texts: how many are asked about; only services that take batches are asked about several.
        options: of the moderator, so that tests are quick.
        ids: only for services whose verdicts carry ids (True) or do not (False).
        wires: only for these: one of each client library, where the row is about no format.
    """

    title: str
    steps: Sequence[Step]
    requests: int
    verdict: str
    texts: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    ids: bool | None = None
    wires: Sequence[str] | None = None

    def applies(self, wire: Wire) -> bool:
        if self.texts > 1 and not wire.batched:
            return False
        if self.wires is not None and wire.name not in self.wires:
            return False
        return self.ids is None or (wire.batched and wire.ids == self.ids)


FORM = "the reply has another form than documented"
CUT = "connection failed"

CONDITIONS = (
    Condition("200, as documented", [ok], 1, SCORED),
    Condition("200, a batch as documented", [ok], 1, SCORED, texts=5),
    Condition("400", [status(400)], 1, "rejected by the service (HTTP 400)"),
    Condition("400, with Google's reason API_KEY_INVALID", [key_refused], 1,
              "access denied (HTTP 400)", wires=("perspective", "http")),
    Condition("413", [status(413)], 1, "rejected by the service (HTTP 413)"),
    Condition("422", [status(422)], 1, "rejected by the service (HTTP 422)"),
    Condition("401", [status(401)], 1, "access denied (HTTP 401)"),
    Condition("403", [status(403)], 1, "access denied (HTTP 403)"),
    Condition("404", [status(404)], 1, "HTTP 404"),
    Condition("307 to another server", [redirection], 1, "HTTP 307"),
    Condition("429 with Retry-After, then 200", [status(429, Retry_After="0.03"), ok], 2, SCORED),
    Condition(
        "429 with retry-after-ms, then 200", [status(429, retry_after_ms="30"), ok], 2, SCORED
    ),
    Condition("429 with Retry-After as a date gone by, then 200", [past_date, ok], 2, SCORED),
    Condition(
        "429 with Retry-After past the deadline",
        [status(429, Retry_After="3600")],
        1,
        "HTTP 429: 60 s to wait, past the deadline",
    ),
    Condition("429 every time", [status(429)], 4, "HTTP 429"),
    Condition(
        "429 with x-ratelimit-remaining: 0 and its reset, then 200",
        [status(429, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="30ms"), ok],
        2,
        SCORED,
    ),
    Condition("500, then 200", [status(500), ok], 2, SCORED),
    Condition("503 with Retry-After, then 200", [status(503, Retry_After="0"), ok], 2, SCORED),
    Condition("500 every time", [status(500)], 4, "HTTP 500"),
    Condition(
        "slow, then 200", [slow, ok], 2, SCORED, options={"timeout": 0.5}
    ),
    Condition(
        "slow every time", [slow], 4, "no reply within 0.1 s", options={"timeout": 0.1}
    ),
    Condition(
        "slower than the deadline", [slow], 1, "no verdict within 0.3 s",
        options={"deadline": 0.3},
    ),
    Condition("connection cut, then 200", [cut_before, ok], 2, SCORED),
    Condition("connection cut within the reply, then 200", [cut_within, ok], 2, SCORED),
    Condition("connection cut every time", [cut_before], 4, CUT),
    Condition("connection cut within the reply every time", [cut_within], 4, CUT),
    Condition("200, not JSON", [raw(b"<html>upstream error</html>")], 1, "the reply is not JSON"),
    Condition("200, half of the JSON", [raw(b'{"results": [')], 1, "the reply is not JSON"),
    Condition("200, nothing", [raw(b"")], 1, "the reply is not JSON"),
    Condition("200, nested without end", [raw(b"[" * 200_000)], 1, "the reply is not JSON"),
    Condition("200, JSON of another form", [raw(b"[1, 2]")], 1, FORM),
    Condition("200, an error object", [raw(b'"error"')], 1, FORM),
    Condition("200, longer than 8 MiB", [raw(b" " * (8 << 20) + b"{}")], 1,
              "the reply is too long", wires=("openai", "http")),
    Condition("200, a category missing", [dropped], 1, "no score for"),
    Condition("200, a category null", [set_to(None)], 1, "no score for"),
    Condition("200, a score NaN", [set_to(float("nan"))], 1, "the score of"),
    Condition("200, a score infinite", [set_to(float("inf"))], 1, "the score of"),
    Condition("200, a score of 1.5", [set_to(1.5)], 1, "the score of"),
    Condition("200, a score of -0.1", [set_to(-0.1)], 1, "the score of"),
    Condition("200, a score as text", [set_to("0.1")], 1, "the score of"),
    Condition("200, a score of true", [set_to(True)], 1, "the score of"),
    Condition("200, a verdict too few", [shortened], 1, "the reply", texts=3),
    Condition("200, a verdict too many", [doubled], 1, "the reply", texts=3),
    Condition("200, a batch in another order, with ids", [reversed_], 1, SCORED, texts=5, ids=True),
    Condition("200, an id twice and one missing", [repeated], 1, "the reply's ids", texts=3,
              ids=True),
)  # fmt: skip
