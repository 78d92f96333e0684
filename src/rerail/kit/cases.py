"""Cases of a policy: what it has to say of answers, and how prompts have to end.

    cases:
      - id: insult
        prompt: Can you help me?
        answer: ...
        flagged: true
        category: harassment     # which one flags it, or must not
        at_least: 0.6            # its score
      - id: bread
        prompt: How is bread made?
        outcome: [passed, steered]

A case with an `answer` is judged by the policy's moderators; one with an `outcome` is answered by a
model. A verdict that cannot be had holds no case: it is an error of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, ValidationError, model_validator

from rerail._yaml import NotYamlError, read_yaml
from rerail.errors import InputFileError, PromptError
from rerail.panel import Panel
from rerail.policy import Category, faults
from rerail.settings import Frozen
from rerail.types import Exchange, Outcome, Prompt, Response, Verdict

if TYPE_CHECKING:
    from rerail.align import Aligner

Bound = Annotated[float, Field(ge=0, le=1, strict=True)]


class Turn(Frozen):
    """A message of a case."""

    role: Literal["system", "user", "assistant"]
    content: str


class Case(Frozen):
    """One case: an answer with what the policy has to say of it, or a prompt with its outcome."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
    prompt: str | None = None
    messages: tuple[Turn, ...] = ()
    answer: str | None = None
    """Judged as an answer to the prompt, or without one as a text of its own."""
    flagged: StrictBool | None = None
    category: Category | None = None
    """Where flagged: it flags the answer, whatever else does. Else: the case counts for it."""
    at_least: Bound | None = None
    """Of the category's score."""
    at_most: Bound | None = None
    outcome: Annotated[
        tuple[Literal["passed", "steered", "refused"], ...],
        BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
    ] = ()
    """Any of them, of what a model answers."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.answer is None) == (not self.outcome):
            raise ValueError("give either an answer, or an outcome")
        if self.prompt is not None and self.messages:
            raise ValueError("give either prompt or messages")
        judged = (self.flagged, self.category, self.at_least, self.at_most)
        if self.outcome and any(value is not None for value in judged):
            raise ValueError("flagged, category, at_least and at_most belong to an answer")
        bounds = [value for value in judged[2:] if value is not None]
        if self.answer is not None and self.flagged is None and not bounds:
            raise ValueError("say what is expected of the answer: flagged, at_least or at_most")
        if bounds and self.category is None:
            raise ValueError("at_least and at_most are of a category's score: give the category")
        if bounds != sorted(bounds):
            raise ValueError("at_least is above at_most")
        if self.answer is not None and not self.answer.strip():
            raise ValueError("the answer is empty: no moderator scores it")
        self.asked()
        return self

    def asked(self) -> Prompt | None:
        """The prompt; None if the answer is a text of its own.

        Raises:
            ValueError: it cannot be answered, or is needed and not there.
        """
        if self.prompt is None and not self.messages:
            if self.outcome:
                raise ValueError("an outcome needs a prompt or messages")
            return None
        turns = [turn.model_dump() for turn in self.messages]
        try:
            return Prompt.of(turns if self.prompt is None else self.prompt)
        except PromptError as error:
            raise ValueError(str(error)) from None


class _File(Frozen):
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        seen: set[str] = set()
        for case in self.cases:
            if case.id in seen:
                raise ValueError(f"id {case.id!r} stands twice")
            seen.add(case.id)
        return self


def parse_cases(text: str, source: str = "cases") -> tuple[Case, ...]:
    """The cases of a YAML text.

    Raises:
        InputFileError: it is not YAML, or holds what is no case; every fault is named.
    """
    try:
        data = read_yaml(text)
    except NotYamlError as error:
        raise InputFileError(f"{source}, {error}") from None
    if not isinstance(data, Mapping):
        raise InputFileError(f"{source}: cases are a mapping with the key 'cases'")
    try:
        return _File.model_validate(data).cases
    except ValidationError as error:
        raise InputFileError(f"{source} is not valid:{faults(error, 'cases')}") from None


def read_cases(path: Path) -> tuple[Case, ...]:
    """The cases of a file.

    Raises:
        InputFileError: it cannot be read, or is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read cases {path}: {error}") from None
    return parse_cases(text, str(path))


class State(StrEnum):
    """What became of a case."""

    HELD = "held"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Result:
    """A case, and what became of it.

    Attributes:
        case: the case.
        state: held, failed, error (no verdict, or no answer) or skipped (there is no model).
        found: what the policy or the model made of it, without texts.
        why: what does not hold; None if all does.
    """

    case: Case
    state: State
    found: str
    why: str | None = None


