"""What a model thinks before it at_once, told from the answer by the model's own marks.

A *format* knows the marks: a pair of tags, or the channels of harmony. They are tokens where the
tokenizer has them as such, and letters that spell them are then no marks; else they are letters.
Whatever a format cannot make sense of is reasoning: an answer is what it says is one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from rerail.engines._common import Decode, Finish, decoder, up_to_stop
from rerail.engines.base import Sampling
from rerail.errors import EngineError
from rerail.names import nearest
from rerail.types import Generation

AUTO, NONE = "auto", "none"
"""Read the format off the chat template; take all that is generated for the answer."""


class Mark(NamedTuple):
    """A mark, and where it stands: ``start`` to ``end``, in tokens or in characters."""

    start: int
    end: int
    name: str


class Course(NamedTuple):
    """What is what in a text, in tokens or in characters.

    Attributes:
        turns: ``(at, begin)``: once ``at`` is reached the answer begins at ``begin``; None: it has
            not begun. The first is of the beginning, the last holds at the end.
        thoughts: ``(start, end)`` of the parts of the reasoning.
        over: where the mark ends that ends the answer, if there is one.
    """

    turns: tuple[tuple[int, int | None], ...]
    thoughts: tuple[tuple[int, int], ...]
    over: int | None = None

    @property
    def begin(self) -> int | None:
        """Where the answer begins; None if there is none so far."""
        return self.turns[-1][1]


class Format(Protocol):
    """How a model marks its reasoning.

    Attributes:
        marks: as they are spelt.
    """

    @property
    def marks(self) -> tuple[str, ...]: ...

    def at_once(self, before: Sequence[Mark], between: Callable[[int, int], str]) -> bool:
        """Whether what is generated behind such a text is the answer from its first word on."""
        ...

    def course(
        self,
        marks: Sequence[Mark],
        between: Callable[[int, int], str],
        length: int,
        at_once: bool,
    ) -> Course:
        """What is what in a text.

        Args:
            marks: of the text, in order.
            between: what stands between two places of it.
            length: of the text.
            at_once: whether it is the answer from its first word on.
        """
        ...

    def thought(self, text: str) -> str:
        """A part of the reasoning, without what belongs to the format."""
        ...

    def bare(self, answer: str) -> str:
        """An answer that follows reasoning or ends with a mark, without what is the format's."""
        ...


@dataclass(frozen=True, slots=True)
class Tags:
    """Reasoning between two tags.

    The answer is what follows the last closing tag, unless an opening one follows that: reasoning
    that quotes the closing tag is not taken for the answer, and templates take it out of earlier
    turns by the same rule.

    Attributes:
        opening: begins the reasoning.
        closing: ends it.
        title: what stands behind the opening tag and is no thought.
        around: what answers are wrapped in.
        always: whether the model thinks although neither template nor model opens a block.
    """

    opening: str
    closing: str
    title: str = ""
    around: tuple[str, str] = ("", "")
    always: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        return self.opening, self.closing

    def at_once(self, before: Sequence[Mark], between: Callable[[int, int], str]) -> bool:
        return before[-1].name == self.closing if before else not self.always

    def course(
        self,
        marks: Sequence[Mark],
        between: Callable[[int, int], str],
        length: int,
        at_once: bool,
    ) -> Course:
        turns = [(0, 0 if at_once else None)]
        turns += [(m.end, m.end if m.name == self.closing else None) for m in marks]
        if not marks and at_once:
            return Course(tuple(turns), ())
        first = marks[0] if marks else None
        opened = first and first.name == self.opening and not between(0, first.start).strip()
        start = first.end if first and opened else 0
        end = marks[-1].start if marks and marks[-1].name == self.closing else length
        return Course(tuple(turns), ((start, max(start, end)),))

    def thought(self, text: str) -> str:
        return text.strip().removeprefix(self.title).strip()

    def bare(self, answer: str) -> str:
        before, after = self.around
        if not before:
            return answer.lstrip()
        return answer.strip().removeprefix(before).removesuffix(after).strip()


@dataclass(frozen=True, slots=True)
class Harmony:
    """Messages on channels, as of GPT-OSS: the first on the channel ``final`` is the answer.

    All others are reasoning: analysis, commentary, what is said to tools, and what has no header
    that can be read.
    """

    marks: tuple[str, ...] = (
        "<|start|>",
        "<|channel|>",
        "<|message|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
    )

    def at_once(self, before: Sequence[Mark], between: Callable[[int, int], str]) -> bool:
        if [mark.name for mark in before[-2:]] == ["<|channel|>", "<|message|>"]:
            return _is_final(between(before[-2].end, before[-1].start))
        return not before

    def course(
        self,
        marks: Sequence[Mark],
        between: Callable[[int, int], str],
        length: int,
        at_once: bool,
    ) -> Course:
        begun: tuple[tuple[int, int | None], ...] = ((0, 0 if at_once else None),)
        thoughts: list[tuple[int, int]] = []
        header, channel, content = 0, None, None
        for mark in marks:
            if begun[-1][1] is not None:
                return Course(begun, tuple(thoughts), mark.end)
            if mark.name == "<|channel|>":
                channel = mark.end
            elif mark.name == "<|message|>":
                final = channel is not None and _is_final(between(channel, mark.start))
                if final and "to=" not in between(header, mark.start):
                    begun = (*begun, (mark.end, mark.end))
                else:
                    content = mark.end
            else:
                if content is not None:
                    thoughts.append((content, mark.start))
                header, channel, content = mark.end, None, None
        if content is not None:
            thoughts.append((content, max(content, length)))
        return Course(begun, tuple(thoughts))

    def thought(self, text: str) -> str:
        return text.strip()

    def bare(self, answer: str) -> str:
        return re.split("|".join(map(re.escape, self.marks)), answer)[0]


