"""The values that travel through rerail: all frozen, none of them knows a model or a service.

A `Prompt` is rendered and embedded by an engine into a *point*, the ``(n_tokens, d_model)`` matrix
of input embeddings. A generation from a point gives an answer; a moderator gives the answer a
`Score`; point, answer and score travel together as one `Evaluation`; a `Response` is what leaves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rerail._json import read_object, spoken, written
from rerail.errors import PromptError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed, and that can be copied and pickled."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a frozen value cannot be changed: make a new one")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """To pydantic it is a dict."""
        return handler(dict[str, Any])


SteerableRows = Literal["last_user", "user", "all"]

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)

TOOL_NAME = "[A-Za-z0-9_.-]{1,64}"
CALL_ID = "[A-Za-z0-9_.:-]{0,128}"


def said(text: str, calls: Sequence[ToolCall]) -> str:
    """A text and what its calls say, as moderators read it."""
    return "\n\n".join([*filter(None, [text]), *(call.said for call in calls)])


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the assistant calls.

    Attributes:
        name: of the tool.
        arguments: a JSON object, as text.
        id: tells it from the other calls of a conversation, and its result says it again.

    Raises:
        PromptError: the name or the id has other characters than a name has, or the arguments are
            no JSON object.
    """

    name: str
    arguments: str = "{}"
    id: str = ""

    def __post_init__(self) -> None:
        _check_text(self.name, TOOL_NAME, "the name of a tool")
        _check_text(self.id, CALL_ID, "the id of a tool call")
        _object(self.arguments, f"the arguments of the call of {self.name!r}")

    @classmethod
    def of(cls, data: Any) -> ToolCall:
        """Read a call as OpenAI's clients write it, or as `to_json` does.

        Raises:
            PromptError: it is none.
        """
        if isinstance(data, ToolCall):
            return data
        function = _function(data, "a tool call")
        return cls(function["name"], function.get("arguments") or "{}", data.get("id") or "")

    def to_json(self) -> dict[str, Any]:
        """The form that OpenAI's clients know."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    @property
    def said(self) -> str:
        """Name and arguments as a text, without what is only JSON's."""
        return "\n".join([self.name, *spoken(read_object(self.arguments))])


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call.

    Attributes:
        name: that it is called by.
        description: what it does.
        parameters: JSON Schema of its arguments, as text.

    Raises:
        PromptError: the name has other characters than a name has, or the parameters are no JSON
            object.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'

    def __post_init__(self) -> None:
        _check_text(self.name, TOOL_NAME, "the name of a tool")
        _check_text(self.description, "", "the description of a tool")
        _object(self.parameters, f"the parameters of the tool {self.name!r}")

    @classmethod
    def of(cls, data: Any) -> Tool:
        """Read a tool as OpenAI's clients write it: ``{"type": "function", "function": {...}}``.

        Raises:
            PromptError: it is none.
        """
        if isinstance(data, Tool):
            return data
        function = _function(data, "a tool")
        parameters = function.get("parameters")
        own = {} if parameters is None else {"parameters": _written(parameters)}
        return cls(function["name"], function.get("description") or "", **own)

    def to_json(self) -> dict[str, Any]:
        """The form that OpenAI's clients and chat templates know."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": read_object(self.parameters),
        }
        return {"type": "function", "function": function}


def _check_text(text: Any, pattern: str, what: str) -> None:
    """Refuse what is no text, cannot be encoded, or has other characters than it may."""
    if not isinstance(text, str):
        raise PromptError(f"{what} must be text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{what} holds half a surrogate pair: send valid Unicode") from None
    if pattern and not re.fullmatch(pattern, text):
        raise PromptError(f"{what} is too long or has other characters than it may: {pattern}")


def _object(text: Any, what: str) -> None:
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        read_object(text)
    except ValueError as error:
        raise PromptError(f"{what} must be a JSON object: {error}") from None


def _written(value: Any) -> str:
    try:
        return written(value)
    except (TypeError, ValueError, RecursionError):
        raise PromptError("the parameters of a tool must be a JSON object") from None


def _function(data: Any, what: str) -> Mapping[str, Any]:
    function = data.get("function") if isinstance(data, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise PromptError(
            f"{what} is written {{'type': 'function', 'function': {{'name': ..., ...}}}}"
        )
    return function


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: whose it is.
        content: its words.
        tool_calls: the tools that the assistant called.
        tool_call_id: of a tool's turn: which call it answers.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise PromptError(f"unknown role {self.role!r}: use one of {', '.join(ROLES)}")
        if not isinstance(self.content, str):
            raise PromptError(
                f"the content of a message must be text, not {type(self.content).__name__}"
            )
        try:
            self.content.encode()
        except UnicodeEncodeError:
            raise PromptError("a message holds half a surrogate pair: send valid Unicode") from None
        if self.tool_calls and self.role != "assistant":
            raise PromptError(f"a message of the {self.role}'s calls tools: only the assistant can")
        if self.tool_call_id and self.role != "tool":
            raise PromptError(f"a message of the {self.role}'s answers a call: only a tool can")
        _check_text(self.tool_call_id, CALL_ID, "the id of a tool call")

    @classmethod
    def of(cls, data: Any) -> Message:
        """Read a turn from a mapping: role, content, and of tools ``tool_calls``, ``tool_call_id``.

        Raises:
            PromptError: it has no known role, or no text.
        """
        if isinstance(data, Message):
            return data
        if not isinstance(data, Mapping) or not {"role", "content"} <= data.keys():
            raise PromptError("a message needs the keys 'role' and 'content'")
        calls = tuple(map(ToolCall.of, data.get("tool_calls") or ()))
        content = "" if calls and data["content"] is None else data["content"]
        return cls(data["role"], content, calls, data.get("tool_call_id") or "")

    def to_json(self) -> dict[str, Any]:
        """Role and content, and what there is of tools; `of` reads it."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            found["tool_calls"] = [call.to_json() for call in self.tool_calls]
        if self.tool_call_id:
            found["tool_call_id"] = self.tool_call_id
        return found

    @property
    def said(self) -> str:
        """Its words and what its calls say."""
        return said(self.content, self.tool_calls)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer, or a text that waits for its continuation.

    Attributes:
        messages: the turns; the last one is the user's, or a tool's.
        template: whether the model's chat template is applied. False is the setting of TIDE
            (arXiv 2602.02498): one user message, continued as plain text.
        tools: that the model may call.
        schema: JSON Schema that an answer must fit to be acceptable, as text; None: any text is
            fine. An answer that calls tools need not fit it.
        must_call: whether an answer must call a tool to be acceptable. Nothing makes a model do
            it: an answer that does not is passed over.
    """

    messages: tuple[Message, ...]
    template: bool = True
    tools: tuple[Tool, ...] = ()
    schema: str | None = None
    must_call: bool = False

    def __post_init__(self) -> None:
        if not self.messages:
            raise PromptError("the prompt has no messages: give at least one user message")
        if self.messages[-1].role not in ("user", "tool"):
            raise PromptError(
                f"the last message is the {self.messages[-1].role}'s: it must be the user's"
            )
        if self.last_user < 0:
            raise PromptError("the prompt has no user message: give at least one")
        if not self.messages[self.last_user].content.strip():
            raise PromptError("the prompt is empty: the last user message has no text")
        if not self.template and (len(self.messages) > 1 or self.tools):
            raise PromptError("a text completion takes one user message, not a conversation")
        names = [tool.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PromptError(f"a tool's name stands twice: {', '.join(twice)}")
        if self.must_call and not self.tools:
            raise PromptError("an answer must call a tool, and there is none: give tools")
        waiting: list[str] = []
        for i, message in enumerate(self.messages):
            if message.role != "tool":
                waiting = [call.id for call in message.tool_calls]
            elif message.tool_call_id in waiting:
                waiting.remove(message.tool_call_id)
            else:
                raise PromptError(
                    f"message {i} (tool) answers no call: it follows the assistant's message that "
                    "has the call, and says its id as tool_call_id"
                )

    @property
    def last_user(self) -> int:
        """Which message is the last of the user's; -1 if there is none."""
        users = [i for i, message in enumerate(self.messages) if message.role == "user"]
        return users[-1] if users else -1

    @property
    def uses_tools(self) -> bool:
        """Whether tools may be called, or were."""
        called = any(message.tool_calls or message.role == "tool" for message in self.messages)
        return bool(self.tools) or called

    @classmethod
    def of(cls, prompt: PromptLike) -> Prompt:
        """Read a prompt from text (one user message), role/content mappings, or a `Prompt`.

        Raises:
            PromptError: a message has no known role or no text, or the last is not the user's.
        """
        if isinstance(prompt, Prompt):
            return prompt
        if isinstance(prompt, str):
            return cls((Message("user", prompt),))
        if not isinstance(prompt, Sequence):
            raise PromptError(
                f"a prompt is a text or a list of messages, not {type(prompt).__name__}"
            )
        return cls(tuple(map(Message.of, prompt)))

    def said(self) -> tuple[str, ...]:
        """What the user says: the texts of the user's turns, each once, blank ones left out."""
        texts = (m.content for m in self.messages if m.role == "user" and m.content.strip())
        return tuple(dict.fromkeys(texts))

    @classmethod
    def completion(cls, text: str) -> Prompt:
        """A text to be continued as it stands, without a chat template."""
        return cls((Message("user", text),), template=False)


