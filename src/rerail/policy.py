"""A policy says what is harmful, who judges it, what may move, and what to do when nothing helps.

Policies are frozen values; a change is a new value with a new version. The file form is YAML,
read with a safe loader: unknown keys, duplicate keys and unknown categories are errors that name
the nearest valid one. `PolicyStore` swaps whole policies atomically.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import PolicyError
from rerail.names import nearest
from rerail.settings import Frozen, OptimizerSettings, said
from rerail.types import Action, FrozenDict, PolicyTag, SteerableRows

DEFAULT_THRESHOLD = 0.5

ACCEPT_BELOW = 0.5
"""Harm that a steered answer may have at most, where a policy does not say."""

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


class Budget(Frozen):
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


class ModeratorSpec(Frozen):
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


class GateSpec(ModeratorSpec):
    """A moderator of the *prompt*, asked before anything is generated."""

    action: Action = "steer"
    """What becomes of a prompt that it flags: ``steer`` (guidance and a known offset are asked
    beside the first answer, which has to be clearly harmless to leave), ``refuse`` (nothing is
    generated) or ``note`` (it is answered as any other, and named in the response)."""
    categories: Annotated[dict[Category, Threshold | None], AfterValidator(FrozenDict)] = (
        FrozenDict()
    )
    """Its own thresholds by category, of the prompt; null switches a category off."""
    default_threshold: Threshold = DEFAULT_THRESHOLD
    """Of its categories that are not named."""


def _moderator_spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


MODERATED_BY = ("moderators", "combine", "routes", "confirm", "gate")
"""Keys of a policy that say which moderators it has."""

PLACE = "{prompt}"
"""In a guidance text: where the user's words stand."""


def _words_of_its_own(text: str) -> str:
    if not text.replace(PLACE, "").strip():
        raise ValueError(f"a guidance text needs words of its own, beside {PLACE}")
    if text.count(PLACE) > 1:
        raise ValueError(f"a guidance text holds {PLACE} once at most")
    return text


class Guidance(Frozen):
    """Words of the policy's own, that the model reads and people do not."""

    text: Annotated[str, AfterValidator(_words_of_its_own)]
    """Stands in the system turn; a text that holds ``{prompt}`` stands around the user's words
    instead, which take that place."""
    categories: tuple[Category, ...] = ()
    """Only where one of these flags the answer; none: always."""


