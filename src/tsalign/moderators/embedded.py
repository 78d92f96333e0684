"""The embedded moderator: linear models over hashed n-grams, numpy only.

For an answer y to a conversation x, and each category c:

    score_c = 1 − (1 − text_c(y)) · (1 − subject_c(x, y) · goes_along(y))

``text_c`` reads the answer as a text of its own (insults, threats, ...); ``subject_c`` is the
probability that request and answer are about something harmful of kind c; ``goes_along`` is the
probability that the answer does not decline. How the weights were made, and how well they do, is in
``assets/moderator/MODEL_CARD.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsalign.errors import ModeratorError
from tsalign.moderators._ngrams import Ints, Words, bucket, char_grams, split_words, word_grams
from tsalign.types import EMPTY_ANSWER, Exchange, Score

Floats = NDArray[np.float64]

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_BATCH_BYTES = 1 << 18
_EARLIER_TURNS = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Which n-grams a table holds.

    Attributes:
        bits: the table has ``2**bits`` buckets.
        chars: orders of byte n-grams inside words.
        words: orders of word n-grams.
        opening: word n-grams that begin within a text's first ``opening`` words are counted once
            more, in buckets of their own.
    """

    bits: int
    chars: tuple[int, ...]
    words: tuple[int, ...]
    opening: int = 0

    def grams(self, words: Words) -> list[tuple[Ints, Ints]]:
        """``(buckets, index of the word each n-gram begins in)``, one pair per kind."""
        kinds = []
        for order, hashes, at in char_grams(words, self.chars):
            kinds.append((bucket(hashes, order, self.bits), at))
        text = np.repeat(np.arange(len(words.texts) - 1), np.diff(words.texts))
        place = np.arange(len(text)) - words.texts[text]
        for order in self.words:
            hashes, at = word_grams(words, order)
            kinds.append((bucket(hashes, 16 + order, self.bits), at))
            if self.opening:
                early = place[at] < self.opening
                kinds.append((bucket(hashes[early], 32 + order, self.bits), at[early]))
        return kinds


@dataclass(frozen=True, slots=True)
class Table:
    """Linear models over one layout.

    The logit of a span of words is ``bias + scale · Σ w / sqrt(unit · Σ m)`` over its n-grams, w
    being integer weights and m integer masses (squared inverse document frequencies). All sums are
    of integers, so a text's logit does not depend on the batch it is in.

    Attributes:
        weights: ``(2**bits, n_heads)`` int8.
        mass: ``(2**bits,)`` uint8.
        scale: ``(n_heads,)``.
        bias: ``(n_heads,)``.
        unit: mass of 1.
    """

    layout: Layout
    weights: NDArray[np.int8]
    mass: NDArray[np.uint8]
    scale: Floats
    bias: Floats
    unit: float

    def prefix_sums(self, words: Words) -> tuple[Ints, Ints]:
        """Cumulative sums over words of weights ``(n_words + 1, n_heads)`` and masses."""
        n = len(words.starts)
        sums = np.zeros((n + 1, self.weights.shape[1]), np.int64)
        mass = np.zeros(n + 1, np.int64)
        for buckets, at in self.layout.grams(words):
            edge = np.searchsorted(at, np.arange(n + 1))
            total = np.zeros((len(at) + 1, self.weights.shape[1]), np.int32)
            np.cumsum(self.weights[buckets], axis=0, dtype=np.int32, out=total[1:])
            sums += total[edge]
            weight = np.concatenate(([0], np.cumsum(self.mass[buckets], dtype=np.int64)))
            mass += weight[edge]
        return sums, mass

    def logits(self, sums: Ints, mass: Ints, starts: Ints, ends: Ints) -> Floats:
        """``(n_spans, n_heads)`` logits of spans of words."""
        norm = np.sqrt(self.unit * np.maximum(mass[ends] - mass[starts], 1))
        return self.bias + self.scale * (sums[ends] - sums[starts]) / norm[:, None]


def windows(texts: Ints, size: int, step: int) -> tuple[Ints, Ints, Ints]:
    """Overlapping spans that cover each text: starts, ends, and each text's first span."""
    length = np.diff(texts)
    count = np.maximum(1, -(-np.maximum(length - size, 0) // step) + 1)
    first = np.concatenate(([0], np.cumsum(count)))
    text = np.repeat(np.arange(len(length)), count)
    starts = texts[text] + (np.arange(first[-1]) - first[text]) * step
    return starts, np.minimum(starts + size, texts[text + 1]), first[:-1]
