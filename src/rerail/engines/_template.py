"""A chat template's text, and which of its characters are whose words.

The text is what the template makes of the conversation, whatever it does with the words. Where they
are is read off a *shadow*: the template's text for the same conversation with its words covered up,
letter for letter. Where a shadow equals the text but for the covers, the covers are the words.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerail._json import read_object
from rerail.engines.base import TEMPLATE_ROW
from rerail.errors import MissingDependencyError, PromptError
from rerail.types import Message, Tool

MARKUP = re.compile(r"</?\w+>")
"""What a model writes into its answers itself, such as ``<think>``."""

_BLANK = "\u2003"
"""Covers the white space around a message: templates trim it, and write none of it."""

_FORMS: tuple[Callable[[str], Any], ...] = (
    str,
    lambda content: [{"type": "text", "text": content}],
)
"""What templates take for a message's content: text, or a list of parts."""


class Piece(NamedTuple):
    """A part of the text.

    Attributes:
        text: its characters.
        message: the message whose words they are, or `TEMPLATE_ROW`.
        answer: whether that message is the assistant's.
    """

    text: str
    message: int
    answer: bool = False


class _UnsuitableError(PromptError):
    """The template raises, or leaves out a message: it may want another form of content."""


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
        options: given to the template.
        control: tokens that nobody but the template may write.
    """

    def __init__(
        self, tokenizer: Any, options: Mapping[str, Any], control: Collection[str]
    ) -> None:
        self._tokenizer = tokenizer
        self._options = dict(options)
        self._control = tuple(control)
        name = getattr(tokenizer, "name_or_path", "")
        self._name = f"the chat template of {name}" if name else "this model's chat template"

    def pieces(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[Piece]:
        """The text of ``apply_chat_template``, cut where it changes whose words it is.

        Raises:
            PromptError: there is no template, it rejects the conversation, it leaves out a
                message, it changes one beyond recognition, or it takes no tools.
        """
        if not self._tokenizer.chat_template:
            raise PromptError(
                "this model has no chat template: give it a text to continue "
                "(Prompt.completion), or choose a chat model"
            )
        failures: list[_UnsuitableError] = []
        for form in _FORMS:
            try:
                return self._pieces(messages, tools, form)
            except _UnsuitableError as error:
                failures.append(error)
        raise failures[0]

    def _pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        form: Callable[[str], Any],
        *,
        again: bool = True,
    ) -> list[Piece]:
        contents = [form(message.content) for message in messages]
        text = self._apply(messages, tools, contents)
        if tools and not self._tells_of(tools, text, messages, contents):
            raise PromptError(
                f"{self._name} takes no tools: leave them out, or choose a model whose does"
            )
        if form is not str and any(str(content) in text for content in contents):
            raise _UnsuitableError(f"{self._name} takes neither text nor parts as content")
        try:
            found = self._spans(messages, tools, form, text)
        except PromptError:
            # The date in it may have changed.
            if again and self._apply(messages, tools, contents) != text:
                return self._pieces(messages, tools, form, again=False)
            raise
        owners = np.full(len(text), TEMPLATE_ROW)
        for i, spans in found.items():
            for start, end in spans:
                owners[start:end] = i
        cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(text)]
        return [
            Piece(text[start:end], i, i != TEMPLATE_ROW and messages[i].role == "assistant")
            for start, end in pairwise(cuts)
            for i in owners[start:end][:1].tolist()
        ]

    def _tells_of(
        self,
        tools: Sequence[Tool],
        text: str,
        messages: Sequence[Message],
        contents: Sequence[Any],
    ) -> bool:
        """Whether the text has the tools; a template for tools alone may fail without any."""
        try:
            without = self._apply(messages, (), contents)
        except _UnsuitableError:
            without = ""
        return text != without and all(tool.name in text for tool in tools)

    def _spans(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        form: Callable[[str], Any],
        text: str,
    ) -> dict[int, list[tuple[int, int]]]:
        """Where in the text each message with words is: all in one shadow, or each in its own."""
        contents = [message.content for message in messages]
        worded = [i for i, content in enumerate(contents) if content.strip()]
        marks = dict(zip(worded, _unused({*text, *"".join(contents)}), strict=False))
        found: dict[int, list[tuple[int, int]]] = {}
        kept: set[int] = set()
        for group in [worded, *([i] for i in worded)]:
            for cover in (_cover_all, self._cover_unread, self._cover_unescaped):
                if found.keys() >= set(group):
                    break
                covered = contents.copy()
                for i in group:
                    covered[i] = cover(contents[i], marks[i])
                try:
                    shadow = self._apply(messages, tools, [form(content) for content in covered])
                except _UnsuitableError:
                    kept |= set(group)
                    continue
                alone = len(group) == 1
                kept |= {i for i in group if marks[i] in shadow or (alone and shadow != text)}
                if _agrees(shadow, text, [marks[i] for i in group]):
                    for i in group:
                        if marks[i] in covered[i]:
                            found.setdefault(i, _stretches(covered[i], marks[i], shadow))
        for i in worded:
            # Templates may write of an answer with calls nothing but those.
            if not found.get(i) and not messages[i].tool_calls:
                self._check(i, messages, text, gone=i in found, kept=i in kept)
        return found

    def _check(
        self, i: int, messages: Sequence[Message], text: str, *, gone: bool, kept: bool
    ) -> None:
        """Refuse what cannot be followed; before the last question, nothing need be left."""
        message = messages[i]
        if not kept:
            raise _UnsuitableError(
                f"{self._name} leaves out message {i} ({message.role}): "
                "remove it, or say it in the user's message"
            )
        unread = "".join(self._constants.split(message.content)[::2])
        if not unread.strip():
            said = message.content.strip().casefold()
            gone = gone or message.role != "user" or said not in text.casefold()
        if gone and i < len(messages) - 1:
            return
        read = sorted({repr(word) for word in self._constants.findall(message.content)})
        cause = f" (it reads {', '.join(read)})" if read else ""
        raise PromptError(
            f"{self._name} changes message {i} ({message.role}) beyond recognition{cause}: which "
            "tokens are its words cannot be told. Write the message otherwise, or give the model "
            "another chat template"
        )

    @cached_property
    def _constants(self) -> re.Pattern[str]:
        """Texts that the template names: what it looks for in messages is among them."""
        from jinja2 import Environment

        template = self._tokenizer.get_chat_template()
        texts = {
            token.value
            for token in Environment(autoescape=True).lexer.tokenize(template)
            if token.type == "string" and token.value.strip()
        }
        texts = {text for text in texts if not any(token in text for token in self._control)}
        longest_first = sorted(texts, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
        return re.compile(f"({pattern})", re.IGNORECASE)

    def _cover_unread(self, content: str, mark: str, what: str = r"\S") -> str:
        """All words covered, but for texts that the template may look for."""
        parts = self._constants.split(content)
        parts[::2] = [re.sub(what, mark, part) for part in parts[::2]]
        return "".join(parts)

    def _cover_unescaped(self, content: str, mark: str) -> str:
        """As `_cover_unread`, but for what templates escape in JSON and HTML, too."""
        return self._cover_unread(content, mark, r"""[^\s"'\\&<>]""")

    def _apply(
        self, messages: Sequence[Message], tools: Sequence[Tool], contents: Sequence[Any]
    ) -> str:
        try:
            from jinja2 import TemplateError
        except ModuleNotFoundError as error:
            raise MissingDependencyError("jinja2", "hf") from error
        conversation = [
            {**_turn(message), "content": content}
            for message, content in zip(messages, contents, strict=True)
        ]
        options = {"add_generation_prompt": True, **self._options}
        if tools:
            options["tools"] = [tool.to_json() for tool in tools]
        try:
            return str(self._tokenizer.apply_chat_template(conversation, tokenize=False, **options))
        except ImportError:
            raise
        except Exception as error:  # a template is a program, and may fail in any way
            roles = ", ".join(message.role for message in messages)
            if type(error) is TemplateError:
                raise _UnsuitableError(
                    f"{self._name} rejects the conversation ({roles}): {error}. Some templates "
                    "take no system message, or need user and assistant in turns"
                ) from error
            raise _UnsuitableError(
                f"{self._name} fails on the conversation ({roles}): {type(error).__name__}: "
                f"{error}. What it misses can be given as template_options"
            ) from error


