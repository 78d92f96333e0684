"""The first recipe: a plain linear model over n-grams, the reference not to fall behind of.

    python -m training.moderator.first_recipe

It and the shipped model are trained without one source of texts at a time and measured on that
source; HateCheck and rbr-gold, which neither sees here, with all sources in training. Texts are
judged alone. Several minutes per source.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from rerail.moderators.embedded import Layout, Weights
from rerail.types import Exchange
from training.moderator import data
from training.moderator.data import HELD_OUT, TRAIN, Text, Turn
from training.moderator.evaluate import ranking
from training.moderator.fit import capped, counts
from training.moderator.labels import CATEGORIES
from training.moderator.train import topic_table, training_turns

Floats = NDArray[np.float64]

LAYOUT = Layout(bits=18, chars=(3, 4, 5), words=(1, 2))
_WINDOW, _STEP = 60, 40


@dataclass(frozen=True, slots=True)
class FirstRecipe:
    """One logistic regression per category over (1 + log tf) · idf, normalised to length 1."""

    idf: Floats
    weights: Floats
    bias: Floats

    def logits(self, texts: Sequence[str]) -> Floats:
        """``(n, 6)``: the mean of the whole text's logit and the largest of its windows'."""
        pieces, owner = list(texts), list(range(len(texts)))
        for i, text in enumerate(texts):
            words = text.split()
            for at in range(0, max(1, len(words) - _WINDOW + _STEP), _STEP):
                pieces.append(" ".join(words[at : at + _WINDOW]))
                owner.append(i)
        z = features(pieces, self.idf) @ self.weights + self.bias
        most = np.full((len(texts), z.shape[1]), -np.inf)
        np.maximum.at(most, owner[len(texts) :], z[len(texts) :])
        return np.asarray(0.5 * (z[: len(texts)] + most))


def features(texts: Sequence[str], idf: Floats) -> csr_matrix:
    x = counts(texts, LAYOUT)
    x.data = 1.0 + np.log(x.data)
    x = csr_matrix(x @ diags(idf))
    norm = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    return csr_matrix(diags(1.0 / np.maximum(norm, 1e-9)) @ x)


def fit(rows: Sequence[Text]) -> FirstRecipe:
    """The recipe: each row once as a positive and once as a negative, liblinear, C = 8."""
    texts = [row.text for row in rows]
    x = counts(texts, LAYOUT)
    df = np.bincount(x.indices, minlength=x.shape[1])
    idf = np.log((1 + len(texts)) / (1 + df)) + 1.0
    x = features(texts, idf)
    weights, bias = np.zeros((len(idf), len(CATEGORIES))), np.full(len(CATEGORIES), -9.0)
    for k, category in enumerate(CATEGORIES):
        mine = [i for i, row in enumerate(rows) if category in row.labels]
        labels = np.array([rows[i].labels[category] for i in mine])
        weight = np.array([rows[i].weight for i in mine])
        w = capped([rows[i].source for i in mine], labels, weight).ravel()
        both = csr_matrix(x[mine + mine])
        y = np.repeat([1, 0], len(mine))
        used = np.flatnonzero(w > 1e-3)
        model = LogisticRegression(solver="liblinear", C=8.0)
        model.fit(both[used], y[used], w[used])
        weights[:, k], bias[k] = model.coef_[0], model.intercept_[0]
    return FirstRecipe(idf, weights, bias)


def rows(turns: Sequence[Turn], without: str) -> list[Text]:
    """What the recipe learns from: real texts, seeds, requests, and harmless answers."""
    found = [row for row in data.texts(TRAIN) if row.source != without]
    found += data.seeds() + data.harmful_requests(TRAIN) + data.benign_requests(TRAIN)
    found += data.harmful_acts()
    return found + [
        Text(t.answer, t.labels, t.source) for t in turns if t.labels.get("any") == 0 and t.complies
    ]


def sets(without: str) -> dict[str, list[Text]]:
    """What to measure on, by name."""
    if without:
        every = data.texts(TRAIN) + data.texts(HELD_OUT)
        return {without: [row for row in every if row.source == without]}
    tests = data.read_csv("hatecheck", "test_suite_cases.csv.gz")
    hateful = [
        Text(t["test_case"], {"hate": float(t["label_gold"] == "hateful")}, "hatecheck")
        for t in tests
    ]
    return {"hatecheck": hateful} | rbr()


def rbr() -> dict[str, list[Text]]:
    """Requests of rbr-gold that call for a refusal, and answers with what is disallowed."""
    kinds = {"SH": "self-harm", "H": "hate", "C": "sexual", "K": "illicit"}
    asked: list[Text] = []
    answered: list[Text] = []
    for name in ("train", "test"):
        for row in data.read_json_lines("safety-rbr-gold", f"{name}.jsonl.gz"):
            kind = kinds.get(str(row["category"]).split("-")[0], "")
            users = [m["content"] for m in row["prompt"] if m["role"] == "user"]
            answer = " ".join(m["content"] for m in row["completion"])
            refuse = row["response_type"] != "Comply"
            bad = bool(row["propositions"]["disallowed_content"])
            for text, harmful, into in ((users[-1:], refuse, asked), ([answer], bad, answered)):
                labels = {k: float(harmful and k == kind) for k in kinds.values()}
                into += [Text(t, labels, "rbr") for t in text if t.strip()]
    return {"rbr-gold requests": asked, "rbr-gold answers": answered}


def compare(without: str) -> None:
    """Print AUROC and AUPRC of both models, by category."""
    rng = random.Random(0)
    turns = training_turns(rng)
    recipe = fit(rows(turns, without))
    topic = topic_table(turns, rng, without)
    shipped = Weights(topic, topic, np.zeros((2, 4)))
    for name, texts in sets(without).items():
        said = [row.text for row in texts]
        both = recipe.logits(said), shipped.read([Exchange((), t) for t in said]).answer[:, 1:]
        for k, category in enumerate(CATEGORIES):
            known = [i for i, row in enumerate(texts) if category in row.labels]
            y = np.array([texts[i].labels[category] for i in known])
            if not 3 <= (y >= 0.5).sum() < len(y):
                continue
            for model, z in zip(("first recipe", "shipped"), both, strict=True):
                print(f"{name:<18} {category:<11} {model:<13} {ranking(y, z[known, k])}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The shipped model beside the first recipe.")
    parser.add_argument("without", nargs="*", default=["rtp-scores", "surge", "convabuse", ""])
    for without in parser.parse_args().without:
        compare(without)


if __name__ == "__main__":
    main()
