"""The small moderator: a sentence encoder of 22 million parameters that reads answers in English.

The encoder reads ``[CLS] answer [SEP] asked [SEP]``, or the answer alone where there are no
messages. A long answer is read in windows that overlap; the largest logit of each category counts.
How the weights were made, and how well they do, is in ``assets/moderator-small/MODEL_CARD.md``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rerail.moderators._ngrams import normalise

ANSWER_TOKENS = 96
ASKED_TOKENS = 40
_CLS, _SEP = 101, 102
_SIGN = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")


def plain(text: str) -> str:
    """A text as the encoder reads it: cheap disguises undone, signs such as emoji by their names."""
    if not text.isascii():
        text = _SIGN.sub(lambda sign: f" {unicodedata.name(sign[0], '')} ", text)
    return normalise(text)


def marked(answer: Sequence[int]) -> list[int]:
    """A window of an answer between the marks that the encoder expects."""
    return [_CLS, *answer, _SEP]


def asked_part(asked: Sequence[int]) -> list[int]:
    """What was asked, closed by a mark: its two ends where it is long, nothing where it is empty."""
    if len(asked) > ASKED_TOKENS:
        asked = [*asked[: ASKED_TOKENS // 2], *asked[-(ASKED_TOKENS // 2) :]]
    return [*asked, _SEP] if asked else []
