"""What every engine checks before it generates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsalign.engines.base import GenerationRequest
from tsalign.errors import EngineError


def check_points(requests: Sequence[GenerationRequest]) -> None:
    """Refuse points that no model can answer from.

    Raises:
        EngineError: a point has another shape than its prompt's, or is not finite.
    """
    for request in requests:
        expected = request.embedded.point.shape
        if request.point.shape != expected:
            raise EngineError(
                f"the point has shape {request.point.shape}, the prompt's has {expected}: "
                "move the prompt's own point"
            )
        if not np.isfinite(request.point).all():
            raise EngineError(
                "the point is not finite: make perturbation_scale or step_size smaller"
            )
