"""What clients get: OpenAI's shapes with a ``rerail`` object beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rerail.panel import Panel
from rerail.server.worker import Finished
from rerail.types import Cost, Evaluation, Layer, Outcome, Response, Screened, Verdict

_ACTING = (Layer.NONE, Layer.ANSWER, Layer.GATE)
_WORST = (Outcome.PASSED, Outcome.STEERED, Outcome.REFUSED, Outcome.ERROR)
_NOT_JUDGED = {
    "type": "error",
    "code": "not_moderated",
    "message": "the policy has no gate: it judges answers, not prompts",
}


@dataclass(frozen=True)
class OpenAIReply:
    """The choices of one request, in order.

    Attributes:
        id: of the request, and of its records.
        model: as the client named it.
        answered: one per choice.
        n: choices of each prompt, one after the other.
        created: Unix seconds.
    """

    id: str
    model: str
    answered: Sequence[Finished]
    n: int = 1
    created: int = field(default_factory=lambda: int(time.time()))

    def chat(self) -> dict[str, Any]:
        """``chat.completion``."""
        return self._whole("chat.completion", lambda response: {"message": _message(response)})

    def text(self) -> dict[str, Any]:
        """``text_completion``."""
        return self._whole("text_completion", lambda response: {"text": response.text})

    def usage(self) -> dict[str, Any]:
        """Tokens of the request and of what left; what the search cost stands in ``rerail``.

        A prompt counts once, however many choices it has.
        """
        prompt = sum(a.prompt_tokens for a in self.answered[:: self.n])
        completion = sum(completion_tokens(a.response) for a in self.answered)
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "completion_tokens_details": {
                    "reasoning_tokens": sum(a.response.reasoning_tokens for a in self.answered)
                },
            }
        }

    def frame(self, kind: str) -> dict[str, Any]:
        """What stands in each of its parts."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _whole(self, kind: str, said: Callable[[Response], dict[str, Any]]) -> dict[str, Any]:
        choices = [
            {"index": i, **said(a.response), **_ended(a.response)}
            for i, a in enumerate(self.answered)
        ]
        return {**self.frame(kind), "choices": choices, **self.end(), **self.usage()}

    def end(self) -> dict[str, Any]:
        """What its last part says of all choices."""
        responses = [a.response for a in self.answered]
        return {"rerail": summary(responses), "moderation": moderation(self.answered)}


