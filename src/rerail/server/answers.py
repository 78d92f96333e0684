"""What clients get: OpenAI's shapes with a ``rerail`` object beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerail.panel import Panel
from rerail.server.worker import Finished
from rerail.types import Cost, Evaluation, Outcome, Response, Verdict

_WORST = (Outcome.PASSED, Outcome.STEERED, Outcome.REFUSED, Outcome.ERROR)
_NOT_JUDGED = {
    "type": "error",
    "code": "not_moderated",
    "message": "rerail judges answers, not prompts",
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
    n: int
    created: int

    @classmethod
    def of(cls, id_: str, model: str, answered: Sequence[Finished], n: int = 1) -> OpenAIReply:
        """The reply, now."""
        return cls(id_, model, answered, n, int(time.time()))

    def chat(self) -> dict[str, Any]:
        """``chat.completion``."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": a.response.text, "refusal": None},
                "finish_reason": finish_reason(a.response),
                "logprobs": None,
                "rerail": details(a.response),
            }
            for i, a in enumerate(self.answered)
        ]
        return {**self._frame("chat.completion"), "choices": choices, **self._end(), **self.usage()}

    def text(self) -> dict[str, Any]:
        """``text_completion``."""
        choices = [
            {
                "index": i,
                "text": a.response.text,
                "finish_reason": finish_reason(a.response),
                "logprobs": None,
                "rerail": details(a.response),
            }
            for i, a in enumerate(self.answered)
        ]
        return {**self._frame("text_completion"), "choices": choices, **self._end(), **self.usage()}

    def chat_chunks(self, include_usage: bool) -> Iterator[dict[str, Any]]:
        """``chat.completion.chunk``: the accepted texts in pieces, figures with the last."""
        frame = self._frame("chat.completion.chunk")
        for i, a in enumerate(self.answered):
            yield self._chunk(frame, {"index": i, "delta": {"role": "assistant", "content": ""}})
            for piece in pieces(a.response.text):
                yield self._chunk(frame, {"index": i, "delta": {"content": piece}})
            yield self._last_chunk(frame, i, {"index": i, "delta": {}})
        if include_usage:
            yield {**frame, "choices": [], **self.usage()}

    def text_chunks(self, include_usage: bool) -> Iterator[dict[str, Any]]:
        """``text_completion`` in pieces."""
        frame = self._frame("text_completion")
        for i, a in enumerate(self.answered):
            for piece in pieces(a.response.text):
                yield self._chunk(frame, {"index": i, "text": piece})
            yield self._last_chunk(frame, i, {"index": i, "text": ""})
        if include_usage:
            yield {**frame, "choices": [], **self.usage()}

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
            }
        }

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, frame: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
        return {**frame, "choices": [{"finish_reason": None, "logprobs": None, **choice}]}

    def _last_chunk(
        self, frame: Mapping[str, Any], index: int, choice: Mapping[str, Any]
    ) -> dict[str, Any]:
        response = self.answered[index].response
        last = {
            **choice,
            "finish_reason": finish_reason(response),
            "logprobs": None,
            "rerail": details(response),
        }
        of_all = self._end() if index == len(self.answered) - 1 else {}
        return {**frame, "choices": [last], **of_all}

    def _end(self) -> dict[str, Any]:
        responses = [a.response for a in self.answered]
        return {"rerail": summary(responses), "moderation": moderation(self.answered)}


def details(response: Response) -> dict[str, Any]:
    """The ``rerail`` object of a choice: the response's public form without its text."""
    public = response.to_json()
    del public["text"]
    return public | {"naturalness": finite(response.naturalness)}


def finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None


def summary(responses: Sequence[Response]) -> dict[str, Any]:
    """The ``rerail`` object of a reply: the least good outcome, the most harm, the whole cost."""
    tag = responses[0].policy
    cost = sum((r.cost for r in responses), Cost())
    return {
        "outcome": str(max((r.outcome for r in responses), key=_WORST.index)),
        "policy": {"name": tag.name, "version": tag.version, "audit": tag.audit},
        "harm_before": _most(r.initial for r in responses),
        "harm_after": _most(r.final for r in responses),
        "cost": {
            "generations": cost.generations,
            "generated_tokens": cost.generated_tokens,
            "prompt_tokens": cost.prompt_tokens,
            "moderator_calls": cost.moderator_calls,
            "seconds": max(r.cost.seconds for r in responses),
        },
    }


def _most(verdicts: Iterator[Verdict | None]) -> float | None:
    harms = [v.harm for v in verdicts if v is not None and v.harm is not None]
    return max(harms, default=None)


def moderation(answered: Sequence[Finished]) -> dict[str, Any]:
    """The ``moderation`` shape of OpenAI's chat completions.

    The output's results are verdicts on the texts that left; for a refused choice, whose text is
    the policy's message, the verdict on the model's first answer.
    """
    tag = answered[0].response.policy
    judge = f"{tag.name}@{tag.version}"
    results = []
    for a in answered:
        verdict = a.response.final or a.response.initial
        if verdict is not None and not verdict.unscored:
            results.append(moderation_result(verdict, a.panel, judge))
    if len(results) < len(answered):
        output = {
            "type": "error",
            "code": "not_moderated",
            "message": "an answer has no verdict",
        }
        return {"input": _NOT_JUDGED, "output": output}
    return {
        "input": _NOT_JUDGED,
        "output": {"type": "moderation_results", "model": judge, "results": results},
    }


def moderation_result(verdict: Verdict, panel: Panel, judge: str) -> dict[str, Any]:
    """One verdict as OpenAI writes it."""
    return {
        "type": "moderation_result",
        "model": judge,
        **verdict_fields(verdict, panel),
    }


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
    chosen = chosen_evaluation(response)
    return chosen.generation.finish_reason if chosen else "content_filter"


def completion_tokens(response: Response) -> int:
    """Tokens of the answer that left; the policy's message has none."""
    chosen = chosen_evaluation(response)
    return len(chosen.generation.token_ids) if chosen else 0


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
