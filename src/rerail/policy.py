"""A policy says what is harmful, who judges it, what may move, and what to do when nothing helps.

Policies are frozen values; a change is a new value with a new version. The file form is YAML,
read with a safe loader: unknown keys, duplicate keys and unknown categories are errors that name
the nearest valid one. `PolicyStore` swaps whole policies atomically.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import threading
from collections.abc import Hashable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from rerail.errors import PolicyError
from rerail.types import FrozenDict, PolicyTag, Score

DEFAULT_THRESHOLD = 0.5

CATEGORIES: tuple[str, ...] = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The taxonomy, after OpenAI's moderation API. Categories of one's own start with `CUSTOM`."""

CUSTOM = "custom/"


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest valid name, else the list of valid names."""
    known = sorted(valid)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.62)
    return f"; did you mean {close[0]!r}?" if close else f"; valid: {', '.join(known)}"


class _Frozen(BaseModel):
    """Immutable, rejects unknown keys with the nearest valid one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}{nearest(str(key), cls.model_fields)}")
        return data


Preset = Literal["fast", "reference", "random"]
DirectionFamily = Literal["rows", "shared", "mixed"]


class OptimizerSettings(_Frozen):
    """Settings of the zeroth-order search; symbols are those of arXiv 2602.02498.

    Built from a preset, of which single values may be replaced:
    ``OptimizerSettings.of("fast", num_directions=8)``. Lengths are in units of the model's
    embedding table, so that one default serves every model.
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
    normalization: Literal["normalize", "clip", "none"]
    """What is done to each row of the gradient estimate before a step: unit length, length at
    most 1, or nothing."""
    perturbation_scale: Annotated[float, Field(gt=0, strict=True)]
    """μ: standard deviation of a coordinate, in units of the RMS of the embedding table."""
    perturbation_growth: Annotated[float, Field(ge=1, strict=True)]
    """Factor by which μ grows after a flat iteration; 1: it never does, and no number of flat
    iterations ends the search before its budget."""
    max_perturbation_scale: Annotated[float, Field(gt=0, strict=True)]
    """Cap of μ."""
    spread_floor: Annotated[float, Field(ge=0, strict=True)]
    """Range of loss (harm) over an iteration up to which the iteration counts as flat."""
    step_size: Annotated[float, Field(ge=0, strict=True)]
    """η: length by which a row moves per step, in units of the table's mean row norm."""
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
    max_iterations: Annotated[int, Field(ge=0, strict=True)]
    """Iterations at most; 0 is plain generation."""
    min_cosine: Annotated[float, Field(ge=-1, le=1, strict=True)]
    """τ: floor of the cosine between the moved and the original point, both flattened."""
    use_offsets: bool
    """Whether the policy's offsets for the model are the first candidates."""
    descend: bool
    """Whether the centre moves. False is undirected random search around the original point."""
    accept_perturbations: bool
    """Whether a perturbed answer may be accepted, or iterates of the descent only."""

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
        if self.max_perturbation_scale < self.perturbation_scale:
            raise ValueError("max_perturbation_scale is below perturbation_scale")
        if self.estimator == "centered" and self.num_directions < 2:
            raise ValueError("estimator: centered needs num_directions of 2 or more")
        return self

    @classmethod
    def of(cls, preset: Preset = "fast", **changes: Any) -> Self:
        """The settings of a preset with some values replaced."""
        return cls.model_validate({"preset": preset, **changes})


_FAST: dict[str, Any] = {
    "directions": "shared",
    "subspace_rank": 8,
    "orthogonalize": True,
    "estimator": "centered",
    "normalization": "normalize",
    "perturbation_scale": 0.3,
    "perturbation_growth": 1.5,
    "max_perturbation_scale": 0.6,
    "spread_floor": 0.05,
    "plateau_patience": 3,
    "step_size": 0.2,
    "anchored": True,
    "num_directions": 8,
    "first_ask": 1,
    "horizon": 8,
    "max_iterations": 10,
    "min_cosine": 0.2,
    "use_offsets": True,
    "descend": True,
    "accept_perturbations": True,
}

PRESETS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "random": {**_FAST, "use_offsets": False, "descend": False},
    "reference": {
        "directions": "rows",
        "subspace_rank": None,
        "orthogonalize": False,
        "estimator": "forward",
        "normalization": "normalize",
        "perturbation_scale": 0.3,
        "perturbation_growth": 1.0,
        "max_perturbation_scale": 0.3,
        "spread_floor": 0.0,
        "plateau_patience": 1,
        "step_size": 0.3,
        "anchored": False,
        "num_directions": 16,
        "first_ask": None,
        "horizon": None,
        "max_iterations": 10,
        "min_cosine": 0.2,
        "use_offsets": False,
        "descend": True,
        "accept_perturbations": False,
    },
}
"""``reference`` is the published loop: independent rows, forward differences, N = 16, per-row
normalisation, a cosine floor of 0.2, iterates accepted only. Its μ and η are not published in
units of the table; those here were chosen on tuning prompts (docs/log.md)."""


