"""Text classifiers of Hugging Face transformers: toxic-bert, Granite-HAP and their kin.

A classifier gives every label a logit z. Its head says what they mean: ``sigmoid`` for labels
that may hold together, 1 / (1 + exp(-z)), or ``softmax`` for labels that exclude each other. It
reads the answer alone, not the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from rerail.errors import ModeratorError
from rerail.moderators.guards._models import Loaded, LocalModel, Where, tempered
from rerail.moderators.taxonomy import BY_OPTION, Taxonomy
from rerail.types import EMPTY_ANSWER, Exchange, Score

Head = Literal["sigmoid", "softmax"]

KNOWN = {
    "toxic": "harassment",
    "toxicity": "harassment",
    "severe_toxic": "harassment",
    "severe_toxicity": "harassment",
    "insult": "harassment",
    "offensive": "harassment",
    "threat": "harassment/threatening",
    "identity_hate": "hate",
    "identity_attack": "hate",
    "hate": "hate",
    "hateful": "hate",
    "sexual_explicit": "sexual",
    "obscene": "custom/profanity",
    "profanity": "custom/profanity",
    "hap": "custom/hap",
}
"""Labels of the Jigsaw data (unitary/toxic-bert, unbiased-toxic-roberta) and of detectors."""

HARMLESS = frozenset(
    {"neutral", "non-toxic", "non_toxic", "nontoxic", "not_toxic", "non-offensive", "nothate",
     "non-hate", "not_hate", "safe", "clean", "ok", "none", "normal"}
)  # fmt: skip
"""Labels that say that there is no harm."""

IDENTITIES = frozenset(
    {"male", "female", "homosexual_gay_or_lesbian", "christian", "jewish", "muslim", "black",
     "white", "psychiatric_or_mental_illness"}
)  # fmt: skip
"""Labels of unbiased-toxic-roberta that say who is spoken of."""


class ClassifierModerator(LocalModel):
    """Scores an answer by a sequence classifier, in windows where it is long.

    The score of a label is ``1 / (1 + exp(-logit / T))``; with a softmax head the logit is that
    of the label against all others. At ``temperature`` T = 1 it is the classifier's own
    probability. An answer of more tokens than the model takes is read in windows that overlap by
    a quarter; the largest score counts.

    Args:
        model: a folder, a hub id such as ``unitary/toxic-bert``, or a `Loaded` pair.
        map: label to category, or null to leave it out. Needed for labels that are not in
            `KNOWN`: every label of the model must be one or the other.
        head: ``sigmoid`` or ``softmax``; by default what the model's configuration says, or
            softmax for two labels and sigmoid for one.
        name: what the moderator is called in policies and records.
        temperature: T.
        max_batch: windows judged together at most.
        max_tokens: tokens of a window at most; the model's own limit, if that is less.
        where: see `rerail.moderators.guards._models.Where`.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        ModeratorError: the model cannot be loaded, a label has no category, the head cannot be
            told, or an option is not valid.
    """

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        map: Mapping[str, str | None] | None = None,
        head: Head | None = None,
        name: str = "classifier",
        temperature: float = 1.0,
        max_batch: int = 32,
        max_tokens: int = 512,
        **where: Unpack[Where],
    ) -> None:
        super().__init__(
            model,
            "classifier",
            name=name,
            temperature=temperature,
            max_batch=max_batch,
            max_tokens=max_tokens,
            **where,
        )
        config = self._model.config
        labels = {int(i): str(label) for i, label in config.id2label.items()}
        self._labels = [labels[i] for i in range(config.num_labels)]
        self.taxonomy = _taxonomy(self.model_name, self._labels, map or {})
        self.categories = self.taxonomy.categories
        self.head = head or _head(self.model_name, config)
        if self.head not in ("sigmoid", "softmax"):
            raise ModeratorError(f"unknown head {head!r}: sigmoid or softmax")
        if self.head == "softmax" and len(self._labels) < 2:
            raise ModeratorError(f"{self.model_name} has one label: its head is sigmoid")
        # Without a padding token only windows of one length could share a batch.
        paddable = self._tokenizer.pad_token_id is not None and config.pad_token_id is not None
        self._max_batch = max_batch if paddable else 1
        if self._limit < 8:
            raise ModeratorError(f"max_tokens is {self._limit}: it must be at least 8")

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; an answer without text is unscored."""
        scores = [Score.unscored(EMPTY_ANSWER)] * len(exchanges)
        filled = [i for i, exchange in enumerate(exchanges) if exchange.answer.strip()]
        if not filled:
            return scores
        # The tokenizer too: to set its truncation while another thread uses it is an error.
        with self._lock:
            windows, owners = self._windows([exchanges[i].answer for i in filled])
            logits = self._logits(windows)
        for k, i in enumerate(filled):
            own = logits[[j for j, owner in enumerate(owners) if owner == k]]
            scores[i] = self._verdict(own)
        return scores

    def _verdict(self, logits: NDArray[np.float64]) -> Score:
        """From ``(n_windows, n_labels)`` logits."""
        if not np.isfinite(logits).all():
            return Score.unscored("the classifier's logits are not finite")
        if self.head == "softmax":
            others = [
                np.logaddexp.reduce(np.delete(logits, k, 1), 1) for k in range(logits.shape[1])
            ]
            logits = logits - np.stack(others, 1)
        worst = logits.max(0)
        names = {
            label: tempered(float(z), self.temperature)
            for label, z in zip(self._labels, worst, strict=True)
        }
        return Score.of(self.taxonomy.scores(names))

    def _windows(self, texts: list[str]) -> tuple[list[dict[str, list[int]]], list[int]]:
        """Inputs of all windows, and which text each is of."""
        coded = self._tokenizer(
            texts,
            truncation=True,
            max_length=self._limit,
            stride=self._limit // 4,
            return_overflowing_tokens=True,
        )
        owners = [int(owner) for owner in coded.pop("overflow_to_sample_mapping")]
        return [{key: coded[key][j] for key in coded} for j in range(len(owners))], owners

    def _logits(self, windows: list[dict[str, list[int]]]) -> NDArray[np.float64]:
        """``(n_windows, n_labels)``, in the order of the windows."""
        order = sorted(range(len(windows)), key=lambda j: len(windows[j]["input_ids"]))
        found: dict[int, NDArray[np.float64]] = {}
        with self._torch.no_grad():
            for start in range(0, len(order), self._max_batch):
                batch = order[start : start + self._max_batch]
                inputs = self._padded([windows[j] for j in batch])
                rows = self._model(**inputs).logits.cpu().double().numpy()
                found.update(zip(batch, rows, strict=True))
        return np.stack([found[j] for j in range(len(windows))])

    def _padded(self, windows: list[dict[str, list[int]]]) -> dict[str, Any]:
        padded = {}
        longest = max(len(window["input_ids"]) for window in windows)
        for key in windows[0]:
            fill = self._tokenizer.pad_token_id if key == "input_ids" else 0
            rows = [w[key] + [fill] * (longest - len(w[key])) for w in windows]
            padded[key] = self._torch.tensor(rows).to(self._model.device)
        return padded


