"""Rules flag what they name, in any spelling, and never hang."""

from __future__ import annotations

import time

import pytest

from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators import Moderator
from rerail.moderators.rules import Rule, RulesModerator, folded, plain
from rerail.types import EMPTY_ANSWER, Exchange

RULE = "custom/rule"


def scored(answer: str, **rule: object) -> float:
    (score,) = RulesModerator({RULE: rule}).score([Exchange((), answer)])
    assert score.scored, score.cause
    return score.categories[RULE]


def test_it_is_a_moderator_with_a_category_per_rule() -> None:
    moderator = RulesModerator(
        {"custom/a": {"words": ["gadget"]}, "custom/b": Rule(patterns=(r"\d{4}",), score=0.4)}
    )
    assert isinstance(moderator, Moderator)
    assert moderator.categories == ("custom/a", "custom/b")
    assert [str(m) for m in moderator.taxonomy.explain()] == [
        "custom/a -> custom/a",
        "custom/b -> custom/b",
    ]
    scores = moderator.score([Exchange((), t) for t in ("a gadget", "no. 1234", "nothing", " ")])
    assert [dict(s.categories) for s in scores[:3]] == [
        {"custom/a": 1.0, "custom/b": 0.0},
        {"custom/a": 0.0, "custom/b": 0.4},
        {"custom/a": 0.0, "custom/b": 0.0},
    ]
    assert scores[3].cause == EMPTY_ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        "We sell Gadget Pro here.",
        "GADGET\n\tPRO",
        "ｇａｄｇｅｔ　ｐｒｏ",
        "gàdgét prö",
        "gad\u200bget\u00ad pro",
        "the gadget pro's price",
        "«gadget pro»",
    ],
)
def test_words_are_found_in_any_spelling(answer: str) -> None:
    assert scored(answer, words=["gadget pro"]) == 1.0


@pytest.mark.parametrize("answer", ["gadgets prose", "a gadget for a pro", "megagadget pro"])
def test_words_are_whole(answer: str) -> None:
    assert scored(answer, words=["gadget pro"]) == 0.0
    assert scored("megagadgets", parts=["gadget"]) == 1.0


def test_folding_reaches_case_beyond_ascii_and_the_list_itself() -> None:
    assert scored("die STRASSE", words=["straße"]) == 1.0
    assert scored("die straße", words=["STRASSE"]) == 1.0
    assert scored("ΣΊΣΥΦΟΣ", words=["σίσυφος"]) == 1.0
    assert scored("ﬁne print", words=["FINE"]) == 1.0
    assert folded("É\ufe0f  x") == "e x"
    assert plain("a\u200db") == "ab"


def test_scripts_without_spaces_need_no_boundary() -> None:
    assert scored("我们出售产品甲给大家", words=["产品甲"]) == 1.0
    assert scored("제품을 팝니다", words=["제품"]) == 1.0


def test_words_with_signs_at_their_edges() -> None:
    assert scored("I like C++.", words=["c++"]) == 1.0
    assert scored("see .NET", words=[".net"]) == 1.0
    assert scored("a.b", words=["a?b"]) == 0.0


def test_patterns_and_their_case() -> None:
    assert scored("Order AB-123 now", patterns=[r"\bab-\d+\b"]) == 1.0
    assert scored("Order AB-123 now", patterns=[r"\bab-\d+\b"], case_sensitive=True) == 0.0
    assert scored("A\u200bB-1", patterns=[r"AB-\d"], case_sensitive=True) == 1.0


CATASTROPHES = [
    r"^(a|a?)+$",
    r"^(?:a|aa)+$",
    r"(x+x+)+y",
    r"^(\w+\s?)*$",
]


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_a_catastrophic_pattern_never_hangs(pattern: str) -> None:
    moderator = RulesModerator({RULE: {"patterns": [pattern]}}, timeout=0.1)
    started = time.monotonic()
    scores = moderator.score(
        [
            Exchange((), "a" * 5000 + "!"),
            Exchange((), "x" * 5000),
            Exchange((), "word " * 5000 + "!"),
        ]
    )
    assert time.monotonic() - started < 10
    assert all(s.scored or s.cause == f"{RULE}: time limit" for s in scores)


def test_a_timed_out_answer_is_unscored_and_others_are_not() -> None:
    moderator = RulesModerator({RULE: {"patterns": [r"^(?:a|aa)+$"]}}, timeout=0.1)
    slow, quick = moderator.score([Exchange((), "a" * 5000 + "!"), Exchange((), "aaa")])
    assert (slow.scored, slow.cause) == (False, "custom/rule: time limit")
    assert quick.categories == {RULE: 1.0}