def _is_final(channel: str) -> bool:
    return re.match(r"\s*final\b", channel) is not None


_THINK = Tags("<think>", "</think>")

FORMATS: Mapping[str, Format] = {
    "gpt-oss": Harmony(),
    "command": Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma-4": Tags("<|channel>", "<channel|>", title="thought"),
    "apertus": Tags("<|inner_prefix|>", "<|inner_suffix|>"),
    "mistral": Tags("[THINK]", "[/THINK]"),
    "granite": Tags("<think>", "</think>", around=("<response>", "</response>")),
    "granite-3.2": Tags("Here is my thought process:", "Here is my response:"),
    "qwen3": _THINK,
    "smollm3": _THINK,
    "deepseek-r1": replace(_THINK, always=True),
}
"""By the name of a model that has it; in the order in which templates are asked for them."""

_SIGNS: Mapping[str, tuple[str, ...]] = {
    "granite": ("<think></think>", "<response></response>"),
    "qwen3": ("</think>",),
}
"""What stands in a chat template of the format, where that is other than its marks."""


def detected(template: str) -> str:
    """The name of the format that a chat template speaks of; `NONE` if it speaks of none."""
    for name, form in FORMATS.items():
        if all(sign in template for sign in _SIGNS.get(name, form.marks)):
            return name
    return NONE


class Split(NamedTuple):
    """A text, told apart.

    Attributes:
        reasoning: None if there is none.
        answer: empty if it has not begun.
        closed: whether the reasoning, if any, has ended and the answer has begun.
    """

    reasoning: str | None
    answer: str
    closed: bool


def split(text: str, form: Format, *, at_once: bool = True) -> Split:
    """Tell reasoning from answer in a text in which marks are spelt.

    Args:
        text: as it was generated.
        form: of the model.
        at_once: whether it is the answer from its first word on; False where the template has
            opened the reasoning.
    """
    most = len(text) + 1
    sampling = Sampling(most, max_reasoning_tokens=most)
    reader = Reader(form, lambda codes: "".join(map(chr, codes)))
    made = reader.generation(list(map(ord, text)), sampling, at_once, "stop")
    return Split(made.reasoning, made.text, made.answered)


