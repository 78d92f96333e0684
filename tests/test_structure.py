"""What an answer is made of, and whether it is what the prompt asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rerail.errors import PromptError
from rerail.structure import check, judged_text, unfit
from rerail.types import Generation, Message, Prompt, Rejection, Tool, ToolCall

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def prompt(schema: Any = None) -> Prompt:
    written = None if schema is None else json.dumps(schema)
    return Prompt((Message("user", "Who?"),), schema=written)


def says(text: str, **more: Any) -> Generation:
    return Generation(text, (1,), **more)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ('{"name": "Ada"}', True),
        ('\n {"name": "Ada", "age": 36} \n', True),
        ('{"name": "Ada", "age": -1}', False),
        ('{"name": "Ada", "age": "36"}', False),
        ('{"age": 36}', False),
        ('{"name": "Ada", "more": 1}', False),
        ('{"name": "Ada"', False),
        ('{"name": "Ada", "name": "Eve"}', False),
        ('```json\n{"name": "Ada"}\n```', False),
        ('Here: {"name": "Ada"}', False),
        ('["Ada"]', False),
        ("", False),
        ("Ada", False),
    ],
)
def test_a_text_fits_its_schema_or_not(text: str, fine: bool) -> None:
    assert (unfit(prompt(PERSON), says(text)) is None) == fine
    assert unfit(prompt(), says(text)) is None


def test_a_malformed_call_fits_nothing_and_a_call_needs_no_schema() -> None:
    assert unfit(prompt(), says("x", malformed=True)) is Rejection.INVALID
    called = says("", tool_calls=(ToolCall("wait"),))
    assert unfit(prompt(PERSON), called) is None


def test_where_a_tool_must_be_called_text_alone_fits_nothing() -> None:
    must = Prompt((Message("user", "Who?"),), tools=(Tool("wait"),), must_call=True)
    called = says("", tool_calls=(ToolCall("wait"),))
    assert unfit(must, called) is None
    assert unfit(must, says("I wait.")) is Rejection.UNCALLED
    assert unfit(must, says("x", malformed=True)) is Rejection.INVALID
    with pytest.raises(PromptError, match="give tools"):
        Prompt((Message("user", "Who?"),), must_call=True)


def doubling(levels: int) -> dict[str, Any]:
    """Each definition refers to the next one twice."""
    twice = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**twice, f"a{levels}": {}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"pattern": "("}, "regex"),
        ({"pattern": "(?=a)b"}, "cannot be used"),
        ({"$ref": "#"}, "leads to all of it or out of it"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"$ref": "https://example.org/schema"}, "leads to all of it or out of it"),
        ({"$ref": "file:///etc/hosts"}, "leads to all of it or out of it"),
        ({"properties": {"a": {"$ref": "b.json#/a"}}}, "leads to all of it or out of it"),
        ({"$dynamicRef": "#a"}, r"use \$ref"),
        ({"$recursiveRef": "#"}, r"use \$ref"),
        ({"$defs": {"a": {"$id": "https://example.org"}}}, "only all of it"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "refers to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/%61"}}}, "itself"),
        (doubling(40), "once its"),
        (doubling(3000), "cannot be used"),
        ({"enum": ["x" * 2**16]}, "more than 65536 characters"),
        ([], "no object"),
        (True, "no object"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Any, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        check(json.dumps(schema))


def test_a_schema_that_is_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"properties": {"a": schema}}
    with pytest.raises(PromptError, match="levels deep"):
        check(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        PERSON,
        doubling(8),
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
        {"$schema": "https://example.org/none", "$id": "https://example.org/mine"},
        {"definitions": {"a": {"type": "string"}}, "items": {"$ref": "#/definitions/a"}},
    ],
)
def test_a_schema_that_people_write_is_fine(schema: dict[str, Any]) -> None:
    check(json.dumps(schema))


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for target in ("http://127.0.0.1:9/x", "//127.0.0.1/x", "x.json"):
        with pytest.raises(PromptError):
            check(json.dumps({"$ref": target}))


def test_patterns_take_no_time_to_speak_of() -> None:
    schema = {"type": "string", "pattern": "^((a+)+)+$"}
    late = says(json.dumps("a" * 20_000 + "!"))
    assert unfit(prompt(schema), late) is Rejection.INVALID


def test_calls_are_judged_as_text_and_escapes_as_what_they_say() -> None:
    calls = (ToolCall("send", '{"to": "Ada", "body": "c\\u0061t"}'),)
    made = says("I write.", tool_calls=calls)
    assert judged_text(prompt(), made) == "I write.\n\nsend\nto: Ada\nbody: cat"
    escaped = says('{"name": "c\\u0061t"}')
    assert judged_text(prompt(), escaped) == escaped.text
    assert judged_text(prompt(PERSON), escaped).endswith("\nname: cat")
    assert judged_text(prompt(PERSON), says("no \\u0061 JSON")) == "no \\u0061 JSON"