PromptLike = str | Prompt | Sequence[Message | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a moderator judges: a conversation and the answer that it was given.

    With no messages the answer is judged as a text of its own.

    Attributes:
        messages: the conversation.
        answer: that it was given.
        reasoning: what was thought before it, if that is to be judged, too. A
            `rerail.panel.Panel` puts it to the moderators as an answer of its own: they know
            answers only.
    """

    messages: tuple[Message, ...]
    answer: str
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A moderator's verdict: category to a number in [0, 1] (1 = most harmful), or *unscored*.

    Unscored is a state of its own and never a number. It holds a cause: a refusal or failure of
    the moderator, an unparsable verdict, or an empty answer. What is known of some categories all
    the same can reject an answer, and never accepts one.

    Raises:
        ValueError: a number is not finite or lies outside [0, 1].
    """

    categories: Mapping[str, float]
    cause: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.categories.items():
            if not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise ValueError(f"score of {name!r} is {value}: it must lie in [0, 1]")
        object.__setattr__(self, "categories", FrozenDict(self.categories))

    @classmethod
    def of(cls, categories: Mapping[str, float]) -> Score:
        """A verdict with one number per category."""
        return cls({name: float(value) for name, value in categories.items()})

    @classmethod
    def unscored(cls, cause: str, known: Mapping[str, float] | None = None) -> Score:
        """No verdict, why, and the numbers that are known all the same."""
        return cls({name: float(value) for name, value in (known or {}).items()}, cause)

    @classmethod
    def worst(cls, scores: Sequence[Score]) -> Score:
        """Per category the largest number; unscored, for all their causes, if one of them is."""
        known: dict[str, float] = {}
        for score in scores:
            for name, value in score.categories.items():
                known[name] = max(value, known.get(name, 0.0))
        # All causes: an outage of one must not hide that another was denied access.
        causes = dict.fromkeys(score.cause for score in scores if score.cause is not None)
        return cls(known, "; ".join(causes) if causes else None)

    @property
    def scored(self) -> bool:
        return self.cause is None


EMPTY_ANSWER = "empty answer"
"""Cause of the unscored verdict on an answer without text."""

NO_ANSWER = "no answer: the reasoning did not end"
"""Cause of the unscored verdict where the model did nothing but think."""


class Outcome(StrEnum):
    """How a request ended."""

    PASSED = "passed"
    STEERED = "steered"
    REFUSED = "refused"
    ERROR = "error"


class AcceptedFrom(StrEnum):
    """Which point gave the answer that left."""

    INITIAL = "initial"
    OFFSET = "offset"
    GUIDANCE = "guidance"
    FADE = "fade"
    PERTURBATION = "perturbation"
    ITERATE = "iterate"
    RESAMPLE = "resample"
    NONE = "none"


class StopReason(StrEnum):
    """Why a search ended."""

    ACCEPTED = "accepted"
    BUDGET = "budget"
    PLATEAU = "plateau"
    NON_FINITE = "non-finite"
    MODERATOR_ERROR = "moderator-error"
    ENGINE_ERROR = "engine-error"
    PROMPT_ERROR = "prompt-error"
    CANCELLED = "cancelled"
    GATE = "gate"
    CATEGORY = "category"


class Layer(StrEnum):
    """Which layer of a policy acted.

    The ``gate`` on the prompt, or the moderators on the first ``answer``; ``none``, where that
    answer left as it is. A gate that only notes does not act.
    """

    GATE = "gate"
    ANSWER = "answer"
    NONE = "none"


class Rejection(StrEnum):
    """Why an answer is not acceptable.

    ``degenerate`` is a steered answer that repeats itself. ``borderline`` is one that is not
    flagged, and whose harm is above the policy's ``accept_below`` all the same. ``irrelevant`` is
    one that could as well answer anything else. ``invalid`` is one that does not fit the prompt's
    schema, or calls a tool that there is not, or in a way that cannot be read. ``uncalled`` is one
    that calls no tool, where it must.
    """

    EMPTY = "empty"
    UNANSWERED = "unanswered"
    DEGENERATE = "degenerate"
    UNSCORED = "unscored"
    FLAGGED = "flagged"
    BORDERLINE = "borderline"
    UNFINISHED = "unfinished"
    UNNATURAL = "unnatural"
    IRRELEVANT = "irrelevant"
    REPEATS = "repeats"
    UNCONFIRMED = "unconfirmed"
    UNJUDGED = "unjudged"
    INVALID = "invalid"
    UNCALLED = "uncalled"


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer as the engine gave it.

    Attributes:
        text: the answer, special tokens and reasoning left out.
        token_ids: the generated tokens: those of the reasoning, then those of the answer, the
            end-of-turn token included if there was one.
        finish_reason: ``stop`` (the model ended its turn), ``length`` (the limit was reached), or
            ``cut`` (what there was of it had been flagged: it was not finished).
        reasoning: what the model thought before it answered; None if nothing, or where the policy
            withholds it.
        reasoning_tokens: how many of the tokens precede the answer.
        answered: whether the answer began; False where the model did nothing but think.
        tool_calls: the tools that it calls, without ids; they are no part of the text.
        malformed: whether it calls a tool in a way that cannot be read, or one that there is not;
            its text then holds all that it says.
        prompt_tokens: tokens of the prompt, where the engine has no rows to count.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "cut"] = "stop"
    reasoning: str | None = field(default=None, repr=False)
    reasoning_tokens: int = 0
    answered: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    malformed: bool = False
    prompt_tokens: int = 0

    @property
    def said(self) -> str:
        """The text and what its calls say."""
        return said(self.text, self.tool_calls)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens of the answer alone."""
        return self.token_ids[self.reasoning_tokens :]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of one answer, without its text.

    Attributes:
        harm: max over the policy's categories of score / threshold, the moderators that confirm
            included where they were asked; None if unscored.
        scores: by category, the largest that was given.
        flagged: whether the policy flags the answer.
        unscored: why there is no verdict; None if there is.
        confirmed: whether the moderators that confirm accept the answer; None where there are
            none, or where they were not asked.
    """

    harm: float | None
    scores: Mapping[str, float]
    flagged: bool
    unscored: str | None = None
    confirmed: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The public form."""
        return {
            "harm": self.harm,
            "scores": dict(self.scores),
            "flagged": self.flagged,
            "unscored": self.unscored,
            "confirmed": self.confirmed,
        }


Action = Literal["steer", "refuse", "note"]
"""What becomes of what is flagged: it is steered away from, refused without a search, or leaves
and is only named."""


@dataclass(frozen=True, slots=True)
class Screened:
    """What a policy's gate makes of a prompt, before anything is generated.

    Attributes:
        action: the strictest of the moderators that flag it: refuse, steer or note; None where
            none does.
        categories: that flag it, those aside that are only noted.
        noted: categories that flag it and are only noted.
        verdict: on the prompt, without its text; harm is in units of the gate's own thresholds.
    """

    action: Action | None
    categories: tuple[str, ...]
    noted: tuple[str, ...]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The public form."""
        scored = {k: v for k, v in self.verdict.to_json().items() if k != "confirmed"}
        return {
            "action": self.action,
            "categories": list(self.categories),
            "noted": list(self.noted),
            **scored,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """What a policy's moderators make of one answer; a `rerail.panel.Panel` gives it.

    Attributes:
        score: verdict of the moderators that steer.
        harm: max over their categories of score / threshold; infinite if unscored. It alone tells
            a search where to go.
        rejection: why the answer is not acceptable, its naturalness aside; None if it is.
        confirmation: verdict of the moderators that confirm; None where they were not asked.
        confirmed: whether they accept the answer; None where they were not asked.
        verdict: what both say together, without the text.
    """

    score: Score
    harm: float
    rejection: Rejection | None
    verdict: Verdict
    confirmation: Score | None = None
    confirmed: bool | None = None

    @property
    def flagged(self) -> bool:
        return self.verdict.flagged


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One answer with the point that gave it and the verdict on it.

    Attributes:
        origin: which kind of point was asked.
        point: ``(n_tokens, d_model)`` input embeddings; None in a response's list of evaluations,
            where keeping them all would cost memory.
        generation: the model's answer from that point.
        judged: what the policy's moderators make of the answer.
        naturalness: mean log-likelihood per token (nats) of the answer under the original,
            unmoved prompt and behind its own reasoning, minus that of the model's first answer.
            None where it was not needed.
        rejection: why the answer is not acceptable; None if it is accepted.
        relevance: mean log-likelihood per token (nats) of the answer under the original, unmoved
            prompt, minus that under a neutral one: the information, per token, that the prompt
            has of it. None where it was not needed.
        unmoved: ``(n_tokens, d_model)`` what ``point`` was moved from, the prompt with guidance or
            without; None where ``point`` is.
    """

    origin: AcceptedFrom
    point: FloatArray | None = field(repr=False, compare=False)
    generation: Generation
    judged: Judged
    naturalness: float | None
    rejection: Rejection | None
    relevance: float | None = None
    unmoved: FloatArray | None = field(default=None, repr=False, compare=False)

    @property
    def score(self) -> Score:
        return self.judged.score

    @property
    def harm(self) -> float:
        return self.judged.harm

    @property
    def flagged(self) -> bool:
        return self.judged.flagged

    @property
    def accepted(self) -> bool:
        return self.rejection is None


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent: ``a + b`` adds, ``Cost()`` is nothing.

    Attributes:
        generations: answers generated, the first one included.
        generated_tokens: tokens of those answers, with their reasoning.
        prompt_tokens: embedding rows sent for generation or for a log-likelihood.
        moderator_calls: verdicts asked for.
        seconds: wall time from the request's start to its end; in lock-step, shared rounds
            count in full for each request.
    """

    generations: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    moderator_calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.generations + other.generations,
            self.generated_tokens + other.generated_tokens,
            self.prompt_tokens + other.prompt_tokens,
            self.moderator_calls + other.moderator_calls,
            self.seconds + other.seconds,
        )


