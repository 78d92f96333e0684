"""Answers as the OpenAPI document shows them, written by what writes answers."""

from __future__ import annotations

from typing import Any, Literal

from rerail.moderators.fake import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.server.answers import OpenAIReply, verdict_fields
from rerail.server.responses import ResponsesReply
from rerail.server.schemas import ResponsesRequest
from rerail.server.worker import Finished
from rerail.types import (
    AcceptedFrom,
    Cost,
    Evaluation,
    Generation,
    Judged,
    Outcome,
    PolicyTag,
    Response,
    Score,
    StopReason,
    Verdict,
)

_PANEL = Panel(Policy(name="default"), FakeModerator())
_FLAGGED = Verdict(1.6, {"illicit": 0.8}, flagged=True)
_FINE = Verdict(0.1, {"illicit": 0.05}, flagged=False)


def _finished(text: str, finish_reason: Literal["stop", "length"]) -> Finished:
    """An answer that left after four others."""
    evaluation = Evaluation(
        AcceptedFrom.PERTURBATION,
        None,
        Generation(text, tuple(range(38)), finish_reason),
        Judged(Score.of(_FINE.scores), 0.1, None, _FINE),
        naturalness=0.01,
        rejection=None,
    )
    response = Response(
        Outcome.STEERED,
        text,
        PolicyTag("default", "6b1f0c2d9a3e"),
        _FLAGGED,
        _FINE,
        Cost(5, 190, 210, 5, 0.9),
        iterations=0,
        accepted_from=AcceptedFrom.PERTURBATION,
        naturalness=0.01,
        cosine=0.96,
        tokens_preserved=1.0,
        stop_reason=StopReason.ACCEPTED,
        seed=4711,
        model="embedded",
        evaluations=(evaluation,) * 5,
        left=4,
    )
    return Finished(response, _PANEL, prompt_tokens=42, waited=0.0)


_ID, _CREATED = "5f1c0e7d2b9a4c3e8f6d1a0b", 1790000000
_TULIPS = _finished("Cut the stems at an angle and give them cold water every day.", "stop")
_ON = _finished(" best in cold water.", "length")
CHAT = OpenAIReply(f"chatcmpl-{_ID}", "rerail", [_TULIPS], created=_CREATED).chat()
COMPLETION = OpenAIReply(f"cmpl-{_ID}", "rerail", [_ON], created=_CREATED).text()
RESPONSE = ResponsesReply(
    f"resp-{_ID}", ResponsesRequest(model="rerail", input="How do I keep tulips fresh?"), _CREATED
).whole([_TULIPS])
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [{"id": "rerail", "object": "model", "created": 1790000000, "owned_by": "rerail"}],
}
MODERATION: dict[str, Any] = {
    "id": "modr-5f1c0e7d2b9a4c3e8f6d1a0b",
    "model": "default@6b1f0c2d9a3e",
    "results": [verdict_fields(_FINE, _PANEL)],
    "rerail": {"conversation": False},
}
POLICY: dict[str, Any] = {
    "name": "default",
    "version": "6b1f0c2d9a3e",
    "yaml": "name: default\nmoderators: [embedded]\n",
    "history": [
        {
            "version": "6b1f0c2d9a3e",
            "at": "2026-09-21T10:13:20+00:00",
            "by": "start",
            "action": "put",
            "yaml": "name: default\nmoderators: [embedded]\n",
        }
    ],
}
INTERVENTIONS: dict[str, Any] = {
    "interventions": [
        {
            "at": "2026-09-21T10:13:20+00:00",
            "id": "chatcmpl-5f1c0e7d2b9a4c3e8f6d1a0b",
            "tenant": "local",
            "model": "embedded",
            "policy": "default",
            "version": "6b1f0c2d9a3e",
            "outcome": "steered",
            "harm_before": 1.6,
            "harm_after": 0.1,
            "generations": 5,
            "seconds": 0.9,
            "accepted_from": "perturbation",
        }
    ],
    "has_more": False,
}

KEYS: dict[str, Any] = {
    "keys": [
        {
            "name": "alice",
            "admin": False,
            "policy": None,
            "policies": ["strict"],
            "expires": "2027-06-30T00:00:00Z",
            "requests_per_minute": 60,
            "tokens_per_minute": None,
            "tokens_per_day": 200000,
            "expired": False,
            "last_used": "2026-11-28T14:03:11.120000+00:00",
            "left": {"tokens_per_day": 181344, "requests_per_minute": 58},
        }
    ]
}