class Reader:
    """Reads what one model generates.

    Args:
        form: of its reasoning.
        decode: the text that tokens spell, special ones left out.
        kept: the same with special ones.
        tokens: which tokens are marks; None where marks are spelt.
    """

    def __init__(
        self,
        form: Format,
        decode: Decode,
        kept: Decode | None = None,
        tokens: Mapping[int, str] | None = None,
    ) -> None:
        self._form = form
        self._decode = decode
        self._kept = kept or decode
        self._marks = tokens
        self._spelt = re.compile("|".join(map(re.escape, form.marks)))

    @classmethod
    def of(cls, tokenizer: Any, name: str = AUTO) -> Reader | None:
        """The reader of a tokenizer's model; None where all that it generates is the answer.

        Args:
            tokenizer: with the chat template.
            name: of the format, `AUTO` or `NONE`.

        Raises:
            EngineError: there is no such format, or some of its marks are tokens and some not.
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
            raise EngineError(f"unknown reasoning format {name!r}{nearest(name, known)}")
        form, vocabulary = FORMATS[name], tokenizer.get_vocab()
        tokens = {vocabulary[mark]: mark for mark in form.marks if mark in vocabulary}
        if tokens and len(tokens) < len(form.marks):
            missing = next(mark for mark in form.marks if mark not in vocabulary)
            raise EngineError(
                f"the tokenizer has no token {missing}, which reasoning={name} needs: name the "
                f"model's own format, or {NONE} if it has none"
            )
        return cls(form, decoder(tokenizer), decoder(tokenizer, special=True), tokens or None)

    def at_once(self, before: list[int]) -> bool:
        """Whether what follows these tokens of a template is the answer from its first word on."""
        marks, between = self._found(before, self._kept)
        return self._form.at_once(marks, between)

    def generation(
        self, tokens: list[int], sampling: Sampling, at_once: bool, finish: Finish
    ) -> Generation:
        """What a row of tokens says, up to its limits and before the first stop of its answer.

        Args:
            tokens: that were generated.
            sampling: with the limits and stops.
            at_once: as `at_once` of what stands before them.
            finish: how they ended.
        """
        tokens, finish = self._limited(tokens, sampling, at_once, finish)
        course = self._course(tokens, at_once)
        parts = [self._part(tokens, *span) for span in course.thoughts]
        reasoning = "\n\n".join(filter(None, parts)) or None
        if course.begin is None:
            return Generation(
                "", tuple(tokens), finish, reasoning, reasoning_tokens=len(tokens), answered=False
            )
        count = self._count(tokens, course.begin)
        spelt = self._decode if count == 0 and course.over is None else self.spelt
        if self._marks is None and count:
            spelt = self._behind(tokens[:count], course.begin)
        answer = up_to_stop(tokens[count:], spelt, sampling, finish)
        whole = (*tokens[:count], *answer.token_ids)
        return replace(answer, token_ids=whole, reasoning=reasoning, reasoning_tokens=count)

    def spelt(self, tokens: list[int]) -> str:
        """The text of an answer that follows reasoning."""
        return self._form.bare(self._decode(tokens))

    def tells(self, token: int) -> bool:
        """Whether a token may be a mark, or the last of those that spell one."""
        if self._marks is not None:
            return token in self._marks
        text = self._decode([token])
        return any(mark[-1] in text for mark in self._form.marks)

    def state(self, tokens: list[int], at_once: bool) -> tuple[int | None, bool]:
        """How many tokens precede the answer, None if it has not begun; and if a mark ended it."""
        course = self._course(tokens, at_once)
        begin = None if course.begin is None else self._count(tokens, course.begin)
        return begin, course.over is not None

    def _limited(
        self, tokens: list[int], sampling: Sampling, at_once: bool, finish: Finish
    ) -> tuple[list[int], Finish]:
        """The tokens up to where they would have ended had they come one by one."""
        course = self._course(tokens, at_once)
        end = len(tokens) if course.over is None else self._count(tokens, course.over)
        turns = [
            (self._count(tokens, at), None if begin is None else self._count(tokens, begin))
            for at, begin in course.turns
        ]
        for (at, begin), (then, _) in pairwise([*turns, (end, None)]):
            most = max(at, allowed(begin, sampling))
            if most < then:
                return tokens[:most], "length"
        return (tokens, finish) if course.over is None else (tokens[:end], "stop")

    def _course(self, tokens: list[int], at_once: bool) -> Course:
        marks, between = self._found(tokens, self._decode)
        length = len(tokens) if self._marks is not None else len(self._decode(tokens))
        return self._form.course(marks, between, length, at_once)

    def _found(
        self, tokens: list[int], decode: Decode
    ) -> tuple[list[Mark], Callable[[int, int], str]]:
        """The marks, and what stands between two places, in tokens or in characters."""
        if self._marks is not None:
            names = self._marks
            marks = [Mark(i, i + 1, names[t]) for i, t in enumerate(tokens) if t in names]
            return marks, lambda start, end: self._kept(tokens[start:end])
        text = decode(tokens)
        marks = [Mark(*found.span(), found[0]) for found in self._spelt.finditer(text)]
        return marks, lambda start, end: text[start:end]

    def _part(self, tokens: list[int], start: int, end: int) -> str:
        """A part of the reasoning."""
        if self._marks is not None:
            text = self._decode(tokens[start:end])
        else:
            text = self._decode(tokens)[start:end]
        return self._form.thought(text)

    def _behind(self, tokens: list[int], begin: int) -> Decode:
        """The text of an answer whose first word may share a token with a mark."""
        return lambda some: self._form.bare(self._decode([*tokens, *some])[begin:])

    def _count(self, tokens: list[int], place: int) -> int:
        """How many tokens reach a place of the text."""
        if self._marks is not None:
            return place
        counts = range(len(tokens) + 1)
        return bisect_left(counts, place, key=lambda count: len(self._decode(tokens[:count])))


def allowed(begin: int | None, sampling: Sampling) -> int:
    """Tokens at which a row ends.

    Args:
        begin: where its answer begins; None: it thinks.
        sampling: with the limits of both.
    """
    if begin is None:
        return sampling.max_reasoning_tokens
    return begin + (sampling.max_new_tokens if begin <= sampling.max_reasoning_tokens else 0)


class Follower:
    """Follows answers while their tokens come: where each begins, and which are over.

    A row is read anew only where a token tells something.

    Args:
        reader: of the model.
        sampling: with the limits.
        at_once: of each row, as `Reader.at_once`.
    """

    def __init__(self, reader: Reader, sampling: Sampling, at_once: Sequence[bool]) -> None:
        self._reader = reader
        self._sampling = sampling
        self._at_once = at_once
        self._states: dict[int, tuple[int, int | None, bool]] = {}

    def follow(self, row: int, tokens: list[int]) -> tuple[int | None, bool]:
        """How many tokens precede a row's answer, None if it has not begun; and if it is over.

        Args:
            row: tells it from others.
            tokens: all of it so far.
        """
        seen, begin, over = self._states.get(row, (0, 0 if self._at_once[row] else None, False))
        if any(map(self._reader.tells, tokens[seen:])):
            begin, over = self._reader.state(tokens, self._at_once[row])
        self._states[row] = len(tokens), begin, over
        return begin, over or len(tokens) >= allowed(begin, self._sampling)
