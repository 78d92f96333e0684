"""What all guards that write their verdict have in common.

A guard is a causal language model that, after a fixed prompt around a request and an answer,
writes a word: ``unsafe``, ``Yes``. It is not made to write. What it would write is read from the
logits z at the *verdict position*, the place after everything that always precedes that word::

    P(unsafe) = exp z_unsafe / (exp z_safe + exp z_unsafe)

which is continuous, and reads the same in every run. A guard's file says how its prompt is
rendered, what is forced after it, and which words stand at which position.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rerail._batches import grouped
from rerail._hf import pads
from rerail.errors import ModeratorError
from rerail.moderators.guards._models import Loaded, LocalModel, LocalOptions, tempered
from rerail.moderators.taxonomy import Taxonomy
from rerail.types import EMPTY_ANSWER, Exchange, Message, Score

Turn = dict[str, str]
Logits = NDArray[np.float64]

NO_REQUEST = "Write a text."
"""Stands for the request where an answer is to be judged as a text of its own."""

LEAST_ROOM = 32
"""Tokens that must be left for request and answer beside a guard's own prompt."""

FENCES = (
    "<BEGIN UNSAFE CONTENT CATEGORIES>",
    "<END UNSAFE CONTENT CATEGORIES>",
    "<BEGIN CONVERSATION>",
    "<END CONVERSATION>",
)
"""What Llama Guard and Qwen3Guard put around categories and conversation."""

_PROBE = ("amber lantern", "quiet harbour")


class Options(LocalOptions, total=False):
    """Options of every guard.

    Keys:
        name: what the moderator is called in policies and records.
        map: changes of the map from the guard's names to categories; null leaves a name out.
        prompts: whether it judges what a user says, for the gate of a policy, in place of answers.
    """

    name: str
    map: Mapping[str, str | None] | None
    prompts: bool


@dataclass(frozen=True, slots=True)
class Labels:
    """The words that may stand at a position, and how each may be spelt.

    Attributes:
        spelt: word to its spellings, a leading space included where there is one. The logits of
            several spellings are added as probabilities.
        whole: whether a spelling must be one token; else its first token stands for it.
    """

    spelt: Mapping[str, Sequence[str]]
    whole: bool = True

    @classmethod
    def of(cls, *words: str, whole: bool = True) -> Labels:
        """Words spelt as they are."""
        return cls({word: (word,) for word in words}, whole)


