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
from tsalign.moderators._ngrams import (
    INVISIBLE,
    Ints,
    Words,
    bucket,
    char_grams,
    split_words,
    word_grams,
)
from tsalign.types import EMPTY_ANSWER, Exchange, Score

Floats = NDArray[np.float64]

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
_BATCH_CHARS = 1 << 17
_TURNS = 3
_WINDOW = 60


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
        text: ``(n, 6)`` logits of the answer as a text; -inf where there is no such head.
        request: ``(n, 6)`` subject logits of the user's turns.
        answer: ``(n, 6)`` subject logits of the answer.
        along: ``(n,)`` logits of going along.
    """

    text: Floats
    request: Floats
    answer: Floats
    along: Floats


@dataclass(frozen=True, slots=True)
class Weights:
    """All that the moderator knows.

    Attributes:
        topic: heads named ``text/<category>`` and ``subject/<category>``.
        heads: names of the topic table's heads.
        along: one head: does an answer go along with what was asked?
        from_request, from_answer, offset: ``(6,)``; the logit of ``subject_c`` is
            ``−from_request · log(1 + exp(−request_c)) + from_answer · answer_c + offset``: a
            harmless request speaks for the answer, a harmful one does not by itself condemn it.
    """

    topic: Table
    heads: tuple[str, ...]
    along: Table
    from_request: Floats
    from_answer: Floats
    offset: Floats

    def save(self) -> bytes:
        """The weights as an ``.npz`` file of plain arrays."""
        meta = {
            "format": 1,
            "heads": self.heads,
            "topic": _layout_json(self.topic),
            "along": _layout_json(self.along),
        }
        arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta))}
        for name, table in (("topic", self.topic), ("along", self.along)):
            for key in ("weights", "mass", "scale", "bias"):
                arrays[f"{name}.{key}"] = getattr(table, key)
        for key in ("from_request", "from_answer", "offset"):
            arrays[key] = getattr(self, key)
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
            topic, along = (_table(name, meta[name], arrays) for name in ("topic", "along"))
            mixing = (arrays[key] for key in ("from_request", "from_answer", "offset"))
            return cls(topic, tuple(meta["heads"]), along, *mixing)
        except (KeyError, ValueError, OSError, EOFError, TypeError) as error:
            raise ModeratorError(
                f"the moderator's weights cannot be read ({type(error).__name__}):"
                " install tsalign again or train them anew"
            ) from error

    def read(self, exchanges: Sequence[Exchange]) -> Readings:
        """All logits of a batch; each distinct text is read once."""
        asked = [_user_turns(e) for e in exchanges]
        answers = list(dict.fromkeys(e.answer for e in exchanges))
        texts = list(dict.fromkeys([*answers, *(turn for turns in asked for turn in turns)]))
        place = {text: i for i, text in enumerate(texts)}
        topic, along = self._logits(texts, len(answers))

        by_name = {name: k for k, name in enumerate(self.heads)}
        nothing = np.full(len(texts), -np.inf)
        text, subject = (
            np.stack(
                [topic[:, by_name[h]] if (h := f"{kind}/{c}") in by_name else nothing
                 for c in CATEGORIES], axis=1,
            )
            for kind in ("text", "subject")
        )  # fmt: skip
        at = np.array([place[e.answer] for e in exchanges])
        request = [
            np.max(subject[[place[turn] for turn in turns or (e.answer,)]], axis=0)
            for e, turns in zip(exchanges, asked, strict=True)
        ]
        return Readings(text[at], np.array(request), subject[at], along[at])

    def _logits(self, texts: Sequence[str], n_answers: int) -> tuple[Floats, Floats]:
        """Topic logits of all texts, ``(n, heads)``, and going-along logits of the answers."""
        topic, along = [], []
        for start, end in _batches(texts):
            words = split_words(texts[start:end])
            topic.append(_windowed(self.topic, words))
            if start < n_answers:
                along.append(_whole(self.along, words)[:, 0])
        return np.concatenate(topic), np.concatenate(along)

    def scores(self, readings: Readings) -> Floats:
        """``(n, 6)`` scores in [0, 1]."""
        subject = sigmoid(
            -self.from_request * np.logaddexp(0.0, -readings.request)
            + self.from_answer * readings.answer
            + self.offset
        )
        along = sigmoid(readings.along)[:, None]
        text = sigmoid(readings.text)
        return np.asarray(1.0 - (1.0 - text) * (1.0 - subject * along), dtype=np.float64)


class EmbeddedModerator:
    """The moderator that comes with tsalign: no network, no key, thousands of texts a second.

    It judges the answer of an exchange; without messages it judges the answer as a text of its
    own. It reads words, in English, and is no substitute for a guard model.

    Args:
        weights: content of a weights file; by default the packaged one, read at first use.
    """

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
    """The weights that come with tsalign."""
    asset = files("tsalign") / "assets" / "moderator" / "weights.npz"
    if not asset.is_file():
        raise ModeratorError("the embedded moderator's weights are missing: install tsalign again")
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


def _whole(table: Table, words: Words) -> Floats:
    sums, mass = table.prefix_sums(words)
    return table.logits(sums, mass, words.texts[:-1], words.texts[1:])


def _windowed(table: Table, words: Words) -> Floats:
    """Mean of the whole text's logit and the largest of its windows, per head."""
    sums, mass = table.prefix_sums(words)
    whole = table.logits(sums, mass, words.texts[:-1], words.texts[1:])
    starts, ends, first = windows(words.texts, _WINDOW, _WINDOW // 2)
    parts = table.logits(sums, mass, starts, ends)
    return np.asarray(0.5 * (whole + np.maximum.reduceat(parts, first, axis=0)))


def _layout_json(table: Table) -> dict[str, Any]:
    layout = table.layout
    return {
        "bits": layout.bits,
        "chars": layout.chars,
        "words": layout.words,
        "opening": layout.opening,
        "unit": table.unit,
        "prior": table.prior,
    }


def _table(name: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Table:
    layout = Layout(meta["bits"], tuple(meta["chars"]), tuple(meta["words"]), meta["opening"])
    weights, mass = arrays[f"{name}.weights"], arrays[f"{name}.mass"]
    if weights.dtype != np.int8 or mass.shape != (1 << layout.bits,):
        raise ValueError(name)
    scale, bias = arrays[f"{name}.scale"], arrays[f"{name}.bias"]
    return Table(layout, weights, mass, scale, bias, meta["unit"], meta["prior"])
