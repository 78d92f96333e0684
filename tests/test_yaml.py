"""What YAML is read here, and where its faults are."""

from __future__ import annotations

import pytest

from rerail._yaml import NotYamlError, read_yaml

REPEATING = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)
)
MERGING = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 2.5, true, null, 'x', 0x1f]", {"a": [1, 2.5, True, None, "x", 31]}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: {b: 3, <<: {b: 1, c: 2}}", {"a": {"b": 3, "c": 2}}),
        ("a: {<<: [{b: 1}, {b: 2, c: 2}]}", {"a": {"b": 1, "c": 2}}),
        ("{a: {<<: &b {x: 1, <<: {x: 2}}}, c: *b}", {"a": {"x": 1}, "c": {"x": 1}}),
        ("<<: {a: 1}\nb: 2", {"a": 1, "b": 2}),
        ("'<<': 3", {"<<": 3}),
        ("\ufeffa: 1", {"a": 1}),
        ('["\\ud83c\\udf37", "é🌷"]', ["🌷", "é🌷"]),
    ],
)
def test_plain_data_is_read(text: str, value: object) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a: 1\nb: 2026-13-45", "line 2, column 4", "no timestamp"),
        ("!!bool maybe", "line 1, column 1", "no bool"),
        ("- !!int abc", "line 1, column 3", "no int"),
        ("- - !!float abc", "line 1, column 5", "no float"),
        ("a:\n  b: !!timestamp x", "line 2, column 6", "no timestamp"),
        ("[0b_]", "line 1, column 2", "no int"),
        ("a: " + "9" * 5000, "line 1, column 4", "no int"),
        ("a: 0x" + "f" * 5000, "line 1, column 4", "no int"),
        ("a: 1" + ":59" * 3000 + ".5", "line 1, column 4", "no float"),
        ("a: 1\na: 2", "line 2, column 1", "'a' stands twice"),
        ("a: {<<: {b: 1}, <<: {c: 2}}", "line 1, column 17", "'<<' stands twice"),
        ("<<: 3", "line 1, column 5", "for merging"),
        ("a: [1\nb: 2", "line 2, column 2", "while parsing a flow sequence of line 1"),
        ("a: '\n\x07'", "line 2, column 1", "character #x0007"),
        ("\x00", "line 1, column 1", "character #x0000"),
        ('a: "\\UFFFFFFFF"', "line 1", "a character or a number that there is not"),
        ("%YAML 1." + "9" * 5000 + "\n--- a", "line 1", "a character or a number"),
        ('a: "\\ud800"', "line 1, column 4", "half a surrogate pair"),
        ("&a [*a]", "line 1, column 1", "contain itself"),
        ("a: &a {b: *a}", "line 1, column 4", "contain itself"),
        ("? [a]\n: b", "line 1, column 3", "a key must be a text"),
        ("a: *b", "line 1, column 4", "undefined alias"),
        ("a: 1\n---\nb: 2", "line 2, column 1", "another document"),
        ("a: !!set {b}", "line 1, column 4", "tag:yaml.org,2002:set"),
        ("a: !!binary /w==", "line 1, column 4", "tag:yaml.org,2002:binary"),
        ("!!python/object:os.system {}", "line 1, column 1", "python/object"),
        ("[" * 5000, "line 1, column", "nested too deep"),
        (REPEATING, "column", "aliases repeat more than"),
        (MERGING, "column", "aliases repeat more than"),
    ],
)
def test_a_fault_has_a_place(text: str, place: str, reason: str) -> None:
    with pytest.raises(NotYamlError) as caught:
        read_yaml(text)
    assert place in caught.value.place
    assert str(caught.value).startswith(f"{caught.value.place}: ")
    assert reason in str(caught.value)
