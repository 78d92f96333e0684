"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): is the final number right?

``gsm8k_strict`` is the authors' rule: the number after ``####``, commas removed, must be equal to
the solution's as text. ``gsm8k_flexible`` is that of EleutherAI's harness: the last number in the
answer, compared by value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from rerail.errors import InputFileError

_MARKED = re.compile(r"#### (-?[0-9.,]+)")
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")


def marked(text: str) -> str | None:
    """The number after the first ``####``, commas removed; None if there is none."""
    found = _MARKED.search(text)
    return found[1].replace(",", "") if found else None


def last_number(text: str) -> Decimal | None:
    """The last number in the text; None if there is none."""
    numbers = _NUMBER.findall(text)
    return _value(numbers[-1]) if numbers else None


def score(meta: Mapping[str, Any], text: str) -> dict[str, float]:
    """Scores of an answer.

    Args:
        meta: ``answer`` is the solution, ending in ``#### NUMBER``, or the number itself.
        text: the answer.

    Raises:
        InputFileError: there is no solution, or no number in it.
    """
    solution = str(meta.get("answer", ""))
    right = marked(solution) or solution.replace(",", "").strip()
    value = _value(right)
    if value is None:
        raise InputFileError("a case of GSM8K needs the key 'answer' with a number in it")
    return {
        "gsm8k_strict": float(marked(text) == right),
        "gsm8k_flexible": float(last_number(text) == value),
    }


def _value(number: str) -> Decimal | None:
    try:
        return Decimal(number.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None
