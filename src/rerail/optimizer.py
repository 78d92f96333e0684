"""The search as an object that asks for points and is told their losses.

    optimizer = Optimizer(x0, steerable, settings, units, generator)
    while not optimizer.stop():
        candidates = optimizer.ask()
        losses = [f(candidate.point) for candidate in candidates]
        optimizer.tell(losses, [loss < goal for loss in losses])

It knows points and losses, no model, no text, no moderator. The first ask is x0 itself. An
iteration then draws N directions around the centre and asks for its candidates in batches; when
all are told and none was accepted, the centre takes one step against the estimated gradient and
is the first candidate of the next iteration, so that it is evaluated once and never apart from
its score. A flat iteration takes no step: μ grows instead. Offsets that are known to be good
elsewhere come before the first iteration, and then fades, in which rows go towards zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rerail import zo
from rerail.types import AcceptedFrom, BoolArray, FloatArray, StopReason

if TYPE_CHECKING:
    from rerail.settings import OptimizerSettings


FADES = ((0.0, 0.25, 1.0), (0.0, 0.5, 1.0), (0.0, 1.0, 0.5), (0.0, 1.0, 0.6))
"""From and to which part of the steered rows a fade reaches, and how far it goes towards zero.

The beginning, which often talks the model into its answer, before all words (docs/log.md)."""


@dataclass(frozen=True)
class Units:
    """Lengths of the model's embedding table, in which scales are given.

    Attributes:
        perturbation: RMS of the table's entries, the unit of ``perturbation_scale``.
        step: mean norm of the table's rows, the unit of ``step_size``.
        basis: ``(rank, d_model)`` leading principal directions of the table; None if the
            settings name no subspace.
        offsets: ``(m, d_model)`` of all steered rows, to be tried first.
    """

    perturbation: float = 1.0
    step: float = 1.0
    basis: FloatArray | None = field(default=None, repr=False)
    offsets: Sequence[FloatArray] = field(default=(), repr=False)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point to evaluate, and which kind of point it is."""

    point: FloatArray = field(repr=False)
    origin: AcceptedFrom


@dataclass(frozen=True, eq=False)
class Told:
    """A candidate with its loss."""

    candidate: Candidate
    loss: float


