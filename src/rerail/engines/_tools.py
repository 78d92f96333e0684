"""What a model calls in an answer, told from its text by the model's own marks.

A *format* knows the marks and reads what stands between them. As with reasoning, they are tokens
where the tokenizer has them as such, and letters that spell them are then no marks. What cannot be
read, or calls a tool that there is not, is *malformed*: it stays text, which is judged, and the
answer is not acceptable.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from rerail._json import first_json, read_json, read_object, written
from rerail.engines._common import Decode, decoder
from rerail.engines._reasoning import AUTO, NONE, Harmony
from rerail.errors import EngineError
from rerail.names import nearest
from rerail.types import Generation, Tool, ToolCall


class Segment(NamedTuple):
    """A part of a text, up to the next mark.

    Attributes:
        mark: that it begins with; empty: it is what stands before the first.
        text: behind the mark.
        start: which token the mark is.
    """

    mark: str
    text: str
    start: int = 0


class Found(NamedTuple):
    """What an answer with calls says.

    Attributes:
        text: beside the calls.
        calls: name and arguments of each, as an object or as its text.
        thoughts: parts of the reasoning, where calls stand in it.
        start: which token the first call begins with, where calls stand in the reasoning.
    """

    text: str
    calls: list[tuple[str, Any]]
    thoughts: tuple[str, ...] = ()
    start: int = 0


class Format(Protocol):
    """How a model calls tools.

    Attributes:
        marks: as they are spelt; a tokenizer that lacks the first as a token spells them all.
        in_reasoning: whether calls stand where the reasoning does, in place of an answer.
    """

    @property
    def marks(self) -> tuple[str, ...]: ...

    @property
    def in_reasoning(self) -> bool: ...

    def read(self, segments: Sequence[Segment]) -> Found | None:
        """What a text says; None if it calls nothing.

        Raises:
            ValueError: there are calls, and they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Hermes:
    """A JSON object with ``name`` and ``arguments`` between two tags for each call."""

    marks: tuple[str, ...] = ("<tool_call>", "</tool_call>")
    in_reasoning: bool = False

    def read(self, segments: Sequence[Segment]) -> Found | None:
        opening, closing = self.marks
        first, *others = segments
        if not others:
            return None
        beside, calls, inside = [first.text], [], False
        for segment in others:
            if inside == (segment.mark == opening):
                raise ValueError("a call begins in another, or ends where none began")
            inside = segment.mark == opening
            if inside:
                calls.append(_named(read_object(segment.text)))
            else:
                assert segment.mark == closing
                beside.append(segment.text)
        return Found("".join(beside).strip(), calls)


@dataclass(frozen=True, slots=True)
class Llama:
    """JSON objects with ``name`` and ``parameters`` are all that there is of the answer.

    The mark is not needed; behind it is a call of a tool that is built in, or the same JSON.
    """

    marks: tuple[str, ...] = ("<|python_tag|>",)
    in_reasoning: bool = False

    def read(self, segments: Sequence[Segment]) -> Found | None:
        marked = len(segments) > 1
        text = "".join(segment.text for segment in segments).strip()
        try:
            values = list(_in_a_row(text))
        except ValueError:
            if marked or re.match(r'\{\s*"(?:type|name)"\s*:.*"parameters"\s*:', text, re.DOTALL):
                raise
            return None
        if not marked and not (values and all(map(_is_call, values))):
            return None
        if not values:
            raise ValueError("there is no call behind the mark")
        return Found("", [_named(value) for value in values])


@dataclass(frozen=True, slots=True)
class Mistral:
    """Behind the mark a list of JSON objects, or, by later tokenizers, a name and its arguments."""

    marks: tuple[str, ...] = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    in_reasoning: bool = False

    def read(self, segments: Sequence[Segment]) -> Found | None:
        calling, identified, given = self.marks
        first, *others = segments
        if not others:
            return None
        calls: list[tuple[str, Any]] = []
        name = None
        for segment in others:
            if segment.mark == calling:
                if name is not None:
                    raise ValueError("a call has no arguments")
                name, _, arguments = segment.text.strip().partition("{")
                if name.startswith("["):
                    values = read_json(segment.text)
                    calls += [_named(value) for value in values]
                    name = None
                elif arguments:
                    whole = "{" + arguments
                    calls.append((name.strip(), whole) if name else _named(read_json(whole)))
                    name = None
            elif name is None:
                raise ValueError("arguments have no name")
            elif segment.mark == given:
                calls.append((name.strip(), segment.text))
                name = None
            else:
                assert segment.mark == identified
        if name is not None or not calls:
            raise ValueError("a call has no arguments")
        return Found(first.text.strip(), calls)


@dataclass(frozen=True, slots=True)
class Channels:
    """Messages of harmony, as of GPT-OSS, whose header says the tool that they go to.

    They stand before the answer, among the reasoning; a model that calls ends its turn with it.
    """

    marks: tuple[str, ...] = Harmony().marks
    in_reasoning: bool = True

    def read(self, segments: Sequence[Segment]) -> Found | None:
        calls: list[tuple[str, Any]] = []
        thoughts: list[str] = []
        header, begun, start = "", 0, 0
        for segment in segments:
            if segment.mark == "<|message|>":
                sent = re.search(r"\bto=(\S+)", header)
                if sent is None:
                    thoughts.append(segment.text.strip())
                else:
                    start = start if calls else begun
                    calls.append((sent[1].removeprefix("functions."), segment.text.strip()))
            elif segment.mark in ("<|end|>", "<|return|>", "<|call|>"):
                header, begun = segment.text, segment.start + 1
            else:
                header += f" {segment.text}"
        return Found("", calls, tuple(filter(None, thoughts)), start) if calls else None


