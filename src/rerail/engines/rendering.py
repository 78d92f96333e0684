"""From a prompt to the model's tokens, and which of them spell whose words.

The text is the chat template's own, and so are the tokens, those of
``tokenizer.apply_chat_template``, with one exception: words that look like the template's control
tokens ("<|im_end|>") are tokenised as the letters that they are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerail._json import read_object, written
from rerail.engines._template import MARKUP, ChatTemplate, Piece
from rerail.engines.base import TEMPLATE_ROW
from rerail.errors import EngineError, PromptError, PromptTooLongError
from rerail.types import Prompt

_CHUNK = 2**16
"""Characters that are tokenised at once before it is clear that the prompt can fit: meanwhile no
other thread of the process runs."""


class _Token(NamedTuple):
    """A token and the characters ``start`` to ``end`` that it spells."""

    id: int
    start: int
    end: int


class Renderer:
    """Renders prompts for one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer backed by the ``tokenizers`` library.
        template_options: given to the chat template, for example ``{"enable_thinking": False}``.

    Raises:
        EngineError: the tokenizer has no such backend.
    """

    def __init__(self, tokenizer: Any, template_options: Mapping[str, Any] | None = None) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise EngineError(
                f"{type(tokenizer).__name__} cannot tell which characters its tokens spell: "
                "use a model whose folder has a tokenizer.json"
            )
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        # A copy of our own: post-processors trim the offsets, and padding would add tokens.
        self._encoder = type(backend).from_str(backend.to_str())
        self._encoder.post_processor = None
        self._encoder.no_padding()
        self._encoder.no_truncation()
        self._longest = max(map(len, self._encoder.get_vocab()))
        self._control = self._control_tokens()
        self._markup = {
            token
            for token, added in tokenizer.added_tokens_decoder.items()
            if not added.special and MARKUP.fullmatch(added.content)
        }
        strict = [name for token, name in self._control.items() if token not in self._markup]
        self._template = ChatTemplate(tokenizer, template_options or {}, strict)
        self._leading = self._leading_tokens()

    def render(
        self, prompt: Prompt, context_length: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """``(n_tokens,)`` token ids and ``(n_tokens,)`` message indices of the prompt.

        Any number of threads may call it.

        Raises:
            PromptError: there is no chat template, it rejects the conversation, leaves out a
                message, changes one beyond recognition, or takes no tools; or a tool, or the
                arguments of a call, spell a control token.
            EngineError: the tokenizer gives other tokens than its backend.
            PromptTooLongError: it does not fit the context. What is far too long is refused
                before it is tokenised.
        """
        if context_length is not None:
            # Before the template, which takes a while: it has all of a user's words.
            least = sum(len(m.content.strip()) for m in prompt.messages if m.role == "user")
            check_length(least // self._longest, context_length, "at least ")
        if prompt.template:
            self._check_tools(prompt)
            leading, pieces = [], self._template.pieces(prompt.messages, prompt.tools)
        else:
            leading, pieces = self._leading, [Piece(prompt.messages[0].content, 0)]
        if context_length is not None:
            self._check_least(pieces, context_length)
        with self._lock:
            tokens = self._tokens(pieces)
        check_length(len(leading) + len(tokens), context_length)
        ids = leading + [token for token, _ in tokens]
        messages = [TEMPLATE_ROW] * len(leading) + [message for _, message in tokens]
        return np.array(ids, dtype=np.int64), np.array(messages, dtype=np.int64)

    def _check_tools(self, prompt: Prompt) -> None:
        """Refuse control tokens in what the template writes out: there they would be such.

        The words of messages are tokenised apart; definitions and calls are written as JSON, in
        which they cannot be told from the template's own.
        """
        texts = {f"tool {tool.name!r}": written(tool.to_json()) for tool in prompt.tools}
        for i, message in enumerate(prompt.messages):
            for call in message.tool_calls:
                texts[f"a call in message {i}"] = written(read_object(call.arguments))
        for what, text in texts.items():
            for token, name in self._control.items():
                markup = token in self._markup and what.startswith("a call")
                if name.strip() and not markup and name.casefold() in text.casefold():
                    raise PromptError(
                        f"{what} spells {name!r}, a control token of the model: write it otherwise"
                    )

    def _control_tokens(self) -> dict[int, str]:
        """Tokens that people may not write: the special ones, and those of the template."""
        template = self._tokenizer.chat_template or ""
        source = "\n".join(template.values()) if isinstance(template, dict) else template
        control = {
            token: added.content
            for token, added in self._tokenizer.added_tokens_decoder.items()
            if added.special or (added.content.strip() and added.content in source)
        }
        ids, names = self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens
        return dict(zip(ids, names, strict=True)) | control

    def _leading_tokens(self) -> list[int]:
        """What the tokenizer puts before a plain text, such as the beginning-of-text token."""
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        framed = self._tokenizer("a")["input_ids"]
        starts = range(len(framed) - len(bare) + 1)
        before = [framed[:i] for i in starts if framed[i : i + len(bare)] == bare]
        return list(before[0]) if before and bare else []

    def _check_least(self, pieces: list[Piece], context_length: int) -> None:
        """Refuse what must have too many tokens, by its characters or by those of its parts."""
        text = "".join(piece.text for piece in pieces)
        check_length(len(text) // self._longest, context_length, "at least ")
        count = 0
        for start in range(0, len(text), _CHUNK):
            with self._lock:
                # Each cut may add a few tokens to those of the whole: half of them surely remain.
                count += len(self._encoder.encode(text[start : start + _CHUNK])) // 2
            check_length(count, context_length, "at least ")

    def _tokens(self, pieces: list[Piece]) -> list[tuple[int, int]]:
        """``(token, message)`` for the pieces; those with control tokens stand alone."""
        alone: set[int] = set()
        while True:
            tokens: list[tuple[int, int]] = []
            found: set[int] = set()
            run: list[int] = []
            for i in range(len(pieces) + 1):
                if i < len(pieces) and i not in alone:
                    run.append(i)
                    continue
                found |= self._run(pieces, run, tokens)
                run = []
                if i < len(pieces):
                    tokens += [(t, pieces[i].message) for t in self._as_letters(pieces[i].text)]
            if not found:
                if not alone:
                    self._check("".join(piece.text for piece in pieces), tokens)
                return tokens
            alone |= found

    def _check(self, text: str, tokens: list[tuple[int, int]]) -> None:
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        if encoded["input_ids"] != [token for token, _ in tokens]:
            raise EngineError(
                f"{type(self._tokenizer).__name__} gives other tokens than its tokenizer.json: "
                "use a model whose tokenizer needs no code of its own"
            )

    def _run(self, pieces: list[Piece], run: list[int], tokens: list[tuple[int, int]]) -> set[int]:
        """Tokenise neighbouring pieces as one text; gives the pieces that spell control tokens."""
        text = "".join(pieces[i].text for i in run)
        ends = np.cumsum([len(pieces[i].text) for i in run])
        found: set[int] = set()
        encoded = self._encode(text)
        firsts = np.searchsorted(ends, [token.start for token in encoded], side="right").tolist()
        lasts = np.searchsorted(ends, [token.end - 1 for token in encoded], side="right").tolist()
        for token, first, last in zip(encoded, firsts, lasts, strict=True):
            if token.start == token.end:
                at = first
                inside = at < len(run) and token.start > ends[at] - len(pieces[run[at]].text)
                first = last = at if inside else -1
            elif first == last and token.id not in self._control:
                tokens.append((token.id, pieces[run[first]].message))
                continue
            parts = {}
            for at in range(first, last + 1) if first >= 0 else ():
                start = int(ends[at]) - len(pieces[run[at]].text)
                parts[run[at]] = text[max(token.start, start) : min(token.end, int(ends[at]))]
            # White space decides nothing: a template's blank before the first word belongs to it.
            spelling = [i for i, part in parts.items() if part.strip()] or list(parts)
            owners = {pieces[i].message for i in spelling}
            tokens.append((token.id, owners.pop() if len(owners) == 1 else TEMPLATE_ROW))
            if self._is_control(token, text):
                found |= {
                    i
                    for i, part in parts.items()
                    if pieces[i].message != TEMPLATE_ROW
                    and part.strip()
                    and not (pieces[i].answer and token.id in self._markup)
                }
        return found

    def _as_letters(self, text: str) -> list[int]:
        """Tokens of a text in which nothing is a control token."""
        self._encoder.encode_special_tokens = True
        try:
            tokens = self._encode(text)
        finally:
            self._encoder.encode_special_tokens = False
        control = [token for token in tokens if self._is_control(token, text)]
        if not control:
            return [token.id for token in tokens]
        # Cut every control token in the middle: neither half can be the whole.
        ids: list[int] = []
        start = 0
        for token in control:
            if token.end - token.start > 1:
                middle = (token.start + token.end) // 2
                ids += self._as_letters(text[start:middle])
                start = middle
            else:
                ids += self._as_letters(text[start : token.start])
                start = token.end
        return ids + self._as_letters(text[start:])

    def _is_control(self, token: _Token, text: str) -> bool:
        content = self._control.get(token.id)
        if content is None:
            return False
        if token.id == self._tokenizer.unk_token_id:
            return content.casefold() in text[token.start : token.end].casefold()
        return True

    def _encode(self, text: str) -> list[_Token]:
        encoding = self._encoder.encode(text, add_special_tokens=False)
        return [
            _Token(token, start, end)
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]


def check_length(tokens: int, context_length: int | None, qualifier: str = "") -> None:
    """Refuse a prompt that leaves no room for an answer.

    Raises:
        PromptTooLongError: it does not.
    """
    if context_length is not None and tokens >= context_length:
        raise PromptTooLongError(
            f"the prompt has {qualifier}{tokens} tokens, the model takes {context_length} with the "
            "answer: shorten it"
        )
