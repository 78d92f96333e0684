"""``fast`` without one of its parts each; what the part brings is the difference.

``guidance`` is the other way about: nothing of ``fast`` but the policy's texts. A new part of the
optimiser gets its line here.
"""

from __future__ import annotations

from typing import Any

from rerail.eval.methods.aligned import UNBOUNDED, Aligned
from rerail.settings import PRESETS

_FAST = PRESETS["fast"]

OPTIMIZER: dict[str, dict[str, Any]] = {
    "fast-no-subspace": {"subspace_rank": None},
    "fast-rows": {"directions": "rows"},
    "fast-no-orthogonal": {"orthogonalize": False},
    "fast-no-descent": {"descend": False},
    "fast-no-centering": {"estimator": "forward"},
    "fast-no-anchor": {"anchored": False},
    "fast-no-growth": {
        "perturbation_growth": 1.0,
        "max_perturbation_scale": _FAST["perturbation_scale"],
    },
    "fast-no-early-ask": {"first_ask": None},
    "fast-no-horizon": {"horizon": None},
    "fast-no-offsets": {"use_offsets": False},
    "fast-no-guidance": {"use_guidance": False},
    "fast-no-around-guidance": {"around_guidance": False},
    "fast-no-fades": {"use_fades": False},
    "fast-words-first": {"fade_first": False},
    "guidance": {"use_offsets": False, "use_fades": False, "max_iterations": 0},
    "fast-iterates-only": {"accept_perturbations": False},
}
"""Method to the settings of ``fast`` that it replaces."""

POLICY: dict[str, dict[str, Any]] = {
    "fast-no-naturalness": {"naturalness_floor": UNBOUNDED},
    "fast-no-relevance": {"relevance_floor": None},
}
"""Method to the keys of the policy that it replaces."""

NAMES = (*OPTIMIZER, *POLICY)


def ablation(name: str, optimizer: dict[str, Any] | None = None) -> Aligned:
    """The ablation of that name; further settings of the optimiser may be replaced."""
    changes = {**OPTIMIZER.get(name, {}), **(optimizer or {})}
    return Aligned(name, "fast", changes, POLICY.get(name))