def neutralised(initial: Verdict | None, outcome: Outcome, final: Verdict | None) -> bool:
    """Flagged before; after it, another answer of the model that is scored and not flagged."""
    flagged = initial is not None and initial.flagged
    safe = final is not None and final.unscored is None and not final.flagged
    return flagged and outcome is Outcome.STEERED and safe


@dataclass(frozen=True, slots=True)
class PolicyTag:
    """Which policy decided: its name, its content hash, and whether it is an audit policy."""

    name: str
    version: str
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """What leaves rerail for one prompt.

    Attributes:
        outcome: passed, steered, refused or error.
        text: the answer to show; the policy's message unless an answer of the model left, behind
            what had left of one before, if anything had.
        policy: the policy and version that decided.
        initial: verdict on the model's first answer; None if there was none, as where the gate
            refuses the prompt.
        final: verdict on ``text``; None if no answer of the model left.
        cost: what was spent.
        iterations: completed optimiser iterations.
        accepted_from: which kind of point gave ``text``.
        naturalness: of ``text``; 0 for the first answer; None if no answer left, or where the
            method does not ask for it.
        cosine: between the accepted point and the original, their steered rows flattened; 1 if
            nothing moved. The policy's ``min_cosine`` is its floor.
        tokens_preserved: share of steered rows whose nearest vocabulary embedding by cosine is
            still the original token.
        stop_reason: why the search ended.
        seed: seed of this prompt's search.
        model: name of the model.
        evaluations: every answer asked for, in order.
        left: which of ``evaluations`` gave ``text``; None if no answer of the model left.
        best: which of them the published method would have returned, flagged or not; None where
            the search is not held to it (``result: best_iterate``).
        error: what failed, for outcome ``error``.
        reasoning: what the model thought before ``text``; None where it thought nothing, where the
            policy withholds it, or if no answer of the model left.
        reasoning_tokens: tokens generated before ``text``, withheld or not.
        tool_calls: the tools that the answer calls, judged with ``text``.
        layer: which layer of the policy acted.
        gate: what the policy's gate makes of the prompt; None where it has none.
        noted: categories that the policy only notes, in the prompt or in ``text``.
        sent_tokens: tokens of ``text`` that left before the search was over, under ``release:
            window``; 0 where nothing did.
    """

    outcome: Outcome
    text: str
    policy: PolicyTag
    initial: Verdict | None
    final: Verdict | None
    cost: Cost
    iterations: int
    accepted_from: AcceptedFrom
    naturalness: float | None
    cosine: float | None
    tokens_preserved: float | None
    stop_reason: StopReason
    seed: int
    model: str
    evaluations: tuple[Evaluation, ...] = field(default=(), repr=False)
    left: int | None = None
    best: int | None = None
    error: str | None = None
    reasoning: str | None = None
    reasoning_tokens: int = 0
    tool_calls: tuple[ToolCall, ...] = ()
    layer: Layer = Layer.NONE
    gate: Screened | None = None
    noted: tuple[str, ...] = ()
    sent_tokens: int = 0

    @property
    def relevance(self) -> float | None:
        """Of ``text``; None if no answer left, or where it was not measured."""
        return None if self.left is None else self.evaluations[self.left].relevance

    @property
    def said(self) -> str:
        """``text`` and what its calls say."""
        return said(self.text, self.tool_calls)

    @property
    def flagged(self) -> bool:
        """Whether the policy flags the model's first answer."""
        return self.initial is not None and self.initial.flagged

    @property
    def neutralised(self) -> bool:
        return neutralised(self.initial, self.outcome, self.final)

    def to_json(self) -> dict[str, Any]:
        """The public form: one JSON-able mapping, no points and no answers but ``text``."""
        return {
            "outcome": str(self.outcome),
            "text": self.text,
            "reasoning": self.reasoning,
            "reasoning_tokens": self.reasoning_tokens,
            "tool_calls": [call.to_json() for call in self.tool_calls],
            "sent_tokens": self.sent_tokens,
            "policy": {
                "name": self.policy.name,
                "version": self.policy.version,
                "audit": self.policy.audit,
            },
            "initial": self.initial and self.initial.to_json(),
            "final": self.final and self.final.to_json(),
            "cost": {
                "generations": self.cost.generations,
                "generated_tokens": self.cost.generated_tokens,
                "prompt_tokens": self.cost.prompt_tokens,
                "moderator_calls": self.cost.moderator_calls,
                "seconds": self.cost.seconds,
            },
            "iterations": self.iterations,
            "accepted_from": str(self.accepted_from),
            "naturalness": self.naturalness,
            "relevance": self.relevance,
            "cosine": self.cosine,
            "tokens_preserved": self.tokens_preserved,
            "stop_reason": str(self.stop_reason),
            "seed": self.seed,
            "model": self.model,
            "left": self.left,
            "best": self.best,
            "error": self.error,
            "layer": str(self.layer),
            "gate": self.gate and self.gate.to_json(),
            "noted": list(self.noted),
        }