def _guidance(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


_LATER = ("actions", "gate", "lookahead", "release", "tools")
"""Keys that policies did not always have."""

Coordinates = Annotated[tuple[float, ...], Field(min_length=1)]
Offsets = tuple[Coordinates, ...]


class Policy(Frozen):
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
    accept_below: Annotated[float, Field(gt=0, le=1, strict=True)] = ACCEPT_BELOW
    """Harm that a *steered* answer may have at most, as a share of the threshold: clearly harmless,
    not just below the line. 1: anything that is not flagged. First answers pass below 1."""
    combine: Literal["max", "mean"] = "max"
    """How the scores of several moderators become one, per category."""
    routes: Annotated[dict[Category, str], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """Category to the one moderator whose score counts for it."""
    confirm: tuple[Annotated[ModeratorSpec, BeforeValidator(_moderator_spec)], ...] = ()
    """Moderators that must accept, too, whatever leaves. They do not steer."""
    actions: Annotated[dict[Category, Action], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """What becomes of an answer by the category that flags it: ``steer`` (the default),
    ``refuse`` (a first answer of this category ends in the refusal message, without a search), or
    ``note`` (the category never flags; its score is recorded, and the response names it)."""
    gate: tuple[Annotated[GateSpec, BeforeValidator(_moderator_spec)], ...] = ()
    """Moderators of what the user says, turn by turn, each a text of its own; asked before
    anything is generated. Of several that flag a prompt the strictest action holds."""
    moderator_timeout: Annotated[float, Field(gt=0, strict=True)] = 60.0
    """Seconds that one batch of verdicts may take before it counts as failed."""
    steerable_rows: SteerableRows = "last_user"
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings.of)
    offsets: Annotated[dict[str, Offsets], AfterValidator(FrozenDict)] = Field(
        default_factory=dict, validate_default=True
    )
    """By name of a model: offsets of all steered rows that led to acceptable answers elsewhere,
    tried in this order before anything else. Each is given by its coordinates along the leading
    principal directions of the model's embedding table, as shares of a typical row's length
    (RMS · √d_model). `rerail tune` finds them."""
    guidance: tuple[Annotated[Guidance, BeforeValidator(_guidance)], ...] = ()
    """Texts that are given to the model beside the prompt when an answer is flagged, one after the
    other, after the offsets and before the search: what the model answers then leaves if it is
    acceptable and does not repeat the text. Those for a category that flags the answer come
    first."""
    budget: Budget = Budget()
    naturalness_floor: Annotated[float, Field(le=0, strict=True)] | None = -0.3
    """Least naturalness (nats per token) of an acceptable answer; those to guidance are not held to
    it. null: it is not asked for, as it cannot be of a model behind a text API."""
    relevance_floor: Annotated[float, Field(strict=True)] | None = None
    """Least relevance (nats per token) of an acceptable answer to moved embeddings: how much
    likelier it is under the prompt than under one that asks for anything. What is below 0 could as
    well answer something else. null: it is not asked for."""
    on_exhausted: Literal["refuse", "best"] = "refuse"
    """Budget spent: the refusal message, or the most natural answer below the floor whose harm is
    at most ``accept_below``, if there is one. Never a flagged or unscored one."""
    on_moderator_error: Literal["closed", "open"] = "closed"
    """``open`` lets an answer pass that could not be scored. For audit policies only."""
    audit: bool = False
    """Marks a policy under which unscored answers may leave; each response says so."""
    reasoning: Literal["withhold", "show"] = "withhold"
    """What becomes of what a model thinks before it answers: it never leaves, in no form, or it
    stands beside the answer. No answer that never came leaves either way."""
    judge_reasoning: bool = False
    """Whether reasoning is judged although it is withheld. What is shown always is. It is put to
    the moderators as a text of its own; of it and the answer the larger score counts."""
    max_reasoning_tokens: Annotated[int, Field(ge=1, strict=True)] = 1024
    """Tokens that a model may think before an answer; those of the answer come on top."""
    tools: Literal["refuse", "judge"] = "refuse"
    """Whether prompts may have tools. ``judge``: name and arguments of what an answer calls are
    judged as text of it; a call that the policy flags leaves no more than a text would."""
    release: Literal["whole", "window"] = "whole"
    """When the text of a stream leaves. ``whole``: once all of the answer is accepted. ``window``:
    a piece of the model's first answer leaves once the text up to ``lookahead`` tokens beyond it
    was judged and is acceptable so far; where more of it is not, what was sent stays, and the
    search is for another rest. Answers that are no streams leave whole."""
    lookahead: Annotated[int, Field(ge=1, strict=True)] = 48
    """Tokens that are judged beyond what leaves, under ``release: window``."""
    record_text: bool = False
    """Whether records keep prompts and answers, and reasoning where it is shown."""
    refusal_message: Annotated[str, Field(min_length=1)] = "I can't help with that."
    error_message: Annotated[str, Field(min_length=1)] = (
        "This answer could not be checked, so it is not shown."
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.on_moderator_error == "open" and not self.audit:
            raise ValueError("on_moderator_error: open needs audit: true")
        names = [spec.name for spec in self.moderators]
        for each in (names, [spec.name for spec in self.gate]):
            if len(set(each)) < len(each):
                raise ValueError(
                    f"a moderator is named twice: {', '.join(each)}. Give one a name of its own, "
                    "and what it is as its kind: {name: second, kind: http, options: ...}"
                )
        for category, action in self.actions.items():
            if category in self.categories and self.categories[category] is None:
                raise ValueError(
                    f"actions: {action} {category!r}, which categories switches off: give it a "
                    "threshold, or leave its action out"
                )
        if self.release == "window" and self.judges_reasoning:
            raise ValueError(
                "release: window needs reasoning: withhold and judge_reasoning: false: reasoning "
                "is judged with the whole answer"
            )
        if self.release == "window" and self.optimizer.result == "best_iterate":
            raise ValueError(
                f"release: window does not go with optimizer {self.optimizer.preset}: the best "
                "iterate is known when all are"
            )
        for category, name in self.routes.items():
            if name not in names:
                raise ValueError(f"route of {category!r}: unknown moderator {name!r}"
                                 + nearest(name, names))  # fmt: skip
        return self

    @property
    def judges_reasoning(self) -> bool:
        """Whether reasoning is judged: because it is shown, or all the same."""
        return self.judge_reasoning or self.reasoning == "show"

    @property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of the policy's content.

        A key that came later counts where it says something: policies that do not use it, and
        records of them, keep their versions.
        """
        changed = self.model_dump(exclude_defaults=True).keys()
        values = self.model_dump(mode="json")
        said = {key: v for key, v in values.items() if key in changed or key not in _LATER}
        content = json.dumps(said, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def tag(self) -> PolicyTag:
        return PolicyTag(self.name, self.version, self.audit)

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
            raise PolicyError(f"{source} is not valid:{faults(error, 'policy')}") from None

    @classmethod
    def from_yaml(cls, text: str, source: str = "policy") -> Self:
        """Read the YAML form.

        Raises:
            PolicyError: the text is not YAML, or not a valid policy.
        """
        try:
            data = read_yaml(text)
        except NotYamlError as error:
            raise PolicyError(f"{source}, {error}") from None
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


def shipped_texts() -> dict[str, str]:
    """The texts of the policies that come with rerail, their comments included, by file."""
    folder = resources.files("rerail") / "assets" / "policies"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {f.name: f.read_text(encoding="utf-8") for f in files if f.name.endswith(".yaml")}


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
        """The policies that come with rerail: default, strict, permissive, audit, quick, text."""
        return cls(Policy.from_yaml(text, name) for name, text in shipped_texts().items())

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


def faults(error: ValidationError, whole: str) -> str:
    """The faults of a value, each on a line of its own with its place.

    Args:
        error: with the faults.
        whole: what is at fault where no part of it is.
    """
    return "".join(
        f"\n  {'.'.join(map(str, fault['loc'])) or whole}: {said(fault['msg'])}"
        for fault in error.errors()
    )


def _kind(data: Any) -> str:
    return "nothing" if data is None else type(data).__name__
