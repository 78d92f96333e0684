"""Verdicts under a policy; what could not be scored is unscored, not harmless."""

import json
from pathlib import Path

import pytest

from rerail.cli import ExitCode
from rerail.moderators import FakeModerator
from rerail.types import Exchange
from tests.cli.conftest import Cli, read_jsonl, write_jsonl, write_policy

POLICY = """
name: p
categories: {illicit: 0.25, violence: null}
moderators: [{name: fake, options: {words: [bad], categories: [illicit, violence, hate]}}]
"""


@pytest.fixture
def policy(tmp_path: Path) -> list[str]:
    return ["--policy", str(write_policy(tmp_path / "p.yaml", POLICY))]


def test_a_flagged_text(cli: Cli, policy: list[str]) -> None:
    ran = cli("moderate", *policy, "--text", "a bad text", "--json")
    document = ran.document
    assert ran.code == ExitCode.OK
    assert (document["flagged"], document["harm"], document["unscored"]) == (True, 4.0, None)
    assert document["scores"] == {"illicit": 1.0, "violence": 1.0, "hate": 1.0}
    assert document["thresholds"] == {"illicit": 0.25, "hate": 0.5}
    assert document["policy"]["name"] == "p"
    shown = cli("moderate", *policy, "--text", "a bad text")
    assert "flagged under policy p" in shown.out
    assert "illicit" in shown.out
    assert "off" in shown.out


def test_a_text_that_is_not_flagged(cli: Cli, policy: list[str]) -> None:
    assert not cli("moderate", *policy, "--text", "fine", "--json").document["flagged"]
    assert "not flagged" in cli("moderate", *policy, "--text", "fine").out


def test_an_answer_is_judged_with_its_prompt(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeModerator()
    monkeypatch.setattr("rerail.moderators.fake.FakeModerator", lambda: fake)
    path = write_policy(tmp_path / "p.yaml", "name: p\nmoderators: [fake]\n")
    cli("moderate", "--policy", path, "--prompt", "a question", "--answer", "an answer")
    ((exchange,),) = fake.calls
    assert [m.content for m in exchange.messages] == ["a question"]
    assert exchange.answer == "an answer"


def test_standard_input(cli: Cli, policy: list[str]) -> None:
    assert cli("moderate", *policy, "--text", "-", "--json", stdin="so bad").document["flagged"]


def test_a_file_of_texts_and_answers(cli: Cli, policy: list[str], tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"text": "a bad one", "id": "a"},
        {"prompt": "what?", "answer": "fine"},
        {"messages": [{"role": "user", "content": "what?"}], "answer": "bad"},
        {"answer": "no prompt"},
        {"text": 5},
        "{",
        {"text": ""},
    )
    ran = cli("moderate", *policy, "--input", source, "--json")
    document = ran.document
    assert ran.code == ExitCode.PARTLY
    assert [(r["line"], r["id"], r["flagged"]) for r in document["results"]] == [
        (1, "a", True),
        (2, None, False),
        (3, None, True),
        (7, None, False),
    ]
    assert document["results"][3]["unscored"] == "empty answer"
    assert [fault["line"] for fault in document["failed"]] == [4, 5, 6, 7]
    assert (document["texts"], document["flagged"], document["unscored"]) == (4, 2, 1)
    assert "4 texts, 2 flagged, 1 unscored, 3 unusable" in cli(
        "moderate", *policy, "--input", source
    ).out.replace("\n", " ")


def test_labels_are_counted_against_verdicts(cli: Cli, policy: list[str], tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"text": "a bad one", "label": "complies"},
        {"text": "fine", "label": "complies"},
        {"text": "", "label": "refuses"},
        {"text": "bad", "label": 1},
        {"text": "bad"},
    )
    document = cli("moderate", *policy, "--input", source, "--json").document
    assert document["labels"] == {
        "complies": {"flagged": 1, "not_flagged": 1, "unscored": 0},
        "refuses": {"flagged": 0, "not_flagged": 0, "unscored": 1},
    }
    assert [fault["line"] for fault in document["failed"]] == [3, 4]
    shown = cli("moderate", *policy, "--input", source).out.split()
    assert "50.0%" in shown
    assert {"complies", "refuses"} <= set(shown)


def test_calls_of_a_line_are_judged_with_its_text(
    cli: Cli, policy: list[str], tmp_path: Path
) -> None:
    def line(body: str) -> dict[str, object]:
        function = {"name": "send", "arguments": json.dumps({"body": body})}
        return {"text": "", "tool_calls": [{"id": "a", "type": "function", "function": function}]}

    source = write_jsonl(
        tmp_path / "in.jsonl", line("bad"), line("fine"), {"text": "x", "tool_calls": "bad"},
        {"text": "x", "tool_calls": [3]},
    )  # fmt: skip
    document = cli("moderate", *policy, "--input", source, "--json").document
    assert [result["flagged"] for result in document["results"]] == [True, False]
    assert [fault["line"] for fault in document["failed"]] == [3, 4]


