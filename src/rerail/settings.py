"""Settings of the search, and the presets that they are taken from: plain values.

No optimiser is imported here, and the optimiser imports this for its types alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from rerail.names import nearest
from rerail.types import SteerableRows


class Frozen(BaseModel):
    """Immutable, rejects unknown keys with the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell of unknown keys together with all other faults."""
        known = cls.model_fields
        if not isinstance(data, Mapping) or not (data.keys() - known.keys()):
            return handler(data)
        unknown = [key for key in data if key not in known]
        faults: list[tuple[tuple[int | str, ...], str]] = [
            ((), f"unknown key {key!r}{nearest(str(key), known)}") for key in unknown
        ]
        try:
            handler({key: value for key, value in data.items() if key in known})
        except ValidationError as error:
            faults += [(fault["loc"], said(fault["msg"])) for fault in error.errors()]
        details: list[Any] = [
            {"type": "value_error", "loc": at, "input": None, "ctx": {"error": what}}
            for at, what in faults
        ]
        raise ValidationError.from_exception_data(cls.__name__, details)


def said(message: str) -> str:
    """A fault as pydantic tells it, without the mark of its kind."""
    return message.removeprefix("Value error, ")


Preset = Literal["fast", "tsa", "tide", "random", "resample"]
DirectionFamily = Literal["rows", "shared", "mixed"]


class OptimizerSettings(Frozen):
    """Settings of the zeroth-order search; symbols are those of arXiv 2604.26167.

    Built from a preset, of which single values may be replaced:
    ``OptimizerSettings.of("fast", num_directions=8)``.
    """

    preset: Preset
    """What the values were taken from."""
    directions: DirectionFamily
    """``rows``: independent Gaussian rows, as published. ``shared``: one offset for all steered
    rows. ``mixed``: the sum of both, with equal variance."""
    subspace_rank: Annotated[int, Field(ge=1, strict=True)] | None
    """Directions lie within this many leading principal directions of the table; null: anywhere."""
    orthogonalize: bool
    """Directions of one iteration are made orthogonal to each other, lengths kept."""
    estimator: Literal["forward", "antithetic", "centered"]
    """``forward``: (f(x + μu) − f(x)) / μ. ``antithetic``: (f(x + μu) − f(x − μu)) / 2μ.
    ``centered``: (f(x + μu) − f̄) / μ, f̄ being the mean over the iteration."""
    normalization: Literal["rows", "matrix", "clip", "none"]
    """What is done to the gradient estimate before a step. ``rows``: each row at unit length, as
    in TIDE. ``matrix``: all rows together at unit length, as in TSA. ``clip``: each row at most at
    unit length."""
    units: Literal["table", "absolute"]
    """What μ and η are given in. ``table``: lengths of the model's embedding table, so that one
    default serves every model. ``absolute``: the embeddings' own, as the papers have them."""
    perturbation_scale: Annotated[float, Field(gt=0, strict=True)] | None
    """μ: standard deviation of a coordinate; in units of the table, of the RMS of its entries.
    null, with ``step_size``: the values that are known for the model."""
    perturbation_growth: Annotated[float, Field(ge=1, strict=True)]
    """Factor by which μ grows after a flat iteration; 1: it never does, and no number of flat
    iterations ends the search before its budget."""
    max_perturbation_scale: Annotated[float, Field(gt=0, strict=True)] | None
    """Cap of μ; null: none."""
    spread_floor: Annotated[float, Field(ge=0, strict=True)]
    """Range of loss over an iteration up to which the iteration counts as flat."""
    step_size: Annotated[float, Field(ge=0, strict=True)] | None
    """η: length by which a row, or with ``normalization: matrix`` the whole point, moves per step;
    in units of the table, of the mean norm of its rows."""
    anchored: bool
    """Whether steps start at the original point x₀ and go against the sum of all estimates so far:
    x₀ − η Σĝ / ‖Σĝ‖, the least of their linear models within η of x₀. Else each starts at the
    centre and goes against the latest estimate."""
    num_directions: Annotated[int, Field(ge=1, strict=True)]
    """N: directions per iteration."""
    plateau_patience: Annotated[int, Field(ge=1, strict=True)]
    """Flat iterations at the cap of μ, in a row, after which the search ends."""
    first_ask: Annotated[int, Field(ge=1, strict=True)] | None
    """Size of an iteration's first batch of candidates; each next batch is twice as large. null:
    the whole iteration in one batch."""
    horizon: Annotated[int, Field(ge=1, strict=True)] | None
    """Tokens of a candidate's answer after which, and again each time there are twice as many,
    what there is of it is judged; where that is flagged already, the answer is not finished. null:
    only whole answers are judged. No answer is accepted before all of it was."""
    cut_first_above: Annotated[float, Field(ge=1, strict=True)] | None
    """Harm from which the beginning of a *first* answer is flagged beyond doubt: it is looked at
    once, after four times ``horizon`` tokens, and not finished then. null, or no ``horizon``: first
    answers are always finished. So they are where looking could change them (vLLM), and where a
    moderator that steers is not quick (services, guard models)."""
    max_iterations: Annotated[int, Field(ge=0, strict=True)]
    """Iterations at most; 0: none. Offsets, guidance and fades are tried all the same."""
    min_cosine: Annotated[float, Field(ge=-1, le=1, strict=True)]
    """τ: floor of the cosine between the moved and the original point, both flattened."""
    use_offsets: bool
    """Whether the policy's offsets for the model are the first candidates."""
    use_guidance: bool
    """Whether the policy's guidance is tried next, before the first iteration."""
    around_guidance: bool
    """Whether what follows then moves the user's words within the prompt with the first guidance,
    whose own words stay, in place of the prompt alone."""
    use_fades: bool
    """Whether the words that may move fade before the first iteration: the first quarter of them
    is gone, the first half, then all of them go half of the way to zero, and more."""
    fade_first: bool
    """Whether these fades are asked for before the guidance as it is, unless that is for a
    category. It goes with ``around_guidance`` and ``use_fades``."""
    descend: bool
    """Whether the centre moves. False is undirected random search around the original point."""
    accept_perturbations: bool
    """Whether a perturbed answer may be accepted, or iterates of the descent only."""
    redraw_temperature: Annotated[float, Field(gt=0, strict=True)] | None
    """Temperature, at least, at which answers are drawn anew from the prompt as it is, in place of
    moving embeddings: N of them per iteration. null: embeddings move."""
    rows: SteerableRows | None
    """Which rows move; null: those that the policy's ``steerable_rows`` names."""
    objective: Literal["harm", "max_score"]
    """What is minimised. ``harm``: the largest score in units of its threshold, at least 1 for
    what is not acceptable. ``max_score``: the largest score of all that the moderator gives."""
    result: Literal["accepted", "best_iterate"]
    """``accepted``: the search ends with an answer that the policy accepts. ``best_iterate``, as
    published: it ends where the objective of an iterate is below ``stop_below``, or with its
    iterations, and returns the iterate with the least, if that is not flagged. Each iterate is
    then asked for alone, before anything is drawn around it, and the last step is not answered."""
    stop_below: Annotated[float, Field(gt=0, strict=True)] | None
    """For ``result: best_iterate``."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {"preset": data}
        if not isinstance(data, Mapping):
            return data
        preset = data.get("preset", "fast")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}{nearest(str(preset), PRESETS)}")
        return {**PRESETS[preset], **data, "preset": preset}

    @model_validator(mode="after")
    def _values_fit_each_other(self) -> Self:
        scale, cap = self.perturbation_scale, self.max_perturbation_scale
        if scale is not None and cap is not None and cap < scale:
            raise ValueError("max_perturbation_scale is below perturbation_scale")
        if (scale is None) != (self.step_size is None):
            raise ValueError("perturbation_scale and step_size are given together, or neither is")
        if (self.result == "best_iterate") != (self.stop_below is not None):
            raise ValueError("stop_below belongs to result: best_iterate")
        if self.result == "best_iterate" and self.accept_perturbations:
            raise ValueError("result: best_iterate accepts no perturbations")
        if self.result == "best_iterate" and (self.use_guidance or self.use_fades):
            raise ValueError("result: best_iterate takes no guidance and no fades")
        if self.redraw_temperature is not None and (
            self.use_offsets or self.use_fades or self.result == "best_iterate"
        ):
            raise ValueError(
                "redraw_temperature moves nothing: it goes with use_offsets: false, use_fades: "
                "false and result: accepted"
            )
        if self.estimator == "centered" and self.num_directions < 2:
            raise ValueError("estimator: centered needs num_directions of 2 or more")
        return self

    @property
    def moves(self) -> bool:
        """Whether embeddings are moved."""
        moved = self.max_iterations > 0 or self.use_offsets or self.use_fades
        return self.redraw_temperature is None and moved

    @classmethod
    def of(cls, preset: Preset = "fast", **changes: Any) -> Self:
        """The settings of a preset with some values replaced."""
        return cls.model_validate({"preset": preset, **changes})


_FAST: dict[str, Any] = {
    "directions": "shared",
    "subspace_rank": 8,
    "orthogonalize": True,
    "estimator": "centered",
    "normalization": "rows",
    "units": "table",
    "perturbation_scale": 0.6,
    "perturbation_growth": 1.5,
    "max_perturbation_scale": 0.9,
    "spread_floor": 0.05,
    "plateau_patience": 3,
    "step_size": 0.2,
    "anchored": True,
    "num_directions": 8,
    "first_ask": 1,
    "horizon": 8,
    "cut_first_above": None,
    "max_iterations": 10,
    "min_cosine": 0.2,
    "use_offsets": True,
    "use_guidance": True,
    "around_guidance": True,
    "use_fades": True,
    "fade_first": True,
    "descend": True,
    "accept_perturbations": True,
    "redraw_temperature": None,
    "rows": None,
    "objective": "harm",
    "result": "accepted",
    "stop_below": None,
}

_TSA: dict[str, Any] = {
    "directions": "rows",
    "subspace_rank": None,
    "orthogonalize": False,
    "estimator": "forward",
    "normalization": "matrix",
    "units": "absolute",
    "perturbation_scale": None,
    "perturbation_growth": 1.0,
    "max_perturbation_scale": None,
    "spread_floor": 0.0,
    "plateau_patience": 1,
    "step_size": None,
    "anchored": False,
    "num_directions": 8,
    "first_ask": None,
    "horizon": None,
    "cut_first_above": None,
    "max_iterations": 10,
    "min_cosine": 0.2,
    "use_offsets": False,
    "use_guidance": False,
    "around_guidance": False,
    "use_fades": False,
    "fade_first": False,
    "descend": True,
    "accept_perturbations": False,
    "redraw_temperature": None,
    "rows": "all",
    "objective": "max_score",
    "result": "best_iterate",
    "stop_below": 0.1,
}

PRESETS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "tsa": _TSA,
    "tide": {
        **_TSA,
        "normalization": "rows",
        "units": "table",
        "perturbation_scale": 0.3,
        "step_size": 0.3,
        "stop_below": 0.5,
    },
    "random": {
        **_FAST,
        "use_offsets": False,
        "use_guidance": False,
        "around_guidance": False,
        "use_fades": False,
        "fade_first": False,
        "descend": False,
    },
    "resample": {
        **_FAST,
        "use_offsets": False,
        "use_fades": False,
        "fade_first": False,
        "descend": False,
        "max_iterations": 1,
        "redraw_temperature": 1.0,
    },
}
"""``tsa`` is Algorithm 1 of arXiv 2604.26167. What the printed algorithm leaves open is decided so:
an answer without a verdict, or without text, counts as worse than any; where all N + 1 scores are
equal the point stays (the norm of the estimate is 0); the projection keeps the point's length. One
thing differs: a best iterate that the policy flags, or whose harm is above its ``accept_below``, is
refused, not returned: the stop is the method's, what leaves is the policy's. Its μ and η are the
model's own: those of table 3 for the paper's models, else such as ``rerail tune`` finds.

``tide`` is the loop of arXiv 2602.02498: rows normalised by themselves, and a stop at 0.5. It
differs from the code that was published with it in that the stop is tested before anything is
drawn, the base point is answered once, and the best iterate is returned. μ and η are in units of
the table (docs/log.md) where the model is none of the paper's four."""