def test_the_limit_is_shared_by_all_rules_of_an_answer() -> None:
    rules = {f"custom/r{i}": {"patterns": [r"^(?:a|aa)+$"]} for i in range(50)}
    started = time.monotonic()
    (score,) = RulesModerator(rules, timeout=0.1).score([Exchange((), "a" * 5000 + "!")])
    assert not score.scored
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("kind", "holds", "lacks"),
    [
        (
            "email",
            ["write to jo.doe+x@mail.example.com.", "JO@EXAMPLE.ORG"],
            ["a @ b", "me@home", "x@1.2"],
        ),
        (
            "phone",
            ["call (202) 456-1111", "+44 20 7946 0958 is it"],
            ["in 2024", "item 12345", "1/2 of 3-4"],
        ),
        (
            "card",
            [
                "4111 1111 1111 1111 12/27",
                "5500-0000-0000-0004",
                "378282246310005.",
                "row 22 4111 1111 1111 1111",
                "2222 4444 6666 4111 1111 1111 1111",
            ],
            ["4111 1111 1111 1112", "0000 0000 0000 0000", "12345678901234567890123456"],
        ),
        (
            "iban",
            [
                "DE89 3704 0044 0532 0130 00 OK",
                "GB82WEST12345698765432.",
                "AB12 DE89 3704 0044 0532 0130 00",
            ],
            ["DE88 3704 0044 0532 0130 00", "AB12 CDEF"],
        ),
        (
            "ip",
            ["at 8.8.8.8.", "http://8.8.4.4:443/", "2001:4860:4860::8888"],
            ["version 1.2.3", "127.0.0.1", "12:30:45", "192.168.1.1"],
        ),
        ("us-ssn", ["SSN 536-90-4399"], ["000-12-3456", "536-90-43991", "tel 1-536-90-4399"]),
    ],
)
def test_personal_data(kind: str, holds: list[str], lacks: list[str]) -> None:
    found = [text for text in holds + lacks if scored(text, personal_data=[kind]) == 1.0]
    assert found == holds


def test_regions_of_telephone_numbers() -> None:
    number = "Tel. 030 901820"
    assert scored(number, personal_data=["phone"]) == 0.0
    assert scored(number, personal_data=["phone"], regions=["DE"]) == 1.0


@pytest.mark.parametrize(
    "hostile",
    ["a@" * 20000, "a" * 50000 + "@" + "b." * 20000, "4" * 50000, "DE89" + " A1" * 20000,
     "1:" * 30000, "1." * 30000, "+1 2" * 10000, "1 2-3 " * 8000],
)  # fmt: skip
def test_personal_data_ends_in_time(hostile: str) -> None:
    kinds = ["email", "card", "iban", "ip", "us-ssn", "phone"]
    moderator = RulesModerator({RULE: {"personal_data": kinds}}, timeout=0.5)
    started = time.monotonic()
    moderator.score([Exchange((), hostile)])
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({}, "no name becomes a category"),
        ({"illicit": {"words": ["x"]}}, "must start with 'custom/'"),
        ({RULE: {}}, "forbids nothing"),
        ({RULE: {"words": ["x"], "word": ["y"]}}, "word: Extra inputs"),
        ({RULE: {"words": [" \u200b"]}}, "is no word"),
        ({RULE: {"patterns": ["(a"]}}, "is no regular expression"),
        ({RULE: {"patterns": ["a*"]}}, "matches nothing, so every text"),
        ({RULE: {"personal_data": ["shoe size"]}}, "personal_data.0"),
        ({RULE: {"words": ["x"], "score": 0}}, "score"),
        ({RULE: {"personal_data": ["phone"], "regions": ["de"]}}, "regions.0"),
    ],
)
def test_a_rule_that_is_not_valid_is_an_error_at_load(rules: dict, says: str) -> None:
    with pytest.raises(ModeratorError, match=says.replace("(", r"\(")):
        RulesModerator(rules)


def test_a_time_limit_must_be_positive() -> None:
    with pytest.raises(ModeratorError, match="timeout"):
        RulesModerator({RULE: {"words": ["x"]}}, timeout=0)


@pytest.mark.parametrize(
    ("module", "package", "rule"),
    [
        ("regex", "regex", {"patterns": ["x"]}),
        ("phonenumbers", "phonenumbers", {"personal_data": ["phone"]}),
        ("stdnum.iban", "python-stdnum", {"personal_data": ["iban"]}),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str, rule: dict
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*rerail\[rules\]"):
        RulesModerator({RULE: rule})


def test_word_lists_need_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("regex", "phonenumbers", "stdnum"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    assert scored("a gadget", words=["gadget"]) == 1.0
