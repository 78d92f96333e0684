"""What clients send: OpenAI's parameters, checked; what rerail cannot honour is refused.

Unknown parameters are errors, so that nobody believes in one that does nothing; what is null or
empty says nothing and is no error. No request can carry embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from rerail._json import DEEPEST, written
from rerail.errors import PromptError
from rerail.structure import check
from rerail.types import CALL_ID, TOOL_NAME, Exchange, Message, Prompt, Role, Tool, ToolCall

MAX_SEED = 2**63 - 1
MAX_STOPS = 16
MAX_TOOLS = 128


def _speakable(text: str) -> str:
    """Text that UTF-8 can say: JSON can hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode: it holds half a surrogate pair") from None
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_speakable)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Parameters of OpenAI's that have no place here, and why."""
    unused: ClassVar[frozenset[str]] = frozenset()
    """Parameters of OpenAI's that change nothing here; accepted, so that clients work."""

    @model_validator(mode="before")
    @classmethod
    def _what_is_said(cls, data: Any) -> Any:
        """Without what is not used or says nothing, as a reply that is sent back has it."""
        if not isinstance(data, dict):
            return data
        faults = [
            fault((name,), f"not supported: {reason}")
            for name, reason in cls.unsupported.items()
            if name not in cls.model_fields and not _says_nothing(name, data.get(name))
        ]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        dropped = (cls.unused | cls.unsupported.keys()) - cls.model_fields.keys()
        return {
            key: value
            for key, value in data.items()
            if value is not None
            and key not in dropped
            and (key in cls.model_fields or value not in ([], {}, ""))
        }


def fault(where: tuple[str | int, ...], said: str) -> Any:
    """One fault of a `ValidationError`."""
    return {"type": "value_error", "loc": where, "input": None, "ctx": {"error": said}}


def _says_nothing(name: str, value: Any) -> bool:
    """Whether an unsupported parameter has a value that asks for nothing."""
    if value is None or value is False or value in ([], {}, ""):
        return True
    if name in {"presence_penalty", "frequency_penalty", "top_logprobs"}:
        return isinstance(value, int | float) and value == 0
    if name == "best_of":
        return bool(value == 1)
    return value in ({"type": "text"}, ["text"], "disabled")