class Optimizer:
    """Zeroth-order descent, or undirected search, from one point.

    Args:
        x0: ``(n_tokens, d_model)`` where the search starts.
        steerable: ``(n_tokens,)`` mask of the rows that may move.
        settings: which search.
        units: gives the lengths of the embedding table; asked once something is to be moved.
        generator: all randomness.

    Raises:
        ValueError: no row may move, or shapes differ.
    """

    def __init__(
        self,
        x0: FloatArray,
        steerable: BoolArray,
        settings: OptimizerSettings,
        units: Callable[[], Units],
        generator: np.random.Generator,
    ) -> None:
        if steerable.shape != x0.shape[:1]:
            raise ValueError(f"mask {steerable.shape} does not fit a point {x0.shape}")
        if not steerable.any():
            raise ValueError("no row may move")
        if settings.perturbation_scale is None or settings.step_size is None:
            raise ValueError("perturbation_scale and step_size are missing: resolve them first")
        self.settings = settings
        self.iterations = 0
        self.perturbation_scale = settings.perturbation_scale
        self._step_size = settings.step_size
        self.best: Told | None = None
        self._x0 = x0
        self._steerable = steerable
        self._measure = units
        self._generator = generator
        self._centre = x0
        self._centre_loss = math.inf
        self._directions = np.empty((0, 0, 0), dtype=np.float32)
        self._gradient_sum: FloatArray = np.zeros(1, dtype=np.float32)
        self._queue: list[Candidate] = [Candidate(x0, AcceptedFrom.INITIAL)]
        self._knows_offsets = settings.use_offsets
        self._fades = FADES if settings.use_fades else ()
        self._asked: list[Candidate] = []
        self._losses: list[float] = []
        self._ask_size = 1
        self._flat_iterations = 0
        self._reason: StopReason | None = None

    def ask(self, limit: int | None = None) -> list[Candidate]:
        """The next candidates, at most ``limit`` of them; none once stopped."""
        if self._asked:
            raise RuntimeError("ask() again before tell()")
        if self._reason:
            return []
        size = self._ask_size if limit is None else min(self._ask_size, limit)
        self._asked, self._queue = self._queue[:size], self._queue[size:]
        self._ask_size *= 2
        return list(self._asked)

    def tell(self, losses: Sequence[float], accepted: Sequence[bool]) -> None:
        """The losses of the candidates just asked for, in order.

        Args:
            losses: lower is better; non-finite means that there is none, and counts as worst.
            accepted: whether each candidate is acceptable as the result.
        """
        if not len(losses) == len(accepted) == len(self._asked):
            raise ValueError(f"{len(self._asked)} candidates were asked for")
        asked, self._asked = self._asked, []
        for candidate, loss, good in zip(asked, losses, accepted, strict=True):
            loss = float(loss) if math.isfinite(loss) else math.inf
            if self.best is None or loss < self.best.loss:
                self.best = Told(candidate, loss)
            if candidate.origin is AcceptedFrom.PERTURBATION:
                self._losses.append(loss)
            elif candidate.origin in (AcceptedFrom.INITIAL, AcceptedFrom.ITERATE):
                self._centre_loss = loss
            if good and self.accepts(candidate.origin):
                self._reason = StopReason.ACCEPTED
        if not self._queue and not self._reason:
            self._next_iteration()

    def hasten(self) -> None:
        """Ask for the first of the known offsets beside x0, in the first ask."""
        self._queue += self._known()
        self._ask_size = len(self._queue[:2])

    @property
    def next(self) -> AcceptedFrom | None:
        """Which kind of point is asked for next; None where there is none."""
        return self._queue[0].origin if self._queue else None

    def shifted(self, offset: FloatArray) -> Candidate:
        """x0 with all its steerable rows moved by ``(d_model,)``, within the cosine floor."""
        return Candidate(self._move(self._x0, offset[None], project=True), AcceptedFrom.OFFSET)

    def accepts(self, origin: AcceptedFrom) -> bool:
        """Whether a candidate of this kind may be the result."""
        return origin is not AcceptedFrom.PERTURBATION or self.settings.accept_perturbations

    def stop(self) -> StopReason | None:
        """Why the search is over, or None while it goes on."""
        return self._reason

    def _next_iteration(self) -> None:
        """Step or widen by what was told, then queue the candidates that follow from it."""
        if known := self._known() or self._faded():
            self._queue = known
            self._ask_size = self.settings.first_ask or len(known)
            return
        published = self.settings.result == "best_iterate"
        moved = False
        if stepped := bool(self._losses):
            self.iterations += 1
            moved = self._update()
        last = self.iterations >= self.settings.max_iterations
        # As published, an iterate is answered before anything is drawn around it, also where no
        # step was taken, and the last one is not.
        asks_iterate = stepped and not last if published else moved
        queue = [Candidate(self._centre, AcceptedFrom.ITERATE)] if asks_iterate else []
        if not last and not (published and stepped):
            queue += self._perturbations()
        if not all(np.isfinite(candidate.point).all() for candidate in queue):
            self._reason = StopReason.NON_FINITE
        elif not queue:
            self._reason = self._reason or StopReason.BUDGET
        self._queue = [] if self._reason else queue
        self._losses = []
        self._ask_size = self.settings.first_ask or len(self._queue)

    def _known(self) -> list[Candidate]:
        """The known offsets, once."""
        known = self._units.offsets if self._knows_offsets else ()
        self._knows_offsets = False
        return [self.shifted(offset) for offset in known]

    @cached_property
    def _units(self) -> Units:
        return self._measure()

    def _faded(self) -> list[Candidate]:
        """x0 with parts of its steerable rows nearer to zero, once."""
        fades, self._fades = self._fades, ()
        rows = self._x0[self._steerable]
        moves = [zo.fade(rows, *fade) for fade in fades]
        points = [self._move(self._x0, move, project=True) for move in moves]
        return [Candidate(point, AcceptedFrom.FADE) for point in points]

    def _perturbations(self) -> list[Candidate]:
        """Draw N directions around the centre: x + μu, and x − μu if antithetic."""
        rows, width = int(self._steerable.sum()), self._x0.shape[1]
        family = direction_family(self.settings, self._units.basis)
        self._directions = family(self._generator, self.settings.num_directions, rows, width)
        signs = (1.0, -1.0) if self.settings.estimator == "antithetic" else (1.0,)
        length = self.perturbation_scale * self._units.perturbation
        # A point that may be the result keeps the cosine floor; the published loop, whose
        # perturbations only measure, leaves them as they are.
        project = self.accepts(AcceptedFrom.PERTURBATION)
        return [
            Candidate(
                self._move(self._centre, sign * length * direction, project),
                AcceptedFrom.PERTURBATION,
            )
            for direction in self._directions
            for sign in signs
        ]

    def _update(self) -> bool:
        """Move the centre against the gradient estimate, or widen μ; whether it moved."""
        told = list(self._losses)
        if self.settings.estimator == "forward":
            told.append(self._centre_loss)
        finite = [loss for loss in told if math.isfinite(loss)]
        if not finite:
            self._reason = StopReason.NON_FINITE
            return False
        if max(finite) - min(finite) <= self.settings.spread_floor:
            self._widen()
            return False
        self._flat_iterations = 0
        if not self.settings.descend:
            return False
        gradient = self._estimate(np.minimum(told, max(finite)))
        start = self._centre
        if self.settings.anchored:
            self._gradient_sum = self._gradient_sum + gradient
            start, gradient = self._x0, self._gradient_sum
        step = self._step_size * self._units.step
        self._centre = self._move(start, -step * self._normalize(gradient), project=True)
        return True

    def _estimate(self, losses: NDArray[np.float64]) -> FloatArray:
        directions, scale = self._directions, self.perturbation_scale
        match self.settings.estimator:
            case "forward":
                return zo.forward_difference(float(losses[-1]), losses[:-1], directions, scale)
            case "antithetic":
                return zo.antithetic_difference(losses[::2], losses[1::2], directions, scale)
            case "centered":
                return zo.centered_difference(losses, directions, scale)

    def _normalize(self, gradient: FloatArray) -> FloatArray:
        match self.settings.normalization:
            case "rows":
                return zo.normalize_rows(gradient)
            case "matrix":
                return zo.normalize_matrix(gradient)
            case "clip":
                return zo.clip_rows(gradient)
            case "none":
                return gradient

    def _widen(self) -> None:
        """Grow μ up to its cap; flat at the cap, `plateau_patience` times in a row, ends it."""
        settings = self.settings
        if settings.perturbation_growth == 1.0:
            return
        cap = (
            math.inf if settings.max_perturbation_scale is None else settings.max_perturbation_scale
        )
        if self.perturbation_scale >= cap:
            self._flat_iterations += 1
            if self._flat_iterations >= settings.plateau_patience:
                self._reason = StopReason.PLATEAU
        grown = self.perturbation_scale * settings.perturbation_growth
        self.perturbation_scale = min(grown, cap)

    def _move(self, point: FloatArray, offset: FloatArray, project: bool) -> FloatArray:
        """The point with the offset added to its steerable rows, within the cosine floor."""
        rows = self._steerable
        moved = point[rows] + offset.astype(np.float32)
        if project:
            moved = zo.project_cosine(moved, self._x0[rows], self.settings.min_cosine)
        result = point.copy()
        result[rows] = moved
        return result


