"""The first recipe: a plain linear model over n-grams, the reference not to fall behind of.

    python -m training.moderator.first_recipe

Both models are trained without one source of texts at a time and measured on it; HateCheck and the
answers of rbr-gold are measured with everything else in training. Texts are judged alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from rerail.moderators.embedded import Layout
from training.moderator.data import Text
from training.moderator.fit import capped, counts
from training.moderator.labels import CATEGORIES

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
