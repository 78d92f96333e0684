"""Official scorers: what a benchmark's authors count as right, refused or harmful.

Each is a pure function of text, one file per benchmark. `score` applies the one that belongs to a
case's data set.
"""

from __future__ import annotations

from rerail.eval.scorers import gsm8k, ifeval, xstest
from rerail.eval.types import Case

_SCORERS = {"gsm8k": gsm8k.score, "ifeval": ifeval.score, "xstest": xstest.score}


def score(case: Case, text: str) -> dict[str, float]:
    """The official scores of an answer by name; none where the data set has no scorer.

    Args:
        case: its ``meta["dataset"]`` says which scorer, and holds what that one needs.
        text: the answer.

    Raises:
        InputFileError: the case lacks what its scorer needs.
        MissingDependencyError: a package that the scorer uses is not installed.
    """
    scorer = _SCORERS.get(str(case.meta.get("dataset")))
    return scorer(case.meta, text) if scorer else {}
