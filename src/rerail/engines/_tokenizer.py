"""An engine's part that its tokenizer does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerail.engines._common import Finish, decoder, up_to_stop
from rerail.engines._reasoning import AUTO, Reader
from rerail.engines._tools import FORMATS, Calls
from rerail.engines.base import TEMPLATE_ROW, EmbeddedPrompt, Sampling
from rerail.engines.rendering import Renderer
from rerail.errors import PromptError
from rerail.types import FloatArray, Generation, Prompt


class TokenizerEngine(ABC):
    """The part of an engine that its tokenizer does: prompts are rendered, and answers are spelt.

    Args:
        tokenizer: of the model, backed by the ``tokenizers`` library.
        name: of the model.
        ends: tokens that end an answer.
        template_options: given to the chat template, for example ``{"enable_thinking": False}``.
        reasoning: the format of the model's reasoning, by name; ``auto``: the chat template tells.
        tools: the format of the model's tool calls, likewise.

    Raises:
        EngineError: the tokenizer cannot be used, or not with those formats.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        ends: list[int],
        template_options: Mapping[str, Any] | None,
        reasoning: str,
        tools: str = AUTO,
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer, template_options)
        self._reader = Reader.of(tokenizer, reasoning)
        self._calls = Calls.of(tokenizer, tools)
        self._name = name
        self._stops = ends

    @property
    @abstractmethod
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together at most; None if the model sets no limit."""

    @abstractmethod
    def _embed_tokens(self, tokens: NDArray[np.int64]) -> FloatArray:
        """``(n_tokens, d_model)`` rows, as the model's embedding module gives them."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Render the prompt and embed it as the model's embedding module does.

        Raises:
            PromptError: the model has no chat template, it rejects the conversation, no token is
                left, or there are tools and it takes none, or calls them in no format that is
                known.
            PromptTooLongError: the rendered prompt leaves no room for an answer.
        """
        token_ids, message_index = self._renderer.render(prompt, self.context_length)
        if not len(token_ids):
            raise PromptError("the prompt has no tokens: write a longer one")
        if prompt.tools and self._calls is None:
            raise PromptError(
                "how this model calls tools is not known: name the format as the engine's option "
                f"tools ({', '.join(FORMATS)}), or leave the tools out"
            )
        return EmbeddedPrompt(prompt, token_ids, self._embed_tokens(token_ids), message_index)

    def with_calls(self, prompt: Prompt, generation: Generation) -> Generation:
        """An answer to a prompt with tools, the calls in it told from its text."""
        return self._calls.read(prompt.tools, generation) if self._calls else generation

    def _room(self, prompt_tokens: int, sampling: Sampling) -> int:
        """Tokens that an answer may have, with its reasoning."""
        most = sampling.max_new_tokens
        if self._reader is not None:
            most += sampling.max_reasoning_tokens
        if self.context_length is None:
            return most
        return max(1, min(most, self.context_length - prompt_tokens))

    def _at_once(self, embedded: EmbeddedPrompt) -> bool:
        """Whether the model answers at once, as far as the template's last words tell."""
        if self._reader is None:
            return True
        words = np.flatnonzero(embedded.message_index != TEMPLATE_ROW)
        return self._reader.at_once(embedded.token_ids[words.max(initial=-1) + 1 :].tolist())

    def _generation(self, sampling: Sampling, row: list[int], at_once: bool = True) -> Generation:
        """What a row of tokens spells, up to its first end or stop.

        Args:
            sampling: with the stops, and the limits of reasoning and answer.
            row: tokens.
            at_once: whether the row is the answer from its first word on, unless the model says
                otherwise.
        """
        end = next((i + 1 for i, token in enumerate(row) if token in self._stops), None)
        finish: Finish = "length" if end is None else "stop"
        if self._reader is None:
            return up_to_stop(row[:end], decoder(self._tokenizer), sampling, finish)
        return self._reader.generation(row[:end], sampling, at_once, finish)