class Part(_Model):
    """A part of a message. Images, audio and files are not judged, so they are refused."""

    unused = frozenset({"cache_control"})

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_words(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in get_args(cls.model_fields["type"].annotation):
            said = "only text is judged: no images, audio or files"
            raise ValidationError.from_exception_data("Part", [fault(("type",), said)])
        return data

    @model_validator(mode="after")
    def _has_words(self) -> Self:
        if self.words is None:
            key = "refusal" if self.type == "refusal" else "text"
            missing = fault((key,), f"a part of type {self.type} needs it")
            raise ValidationError.from_exception_data("Part", [missing])
        return self

    @property
    def words(self) -> str | None:
        """What the part says."""
        return self.refusal if self.type == "refusal" else self.text


def _words(content: str | list[Part] | None) -> str:
    """What a message or a part of it says."""
    if isinstance(content, list):
        return "".join(part.words or "" for part in content)
    return content or ""


_TOOLS = "use tools and tool_calls"
_CHAT = "use /v1/chat/completions"
_ONLY_TEXT = "only text is answered"

Name = Annotated[str, Field(pattern=f"^{TOOL_NAME}$", strict=True)]
CallId = Annotated[str, Field(pattern=f"^{CALL_ID}$", strict=True)]


def _of_functions(data: Any, what: str) -> Any:
    """Refuse tools that no template knows of, by what they are and not by what they lack."""
    kind = data.get("type") if isinstance(data, dict) else None
    if isinstance(kind, str) and kind != "function":
        said = f"only {what} of type function: the model runs no tools of its own"
        raise ValidationError.from_exception_data("Tool", [fault(("type",), said)])
    return data


class CalledFunction(_Model):
    """What a call is of."""

    name: Name
    arguments: Text = "{}"
    """A JSON object, as text."""


class Called(_Model):
    """A call of the assistant's."""

    unused = frozenset({"index"})

    id: CallId = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _of_a_function(cls, data: Any) -> Any:
        return _of_functions(data, "calls")

    @model_validator(mode="after")
    def _has_arguments(self) -> Self:
        self.call()
        return self

    def call(self) -> ToolCall:
        """The call as rerail knows it.

        Raises:
            ValueError: its arguments are no JSON object.
        """
        try:
            return ToolCall(self.function.name, self.function.arguments or "{}", self.id)
        except PromptError as error:
            raise ValueError(str(error)) from None


class Function(_Model):
    """What a tool is."""

    unused = frozenset({"strict"})

    name: Name
    description: Text = ""
    parameters: dict[str, Any] | None = None
    """JSON Schema of the arguments. What the model gives is not held to it."""


class ToolDefinition(_Model):
    """A tool that the model may call."""

    unused = frozenset({"cache_control"})

    type: Literal["function"]
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _of_a_function(cls, data: Any) -> Any:
        return _of_functions(data, "tools")

    @model_validator(mode="after")
    def _is_json(self) -> Self:
        self.tool()
        return self

    def tool(self) -> Tool:
        """The tool as rerail knows it.

        Raises:
            ValueError: its parameters are deeper than JSON may be.
        """
        return _tool(self.function)


class NamedTool(_Model):
    """The function that an answer must call, as ``/v1/responses`` writes it."""

    type: Literal["function"]
    name: Name


class Named(_Model):
    """Which function it is."""

    name: Name


class NamedFunction(_Model):
    """The function that an answer must call."""

    type: Literal["function"]
    function: Named

    @property
    def name(self) -> str:
        return self.function.name


def _known(value: Any) -> Any:
    """Refuse what chooses nothing, by what does."""
    one = isinstance(value, dict) and value.get("type") == "function"
    if one or value in ("auto", "none", "required"):
        return value
    raise ValueError("auto, none, required, or one function of tools by its name")


Choice = Literal["auto", "none", "required"]


def _callable(
    tools: Sequence[ToolDefinition] | Sequence[FunctionTool] | None,
    choice: NamedFunction | NamedTool | Choice | None,
) -> tuple[tuple[Tool, ...], bool]:
    """What the model is told that it may call, and whether it must: of a named one, that alone.

    Raises:
        ValidationError: it must, and there is no such tool.
    """
    named = None if choice is None or isinstance(choice, str) else choice.name
    told = [] if choice == "none" else [tool.tool() for tool in tools or ()]
    told = [tool for tool in told if named in (None, tool.name)]
    must = choice == "required" or named is not None
    if must and not told:
        none = "a call must be of one of tools, and there are none"
        said = none if named is None else "no function of tools has that name"
        raise ValidationError.from_exception_data("Choice", [fault(("tool_choice",), said)])
    return tuple(told), must


def _tool(function: Function) -> Tool:
    given = function.model_dump(include={"name", "description", "parameters"})
    try:
        return Tool.of({"function": given})
    except PromptError as error:
        raise ValueError(str(error)) from None


class NamedSchema(_Model):
    """A schema that answers must fit."""

    unused = frozenset({"strict"})

    name: Annotated[str, Field(max_length=64)] = ""
    description: Text = ""
    schema_: Annotated[dict[str, Any], Field(alias="schema")]

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        try:
            check(written(self.schema_))
        except PromptError as error:
            raise ValueError(str(error)) from None
        except (ValueError, RecursionError):
            raise ValueError(f"the schema is more than {DEEPEST} levels deep") from None
        return self


class ResponseFormat(_Model):
    """What form an answer has to have to be acceptable."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            missing = fault(("json_schema",), "goes with type json_schema, which needs it")
            raise ValidationError.from_exception_data("ResponseFormat", [missing])
        return self

    @property
    def schema_text(self) -> str | None:
        """The schema as text; None: any text is fine."""
        if self.json_schema is not None:
            return written(self.json_schema.schema_)
        return None if self.type == "text" else '{"type": "object"}'

    @property
    def told(self) -> str | None:
        """What the model is told of it; a client of ``json_object`` tells the model itself."""
        if self.json_schema is None:
            return None
        about = self.json_schema.description
        return "\n".join(
            [
                "Answer with one JSON value that fits this JSON Schema, and with nothing else.",
                *filter(None, [about]),
                written(self.json_schema.schema_),
            ]
        )


class ChatMessage(_Model):
    """One turn."""

    unsupported = {"function_call": _TOOLS, "audio": _ONLY_TEXT}
    # Templates leave out what was thought before earlier answers.
    unused = frozenset({"cache_control", "id", "reasoning", "reasoning_content"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    name: str | None = None
    """Accepted and not used."""
    refusal: Text | None = None
    """An earlier refusal of the assistant; stands for its content where there is none."""
    tool_calls: list[Called] | None = None
    """Of the assistant."""
    tool_call_id: CallId | None = None
    """Of a tool's turn: the call that it answers."""

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        for key, role in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
            if getattr(self, key) and self.role != role:
                said = f"goes with the role {role}, not {self.role}"
                raise ValidationError.from_exception_data("ChatMessage", [fault((key,), said)])
        return self

    def message(self) -> Message:
        """The turn as rerail knows it; ``developer`` is another word for system."""
        role: Role = "system" if self.role == "developer" else self.role
        words = _words(self.content or self.refusal)
        calls = tuple(called.call() for called in self.tool_calls or ())
        return Message(role, words, calls, self.tool_call_id or "")


class BudgetLimit(_Model):
    """What this request may cost; it can only lower the policy's budget."""

    seconds: Annotated[float, Field(gt=0, strict=True)] | None = None
    generations: Annotated[int, Field(ge=1, strict=True)] | None = None


class StreamOptions(_Model):
    """Of a stream."""

    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Accepted and not used."""
    include_progress: bool = False
    """Whether chunks without choices say how far a search is, in ``rerail.progress``. By default
    comments do, which clients skip."""


Stop = Annotated[str, Field(min_length=1, strict=True), AfterValidator(_speakable)]


class _Sampled(_Model):
    """What all requests for answers share."""

    model: Annotated[str, Field(max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    top_k: Annotated[int, Field(ge=-1, strict=True)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED, strict=True)] | None = None
    stream: bool | None = None
    policy: Annotated[str, Field(max_length=64)] | None = None
    """Name of the policy; the header ``X-Rerail-Policy`` says the same."""
    budget: BudgetLimit = BudgetLimit()

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token may be drawn, whatever the temperature."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1


class _Request(_Sampled):
    """What chat and text completions share."""

    unsupported = {
        "logprobs": "log-probabilities of a steered answer would be of another prompt",
        "top_logprobs": "log-probabilities of a steered answer would be of another prompt",
        "logit_bias": "tokens are never forced or forbidden",
        "best_of": "use n",
        "echo": "the prompt is not part of the answer",
        "suffix": "answers are written forwards",
        "tools": _CHAT,
        "functions": _TOOLS,
        "response_format": _CHAT,
        "modalities": _ONLY_TEXT,
        "audio": _ONLY_TEXT,
        "prediction": "answers are always the model's own",
        "prompt_embeds": "no request can carry embeddings",
        "presence_penalty": "only 0 is possible",
        "frequency_penalty": "only 0 is possible",
    }
    unused = frozenset(
        {
            "metadata",
            "moderation",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "tool_choice",
            "function_call",
            "user",
            "verbosity",
            "web_search_options",
        }
    )

    n: Annotated[int, Field(ge=1, strict=True)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    words: ClassVar[str] = "messages"
    """The parameter that is answered."""
    prefix: ClassVar[str] = "chatcmpl"
    """Of the ids of answers."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    """What the model may call, where the policy judges calls."""
    tool_choice: Annotated[NamedFunction | Choice, BeforeValidator(_known)] | None = None
    """``none``: the model is told of no tool. ``required``: an answer that calls none is not
    acceptable. A function by its name: the model is told of that one alone, and must call it."""
    response_format: ResponseFormat | None = None
    """Form without which an answer is not acceptable."""
    max_completion_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "rerail",
                    "messages": [{"role": "user", "content": "How do I keep tulips fresh?"}],
                    "max_tokens": 64,
                },
                {
                    "model": "rerail",
                    "messages": [
                        {"role": "system", "content": "Answer in one sentence."},
                        {"role": "user", "content": "What is a hedge for?"},
                    ],
                    "policy": "strict",
                    "stream": True,
                },
            ]
        },
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @model_validator(mode="after")
    def _has_what_is_chosen(self) -> Self:
        _callable(self.tools, self.tool_choice)
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def prompts(self) -> list[Prompt]:
        """The conversation, as the one prompt that it is.

        Raises:
            PromptError: the last turn is neither the user's nor a tool's, or has no text, or a
                tool's answers no call.
        """
        turns = [message.message() for message in self.messages]
        return [_prompt(turns, *_callable(self.tools, self.tool_choice), self.response_format)]


def _prompt(
    turns: list[Message], tools: tuple[Tool, ...], must_call: bool, form: ResponseFormat | None
) -> Prompt:
    """The prompt; the model is told of the form that its answer has to have."""
    told = form.told if form else None
    if must_call:  # which need not fit the schema then
        told = "Answer with a call of " + (
            f"the tool {tools[0].name}." if len(tools) == 1 else "one of your tools."
        )
    if told is not None:
        system = [turns[0].content] if turns and turns[0].role == "system" else []
        turns = [Message("system", "\n\n".join([*system, told])), *turns[len(system) :]]
    schema = form.schema_text if form else None
    return Prompt(tuple(turns), tools=tools, schema=schema, must_call=must_call)


class CompletionRequest(_Request):
    """``POST /v1/completions``: texts to be continued as they stand, without a chat template."""

    words: ClassVar[str] = "prompt"
    """The parameter that is answered."""
    prefix: ClassVar[str] = "cmpl"
    """Of the ids of answers."""

    prompt: Text | Annotated[list[Text], Field(min_length=1)]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "rerail", "prompt": "Tulips are", "max_tokens": 32}]
        },
    )

    def prompts(self) -> list[Prompt]:
        """One prompt per text.

        Raises:
            PromptError: a text is empty.
        """
        texts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return [Prompt.completion(text) for text in texts]


class FunctionTool(Function):
    """A tool that the model may call, as ``/v1/responses`` writes it."""

    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _of_a_function(cls, data: Any) -> Any:
        return _of_functions(data, "tools")

    @model_validator(mode="after")
    def _is_json(self) -> Self:
        self.tool()
        return self

    def tool(self) -> Tool:
        """The tool as rerail knows it.

        Raises:
            ValueError: its parameters are deeper than JSON may be.
        """
        return _tool(self)


class InputItem(_Model):
    """One turn, a call, or what a tool gave, as ``/v1/responses`` writes it."""

    unused = frozenset({"id", "status", "phase"})

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Text | list[Part] | None = None
    call_id: CallId = ""
    name: Name | None = None
    arguments: Text = "{}"
    output: Text | list[Part] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_words(cls, data: Any) -> Any:
        kind = data.get("type", "message") if isinstance(data, dict) else None
        if kind == "reasoning":  # templates leave it out
            return {"type": kind}
        if isinstance(kind, str) and kind not in get_args(cls.model_fields["type"].annotation):
            said = "only messages, function calls and their outputs are known"
            raise ValidationError.from_exception_data("InputItem", [fault(("type",), said)])
        return data

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        needed = {"message": "role", "function_call": "name", "function_call_output": "output"}
        key = needed.get(self.type)
        if key is not None and getattr(self, key) is None:
            missing = fault((key,), f"an item of type {self.type} needs it")
            raise ValidationError.from_exception_data("InputItem", [missing])
        self.message()
        return self

    def message(self) -> Message | None:
        """The turn as rerail knows it; None for reasoning.

        Raises:
            ValueError: the arguments of a call are no JSON object.
        """
        if self.type == "function_call_output":
            return Message("tool", _words(self.output), (), self.call_id)
        if self.type == "function_call":
            function = CalledFunction(name=self.name or "", arguments=self.arguments)
            return Message("assistant", "", (Called(id=self.call_id, function=function).call(),))
        if self.role is None:
            return None
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, _words(self.content))


class TextOptions(_Model):
    """Of the answer's text."""

    unused = frozenset({"verbosity"})

    format: ResponseFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_in_chat(cls, data: Any) -> Any:
        """The schema stands beside its type here, and within a key of its own there."""
        form = data.get("format") if isinstance(data, dict) else None
        if isinstance(form, dict) and form.get("type") == "json_schema":
            named = {key: value for key, value in form.items() if key != "type"}
            return {**data, "format": {"type": "json_schema", "json_schema": named}}
        return data


_STATELESS = "no state is kept: send the whole conversation as input"


class ResponsesRequest(_Sampled):
    """``POST /v1/responses``: one answer, without stored state."""

    words: ClassVar[str] = "input"
    """The parameter that is answered."""
    prefix: ClassVar[str] = "resp"
    """Of the ids of answers."""
    n: ClassVar[None] = None
    stops: ClassVar[tuple[str, ...]] = ()

    unsupported = {
        "previous_response_id": _STATELESS,
        "conversation": _STATELESS,
        "background": "answers are given where they are asked for",
        "prompt": "no prompts are stored",
        "top_logprobs": "log-probabilities of a steered answer would be of another prompt",
        "truncation": "nothing is left out: send what fits the model's context",
    }
    unused = frozenset(
        {
            "include",
            "max_tool_calls",
            "metadata",
            "moderation",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning",
            "safety_identifier",
            "service_tier",
            "store",
            "stream_options",
            "user",
        }
    )

    input: Text | Annotated[list[InputItem], Field(min_length=1)]
    """A text, or items: messages, ``function_call`` and ``function_call_output``. Reasoning is left
    out, as templates leave it out. The last one is the user's, or a tool's."""
    instructions: Text | None = None
    """A system turn before the others."""
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    """What the model may call, where the policy judges calls."""
    tool_choice: Annotated[NamedTool | Choice, BeforeValidator(_known)] | None = None
    """As of chat completions; a named function is ``{"type": "function", "name": ...}``."""
    text: TextOptions | None = None
    """Form without which an answer is not acceptable."""
    max_output_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Of the answer, its reasoning not counted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "rerail", "input": "How do I keep tulips fresh?"}]
        },
    )

    @model_validator(mode="after")
    def _has_what_is_chosen(self) -> Self:
        _callable(self.tools, self.tool_choice)
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    def prompts(self) -> list[Prompt]:
        """The conversation, as the one prompt that it is.

        Raises:
            PromptError: as `ChatRequest.prompts`.
        """
        if isinstance(self.input, str):
            found = [Message("user", self.input)]
        else:
            found = [turn for item in self.input if (turn := item.message()) is not None]
        turns = [Message("system", self.instructions)] if self.instructions else []
        for turn in found:
            last = turns[-1] if turns else None
            if turn.tool_calls and last is not None and last.role == "assistant":
                turns[-1] = replace(last, tool_calls=(*last.tool_calls, *turn.tool_calls))
            else:
                turns.append(turn)
        form = self.text.format if self.text else None
        return [_prompt(turns, *_callable(self.tools, self.tool_choice), form)]


class ModerationRequest(_Model):
    """``POST /v1/moderations``: texts for the policy's moderator."""

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    """The conversation that each text is judged as an answer to, as it is when rerail answers; the
    last turn is the user's. Without it a text is judged by itself, which may differ."""
    model: str | None = None
    """Accepted and not used: the policy says who judges."""
    policy: Annotated[str, Field(max_length=64)] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": ["Tulips like cold water.", "Good morning"]},
                {
                    "input": "Cut the stems and give them cold water.",
                    "messages": [{"role": "user", "content": "How do I keep tulips fresh?"}],
                },
            ]
        },
    )

    def exchanges(self) -> list[Exchange]:
        """What is to be judged.

        Raises:
            PromptError: the last turn is not the user's, or has no text.
        """
        turns = Prompt(tuple(m.message() for m in self.messages)).messages if self.messages else ()
        texts = [self.input] if isinstance(self.input, str) else self.input
        return [Exchange(turns, text) for text in texts]


class Rollback(_Model):
    """``POST /admin/policies/{name}/rollback``."""

    version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