def try_cases(panel: Panel, cases: Sequence[Case], aligner: Aligner | None = None) -> list[Result]:
    """What becomes of cases under a policy, in order.

    Args:
        panel: the policy with its moderators.
        cases: to be tried.
        aligner: answers those with an outcome; None skips them.
    """
    answers = {c.id: _exchange(c) for c in cases if c.answer is not None}
    verdicts = dict(
        zip(answers, (j.verdict for j in panel.judge(list(answers.values()))), strict=True)
    )
    prompts = {c.id: prompt for c in cases if c.outcome and (prompt := c.asked()) is not None}
    responses: dict[str, Response] = {}
    if aligner is not None and prompts:
        names = list(prompts)
        responses = {names[i]: r for i, r in aligner.align_iter(list(prompts.values()))}
    return [
        _judged(panel, c, verdicts[c.id]) if c.id in verdicts else _answered(c, responses.get(c.id))
        for c in cases
    ]


def _exchange(case: Case) -> Exchange:
    prompt = case.asked()
    return Exchange(() if prompt is None else prompt.messages, case.answer or "")


def _judged(panel: Panel, case: Case, verdict: Verdict) -> Result:
    if verdict.unscored is not None:
        return Result(case, State.ERROR, "unscored", f"no verdict: {verdict.unscored}")
    by = f": {panel.decisive(verdict.scores)}" if verdict.flagged else ""
    found = f"{'' if verdict.flagged else 'not '}flagged{by}, harm {verdict.harm:.2f}"
    why = "; ".join(_faults(panel, case, verdict)) or None
    return Result(case, State.FAILED if why else State.HELD, found, why)


def _faults(panel: Panel, case: Case, verdict: Verdict) -> list[str]:
    """What does not hold of a case."""
    wrong = []
    if case.flagged is not None and verdict.flagged != case.flagged:
        wrong.append("must be flagged" if case.flagged else "must not be flagged")
    category = case.category
    if category is None:
        return wrong
    if category not in panel.all_thresholds:
        said = "is given by no moderator of the policy"
        if category in verdict.scores:
            noted = category in panel.noted_thresholds
            said = "is only noted, and never flags" if noted else "is switched off"
        return [*wrong, f"{category} {said}"]
    if category not in verdict.scores:
        return [*wrong, f"{category} was not scored: those that confirm were not asked"]
    given = verdict.scores[category]
    if case.flagged and verdict.flagged and not panel.flags(verdict.scores)[category]:
        wrong.append(f"must be flagged by {category}, which gives {given:.2f}")
    if case.at_least is not None and given < case.at_least:
        wrong.append(f"{category} gives {given:.2f}, at least {case.at_least:g} is wanted")
    if case.at_most is not None and given > case.at_most:
        wrong.append(f"{category} gives {given:.2f}, at most {case.at_most:g} is wanted")
    return wrong


def _answered(case: Case, response: Response | None) -> Result:
    if response is None:
        return Result(case, State.SKIPPED, "not asked", "needs a model: give --model")
    found = f"{response.outcome} after {response.cost.generations} generations"
    if response.outcome is Outcome.ERROR:
        return Result(case, State.ERROR, found, f"no answer: {response.error}")
    if str(response.outcome) in case.outcome:
        return Result(case, State.HELD, found)
    return Result(case, State.FAILED, found, f"must be {' or '.join(case.outcome)}")


@dataclass(frozen=True)
class Coverage:
    """The cases that name a category.

    Attributes:
        category: a category of the policy.
        flagged: ids of those that it must flag.
        passes: ids of those that must not be flagged.
    """

    category: str
    flagged: tuple[str, ...]
    passes: tuple[str, ...]


def coverage(panel: Panel, cases: Sequence[Case]) -> list[Coverage]:
    """The cases of each category that the policy judges by."""

    def of(category: str, flagged: bool) -> tuple[str, ...]:
        return tuple(c.id for c in cases if c.category == category and c.flagged is flagged)

    return [Coverage(c, of(c, True), of(c, False)) for c in panel.all_thresholds]


def to_json(result: Result) -> dict[str, Any]:
    """The public form of a result."""
    return {
        "id": result.case.id,
        "state": str(result.state),
        "found": result.found,
        "why": result.why,
    }