def _turn(message: Message) -> dict[str, Any]:
    """The turn as templates know it: arguments are no text."""
    turn = message.to_json()
    for call in turn.get("tool_calls", ()):
        call["function"]["arguments"] = read_object(call["function"]["arguments"])
    return turn


def _unused(used: set[str]) -> Iterator[str]:
    """Characters that nothing of the conversation has, private ones first."""
    return (mark for mark in map(chr, range(0xE000, 0x110000)) if mark not in used)


def _cover_all(content: str, mark: str) -> str:
    words = content.strip()
    before = content.index(words)
    after = len(content) - before - len(words)
    return _BLANK * before + re.sub(r"\S", mark, words) + _BLANK * after


def _agrees(shadow: str, text: str, marks: Collection[str]) -> bool:
    """Whether the two are equal, but for covers over words and over white space."""
    one, other = _codes(shadow), _codes(text)
    if len(one) != len(other):
        return False
    differ = np.flatnonzero(one != other)
    blank = one[differ] == ord(_BLANK)
    return bool((blank | np.isin(one[differ], [ord(mark) for mark in marks])).all()) and all(
        text[i].isspace() for i in differ[blank]
    )


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _stretches(covered: str, mark: str, shadow: str) -> list[tuple[int, int]]:
    """Where in a shadow the covered message is, whole or in part."""
    first, *inner, last = re.split(f"{mark}+", covered)
    # White space around the words that no cover tells from the template's is the template's.
    first, last = first.lstrip(string.whitespace), last.rstrip(string.whitespace)
    between = "|".join(map(re.escape, sorted(set(inner), key=len, reverse=True)))
    more = f"(?:(?:{between}){mark}+)*" if inner else ""
    pattern = f"(?:{re.escape(first)})?{mark}+{more}(?:{re.escape(last)})?"
    return [found.span() for found in re.finditer(pattern, shadow)]
