"""What clients of ``/v1/responses`` get: one answer as items, whole or in events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerail.server import stream
from rerail.server.answers import (
    completion_tokens,
    details,
    finish_reason,
    moderation,
    pieces,
    summary,
)
from rerail.server.schemas import ResponsesRequest
from rerail.server.worker import Finished
from rerail.types import Response

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""How an answer ended to why it is incomplete."""


@dataclass(frozen=True)
class ResponsesReply:
    """One answer.

    Attributes:
        id: of the request, and of its record.
        request: that it answers.
        created: Unix seconds.
    """

    id: str
    request: ResponsesRequest
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answered: Sequence[Finished]) -> dict[str, Any]:
        """``response``, with the answer."""
        (finished,) = answered
        response = finished.response
        why = _INCOMPLETE.get(finish_reason(response))
        tokens = completion_tokens(response)
        usage = {
            "input_tokens": finished.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": response.reasoning_tokens},
            "total_tokens": finished.prompt_tokens + tokens,
        }
        return self._frame(
            status="incomplete" if why else "completed",
            incomplete_details={"reason": why} if why else None,
            output=list(self._items(response)),
            usage=usage,
            rerail=details(response) | summary([response]),
            moderation=_moderation(answered),
        )

    def begin(self) -> Iterator[bytes]:
        """The events before there is an answer."""
        frame = self._frame(status="in_progress")
        yield from _events(
            [{"type": f"response.{kind}", "response": frame} for kind in ("created", "in_progress")]
        )

    def events(self, answered: Sequence[Finished]) -> Iterator[bytes]:
        """The events of the answer, behind those of `begin`."""
        whole = self.whole(answered)
        told = [event for i, item in enumerate(whole["output"]) for event in _of_item(i, item)]
        yield from _events(
            [*told, {"type": f"response.{whole['status']}", "response": whole}], first=2
        )

    def failure(self, error: Mapping[str, Any]) -> Iterator[bytes]:
        """The last event where there is no answer."""
        said = {key: error[key] for key in ("code", "message", "param")}
        yield from _events([{"type": "error", **said}], first=2)

    def _frame(self, **more: Any) -> dict[str, Any]:
        request = self.request
        choice = request.tool_choice or "auto"
        tools = [tool.model_dump() | {"strict": False} for tool in request.tools or ()]
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "model": request.model,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": request.temperature,
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": tools,
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": {},
            **more,
        }

    def _items(self, response: Response) -> Iterator[dict[str, Any]]:
        """Reasoning where the policy shows it, what was said, and what was called."""
        own = self.id.partition("-")[2]
        if response.reasoning is not None:
            content = [{"type": "reasoning_text", "text": response.reasoning}]
            yield {"type": "reasoning", "id": f"rs-{own}", "summary": [], "content": content}
        if response.text or not response.tool_calls:
            yield {
                "type": "message",
                "id": f"msg-{own}",
                "status": "completed",
                "role": "assistant",
                "content": [_part(response.text)],
            }
        for call in response.tool_calls:
            yield {
                "type": "function_call",
                "id": f"fc-{call.id}",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }


def _moderation(answered: Sequence[Finished]) -> dict[str, Any]:
    """The ``moderation`` shape of OpenAI's Responses: one result, where chat has a list."""
    found = moderation(answered)
    output = found["output"]
    return {**found, "output": output.get("results", [output])[0]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(documents: Sequence[dict[str, Any]], first: int = 0) -> Iterator[bytes]:
    for number, document in enumerate(documents, first):
        yield stream.event({**document, "sequence_number": number}, document["type"])


def _of_item(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one item: it is added, comes in pieces, and is done."""
    where = {"item_id": item["id"], "output_index": index}
    begun = {**item, "status": "in_progress"}
    if item["type"] == "message":
        begun["content"] = []
    elif item["type"] == "function_call":
        begun["arguments"] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    if item["type"] == "message":
        (part,) = item["content"]
        where["content_index"] = 0
        yield {"type": "response.content_part.added", **where, "part": _part("")}
        for piece in pieces(part["text"]):
            delta = {"delta": piece, "logprobs": []}
            yield {"type": "response.output_text.delta", **where, **delta}
        done = {"text": part["text"], "logprobs": []}
        yield {"type": "response.output_text.done", **where, **done}
        yield {"type": "response.content_part.done", **where, "part": part}
    elif item["type"] == "function_call":
        said = item["arguments"]
        yield {"type": "response.function_call_arguments.delta", **where, "delta": said}
        done = {"arguments": said, "name": item["name"]}
        yield {"type": "response.function_call_arguments.done", **where, **done}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
