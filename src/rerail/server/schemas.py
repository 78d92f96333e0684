"""What clients send: OpenAI's parameters, checked; what rerail cannot honour is refused.

Unknown parameters are errors, so that nobody believes in one that does nothing; what is null or
empty says nothing and is no error. No request can carry embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from rerail.types import Exchange, Message, Prompt, Role

MAX_SEED = 2**63 - 1
MAX_STOPS = 16


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
        dropped = cls.unused | (cls.unsupported.keys() - cls.model_fields.keys())
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
    return value in ({"type": "text"}, ["text"])


class Part(_Model):
    """A part of a message. Images, audio and files are not judged, so they are refused."""

    unused = frozenset({"cache_control"})

    type: Literal["text", "refusal"]
    text: Text | None = None
    refusal: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_words(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        if isinstance(kind, str) and kind not in {"text", "refusal"}:
            said = "only text is judged: no images, audio or files"
            raise ValidationError.from_exception_data("Part", [fault(("type",), said)])
        return data

    @model_validator(mode="after")
    def _has_words(self) -> Self:
        if (self.text if self.type == "text" else self.refusal) is None:
            missing = fault((self.type,), f"a part of type {self.type} needs it")
            raise ValidationError.from_exception_data("Part", [missing])
        return self

    @property
    def words(self) -> str:
        """What the part says."""
        return (self.text if self.type == "text" else self.refusal) or ""


_TOOLS = "tool calls are outside what is judged"
_ONLY_TEXT = "only text is answered"


class ChatMessage(_Model):
    """One turn."""

    unsupported = {"tool_calls": _TOOLS, "function_call": _TOOLS, "audio": _ONLY_TEXT}
    # Templates leave out what was thought before earlier answers.
    unused = frozenset({"cache_control", "id", "reasoning", "reasoning_content"})

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None
    name: str | None = None
    """Accepted and not used."""
    refusal: Text | None = None
    """An earlier refusal of the assistant; stands for its content where there is none."""

    def message(self) -> Message:
        """The turn as rerail knows it; ``developer`` is another word for system."""
        role: Role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, list):
            return Message(role, "".join(part.words for part in self.content))
        return Message(role, self.content or self.refusal or "")


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


class _Request(_Model):
    """What chat and text completions share."""

    unsupported = {
        "logprobs": "log-probabilities of a steered answer would be of another prompt",
        "top_logprobs": "log-probabilities of a steered answer would be of another prompt",
        "logit_bias": "tokens are never forced or forbidden",
        "best_of": "use n",
        "echo": "the prompt is not part of the answer",
        "suffix": "answers are written forwards",
        "tools": _TOOLS,
        "functions": _TOOLS,
        "response_format": _ONLY_TEXT,
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

    model: Annotated[str, Field(max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2, strict=True)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    top_k: Annotated[int, Field(ge=-1, strict=True)] | None = None
    n: Annotated[int, Field(ge=1, strict=True)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED - 1, le=MAX_SEED, strict=True)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    policy: Annotated[str, Field(max_length=64)] | None = None
    """Name of the policy; the header ``X-Rerail-Policy`` says the same."""
    budget: BudgetLimit = BudgetLimit()

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token may be drawn, whatever the temperature."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1

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

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def prompts(self) -> list[Prompt]:
        """The conversation, as the one prompt that it is.

        Raises:
            PromptError: the last turn is not the user's, or has no text.
        """
        return [Prompt(tuple(message.message() for message in self.messages))]


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