YES_NO = Labels({"yes": (" yes", "yes", " Yes", "Yes"), "no": (" no", "no", " No", "No")})


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt that a guard is given for every exchange.

    Attributes:
        key: which of its criteria a guard is asked about, where it is asked one by one.
        parts: what follows the prompt: text is forced, and at each `Labels` logits are read.
    """

    key: str
    parts: Sequence[str | Labels]


@dataclass(frozen=True, slots=True)
class _Read:
    offset: int
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Script:
    key: str
    forced: tuple[int, ...]
    reads: tuple[_Read, ...]


class GenerativeGuard(LocalModel, ABC):
    """A moderator made of a guard model; the guards of this package derive from it.

    Its score of a name is ``1 / (1 + exp(-log-odds / T))``: with the ``temperature`` T = 1 the
    guard's probability. Guards are often so sure that probabilities near 0 and 1 hide every
    difference from a search; T = 4, say, shows them. Order and the threshold 0.5 are the same for
    every T, other thresholds move (`tempered_threshold` says where to).

    The guard sees the user's and the assistant's turns, not system messages, and judges the
    answer. Its own control tokens are broken up where they occur in those texts. What exceeds
    ``max_tokens`` is cut: oldest turns first, then the last request from its beginning, never the
    answer, of which overlapping windows are judged instead; the worst window counts.

    Args:
        model: a folder, a hub id, or a `Loaded` pair.
        taxonomy: from the guard's names to our categories, if not the class's own.
        name: see `Options`.
        map: see `Options`.
        prompts: see `Options`.
        options: see `LocalOptions`.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        ModeratorError: the model cannot be loaded, its vocabulary lacks the guard's verdict
            words, its chat template does not show request and answer, or an option is not valid.
    """

    family: str
    """What the guard is called, in messages and as its default name."""
    control: tuple[str, ...] = ()
    """Control words of the prompt that are no special tokens, broken up in the texts judged."""
    taxonomy: Taxonomy
    """From the guard's names to our categories; what they are without the option ``map``."""
    judges_prompts: bool = False
    """Whether it was made to judge prompts, too: its template then ends with the user's turn."""

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        taxonomy: Taxonomy | None = None,
        name: str | None = None,
        map: Mapping[str, str | None] | None = None,
        prompts: bool = False,
        **options: Unpack[LocalOptions],
    ) -> None:
        if prompts and not self.judges_prompts:
            raise ModeratorError(
                f"{self.family} judges answers only: leave prompts out, or take llama-guard or "
                "qwen3guard"
            )
        self._prompts = prompts
        self.taxonomy = (taxonomy or self.taxonomy).changed(map)
        self.categories = self.taxonomy.categories
        super().__init__(model, "causal", name=name or self.family, **options)
        self._pads = pads(self._model)
        self._content_parts = False
        self._scripts = [self._compile(question) for question in self._questions()]
        self._check_room()

    @abstractmethod
    def _questions(self) -> Sequence[Question]:
        """The prompts that every exchange is judged by."""

    @abstractmethod
    def _render(self, turns: list[Turn], key: str) -> str:
        """A prompt's text up to what its question forces; the last turn is the answer."""

    def _names(self, readings: Sequence[Sequence[Logits]]) -> dict[str, float]:
        """Score by the guard's names, from each question's logits: one array per `Labels`.

        Here: of each question's key, the first label of its one verdict against the others.
        """
        return {
            script.key: tempered(log_odds(verdict), self.temperature)
            for script, (verdict,) in zip(self._scripts, readings, strict=True)
        }

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; an answer without text is unscored."""
        scores = [Score.unscored(EMPTY_ANSWER)] * len(exchanges)
        rows: list[tuple[list[int], _Script]] = []
        spans: list[tuple[int, range]] = []
        for i, exchange in enumerate(exchanges):
            if not exchange.answer.strip():
                continue
            windows = self._windows(exchange)
            if windows is None:
                scores[i] = Score.unscored(f"does not fit into {self._limit} tokens")
                continue
            start = len(rows)
            rows += [row for w in windows for row in zip(w, self._scripts, strict=True)]
            spans.append((i, range(start, len(rows), len(self._scripts))))
        readings = self._readings(rows)
        for i, starts in spans:
            parts = [readings[s : s + len(self._scripts)] for s in starts]
            scores[i] = self._verdict(parts)
        return scores

    def _turns(self, exchange: Exchange) -> list[Turn]:
        """What is judged, as a conversation; in the place of an answer a prompt is the user's."""
        if self._prompts:
            return [{"role": "user", "content": exchange.answer}]
        return turns_of(exchange)

    def _verdict(self, windows: Sequence[Sequence[Sequence[Logits]]]) -> Score:
        if not all(np.isfinite(z).all() for w in windows for reads in w for z in reads):
            return Score.unscored("logits at the verdict position are not finite")
        found = [self._names(readings) for readings in windows]
        worst = {name: max(names[name] for names in found) for name in self.taxonomy.mapped}
        return Score.of(self.taxonomy.scores(worst))

    def _attributed(self, odds: float, categories: Logits) -> list[float]:
        """Scores of categories, from the log-odds of harm and the categories' own logits.

        The probability of a category is ``P(harm) P_c / max_k P_k``: a guard that is sure of harm
        and torn between categories is still sure, so the likeliest has all of P(harm).
        """
        log_p = -np.logaddexp(0.0, -odds) + categories - categories.max()
        with np.errstate(divide="ignore"):
            log_odds_of = log_p - np.log(-np.expm1(log_p))
        return [tempered(float(z), self.temperature) for z in log_odds_of]

    def _template(self, turns: Sequence[Turn], **options: Any) -> str:
        """The tokenizer's chat template, filled.

        Raises:
            ModeratorError: there is none.
        """
        if not self._tokenizer.chat_template:
            raise ModeratorError(f"{self.model_name} has no chat template, which {self.family} "
                                 "needs: take the guard's own tokenizer")  # fmt: skip
        messages: list[dict[str, Any]] = [dict(turn) for turn in turns]
        if self._content_parts:
            for message in messages:
                message["content"] = [{"type": "text", "text": message["content"]}]
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **options
            )
        )

    def _encode(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [int(token) for token in ids]

    # At load: where verdicts stand, and which tokens they are.

    def _compile(self, question: Question) -> _Script:
        text = self._probe(question.key)
        ids = self._encode(text)
        start, reads = len(ids), []
        for part in question.parts:
            if isinstance(part, Labels):
                reads.append(_Read(len(ids) - start, self._label_tokens(text, ids, part)))
                continue
            text += part
            grown = self._encode(text)
            if grown[: len(ids)] != ids:
                raise ModeratorError(
                    f"{self.model_name} is no {self.family}: its tokenizer joins {part!r} to "
                    "what precedes it"
                )
            ids = grown
        return _Script(question.key, tuple(ids[start:]), tuple(reads))

    def _probe(self, key: str) -> str:
        """The rendered prompt of a probe; finds out how the template wants its messages."""
        roles = ("user",) if self._prompts else ("user", "assistant")
        turns = [{"role": r, "content": text} for r, text in zip(roles, _PROBE, strict=False)]
        failure: Exception | None = None
        for self._content_parts in (False, True):
            try:
                text = self._render(turns, key)
            except ModeratorError:
                raise
            except Exception as error:
                failure = error
                continue
            if all(turn["content"] in text for turn in turns):
                return text
        raise ModeratorError(
            f"the chat template of {self.model_name} does not show request and answer: it is no "
            f"{self.family}"
        ) from failure

    def _label_tokens(self, text: str, ids: list[int], labels: Labels) -> tuple[Any, ...]:
        found: dict[str, tuple[int, ...]] = {}
        for word, spellings in labels.spelt.items():
            tokens = []
            for spelling in spellings:
                grown = self._encode(text + spelling)
                rest = grown[len(ids) :]
                if grown[: len(ids)] != ids or not rest or (labels.whole and len(rest) > 1):
                    continue
                if rest[0] != self._tokenizer.unk_token_id:
                    tokens.append(rest[0])
            found[word] = tuple(dict.fromkeys(tokens))
        missing = [word for word, tokens in found.items() if not tokens]
        if missing:
            raise ModeratorError(
                f"{self.model_name} is no {self.family}: its vocabulary lacks the verdict "
                f"{' and '.join(repr(word) for word in missing)}. Name the guard's own model"
            )
        flat = [token for tokens in found.values() for token in tokens]
        if len(set(flat)) < len(flat):
            raise ModeratorError(
                f"{self.model_name} is no {self.family}: its vocabulary does not tell "
                f"{', '.join(map(repr, found))} apart by their first token"
            )
        return tuple(found.values())

    def _check_room(self) -> None:
        longest = max(len(self._encode(self._probe(s.key))) + len(s.forced) for s in self._scripts)
        probed = _PROBE[:1] if self._prompts else _PROBE
        need = longest - sum(len(self._encode(text)) for text in probed)
        self._room = self._limit - need
        if self._room < LEAST_ROOM:
            raise ModeratorError(
                f"max_tokens is {self._limit}, of which {self.family} needs {need} for its own "
                f"prompt: give at least {need + LEAST_ROOM}"
            )

    # Request and answer, cut to what fits.

    def _windows(self, exchange: Exchange) -> list[list[list[int]]] | None:
        """Token ids by window and question; None if even a cut prompt is too long."""
        turns = [{**t, "content": self._disarmed(t["content"])} for t in self._turns(exchange)]
        while (rows := self._rows(turns)) is None and len(turns) > 2:
            turns = turns[2:]
        if rows is not None:
            return [rows]
        room = self._room
        while room >= LEAST_ROOM // 2:
            cut = [self._rows(window) for window in self._cut(turns, room)]
            if (whole := [rows for rows in cut if rows is not None]) and len(whole) == len(cut):
                return whole
            room -= max(1, room // 8)
        return None

    def _rows(self, turns: list[Turn]) -> list[list[int]] | None:
        rows = []
        for script in self._scripts:
            ids = self._encode(self._render(turns, script.key))
            if len(ids) + len(script.forced) > self._limit:
                return None
            rows.append(ids)
        return rows

    def _cut(self, turns: list[Turn], room: int) -> list[list[Turn]]:
        """Request and answer within ``room`` tokens: the request's end, the answer's windows."""
        *before, last = turns
        request, answer = "".join(turn["content"] for turn in before), last["content"]
        asked, answered = self._spans(request), self._spans(answer)
        kept = min(len(asked), max(room - len(answered), room // 4))
        request = request[asked[-kept][0] :] if kept else ""
        before = [{"role": "user", "content": request}] if before else []
        size = room - kept
        step = size - size // 4
        starts = range(0, max(len(answered) - size, 0) + step, step)
        return [
            [
                *before,
                {
                    "role": last["role"],
                    "content": answer[
                        answered[s][0] : answered[min(s + size, len(answered)) - 1][1]
                    ],
                },
            ]
            for s in starts
            if s < len(answered)
        ]

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Start and end, in characters, of each token of a text."""
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(int(start), int(end)) for start, end in coded["offset_mapping"]]

    @cached_property
    def _control_words(self) -> re.Pattern[str] | None:
        added = self._tokenizer.added_tokens_decoder.values()
        words = {token.content for token in added if token.special} | set(self.control)
        words = {word for word in words if len(word.strip()) > 1}
        if not words:
            return None
        return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))

    def _disarmed(self, text: str) -> str:
        """The text with a space inside every control word, so that none ends its own turn."""
        if self._control_words is None:
            return text
        while (safe := self._control_words.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)) != text:
            text = safe
        return text

    # The model.

    def _readings(self, rows: Sequence[tuple[list[int], _Script]]) -> list[list[Logits]]:
        """For every row, and every position that its script reads: a logit per label."""
        order = sorted(range(len(rows)), key=lambda i: _length(rows[i]))

        def fits(batch: list[int], i: int) -> bool:
            same = self._pads or _length(rows[batch[0]]) == _length(rows[i])
            return len(batch) < self._max_batch and same

        found: dict[int, list[Logits]] = {}
        with self._lock, self._torch.no_grad():
            for batch in grouped(order, fits):
                found.update(zip(batch, self._forward([rows[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(rows))]

    @cached_property
    def _keeps(self) -> bool:
        return "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def _forward(self, rows: Sequence[tuple[list[int], _Script]]) -> list[list[Logits]]:
        torch = self._torch
        longest = max(_length(row) for row in rows)
        tokens = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros_like(tokens)
        for i, (ids, script) in enumerate(rows):
            start = longest - len(ids) - len(script.forced)
            tokens[i, start:], mask[i, start:] = [*ids, *script.forced], 1
        device = self._model.get_input_embeddings().weight.device
        attention = torch.from_numpy(mask).to(device)
        kept = 1 + max(len(s.forced) - read.offset for _, s in rows for read in s.reads)
        logits = self._model(
            input_ids=torch.from_numpy(tokens).to(device),
            attention_mask=attention,
            position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            **({"logits_to_keep": kept} if self._keeps else {}),
        ).logits[:, -kept:]
        return [
            [
                np.array(
                    [
                        logits[i, read.offset - len(script.forced) - 1, list(group)]
                        .cpu()
                        .double()
                        .logsumexp(0)
                        .item()
                        for group in read.tokens
                    ]
                )
                for read in script.reads
            ]
            for i, (_, script) in enumerate(rows)
        ]


def log_odds(logits: Logits, at: int = 0) -> float:
    """``z_at - log sum_{others} exp z``: the logit of a label against all others."""
    return float(logits[at] - np.logaddexp.reduce(np.delete(logits, at)))


def turns_of(exchange: Exchange) -> list[Turn]:
    """User and assistant turns in alternation, the first the user's, the last the answer."""
    turns: list[Turn] = []
    for message in exchange.messages:
        if message.role == "system" or not (turns or message.role == "user"):
            continue
        _append(turns, message)
    if not turns or turns[-1]["role"] == "assistant":
        _append(turns, Message("user", NO_REQUEST))
    turns.append({"role": "assistant", "content": exchange.answer})
    return turns


def _append(turns: list[Turn], message: Message) -> None:
    """A turn more, or more of the last one; a tool is heard as the user is."""
    role = "assistant" if message.role == "assistant" else "user"
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += f"\n\n{message.said}"
    else:
        turns.append({"role": role, "content": message.said})


def request_of(turns: Sequence[Turn]) -> str:
    """All turns before the answer as one text, for guards that know of one request only."""
    if len(turns) == 2:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns[:-1])


def _length(row: tuple[list[int], _Script]) -> int:
    return len(row[0]) + len(row[1].forced)