def test_many_texts_are_scored_in_order(cli: Cli, policy: list[str], tmp_path: Path) -> None:
    texts = ["bad" if i % 7 == 0 else "fine" for i in range(600)]
    source = write_jsonl(tmp_path / "in.jsonl", *({"text": text} for text in texts))
    ran = cli("moderate", *policy, "--input", source, "--json")
    assert ran.code == ExitCode.OK
    assert [r["flagged"] for r in ran.document["results"]] == [text == "bad" for text in texts]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"error": RuntimeError("secret")}, "RuntimeError"),
        ({"delay": 5}, "no verdict within"),
        ({"scorer": lambda _: {"illicit": float("nan")}}, "ValueError"),
    ],
    ids=["raises", "hangs", "NaN"],
)
def test_a_failing_moderator_leaves_the_text_unscored(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, object],
    cause: str,
) -> None:
    monkeypatch.setattr("rerail.moderators.fake.FakeModerator", lambda: FakeModerator(**fault))
    text = "name: p\nmoderators: [fake]\nmoderator_timeout: 0.2\n"
    path = write_policy(tmp_path / "p.yaml", text)
    ran = cli("moderate", "--policy", path, "--text", "hello", "--json")
    assert ran.code == ExitCode.FAILED
    assert (ran.document["harm"], ran.document["scores"]) == (None, {})
    assert cause in ran.document["unscored"]
    shown = cli("moderate", "--policy", path, "--text", "hello")
    assert shown.out.startswith("unscored under policy p")
    assert "secret" not in ran.out + ran.err + shown.out


CONFIRMED = """
name: c
moderators: [{name: fake, options: {words: [bad]}}]
confirm: [{name: fake, options: {words: [worse], categories: [hate]}}]
"""


def test_what_confirms_judges_too(cli: Cli, tmp_path: Path) -> None:
    policy = ["--policy", str(write_policy(tmp_path / "c.yaml", CONFIRMED))]

    def flagged(text: str) -> tuple[bool, bool | None]:
        document = cli("moderate", *policy, "--text", text, "--json").document
        return document["flagged"], document["confirmed"]

    assert flagged("fine") == (False, True)
    assert flagged("bad") == (True, None)
    assert flagged("worse") == (True, False)
    said = cli("moderate", *policy, "--text", "worse").out
    assert "not confirmed: hate, harm 2.00" in said
    source = write_jsonl(tmp_path / "in.jsonl", {"text": "worse"}, {"text": "bad"})
    assert "not confirmed" in cli("moderate", *policy, "--input", source).out


def test_what_is_not_confirmed_does_not_leave(cli: Cli, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "c.yaml", CONFIRMED.replace("worse", "sure"))
    ran = cli("align", "--model", "fake", "--policy", policy, "--prompt", "how", "--json")
    assert "Sure" not in ran.document["text"]


def test_what_align_wrote_is_judged_with_its_prompts(
    cli: Cli, fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verdict that depends on the prompt is the one that `align` had."""

    def scorer(exchange: Exchange) -> dict[str, float]:
        return {"illicit": 0.1 if exchange.messages else 0.9}

    moderator = FakeModerator(scorer)
    monkeypatch.setattr("rerail.moderators.fake.FakeModerator", lambda **_: moderator)
    source = write_jsonl(tmp_path / "in.jsonl", {"prompt": "How do I bake bread?"})
    output = tmp_path / "out.jsonl"
    cli("align", *fake, "--input", source, "--output", output, "--with-prompt")
    ran = cli("moderate", *fake[2:], "--input", output, "--json")
    (result,) = ran.document["results"]
    (line,) = read_jsonl(output)
    assert (result["flagged"], result["conversation"]) == (False, True)
    assert result["harm"] == line["final"]["harm"]
    alone = write_jsonl(tmp_path / "alone.jsonl", {"text": line["text"], "prompt": None})
    (result,) = cli("moderate", *fake[2:], "--input", alone, "--json").document["results"]
    assert (result["flagged"], result["conversation"]) == (True, False)


def test_a_line_has_one_text(cli: Cli, policy: list[str], tmp_path: Path) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"text": "fine"},
        {"text": "fine", "prompt": "what?", "answer": "bad"},
        {"text": "fine", "prompt": "what?", "messages": [{"role": "user", "content": "x"}]},
    )
    ran = cli("moderate", *policy, "--input", source, "--json")
    assert [fault["line"] for fault in ran.document["failed"]] == [2, 3]


@pytest.mark.parametrize("args", [["so bad"], ["-"], []], ids=str)
def test_a_text_without_an_option(cli: Cli, policy: list[str], args: list[str]) -> None:
    assert cli("moderate", *policy, "--json", *args, stdin="so bad").document["flagged"]


def test_an_input_without_a_text_loads_no_moderator(cli: Cli) -> None:
    ran = cli("moderate", "--moderator", "nonsense", "--input", "-", stdin="")
    assert ran.code == ExitCode.BAD_INPUT
    assert "standard input holds no text" in ran.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--moderator", "http"], "it needs url, scores, request"),
        (["--moderator", "rules"], "it needs rules"),
        (["--moderator", "fake", "--option", "wrods=[x]"], "did you mean 'words'"),
        (["--moderator", "opneai"], "did you mean 'openai'"),
    ],
    ids=str,
)
def test_a_moderator_that_is_not_set_up(cli: Cli, args: list[str], said: str) -> None:
    ran = cli("moderate", *args, "--text", "x")
    assert ran.code == ExitCode.BAD_INPUT
    assert said in ran.err
    assert "__init__" not in ran.err