FORMATS: Mapping[str, Format] = {
    "gpt-oss": Channels(),
    "mistral": Mistral(),
    "hermes": Hermes(),
    "llama": Llama(),
}
"""By name; in the order in which templates are asked for them."""

_SIGNS: Mapping[str, tuple[str, ...]] = {
    "gpt-oss": ("<|channel|>", "<|call|>"),
    "mistral": ("[TOOL_CALLS]",),
    "hermes": ("<tool_call>", "arguments"),
    "llama": ('"parameters": dictionary of argument name and its value',),
}
_OTHERS = ("<function=", "<arg_key>")
"""Signs of formats that have marks of these, and are not known here."""


def detected(template: str) -> str:
    """The name of the format that a chat template speaks of; `NONE` if it speaks of none."""
    if any(sign in template for sign in _OTHERS):
        return NONE
    for name, signs in _SIGNS.items():
        if all(sign in template for sign in signs):
            return name
    return NONE


class Calls:
    """Reads the calls of one model's answers.

    Args:
        form: how it calls.
        decode: the text that tokens spell, special ones left out.
        tokens: which tokens are marks; None where marks are spelt.
    """

    def __init__(self, form: Format, decode: Decode, tokens: Mapping[int, str] | None) -> None:
        self._form = form
        self._decode = decode
        self._marks = tokens
        self._spelt = re.compile("|".join(map(re.escape, form.marks)))

    @classmethod
    def of(cls, tokenizer: Any, name: str = AUTO) -> Calls | None:
        """The reader of a tokenizer's model; None where it calls in no format that is known.

        Args:
            tokenizer: with the chat template.
            name: of the format, `AUTO` or `NONE`.

        Raises:
            EngineError: there is no such format, or the tokenizer lacks its marks.
        """
        if name == AUTO:
            template = tokenizer.chat_template or ""
            if isinstance(template, dict):
                template = "\n".join(template.values())
            name = detected(template)
        if name == NONE:
            return None
        if name not in FORMATS:
            known = (AUTO, NONE, *FORMATS)
            raise EngineError(f"unknown format of tool calls {name!r}{nearest(name, known)}")
        form, vocabulary = FORMATS[name], tokenizer.get_vocab()
        tokens = {vocabulary[mark]: mark for mark in form.marks if mark in vocabulary}
        if form.in_reasoning and len(tokens) < len(form.marks):
            missing = next(mark for mark in form.marks if mark not in vocabulary)
            raise EngineError(
                f"the tokenizer has no token {missing}, which tools={name} needs: name the "
                f"model's own format, or {NONE} if it has none"
            )
        spelt = form.marks[0] not in vocabulary
        return cls(form, decoder(tokenizer), None if spelt else tokens)

    def read(self, tools: Sequence[Tool], generation: Generation) -> Generation:
        """A generation with the calls of tools told from its text.

        Args:
            tools: that may be called.
            generation: an answer, told from its reasoning.
        """
        within = self._form.in_reasoning
        if generation.answered == within or generation.finish_reason == "cut":
            return generation
        tokens = list(generation.token_ids if within else generation.answer_ids)
        try:
            found = self._form.read(self._segments(tokens, generation.text))
        except ValueError:
            return replace(generation, malformed=True)
        if found is None:
            return generation
        if within:
            reasoning = "\n\n".join(found.thoughts) or None
            generation = replace(
                generation, reasoning=reasoning, reasoning_tokens=found.start, answered=True
            )
        names = {tool.name for tool in tools}
        try:
            calls = tuple(_call(name, given, names) for name, given in found.calls)
        except ValueError:
            said = "\n".join(f"{name} {given}" for name, given in found.calls)
            text = said if within else generation.text
            return replace(generation, text=text, malformed=True)
        return replace(generation, text=found.text, tool_calls=calls)

    def _segments(self, tokens: list[int], text: str) -> list[Segment]:
        if self._marks is None:
            marks = list(self._spelt.finditer(text))
            cuts = [0, *(place for mark in marks for place in mark.span()), len(text)]
            texts = [text[start:end] for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
            names = ["", *(mark[0] for mark in marks)]
            return [Segment(name, part) for name, part in zip(names, texts, strict=True)]
        found, begun = [], 0
        mark = ""
        for i, token in enumerate([*tokens, None]):
            if token is None or token in self._marks:
                found.append(Segment(mark, self._decode(tokens[begun:i]), max(begun - 1, 0)))
                mark, begun = self._marks.get(token, "") if token is not None else "", i + 1
        return found


def _call(name: str, given: Any, names: Collection[str]) -> ToolCall:
    """A call of one of some tools.

    Raises:
        ValueError: it is of none of them, or its arguments are no object.
    """
    arguments = read_object(given) if isinstance(given, str) else given
    if name not in names or not isinstance(arguments, dict):
        raise ValueError("a tool is called that there is not, or with no object")
    return ToolCall(name, written(arguments))


def _named(value: Any) -> tuple[str, Any]:
    """Name and arguments of a call that is an object.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("a call has no name")
    return value["name"], value.get("arguments", value.get("parameters", {}))


_OF_A_CALL = {"name", "parameters", "arguments", "type", "id"}


def _is_call(value: Any) -> bool:
    """Whether a value that no mark announces is a call all the same."""
    if not isinstance(value, dict) or not value.keys() <= _OF_A_CALL:
        return False
    return "name" in value and isinstance(value.get("parameters", value.get("arguments")), dict)


def _in_a_row(text: str) -> Iterator[Any]:
    """The values of a text, one after the other, with semicolons or nothing between them."""
    while text:
        value, end = first_json(text)
        yield value
        text = text[end:].lstrip().removeprefix(";").lstrip()
