"""What an answer is made of, text and calls, and whether it is what the prompt asks for.

    structure.check(schema)  # of a client's: an error that says what is wrong with it
    structure.unfit(prompt, generation)  # why not; None: it fits

Nothing makes a model write what fits: an answer that does not is not acceptable, and is passed over
like any other.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from rerail._json import read_json, read_object, spoken
from rerail.errors import MissingDependencyError, PromptError
from rerail.types import Generation, Prompt, Rejection

_LARGEST = 2**16
"""Characters of a schema at most, and values in it once its references are followed."""


def judged_text(prompt: Prompt, generation: Generation) -> str:
    """What of an answer is judged: its text, and name and arguments of its calls as text.

    Of JSON that was asked for, what it says is judged, too: letters written as escapes would pass
    a moderator by.
    """
    text = generation.said
    if prompt.schema is None or "\\u" not in text:
        return text
    try:
        return "\n".join([text, *spoken(read_json(generation.text))])
    except ValueError:
        return text


def unfit(prompt: Prompt, generation: Generation) -> Rejection | None:
    """Why an answer is not what was asked for; None if it is.

    Its calls can be read, there is one where there must be, or its text fits the schema.
    """
    if generation.malformed:
        return Rejection.INVALID
    if generation.tool_calls:
        return None
    if prompt.must_call:
        return Rejection.UNCALLED
    if prompt.schema is None:
        return None
    try:
        valid = _validator(prompt.schema).is_valid(read_json(generation.text))
    except ValueError:
        valid = False
    return None if valid else Rejection.INVALID


def check(schema: str) -> None:
    """Refuse a schema that answers cannot be held to.

    Raises:
        PromptError: it is too large, no JSON Schema, or refers to itself or to elsewhere.
        MissingDependencyError: jsonschema-rs is not installed.
    """
    _validator(schema)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    try:
        import jsonschema_rs
    except ModuleNotFoundError as error:
        raise MissingDependencyError("jsonschema-rs", "server") from error
    try:
        if len(schema) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} characters")
        read = read_object(schema)
        read.pop("$schema", None)
        if _unfolded(read, read, {}) > _LARGEST:
            raise ValueError("it is too large once its $refs are followed")
        # Patterns that take linear time, whatever the text; nothing is fetched.
        options = jsonschema_rs.RegexOptions()
        return jsonschema_rs.Draft202012Validator(
            read, retriever=_retrieve, pattern_options=options
        )
    except (ValueError, RecursionError) as error:
        # What the library says goes on with the schema itself.
        raise PromptError(f"the schema cannot be used: {str(error).splitlines()[0]}") from None


def _retrieve(_uri: str) -> Any:
    raise ValueError("nothing is fetched")


def _unfolded(root: dict[str, Any], value: Any, known: dict[str, float]) -> float:
    """How large a schema is once its references are followed: as much as a validator may do.

    Args:
        root: all of it.
        value: a part of it.
        known: sizes of what was referred to; infinite while it is looked at.

    Raises:
        ValueError: it refers to itself, to elsewhere, or by another name than a path.
    """
    if isinstance(value, list):
        return 1 + sum(_unfolded(root, inner, known) for inner in value)
    if not isinstance(value, dict):
        return 1
    if value is not root and isinstance(value.get("$id"), str):
        raise ValueError("only all of it may have an $id")
    for key in ("$dynamicRef", "$recursiveRef"):
        if key in value:
            raise ValueError(f"it has a {key}: use $ref")
    size = 1 + sum(_unfolded(root, inner, known) for inner in value.values())
    target = value.get("$ref")
    if not isinstance(target, str):
        return size
    if not target.startswith("#/"):
        raise ValueError("a $ref leads to all of it or out of it: refer to a part of $defs")
    if target not in known:
        known[target] = math.inf
        known[target] = _unfolded(root, _at(root, target), known)
    if math.isinf(known[target]):
        raise ValueError("it refers to itself")
    return size + known[target]


def _at(schema: Any, target: str) -> Any:
    for step in unquote(target).split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = schema[int(step)] if step.isdecimal() and int(step) < len(schema) else None
        else:
            schema = schema.get(step) if isinstance(schema, dict) else None
    return schema
