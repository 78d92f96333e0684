"""The small moderator: a sentence encoder of 22 million parameters that reads answers in English.

The encoder reads ``[CLS] answer [SEP] asked [SEP]``, or the answer alone where there are no
messages. A long answer is read in windows that overlap; the largest logit of each category counts.
How the weights were made, and how well they do, is in ``assets/moderator-small/MODEL_CARD.md``.
"""

from __future__ import annotations

import gzip
import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerail._hf import device_of
from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators._ngrams import normalise
from rerail.moderators.embedded import CATEGORIES, is_blank, sigmoid
from rerail.types import EMPTY_ANSWER, Exchange, Score

ANSWER_TOKENS = 96
ASKED_TOKENS = 40
STEP = 64
_TURNS = 3
_BATCH = 8  # windows of about the same length: more of them are more padding
_KEPT = 1024
_CLS, _SEP = 101, 102
_SIGN = re.compile("[\u2600-\u27bf\U0001f300-\U0001faff]")
_LONG_WORD = re.compile(r"\S{90}(?=\S)")


class SmallModerator:
    """The stronger moderator that comes with rerail: no network, no key, some 50 texts a second.

    Windows that it has read lately it does not read again: of an answer that is judged while it
    grows, only what is new costs time.

    It judges the answer of an exchange; without messages it judges the answer as a text of its
    own. It reads English, and is no substitute for a guard model.

    Args:
        folder: with ``model.safetensors`` and ``tokenizer.json.gz``; by default the packaged one.
        device: a torch device; ``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        MissingDependencyError: torch, safetensors or tokenizers is not installed.
        ModeratorError: the files are missing or cannot be read, or the device is not there.
    """

    quick = True

    name = "embedded-small"
    categories = CATEGORIES

    def __init__(self, folder: str | Path | None = None, device: str = "auto") -> None:
        try:
            import torch
            from tokenizers import Tokenizer  # noqa: F401

            from rerail.moderators import _encoder
        except ImportError as error:
            raise MissingDependencyError(error.name or "torch", "hf") from None
        self._lock = threading.Lock()
        self._known: dict[Any, NDArray[np.float64]] = {}
        place = device_of(torch, device, ModeratorError)
        self._no_grad, self._logits = torch.no_grad, _encoder.logits
        if folder is None:
            self._weights, self._tokenizer = _packaged(place)
        else:
            self._weights, self._tokenizer = _read(Path(folder).expanduser(), place)

    def __repr__(self) -> str:
        return "SmallModerator()"

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; an answer without text is unscored."""
        scores = [Score.unscored(EMPTY_ANSWER)] * len(exchanges)
        filled = [i for i, e in enumerate(exchanges) if not is_blank(e.answer)]
        if filled:
            numbers = sigmoid(self.logits([exchanges[i] for i in filled]))
            for i, row in zip(filled, numbers, strict=True):
                scores[i] = Score.of(dict(zip(CATEGORIES, row.tolist(), strict=True)))
        return scores

    def forget(self) -> None:
        """Read every window again: what is measured next is to be paid for."""
        with self._lock:
            self._known.clear()

    def logits(self, exchanges: Sequence[Exchange]) -> NDArray[np.float64]:
        """``(n, 6)``: of each answer the largest logit of its windows, per category."""
        inputs, owners = self._inputs(exchanges)
        worst = np.full((len(exchanges), len(CATEGORIES)), -np.inf)
        with self._lock:
            known = {one: self._known[one] for one in inputs if one in self._known}
        new = sorted({*inputs} - known.keys(), key=lambda one: (sum(map(len, one)), one))
        with self._no_grad():
            for start in range(0, len(new), _BATCH):
                batch = new[start : start + _BATCH]
                rows = self._logits(self._weights, batch).cpu().double().numpy()
                known |= zip(batch, rows, strict=True)
        np.maximum.at(worst, owners, np.array([known[one] for one in inputs]))
        with self._lock:
            self._known |= known
            for one in list(self._known)[:-_KEPT]:
                del self._known[one]
        return worst

    def _inputs(
        self, exchanges: Sequence[Exchange]
    ) -> tuple[list[tuple[tuple[int, ...], tuple[int, ...]]], list[int]]:
        """The windows of all answers with what was asked, and which exchange each is of."""
        answers = self._ids([e.answer for e in exchanges])
        asked = self._ids(["\n".join(_user_turns(e)) for e in exchanges])
        inputs, owners = [], []
        for i, (said, asks) in enumerate(zip(answers, asked, strict=True)):
            part = asked_part(asks)
            for window in windows(said):
                inputs.append((tuple(marked(window)), tuple(part)))
                owners.append(i)
        return inputs, owners

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        coded = self._tokenizer.encode_batch([plain(t) for t in texts], add_special_tokens=False)
        return [code.ids for code in coded]


def plain(text: str) -> str:
    """A text as the encoder reads it: cheap disguises undone, emoji by their names."""
    if not text.isascii():
        text = _SIGN.sub(lambda sign: f" {unicodedata.name(sign[0], '')} ", text)
        text = text.encode("utf-8", "ignore").decode()
    return _LONG_WORD.sub(r"\g<0> ", normalise(text))


def windows(answer: Sequence[int]) -> list[Sequence[int]]:
    """Overlapping runs of `ANSWER_TOKENS` that cover an answer; the last one ends where it ends."""
    last = max(0, len(answer) - ANSWER_TOKENS)
    starts = [*range(0, last, STEP), last]
    return [answer[start : start + ANSWER_TOKENS] for start in starts]


def marked(answer: Sequence[int]) -> list[int]:
    """A window of an answer between the marks that the encoder expects."""
    return [_CLS, *answer, _SEP]


def asked_part(asked: Sequence[int]) -> list[int]:
    """What was asked and a closing mark: its two ends where it is long, nothing where empty."""
    if len(asked) > ASKED_TOKENS:
        asked = [*asked[: ASKED_TOKENS // 2], *asked[-(ASKED_TOKENS // 2) :]]
    return [*asked, _SEP] if asked else []


def _user_turns(exchange: Exchange) -> list[str]:
    turns = [m.content for m in exchange.messages if m.role == "user" and not is_blank(m.content)]
    return turns[-_TURNS:]


@cache
def _packaged(device: str) -> tuple[Mapping[str, Any], Any]:
    with as_file(files("rerail") / "assets" / "moderator-small") as folder:
        return _read(folder, device)


def _read(folder: Path, device: str) -> tuple[Mapping[str, Any], Any]:
    """Weights on a device, and the tokenizer; nothing in the files is ever executed.

    Raises:
        ModeratorError: a file is missing, or is not what it should be.
    """
    from tokenizers import Tokenizer

    from rerail.moderators import _encoder

    for name in ("model.safetensors", "tokenizer.json.gz"):
        if not (folder / name).is_file():
            raise ModeratorError(
                f"the small moderator's {name} is missing in {folder}: install rerail again"
            )
    try:
        weights = _encoder.load(folder / "model.safetensors", device, len(CATEGORIES))
        packed = (folder / "tokenizer.json.gz").read_bytes()
        tokenizer = Tokenizer.from_str(gzip.decompress(packed).decode())
    except Exception as error:  # tokenizers raises bare exceptions
        raise ModeratorError(
            f"the small moderator's files in {folder} cannot be read ({type(error).__name__}):"
            " install rerail again or train them anew"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return weights, tokenizer
