"""JSON of others: read as any reader reads it, or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerail._json import DEEPEST, first_json, read_json, read_object, spoken, written


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "{'a': 1}", '{"a": 1,}', "NaN", "[Infinity]", '{"a": 1, "a": 1}', '"\\ud800"',
        "1 2", '{"a": 1} x', "nul", "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "[" * 100_000,
        "1e999", "9" * 5000, '{"a": {"b": 1, "b": 2}}',
    ],
)  # fmt: skip
def test_what_a_second_reader_could_read_otherwise_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON"):
        read_json(text)


def test_no_error_quotes_what_it_read() -> None:
    for text in ('{"ZEBRA": }', '{"ZEBRA": 1, "ZEBRA": 2}', '"ZEBRA" "ZEBRA"', '["ZEBRA", NaN]'):
        with pytest.raises(ValueError) as caught:
            read_object(text)
        assert "ZEBRA" not in str(caught.value)


def test_levels_up_to_the_deepest_are_read() -> None:
    assert read_json("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(ValueError, match="no object"):
        read_object("[]")
    assert first_json('{"a": 1}; {"b": 2}') == ({"a": 1}, 8)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    assert read_json(written(value)) == read_json(json.dumps(value)) == value


def test_all_that_is_said_is_spoken() -> None:
    value = {"to": "Ada", "lines": ["a\nb", 2, {"sure": True}], "none": {}, "no": []}
    assert list(spoken(value)) == [
        "to: Ada", "lines: a\nb", "lines: 2", "lines:", "sure: true", "none:", "no:",
    ]  # fmt: skip