class Chunks:
    """One reply as the chunks of a stream.

    Args:
        reply: its choices may still be to come.
        chat: whether they are ``chat.completion.chunk`` or ``text_completion``.
    """

    def __init__(self, reply: OpenAIReply, *, chat: bool) -> None:
        self._frame = reply.frame("chat.completion.chunk" if chat else "text_completion")
        self._chat = chat
        self._sent: dict[int, int] = {}

    def progress(self, so_far: Mapping[str, Any]) -> dict[str, Any]:
        """How far the search is."""
        return {**self._frame, "choices": [], "usage": None, "rerail": {"progress": so_far}}

    def piece(self, choice: int, text: str) -> Iterator[dict[str, Any]]:
        """Text of a choice that leaves before the rest of it is there."""
        yield from self._said(choice, [self._text(text)])
        self._sent[choice] = self._sent.get(choice, 0) + len(text)

    def rest(self, reply: OpenAIReply, include_usage: bool) -> Iterator[dict[str, Any]]:
        """What has not left yet of the choices, in pieces, with the figures.

        Args:
            reply: with its choices.
            include_usage: whether a last chunk has ``usage``.
        """
        end: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        for i, a in enumerate(reply.answered):
            yield from self._said(i, self._parts(a.response, self._sent.get(i, 0)))
            of_all = reply.end() if i == len(reply.answered) - 1 else {}
            yield {**self._frame, "choices": [{"index": i, **end, **_ended(a.response)}], **of_all}
        if include_usage:
            yield {**self._frame, "choices": [], **reply.usage()}

    def _said(self, choice: int, parts: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        begin = self._chat and choice not in self._sent
        for part in [*([_BEGIN] if begin else []), *parts]:
            told = {"index": choice, **part, "finish_reason": None, "logprobs": None}
            yield {**self._frame, "choices": [told]}

    def _parts(self, response: Response, sent: int) -> Iterator[dict[str, Any]]:
        for thought in pieces(response.reasoning or "") if self._chat else ():
            yield {"delta": {"reasoning_content": thought}}
        yield from map(self._text, pieces(response.text[sent:]))
        for i, call in enumerate(response.tool_calls if self._chat else ()):
            yield {"delta": {"tool_calls": [{"index": i, **call.to_json()}]}}

    def _text(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self._chat else {"text": text}


_BEGIN = {"delta": {"role": "assistant", "content": ""}}


def _message(response: Response) -> dict[str, Any]:
    """What was said and called; with the reasoning where there is some and the policy shows it."""
    content = response.text if response.text or not response.tool_calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if response.tool_calls:
        message["tool_calls"] = [call.to_json() for call in response.tool_calls]
    if response.reasoning is not None:
        message["reasoning_content"] = response.reasoning
    return message


def _ended(response: Response) -> dict[str, Any]:
    """How a choice ended, and its figures."""
    return {
        "finish_reason": finish_reason(response),
        "logprobs": None,
        "rerail": details(response),
    }


def details(response: Response) -> dict[str, Any]:
    """The ``rerail`` object of a choice: the response's public form without its texts."""
    public = response.to_json()
    del public["text"], public["reasoning"], public["tool_calls"]
    return public | {
        "naturalness": finite(response.naturalness),
        "relevance": finite(response.relevance),
    }


def finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None


def summary(responses: Sequence[Response]) -> dict[str, Any]:
    """The ``rerail`` object of a reply: the least good outcome, the most harm, the whole cost."""
    cost = sum((r.cost for r in responses), Cost())
    return {
        "outcome": str(max((r.outcome for r in responses), key=_WORST.index)),
        "layer": str(max((r.layer for r in responses), key=_ACTING.index)),
        "policy": asdict(responses[0].policy),
        "harm_before": _most(r.initial for r in responses),
        "harm_after": _most(r.final for r in responses),
        "cost": asdict(cost) | {"seconds": max(r.cost.seconds for r in responses)},
    }


def _most(verdicts: Iterator[Verdict | None]) -> float | None:
    harms = [v.harm for v in verdicts if v is not None and v.harm is not None]
    return max(harms, default=None)


def moderation(answered: Sequence[Finished]) -> dict[str, Any]:
    """The ``moderation`` shape of OpenAI's chat completions.

    The input's results are those of the policy's gate, if it has one. The output's are verdicts on
    the texts that left; for a refused choice, whose text is the policy's message, the verdict on
    the model's first answer.
    """
    tag = answered[0].response.policy
    judge = f"{tag.name}@{tag.version}"
    verdicts = [(a.response.final or a.response.initial, a.panel) for a in answered]
    results = [
        {"type": "moderation_result", "model": judge, **verdict_fields(verdict, panel)}
        for verdict, panel in verdicts
        if verdict is not None and not verdict.unscored
    ]
    output: dict[str, Any] = {"type": "moderation_results", "model": judge, "results": results}
    if len(results) < len(answered):
        message = "an answer has no verdict"
        output = {"type": "error", "code": "not_moderated", "message": message}
    return {"input": _of_input([a.response.gate for a in answered], judge), "output": output}


def _of_input(gates: Sequence[Screened | None], judge: str) -> dict[str, Any]:
    """What the gate said of the prompts."""
    scored = [gate for gate in gates if gate is not None and not gate.verdict.unscored]
    if len(scored) < len(gates):
        return _NOT_JUDGED if None in gates else {**_NOT_JUDGED, "message": "the gate failed"}
    results = [
        {
            "type": "moderation_result",
            "model": judge,
            "flagged": gate.action is not None,
            "categories": {c: c in (*gate.categories, *gate.noted) for c in gate.verdict.scores},
            "category_scores": dict(gate.verdict.scores),
            "category_applied_input_types": {c: ["text"] for c in gate.verdict.scores},
        }
        for gate in scored
    ]
    return {"type": "moderation_results", "model": judge, "results": results}


def verdict_fields(verdict: Verdict, panel: Panel) -> dict[str, Any]:
    """``flagged`` and the mappings by category; a category switched off is never flagged."""
    return {
        "flagged": verdict.flagged,
        "categories": panel.flags(verdict.scores),
        "category_scores": dict(verdict.scores),
        "category_applied_input_types": {c: ["text"] for c in verdict.scores},
    }


def finish_reason(response: Response) -> str:
    """``content_filter`` if no answer of the model left, else how it ended."""
    if response.tool_calls:
        return "tool_calls"
    chosen = chosen_evaluation(response)
    return chosen.generation.finish_reason if chosen else "content_filter"


def completion_tokens(response: Response) -> int:
    """Tokens of the answer that left, with its reasoning, or of the part that did.

    The policy's message has none.
    """
    chosen = chosen_evaluation(response)
    return len(chosen.generation.token_ids) if chosen else response.sent_tokens


def chosen_evaluation(response: Response) -> Evaluation | None:
    """The evaluation whose text left; None if none did."""
    return None if response.left is None else response.evaluations[response.left]


def pieces(text: str, words: int = 4) -> Iterator[str]:
    """The text in pieces of a few words, which together are the text."""
    start = spaces = 0
    for i, character in enumerate(text):
        if character.isspace():
            spaces += 1
            if spaces == words:
                yield text[start : i + 1]
                start, spaces = i + 1, 0
    if start < len(text):
        yield text[start:]