class Redraws:
    """The search that moves nothing: x0 is answered, and then drawn anew.

    It is asked and told as an `Optimizer` is. An iteration is ``num_directions`` draws.

    Args:
        x0: where every answer is from.
        settings: which search.
    """

    def __init__(self, x0: FloatArray, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.iterations = 0
        self._x0 = x0
        self._queue: list[Candidate] = [Candidate(x0, AcceptedFrom.INITIAL)]
        self._asked: list[Candidate] = []
        self._ask_size = 1
        self._reason: StopReason | None = None

    def ask(self, limit: int | None = None) -> list[Candidate]:
        """The next candidates, at most ``limit`` of them; none once stopped."""
        if self._reason:
            return []
        size = self._ask_size if limit is None else min(self._ask_size, limit)
        self._asked, self._queue = self._queue[:size], self._queue[size:]
        self._ask_size *= 2
        return list(self._asked)

    def tell(self, losses: Sequence[float], accepted: Sequence[bool]) -> None:
        """Whether the candidates just asked for are acceptable, in order."""
        drawn = self._asked[0].origin is AcceptedFrom.RESAMPLE
        if any(accepted):
            self._reason = StopReason.ACCEPTED
        elif not self._queue:
            self.iterations += drawn
            if self.iterations >= self.settings.max_iterations:
                self._reason = StopReason.BUDGET
                return
            again = Candidate(self._x0, AcceptedFrom.RESAMPLE)
            self._queue = [again] * self.settings.num_directions
            self._ask_size = self.settings.first_ask or len(self._queue)

    def hasten(self) -> None:
        """Nothing is known that could be asked beside x0."""

    @property
    def next(self) -> AcceptedFrom | None:
        """Which kind of point is asked for next; None where there is none."""
        return self._queue[0].origin if self._queue else None

    def shifted(self, offset: FloatArray) -> Candidate:
        """Not to be had.

        Raises:
            ValueError: always: nothing is moved.
        """
        raise ValueError("a search that draws anew moves nothing")

    def accepts(self, origin: AcceptedFrom) -> bool:
        """Whether a candidate of this kind may be the result: all may."""
        return True

    def stop(self) -> StopReason | None:
        """Why the search is over, or None while it goes on."""
        return self._reason


def direction_family(settings: OptimizerSettings, basis: FloatArray | None) -> zo.Directions:
    """The direction family that the settings name.

    Raises:
        ValueError: the settings name a subspace and ``basis`` is None.
    """
    families: dict[str, zo.Directions] = {
        "rows": zo.independent_rows,
        "shared": zo.shared_offset,
        "mixed": zo.mixture([zo.independent_rows, zo.shared_offset], [0.5, 0.5]),
    }
    family = families[settings.directions]
    if settings.subspace_rank is not None:
        if basis is None:
            raise ValueError("subspace_rank needs the basis of the subspace")
        family = zo.within(family, basis[: settings.subspace_rank])
    return zo.orthogonal(family) if settings.orthogonalize else family