class Budget(_Frozen):
    """What one prompt may cost, the first answer included. A null limit is no limit."""

    generations: Annotated[int, Field(ge=1, strict=True)] | None = 200
    tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Generated tokens."""
    seconds: Annotated[float, Field(gt=0, strict=True)] | None = None
    """Wall time. A limit in seconds makes results depend on the machine."""


def _known_category(name: str) -> str:
    if name in CATEGORIES or (name.startswith(CUSTOM) and len(name) > len(CUSTOM)):
        return name
    raise ValueError(
        f"unknown category {name!r}{nearest(name, CATEGORIES)} "
        f"(a category of your own starts with {CUSTOM!r})"
    )


Category = Annotated[str, AfterValidator(_known_category)]
Threshold = Annotated[float, Field(gt=0, le=1, strict=True)]


class ModeratorSpec(_Frozen):
    """A moderator of a policy: what it is called here, what it is, and how it is made."""

    name: Annotated[str, Field(min_length=1)]
    """The registered name, unless ``kind`` gives it: then a name of the policy's own choice, for
    two moderators of one kind."""
    kind: Annotated[str, Field(min_length=1)] | None = None
    """The registered name, where ``name`` is another."""
    options: Annotated[dict[str, Any], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """What its constructor takes."""

    @property
    def registered(self) -> str:
        """The name under which the kind of moderator is registered."""
        return self.kind or self.name

    @model_serializer(mode="wrap")
    def _plain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``kind`` where it says nothing, so that it does not change a policy's version."""
        data: dict[str, Any] = dump(self)
        return data if self.kind is not None else {k: v for k, v in data.items() if k != "kind"}


def _moderator_spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Coordinates = Annotated[tuple[float, ...], Field(min_length=1)]
Offsets = tuple[Coordinates, ...]


class Policy(_Frozen):
    """What is harmful here, and what is done about it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str = ""
    categories: Annotated[dict[Category, Threshold | None], AfterValidator(FrozenDict)] = (
        FrozenDict()
    )
    """Thresholds by category; null switches a category off. Categories that are not named, and
    that a moderator gives, keep ``default_threshold``."""
    default_threshold: Threshold = DEFAULT_THRESHOLD
    moderators: Annotated[
        tuple[Annotated[ModeratorSpec, BeforeValidator(_moderator_spec)], ...], Field(min_length=1)
    ] = (ModeratorSpec(name="embedded"),)
    combine: Literal["max", "mean"] = "max"
    """How the scores of several moderators become one, per category."""
    routes: Annotated[dict[Category, str], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """Category to the one moderator whose score counts for it."""
    confirm: tuple[Annotated[ModeratorSpec, BeforeValidator(_moderator_spec)], ...] = ()
    """Moderators that must accept, too, whatever leaves. They do not steer."""
    moderator_timeout: Annotated[float, Field(gt=0, strict=True)] = 60.0
    """Seconds that one batch of verdicts may take before it counts as failed."""
    steerable_rows: Literal["last_user", "user", "all"] = "last_user"
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings.of)
    offsets: Annotated[dict[str, Offsets], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """By name of a model: offsets of all steered rows that led to acceptable answers elsewhere,
    tried in this order before anything else. Each is given by its coordinates along the leading
    principal directions of the model's embedding table, as shares of a typical row's length
    (RMS · √d_model). `rerail fit` finds them."""
    budget: Budget = Budget()
    naturalness_floor: Annotated[float, Field(le=0, strict=True)] = -0.3
    """Least naturalness (nats per token) of an acceptable answer."""
    on_exhausted: Literal["refuse", "best"] = "refuse"
    """Budget spent: the refusal message, or the most natural unflagged answer below the floor,
    if there is one. Never a flagged or unscored one."""
    on_moderator_error: Literal["closed", "open"] = "closed"
    """``open`` lets an answer pass that could not be scored. For audit policies only."""
    audit: bool = False
    """Marks a policy under which unscored answers may leave; each response says so."""
    record_text: bool = False
    """Whether records keep prompts and answers."""
    refusal_message: Annotated[str, Field(min_length=1)] = "I can't help with that."
    error_message: Annotated[str, Field(min_length=1)] = (
        "This answer could not be checked, so it is not shown."
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.on_moderator_error == "open" and not self.audit:
            raise ValueError("on_moderator_error: open needs audit: true")
        names = [spec.name for spec in self.moderators]
        if len(set(names)) < len(names):
            raise ValueError(
                f"a moderator is named twice: {', '.join(names)}. Give one a name of its own, and "
                "what it is as its kind: {name: second, kind: http, options: ...}"
            )
        for category, name in self.routes.items():
            if name not in names:
                raise ValueError(f"route of {category!r}: unknown moderator {name!r}"
                                 + nearest(name, names))  # fmt: skip
        return self

    @property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the policy's content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def tag(self) -> PolicyTag:
        return PolicyTag(self.name, self.version, self.audit)

    def thresholds(
        self, given: Iterable[str], confirmed: Iterable[str] | None = None
    ) -> dict[str, float]:
        """Threshold of every active category of the moderator that steers.

        Args:
            given: categories that it gives.
            confirmed: categories that the moderators that confirm give; None: none confirms.

        Raises:
            PolicyError: the policy names a category that none of them gives, or none is active
                of those that steer, or of those that confirm, or it names moderators that confirm
                and there are none.
        """
        if self.confirm and confirmed is None:
            raise PolicyError(
                f"policy {self.name!r} names moderators that confirm: "
                "pass confirm=load_confirm(policy)"
            )
        given, confirmed = tuple(given), tuple(confirmed or ())
        known = {*given, *confirmed}
        for category, threshold in self.categories.items():
            if threshold is not None and category not in known:
                raise PolicyError(
                    f"policy {self.name!r} names category {category!r}, which its moderators do "
                    f"not give{nearest(category, known)}"
                )
        if not (thresholds := self.active(given)):
            raise PolicyError(f"policy {self.name!r} switches every category off")
        if confirmed and not self.active(confirmed):
            raise PolicyError(
                f"policy {self.name!r} switches off every category of the moderators that confirm: "
                "leave them out"
            )
        return thresholds

    def active(self, given: Iterable[str]) -> dict[str, float]:
        """Threshold of each category among ``given`` that the policy does not switch off."""
        values = {c: self.categories.get(c, self.default_threshold) for c in given}
        return {c: t for c, t in values.items() if t is not None}

    @classmethod
    def parse(cls, data: Any, source: str = "policy") -> Self:
        """Validate a mapping.

        Raises:
            PolicyError: with every fault found, one per line, and where it is.
        """
        if not isinstance(data, Mapping):
            raise PolicyError(f"{source}: a policy is a mapping of keys, not {_kind(data)}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            faults = [
                f"  {'.'.join(str(part) for part in fault['loc']) or 'policy'}: "
                + fault["msg"].removeprefix("Value error, ")
                for fault in error.errors()
            ]
            raise PolicyError("\n".join([f"{source} is not valid:", *faults])) from None

    @classmethod
    def from_yaml(cls, text: str, source: str = "policy") -> Self:
        """Read the YAML form.

        Raises:
            PolicyError: the text is not YAML, or not a valid policy.
        """
        try:
            data = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
        except yaml.YAMLError as error:
            raise PolicyError(f"{source} is not YAML: {error}") from None
        except RecursionError:
            raise PolicyError(f"{source} is not usable: nested too deep") from None
        return cls.parse(data, source)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a YAML file.

        Raises:
            PolicyError: it cannot be read, or is not a valid policy.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"cannot read policy {path}: {error}") from None
        return cls.from_yaml(text, str(path))

    def to_yaml(self) -> str:
        """The policy with every value written out; reads back to the same version."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def harm(score: Score, thresholds: Mapping[str, float]) -> float:
    """``max_c score_c / threshold_c`` over the thresholds' categories: flagged at 1 and above.

    Infinite if the verdict is unscored or lacks one of the categories.
    """
    if not score.scored or any(c not in score.categories for c in thresholds):
        return math.inf
    return max(score.categories[c] / t for c, t in thresholds.items())


