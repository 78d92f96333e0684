"""Hashed n-grams of a whole batch of texts at once, with numpy.

The normalised texts are joined into one array of UTF-8 bytes. A polynomial hash of every run of n
bytes comes from n shifted additions; the hash of every word from one cumulative sum. All arithmetic
is modulo 2^64. No Python loop runs over characters, words or n-grams.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]

_SPACE = 32
_PRIME = 0x100000001B3
_INVERSE = pow(_PRIME, -1, 2**64)
_MIX = 0xFF51AFD7ED558CCD
_SALT = 0x9E3779B97F4A7C15

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
_MARKS = re.compile("[\u0300-\u036f]")
_MIXED = re.compile("[a-z][\u0370-\u058f]|[\u0370-\u058f][a-z]")
_LOOKALIKE = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u04bb\u0501\u03bf\u03b1\u03b5\u03b9"
    "\u03ba\u03bd\u03c1\u03c4\u0432\u043a\u043c\u043d\u0442",
    "aeopcyxisjhdoaeikvptbkmht",
)
_QUOTES = str.maketrans("\u2018\u2019\u02bc`\u00b4", "'''''")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W\d_][ .\-_*]){2,}[^\W\d_](?![^\W_])")
_APART = re.compile(r"[ .\-_*]")


def _byte_tables() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]:
    """What each byte becomes; which bytes are letters; what a digit or sign inside a word is."""
    keep = np.full(256, _SPACE, np.uint8)
    letter = np.zeros(256, bool)
    letter[ord("*")] = True
    inside = np.zeros(256, np.uint8)
    for byte in [*range(ord("a"), ord("z") + 1), *range(128, 256)]:
        keep[byte], letter[byte] = byte, True
    keep[ord("'")] = ord("'")
    keep[ord("0") : ord("9") + 1] = ord("0")
    for sign, meant in zip(b"0134579@$*|", b"oieastgas*i", strict=True):
        inside[sign] = meant
    return keep, letter, inside


_KEEP, _LETTER, _INSIDE = _byte_tables()


def normalise(text: str) -> str:
    """Undo the cheap disguises of a text: width, case, accents, look-alikes, invisible characters.

    NFKC, lower case; combining marks and invisible characters are dropped; Cyrillic and Greek
    look-alikes become Latin where they stand beside Latin letters; single letters set apart
    (``b a d``) are joined.
    """
    if not text.isascii():
        text = INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate(_QUOTES).lower()
        text = _MARKS.sub("", unicodedata.normalize("NFKD", text))
        if _MIXED.search(text):
            text = text.translate(_LOOKALIKE)
    else:
        text = text.lower().replace("`", "'")
    return _SPACED.sub(lambda match: _APART.sub("", match[0]), text)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a batch of texts.

    Attributes:
        data: bytes of all texts; every word has one space on each side.
        starts: first byte of each word.
        ends: one past the last byte of each word.
        texts: ``(n_texts + 1,)`` index of each text's first word, and the number of words.
        hashes: one hash per word.
    """

    data: NDArray[np.uint8]
    starts: Ints
    ends: Ints
    texts: Ints
    hashes: U64


def split_words(texts: Sequence[str]) -> Words:
    """Normalise texts and cut them into words of letters, digits (all become 0) and apostrophes."""
    encoded = [normalise(text).encode("utf-8", "ignore") for text in texts]
    raw = np.frombuffer(b" " + b"\n".join(encoded) + b" ", np.uint8)
    lengths = np.fromiter((len(e) + 1 for e in encoded), np.int64, len(encoded))
    text_starts = np.concatenate(([1], 1 + np.cumsum(lengths)))[: len(encoded)]

    data = _KEEP[raw]
    for _ in range(2):
        letter = _LETTER[data]
        hidden = np.flatnonzero((_INSIDE[raw] > 0) & ~letter)
        hidden = hidden[hidden < len(raw) - 2]
        pair = (_INSIDE[raw[hidden + 1]] > 0) & letter[hidden + 2]
        hidden = hidden[letter[hidden - 1] & (letter[hidden + 1] | pair)]
        data[hidden] = _INSIDE[raw[hidden]]

    solid = data != _SPACE
    edges = np.flatnonzero(solid[1:] != solid[:-1]) + 1
    starts, ends = edges[0::2], edges[1::2]
    first = np.concatenate((np.searchsorted(starts, text_starts), [len(starts)]))
    return Words(data, starts, ends, first.astype(np.int64), _word_hashes(data, starts, ends))


def _word_hashes(data: NDArray[np.uint8], starts: Ints, ends: Ints) -> U64:
    """Σ_k (b[s+k] + 1) P^k of each word, from cumulative sums of (b[i] + 1) P^i times P^-s."""
    powers = np.full(len(data), _PRIME, np.uint64)
    inverse = np.full(len(data), _INVERSE, np.uint64)
    powers[0] = inverse[0] = 1
    np.cumprod(powers, out=powers)
    np.cumprod(inverse, out=inverse)
    sums = np.concatenate(([np.uint64(0)], np.cumsum((data.astype(np.uint64) + 1) * powers)))
    return np.asarray((sums[ends] - sums[starts]) * inverse[starts], dtype=np.uint64)


def bucket(hashes: U64, kind: int, bits: int) -> Ints:
    """Spread hashes of one kind of n-gram over ``2**bits`` buckets."""
    mixed = (hashes + np.uint64(kind * _SALT % 2**64)) * np.uint64(_MIX)
    mixed ^= mixed >> np.uint64(32)
    return (mixed * np.uint64(_SALT) >> np.uint64(64 - bits)).astype(np.int64)


def word_grams(words: Words, order: int) -> tuple[U64, Ints]:
    """Hashes of runs of ``order`` words within one text, and the index of each run's first word."""
    n = len(words.hashes) - order + 1
    if n <= 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes = words.hashes[:n].copy()
    for k in range(1, order):
        hashes = hashes * np.uint64(_MIX) + words.hashes[k : n + k]
    at = np.arange(n)
    text = np.repeat(np.arange(len(words.texts) - 1), np.diff(words.texts))
    whole = text[:n] == text[order - 1 :]
    return hashes[whole], at[whole]


def char_grams(words: Words, orders: Sequence[int]) -> Iterator[tuple[int, U64, Ints]]:
    """Hashes of byte n-grams inside ``␣word␣``, with the index of the word each one lies in.

    Yields ``(order, hashes, word_index)`` for each order, in ascending order.
    """
    data = words.data.astype(np.uint64) + np.uint64(1)
    space = words.data == _SPACE
    word_of = np.cumsum(np.bincount(words.starts - 1, minlength=len(data))[: len(data)]) - 1
    hashes, inner = data, np.zeros(len(data), bool)
    for order in range(2, max(orders, default=0) + 1):
        n = len(data) - order + 1
        if n <= 0:
            return
        hashes = hashes[:n] * np.uint64(_PRIME) + data[order - 1 :]
        inner = inner[:n] | (space[order - 2 : order - 2 + n] & (order > 2))
        if order in orders:
            at = np.flatnonzero(~inner)
            yield order, hashes[at], word_of[at]
