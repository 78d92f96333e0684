"""Guidance: a policy's own words, given to the model beside those of the user.

The model then reads a longer point, of the same conversation: the guidance in the system turn, or
around the user's words. Neither the user nor a moderator sees it, and naturalness is measured
under the prompt without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from rerail.engines.base import EmbeddedPrompt, Engine
from rerail.errors import EngineError, PromptError
from rerail.policy import PLACE, Guidance, Policy
from rerail.types import BoolArray, Message, Prompt

SHARED_WORDS = 8
"""Words in a row that an answer may not share with the guidance: it would tell what it was told."""

_OTHER_WORDS = "§"

_WORD = re.compile(r"\w+")


def fitting(policy: Policy, flags: Mapping[str, bool]) -> list[Guidance]:
    """The texts of a policy for an answer, in the order in which they are tried.

    Args:
        policy: with its guidance.
        flags: of each category, whether it flags the answer. Texts for one that does come first,
            then those for all; a text for other categories is not tried. None is where nothing is
            flagged: an answer that is empty, say, needs no words about what is harmful.
    """
    flagged = {category for category, flag in flags.items() if flag}
    if not flagged:
        return []
    own = [text for text in policy.guidance if flagged & set(text.categories)]
    return own + [text for text in policy.guidance if not text.categories]


def embed(engine: Engine, prompt: Prompt, guidance: str) -> EmbeddedPrompt | None:
    """The prompt with guidance, embedded: where the template takes no system turn, around the user.

    None where it does not fit the context, or the engine cannot embed it.
    """
    for guided in _ways(prompt, guidance):
        try:
            return engine.embed(guided)
        except (PromptError, EngineError):
            continue
    return None


def own_rows(engine: Engine, prompt: Prompt, guided: EmbeddedPrompt, guidance: str) -> BoolArray:
    """``(n_tokens,)`` mask of the guided prompt's rows that are the user's last words.

    They are what differs where the same guidance is given to other words.
    """
    turns = list(prompt.messages)
    turns[prompt.last_user] = replace(turns[prompt.last_user], content=_OTHER_WORDS)
    other = embed(engine, replace(prompt, messages=tuple(turns)), guidance)
    mask: BoolArray = np.equal(guided.message_index, guided.prompt.last_user)
    if other is None:
        return mask
    ids, others = guided.token_ids.tolist(), other.token_ids.tolist()
    before = _shared(ids, others)
    behind = _shared(ids[before:][::-1], others[before:][::-1])
    mask[:before] = False
    mask[len(ids) - behind :] = False
    return mask


def repeats(answer: str, guidance: str) -> bool:
    """Whether an answer has `SHARED_WORDS` words in a row of the guidance, all if it has fewer."""
    said, told = _words(answer), _words(guidance.replace(PLACE, " "))
    size = min(SHARED_WORDS, len(told))
    runs = {tuple(told[i : i + size]) for i in range(len(told) - size + 1)}
    return size > 0 and any(tuple(said[i : i + size]) in runs for i in range(len(said) - size + 1))


def _ways(prompt: Prompt, guidance: str) -> Iterator[Prompt]:
    turns = list(prompt.messages)
    if prompt.template and PLACE not in guidance:
        system, others = guidance, turns
        if turns[0].role == "system":
            system, others = f"{turns[0].content}\n\n{guidance}", turns[1:]
        yield replace(prompt, messages=(Message("system", system), *others))
    around = guidance if PLACE in guidance else f"{guidance}\n\n{PLACE}"
    turns[prompt.last_user] = Message(
        "user", around.replace(PLACE, turns[prompt.last_user].content)
    )
    yield replace(prompt, messages=tuple(turns))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
