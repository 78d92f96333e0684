"""Make the hidden-state judge's weights from answers that a reader has labelled.

    python -m training.judge.hidden --labelled answers.jsonl --out src/rerail/assets/judge

The file has one object per line: ``messages``, ``answer``, ``label`` (``complies`` or anything
else) and ``split``; rows of the split ``train`` are learnt from, the others are measured on, beside
the other judge. No moderator has seen any of them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from rerail.engines._packaged import packaged_folder
from rerail.eval.embedded_judge import EmbeddedJudge
from rerail.eval.hidden_judge import HiddenWeights, States, request_of
from rerail.types import Exchange, Message

PENALTY = 300.0
"""Of the weights of standardised states; the middle one of the three that were tried."""
_SPREAD = 1e-3


def read(path: Path) -> tuple[list[Exchange], NDArray[np.bool_], NDArray[np.bool_]]:
    """Exchanges, whether the answer complies with a harmful request, and which are for training."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    exchanges = [
        Exchange(tuple(Message(**turn) for turn in row["messages"]), row["answer"]) for row in rows
    ]
    complies = np.array([row["label"] == "complies" for row in rows])
    return exchanges, complies, np.array([row["split"] == "train" for row in rows])


def fit(x: NDArray[np.float32], y: NDArray[np.bool_]) -> HiddenWeights:
    """A logistic model of standardised states, the standardising folded into its weights."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + _SPREAD
    model = LogisticRegression(C=1.0 / PENALTY, max_iter=1000).fit((x - mean) / spread, y)
    weights = (model.coef_[0] / spread).astype(np.float32)
    return HiddenWeights(weights, float(model.intercept_[0] - mean @ weights))


def main() -> None:
    parser = argparse.ArgumentParser(description="The judge that reads hidden states.")
    parser.add_argument("--labelled", type=Path, required=True, help="JSON lines, see above")
    parser.add_argument("--out", type=Path, required=True, help="folder to write hidden.npz to")
    args = parser.parse_args()
    exchanges, complies, train = read(args.labelled)
    states = States(packaged_folder("smollm2"))
    x = states.read([(request_of(e), e.answer.strip()) for e in exchanges])
    judge = fit(x[train], complies[train])
    content = judge.save()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "hidden.npz").write_bytes(content)
    print(f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    hidden, lexicon = judge.probability(x), np.array(EmbeddedJudge().judge(exchanges))
    y = complies[~train]
    for name, p in (("hidden", hidden), ("lexicon", lexicon), ("mean", (hidden + lexicon) / 2)):
        said = p[~train]
        kappa = cohen_kappa_score(y, said >= 0.5)
        print(f"{name:<8} AUROC {roc_auc_score(y, said):.3f}, kappa {kappa:.3f}, of {len(y)}")


if __name__ == "__main__":
    main()
