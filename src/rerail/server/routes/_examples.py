"""Answers as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

_POLICY = {"name": "default", "version": "6b1f0c2d9a3e", "audit": False}
_VERDICT = {"harm": 0.1, "scores": {"illicit": 0.05}, "flagged": False, "unscored": None}
_COST = {
    "generations": 5,
    "generated_tokens": 190,
    "prompt_tokens": 210,
    "moderator_calls": 5,
    "seconds": 0.9,
}
_CHOICE = {
    "outcome": "steered",
    "policy": _POLICY,
    "initial": {**_VERDICT, "harm": 1.6, "scores": {"illicit": 0.8}, "flagged": True},
    "final": _VERDICT,
    "cost": _COST,
    "iterations": 0,
    "accepted_from": "perturbation",
    "naturalness": 0.01,
    "cosine": 0.96,
    "tokens_preserved": 1.0,
    "stop_reason": "accepted",
    "seed": 4711,
    "model": "embedded",
    "error": None,
}
_RESULT = {
    "flagged": False,
    "categories": {"illicit": False},
    "category_scores": {"illicit": 0.05},
    "category_applied_input_types": {"illicit": ["text"]},
}
_END: dict[str, Any] = {
    "rerail": {
        "outcome": "steered",
        "policy": _POLICY,
        "harm_before": 1.6,
        "harm_after": 0.1,
        "cost": _COST,
    },
    "moderation": {
        "input": {
            "type": "error",
            "code": "not_moderated",
            "message": "rerail judges answers, not prompts",
        },
        "output": {
            "type": "moderation_results",
            "model": "default@6b1f0c2d9a3e",
            "results": [{"type": "moderation_result", "model": "default@6b1f0c2d9a3e", **_RESULT}],
        },
    },
    "usage": {"prompt_tokens": 42, "completion_tokens": 38, "total_tokens": 80},
}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-5f1c0e7d2b9a4c3e8f6d1a0b",
    "object": "chat.completion",
    "created": 1790000000,
    "model": "rerail",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Cut the stems at an angle and give them cold water every day.",
                "refusal": None,
            },
            "finish_reason": "stop",
            "logprobs": None,
            "rerail": _CHOICE,
        }
    ],
    **_END,
}
COMPLETION: dict[str, Any] = {
    **CHAT,
    "id": "cmpl-5f1c0e7d2b9a4c3e8f6d1a0b",
    "object": "text_completion",
    "choices": [
        {
            "index": 0,
            "text": " best in cold water.",
            "finish_reason": "length",
            "logprobs": None,
            "rerail": _CHOICE,
        }
    ],
}
MODELS: dict[str, Any] = {
    "object": "list",
    "data": [{"id": "rerail", "object": "model", "created": 1790000000, "owned_by": "rerail"}],
}
MODERATION: dict[str, Any] = {
    "id": "modr-5f1c0e7d2b9a4c3e8f6d1a0b",
    "model": "default@6b1f0c2d9a3e",
    "results": [_RESULT],
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
    ]
}