def _taxonomy(model: str, labels: Iterable[str], changes: Mapping[str, str | None]) -> Taxonomy:
    """The map of a classifier's labels: known ones, changed by the operator's own.

    Raises:
        ModeratorError: a label is neither known nor mapped, or none becomes a category.
    """
    mapped: dict[str, str] = {}
    left_out: dict[str, str] = {}
    unknown = []
    for label in labels:
        key = label.lower().replace(" ", "_")
        if label in changes:
            if (category := changes[label]) is None:
                left_out[label] = BY_OPTION
            else:
                mapped[label] = category
        elif key in KNOWN:
            mapped[label] = KNOWN[key]
        elif key in HARMLESS:
            left_out[label] = "says that there is no harm"
        elif key in IDENTITIES:
            left_out[label] = "says who is spoken of"
        else:
            unknown.append(label)
    if unknown:
        example = ", ".join(f"{label}: <category or null>" for label in unknown)
        raise ModeratorError(
            f"{model} has labels that no category is known for; say what they are with the option "
            f"map: {{{example}}}"
        )
    return Taxonomy(mapped, left_out).changed(changes)


def _head(model: str, config: Any) -> Head:
    problem = getattr(config, "problem_type", None)
    if problem == "multi_label_classification" or (problem is None and config.num_labels == 1):
        return "sigmoid"
    if problem == "single_label_classification" or (problem is None and config.num_labels == 2):
        return "softmax"
    raise ModeratorError(
        f"{model} does not say whether its {config.num_labels} labels exclude each other: set "
        "head to softmax if they do, else to sigmoid"
    )
