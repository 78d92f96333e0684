"""What engines have in common, whatever runs the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerail.engines.base import EmbeddedPrompt, GenerationRequest
from rerail.engines.rendering import Renderer
from rerail.errors import EngineError, PromptError
from rerail.types import FloatArray, Generation, Prompt


def check_points(requests: Sequence[GenerationRequest], largest: float = math.inf) -> None:
    """Refuse points that no model can answer from.

    Args:
        requests: with the points.
        largest: number that the model's dtype can hold.

    Raises:
        EngineError: a point has another shape than its prompt's, or is not finite, in the model's
            dtype too.
    """
    for request in requests:
        expected = request.embedded.point.shape
        if request.point.shape != expected:
            raise EngineError(
                f"the point has shape {request.point.shape}, the prompt's has {expected}: "
                "move the prompt's own point"
            )
        if not np.isfinite(request.point).all():
            raise EngineError(
                "the point is not finite: make perturbation_scale or step_size smaller"
            )
        if np.abs(request.point).max(initial=0.0) > largest:
            raise EngineError(
                f"the point is not finite in the model's dtype, which ends at {largest:g}: run the "
                "model in bfloat16, or make perturbation_scale or step_size smaller"
            )


def embed(
    prompt: Prompt,
    renderer: Renderer,
    context_length: int | None,
    rows: Callable[[NDArray[np.int64]], FloatArray],
) -> EmbeddedPrompt:
    """Render the prompt, and embed its tokens by ``rows``.

    Raises:
        PromptError: the model has no chat template, it rejects the conversation, or no token is
            left.
        PromptTooLongError: the rendered prompt leaves no room for an answer.
    """
    token_ids, message_index = renderer.render(prompt, context_length)
    if not len(token_ids):
        raise PromptError("the prompt has no tokens: write a longer one")
    return EmbeddedPrompt(prompt, token_ids, rows(token_ids), message_index)


def end_tokens(*sources: Any) -> list[int]:
    """Tokens that end an answer, according to configs and a tokenizer."""
    found: set[int] = set()
    for source in sources:
        value: Any = getattr(source, "eos_token_id", None)
        if value is not None:
            found |= {value} if isinstance(value, int) else set(value)
    return sorted(found)


def read_answer(tokenizer: Any, ends: Sequence[int], row: list[int]) -> Generation:
    """The answer that a row of tokens spells, up to its first end."""
    end = next((i + 1 for i, token in enumerate(row) if token in ends), None)
    tokens = row[:end]
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generation(text, tuple(tokens), "length" if end is None else "stop")
