"""The embedded moderator: linear models over hashed n-grams, numpy only.

For an answer y to a conversation x, and each category c:

    score_c = 1 − (1 − text_c(y)) · (1 − subject_c(x, y) · goes_along(y))

``text_c`` reads the answer as a text of its own; ``subject_c`` is the probability that request and
answer are about something harmful, shared out over the kinds c, the likeliest kind having all of
it; ``goes_along`` is the probability that the answer does not decline. A text that answers nobody
has ``text_c`` alone. In an answer it counts for what is said to somebody, harassment and hate: the
words of the other kinds are those of the subject, and refusals name it, too.
How the weights were made, and how well they do, is in ``assets/moderator/MODEL_CARD.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rerail.errors import ModeratorError
from rerail.moderators._ngrams import (
    INVISIBLE,
    U64,
    Ints,
    Words,
    bucket,
    char_grams,
    split_words,
    word_grams,
)
from rerail.types import EMPTY_ANSWER, Exchange, Score

Floats = NDArray[np.float64]

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_BATCH_CHARS = 1 << 17
_TURNS = 3
_WINDOW = 16
_PASSAGE = 256
_FEW_PASSAGES = 4
_BY_CHANCE = 0.3
_PLAIN = 2.0
_FORMAT = 4
_SAID = np.array([category in ("harassment", "hate") for category in CATEGORIES])


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

    The logit of a span of words is ``bias + scale · Σ w / sqrt(unit · (prior + Σ m))`` over its
    n-grams, w being integer weights and m integer masses (squared inverse document frequencies);
    the prior keeps very short texts near the bias. All sums are of integers, so a text's logit
    does not depend on the batch it is in.

    Attributes:
        weights: ``(2**bits, n_heads)`` int8.
        mass: ``(2**bits,)`` uint8.
        scale: ``(n_heads,)``.
        bias: ``(n_heads,)``.
        unit: mass of 1.
        prior: mass of an empty text.
    """

    layout: Layout
    weights: NDArray[np.int8]
    mass: NDArray[np.uint8]
    scale: Floats
    bias: Floats
    unit: float
    prior: int

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
        norm = np.sqrt(self.unit * (self.prior + mass[ends] - mass[starts]))
        found = self.scale * (sums[ends] - sums[starts])
        return np.asarray(self.bias + found / norm[:, None], dtype=np.float64)