class PolicyStore:
    """Policies by name, with their history. Reading never blocks and never sees half a change.

    A running request keeps the policy that it was given.
    """

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self._write = threading.Lock()
        self._current: Mapping[str, Policy] = {p.name: p for p in policies}
        self._history: dict[str, list[Policy]] = {n: [p] for n, p in self._current.items()}

    @classmethod
    def shipped(cls) -> Self:
        """The policies that come with rerail: default, strict, permissive, audit."""
        folder = resources.files("rerail") / "assets" / "policies"
        return cls(
            Policy.from_yaml(file.read_text(encoding="utf-8"), file.name)
            for file in sorted(folder.iterdir(), key=lambda f: f.name)
            if file.name.endswith(".yaml")
        )

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._current))

    def get(self, name: str) -> Policy:
        """The current policy of that name.

        Raises:
            PolicyError: there is none; the message names the nearest.
        """
        current = self._current
        if name not in current:
            raise PolicyError(f"unknown policy {name!r}{nearest(name, current)}")
        return current[name]

    def put(self, policy: Policy) -> str:
        """Make the policy current under its name; returns its version."""
        with self._write:
            self._current = {**self._current, policy.name: policy}
            self._history.setdefault(policy.name, []).append(policy)
        return policy.version

    def remove(self, name: str) -> None:
        """Forget the current policy of that name; its history stays.

        Raises:
            PolicyError: there is none.
        """
        with self._write:
            self.get(name)
            self._current = {n: p for n, p in self._current.items() if n != name}

    def history(self, name: str) -> tuple[Policy, ...]:
        """Every policy that was put under the name, oldest first."""
        with self._write:
            return tuple(self._history.get(name, ()))


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader for which a key that stands twice is an error."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands twice", key_node.start_mark
            )
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _kind(data: Any) -> str:
    return "nothing" if data is None else type(data).__name__