def windows(texts: Ints, size: int, step: int) -> tuple[Ints, Ints, Ints]:
    """Overlapping spans that cover each text: starts, ends, and each text's first span."""
    length = np.diff(texts)
    count = np.maximum(1, -(-np.maximum(length - size, 0) // step) + 1)
    first = np.concatenate(([0], np.cumsum(count)))
    text = np.repeat(np.arange(len(length)), count)
    starts = texts[text] + (np.arange(first[-1]) - first[text]) * step
    return starts, np.minimum(starts + size, texts[text + 1]), first[:-1]


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^-z)."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Readings:
    """What the tables say of a batch of exchanges, before it is put together.

    Attributes:
        request: ``(n, 7)`` logits of the user's turns: is the subject harmful, then the categories.
        answer: ``(n, 7)`` logits of the answer.
        echo: ``(n, 7)`` logits of those words of the answer that the user used too.
        along: ``(n,)`` logits of going along.
        alone: ``(n,)`` whether there are no user's turns; the answer then stands for them.
    """

    request: Floats
    answer: Floats
    echo: Floats
    along: Floats
    alone: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Read:
    """A list of texts after the tables have read them.

    Attributes:
        topic: ``(n_texts, n_heads)``.
        along: ``(at least n_answers,)``.
        first: ``(n_texts + 1,)`` each text's first word.
        hashes: ``(n_words,)``.
        sums: ``(n_words, n_heads)`` weights of the n-grams that begin in each word.
        mass: ``(n_words,)``.
    """

    topic: Floats
    along: Floats
    first: Ints
    hashes: U64
    sums: NDArray[np.int32]
    mass: Ints


@dataclass(frozen=True, slots=True)
class Weights:
    """All that the moderator knows.

    Attributes:
        topic: seven heads: is the subject harmful, then one per category.
        along: one head: does an answer go along with what was asked?
        mixing: ``(2, 4)``; see `subject_probability`.
    """

    topic: Table
    along: Table
    mixing: Floats

    def save(self) -> bytes:
        """The weights as an ``.npz`` file of plain arrays."""
        meta = {
            "format": _FORMAT,
            "topic": _layout_json(self.topic),
            "along": _layout_json(self.along),
        }
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta)), "mixing": self.mixing}
        for name, table in (("topic", self.topic), ("along", self.along)):
            for key in ("weights", "mass", "scale", "bias"):
                arrays[f"{name}.{key}"] = getattr(table, key)
        out = BytesIO()
        np.savez_compressed(out, **arrays)
        return out.getvalue()

    @classmethod
    def load(cls, content: bytes) -> Weights:
        """Read what `save` wrote; nothing in the file is ever executed.

        Raises:
            ModeratorError: the content is no such file.
        """
        try:
            with np.load(BytesIO(content), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            meta = json.loads(str(arrays["meta"]))
            if meta["format"] != _FORMAT:
                raise ValueError("format")
            topic, along = (_table(name, meta[name], arrays) for name in ("topic", "along"))
            return cls(topic, along, arrays["mixing"])
        except (KeyError, ValueError, OSError, EOFError, TypeError, BadZipFile) as error:
            raise ModeratorError(
                f"the moderator's weights cannot be read ({type(error).__name__}):"
                " install rerail again or train them anew"
            ) from error

    def read(self, exchanges: Sequence[Exchange]) -> Readings:
        """All logits of a batch; each distinct text is read once."""
        asked = [_user_turns(e) for e in exchanges]
        alone = np.array([not turns for turns in asked])
        asked = [turns or [e.answer] for turns, e in zip(asked, exchanges, strict=True)]
        answers = list(dict.fromkeys(e.answer for e in exchanges))
        texts = list(dict.fromkeys([*answers, *(turn for turns in asked for turn in turns)]))
        place = {text: i for i, text in enumerate(texts)}
        read = self._read(texts, len(answers))

        answer = np.array([place[e.answer] for e in exchanges])
        turns = [np.array([place[turn] for turn in turns]) for turns in asked]
        request = np.array([read.topic[at].max(axis=0) for at in turns])
        echo = self._echo(read, answer, turns)
        return Readings(request, read.topic[answer], echo, read.along[answer], alone)

    def _read(self, texts: Sequence[str], n_answers: int) -> _Read:
        topic, along, hashes, sums, mass, count = [], [], [], [], [], []
        for start, end in _batches(texts):
            words = split_words(texts[start:end])
            total, weight = self.topic.prefix_sums(words)
            topic.append(_windowed(self.topic, words, total, weight))
            if start < n_answers:
                along.append(self.along.logits(*self.along.prefix_sums(words), *_ends(words))[:, 0])
            hashes.append(words.hashes)
            sums.append(np.diff(total, axis=0).astype(np.int32))
            mass.append(np.diff(weight))
            count.append(np.diff(words.texts))
        first = np.concatenate(([0], np.cumsum(np.concatenate(count))))
        return _Read(
            np.concatenate(topic),
            np.concatenate(along),
            first,
            np.concatenate(hashes),
            np.concatenate(sums),
            np.concatenate(mass),
        )

    def _echo(self, read: _Read, answer: Ints, turns: Sequence[Ints]) -> Floats:
        """``(n, n_heads)`` logits of the words that an answer shares with the user's turns."""
        n = len(answer)
        said, whose = _word_index(read.first, answer)
        asked, by = _word_index(read.first, np.concatenate(turns))
        by = np.repeat(np.arange(n), [len(t) for t in turns])[by]
        own = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        shared = np.isin(read.hashes[said] + own[whose], read.hashes[asked] + own[by])
        said, whose = said[shared], whose[shared]
        edge = np.searchsorted(whose, np.arange(n + 1))
        sums = np.zeros((len(said) + 1, read.sums.shape[1]), np.int64)
        np.cumsum(read.sums[said], axis=0, out=sums[1:])
        mass = np.concatenate(([0], np.cumsum(read.mass[said])))
        return self.topic.logits(sums, mass, edge[:-1], edge[1:])

    def scores(self, readings: Readings) -> Floats:
        """``(n, 6)`` scores in [0, 1]."""
        alone = readings.alone[:, None]
        text = np.where(alone | _SAID, sigmoid(readings.answer[:, 1:]), 0.0)
        subject = subject_probability(self.mixing, readings)[:, None] * kind_shares(readings)
        along = np.where(alone, 0.0, sigmoid(readings.along)[:, None])
        return np.asarray(1.0 - (1.0 - text) * (1.0 - subject * along), dtype=np.float64)


def subject_probability(mixing: Floats, readings: Readings) -> Floats:
    """``(n,)`` probability of the subject being harmful in any way.

    ``1 − (1 − σ(z_1)) · (1 − σ(z_2))``: either the answer is harmful by itself, or by what it takes
    up of the request. With x = ``log(1 + exp(2 − request))`` and a row of mixing (u, v, w, k):
    ``z = −u · x + v · answer + w · echo + k``. A harmless request speaks for the answer; a harmful
    one, since x cannot fall below 0, does not by itself condemn it.
    """
    innocence = np.logaddexp(0.0, _PLAIN - readings.request[:, 0])
    features = np.stack((-innocence, readings.answer[:, 0], readings.echo[:, 0]))
    alone, echoed = sigmoid(mixing[:, :3] @ features + mixing[:, 3:])
    return np.asarray(1.0 - (1.0 - alone) * (1.0 - echoed), dtype=np.float64)


def kind_shares(readings: Readings) -> Floats:
    """``(n, 6)`` how much of the harm is of each category: p_c / max p, 1 for the likeliest."""
    mean = (readings.request + readings.answer + readings.echo)[:, 1:] / 3.0
    share = sigmoid(mean)
    return np.asarray(share / share.max(axis=1, keepdims=True))


class EmbeddedModerator:
    """The moderator that comes with rerail: no network, no key, thousands of texts a second.

    It judges the answer of an exchange; without messages it judges the answer as a text of its
    own. It reads words, in English, and is no substitute for a guard model.

    Args:
        weights: content of a weights file; by default the packaged one, read at first use.
    """

    quick = True

    name = "embedded"
    categories = CATEGORIES

    def __init__(self, weights: bytes | None = None) -> None:
        self._given = Weights.load(weights) if weights is not None else None

    def __repr__(self) -> str:
        return "EmbeddedModerator()"

    @property
    def weights(self) -> Weights:
        """The weights in use."""
        return self._given or packaged_weights()

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; an answer without text is unscored."""
        scores = [Score.unscored(EMPTY_ANSWER)] * len(exchanges)
        filled = [i for i, e in enumerate(exchanges) if not is_blank(e.answer)]
        if filled:
            weights = self.weights
            numbers = weights.scores(weights.read([exchanges[i] for i in filled]))
            for i, row in zip(filled, numbers, strict=True):
                scores[i] = Score.of(dict(zip(CATEGORIES, row.tolist(), strict=True)))
        return scores


@cache
def packaged_weights() -> Weights:
    """The weights that come with rerail."""
    asset = files("rerail") / "assets" / "moderator" / "weights.npz"
    if not asset.is_file():
        raise ModeratorError("the embedded moderator's weights are missing: install rerail again")
    return Weights.load(asset.read_bytes())


def is_blank(text: str) -> bool:
    """Whether nothing but white space and invisible characters is there."""
    return not INVISIBLE.sub("", text).strip()


def _user_turns(exchange: Exchange) -> list[str]:
    turns = [m.content for m in exchange.messages if m.role == "user" and not is_blank(m.content)]
    return turns[-_TURNS:]


def _batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Cut a list of texts into runs of about `_BATCH_CHARS` characters."""
    cuts, held = [0], 0
    for i, text in enumerate(texts):
        if held and held + len(text) > _BATCH_CHARS:
            cuts.append(i)
            held = 0
        held += len(text) + 1
    return list(zip(cuts, [*cuts[1:], len(texts)], strict=True))


def _ends(words: Words) -> tuple[Ints, Ints]:
    return words.texts[:-1], words.texts[1:]


def _word_index(first: Ints, texts: Ints) -> tuple[Ints, Ints]:
    """Indices of all words of a list of texts, and each word's place in the list."""
    length = first[texts + 1] - first[texts]
    whose = np.repeat(np.arange(len(texts)), length)
    start = np.cumsum(length) - length
    return first[texts][whose] + np.arange(len(whose)) - start[whose], whose


def _windowed(table: Table, words: Words, sums: Ints, mass: Ints) -> Floats:
    """Mean of the largest logit of a passage and the largest of a window, per head.

    A text of at most `_PASSAGE` words is one passage; in a longer one the words around a passage
    do not count, so that they cannot dilute it. Of many passages one scores high by chance: each
    e-fold of passages beyond `_FEW_PASSAGES` costs `_BY_CHANCE`.
    """
    passage, count = _largest(table, words, sums, mass, _PASSAGE)
    window, _ = _largest(table, words, sums, mass, _WINDOW)
    by_chance = _BY_CHANCE * np.log(np.maximum(1.0, count / _FEW_PASSAGES))
    return np.asarray(0.5 * (passage + window) - by_chance[:, None])


def _largest(table: Table, words: Words, sums: Ints, mass: Ints, size: int) -> tuple[Floats, Ints]:
    """Of each text: the largest logit per head of its spans of ``size`` words, and their number."""
    starts, ends, first = windows(words.texts, size, size // 2)
    parts = table.logits(sums, mass, starts, ends)
    return np.maximum.reduceat(parts, first, axis=0), np.diff(np.append(first, len(starts)))


def _layout_json(table: Table) -> dict[str, Any]:
    return {**asdict(table.layout), "unit": table.unit, "prior": table.prior}


def _table(name: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Table:
    layout = Layout(meta["bits"], tuple(meta["chars"]), tuple(meta["words"]), meta["opening"])
    weights, mass = arrays[f"{name}.weights"], arrays[f"{name}.mass"]
    if weights.dtype != np.int8 or mass.shape != (1 << layout.bits,):
        raise ValueError(name)
    scale, bias = arrays[f"{name}.scale"], arrays[f"{name}.bias"]
    return Table(layout, weights, mass, scale, bias, meta["unit"], meta["prior"])
