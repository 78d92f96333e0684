"""A file of prompts: every line is answered once, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rerail.cli import ExitCode
from rerail.cli._batch import _left
from rerail.store import Store
from tests.cli.conftest import Cli, read_jsonl, write_jsonl, write_policy


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def prompts(path: Path, count: int) -> Path:
    return write_jsonl(path, *({"id": f"p{i}", "prompt": f"how is {i} done"} for i in range(count)))


def stored(output: Path) -> list[Any]:
    with Store.open(output.with_suffix(".sqlite")) as store:
        return list(store.records(output.name))


def test_one_line_and_one_record_per_prompt(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 12)
    ran = cli("align", *fake, "--input", source, "--output", output, "--json", "--max-open", 3)
    assert ran.code == ExitCode.OK
    lines = read_jsonl(output)
    assert sorted(line["id"] for line in lines) == sorted(f"p{i}" for i in range(12))
    assert all(line["id"] == f"p{line['line'] - 1}" for line in lines)
    assert {record.item for record in stored(output)} == {line["id"] for line in lines}
    summary = ran.document
    assert (summary["records"], summary["resumed"], summary["failed"]) == (12, 0, [])
    assert summary["outcomes"] == {"passed": 0, "steered": 12, "refused": 0, "error": 0}
    assert summary["output"] == str(output)


def test_a_line_holds_what_a_single_prompt_gives(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 5)
    cli("align", *fake, "--input", source, "--output", output)
    for line in read_jsonl(output):
        alone = cli("align", *fake, "--prompt", f"how is {line['line'] - 1} done", "--json")
        same = {"id": line["id"], "line": line["line"], **alone.document}
        for document in (line, same):
            del document["cost"]["seconds"]
        assert line == same


def test_conversations_ids_and_other_fields(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"messages": [{"role": "user", "content": "hello"}], "id": 7, "category": "x"},
        "",
        {"prompt": "日本語", "other": [1, 2]},
    )
    assert cli("align", *fake, "--input", source, "--output", output).code == ExitCode.OK
    assert sorted((line["line"], line["id"]) for line in read_jsonl(output)) == [(1, 7), (3, None)]


BROKEN = [
    "{",
    '"text"',
    "[]",
    "null",
    {"prompt": ""},
    {"prompt": 5},
    {"question": "x"},
    {"prompt": "x", "messages": []},
    {"messages": "x"},
    {"messages": []},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "admin", "content": "x"}]},
    {"messages": [{"role": "user", "content": 3}]},
    {"prompt": "x", "id": {}},
    {"prompt": "x", "id": True},
    {"prompt": "x", "id": "y" * 300},
    '{"prompt": "\\ud800"}',
    "[" * 100_000,
    '{"prompt": "x", "other": ' + "7" * 5000 + "}",
    '{"prompt": "x", "id": "first"}',
]


def test_broken_lines_are_named_and_the_rest_goes_on(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    good = {"id": "first", "prompt": "hello"}, {"id": "last", "prompt": "hello"}
    source = write_jsonl(tmp_path / "in.jsonl", good[0], *BROKEN, good[1])
    with source.open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    ran = cli("align", *fake, "--input", source, "--output", output, "--json")
    assert ran.code == ExitCode.PARTLY
    assert {line["id"] for line in read_jsonl(output)} == {"first", "last"}
    numbers = [*range(2, 2 + len(BROKEN)), len(BROKEN) + 3]
    assert [fault["line"] for fault in ran.document["failed"]] == numbers
    assert all(f"line {number}: " in ran.err for number in numbers)


def test_a_prompt_that_is_too_long_fails_alone(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"prompt": "hello"},
        {"prompt": "word " * 600},
        {"prompt": "goodbye"},
    )
    command = ["align", *fake, "--input", source, "--output", output, "--json"]
    ran = cli(*command)
    assert ran.code == ExitCode.PARTLY
    assert ran.document["outcomes"]["error"] == 1
    (fault,) = ran.document["failed"]
    assert fault["line"] == 2
    assert "shorten" in fault["error"]
    again = cli(*command)
    assert again.code == ExitCode.PARTLY
    assert (again.document["answered"], again.document["failed"]) == (0, ran.document["failed"])


def test_a_finished_run_is_left_as_it_is(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 6)
    command = ["align", *fake, "--input", source, "--output", output, "--json"]
    cli(*command)
    lines, records = output.read_bytes(), stored(output)
    ran = cli(*command)
    assert (ran.document["resumed"], ran.document["answered"]) == (6, 0)
    assert output.read_bytes() == lines
    assert stored(output) == records


def test_new_lines_of_the_input_are_added(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    cli("align", *fake, "--input", prompts(tmp_path / "in.jsonl", 3), "--output", output)
    source = prompts(tmp_path / "in.jsonl", 5)
    ran = cli("align", *fake, "--input", source, "--output", output, "--json")
    assert (ran.document["resumed"], ran.document["records"]) == (3, 5)


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_line_is_cut_off_and_answered_again(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, cut: int
) -> None:
    source = prompts(tmp_path / "in.jsonl", 4)
    command = ["align", *fake, "--input", source, "--output", output, "--json"]
    cli(*command)
    whole, records = read_jsonl(output), stored(output)
    output.write_bytes(output.read_bytes()[:-cut])
    ran = cli(*command)
    assert (ran.document["resumed"], ran.document["records"]) == (3, 4)
    again = read_jsonl(output)
    for line in [*whole, *again]:
        del line["cost"]["seconds"]
    assert again == whole
    assert stored(output) == records


@pytest.mark.parametrize(
    "change",
    [
        ["--seed", "1"],
        ["--max-new-tokens", "3"],
        ["--temperature", "0.5"],
        ["--method", "random"],
        ["--dtype", "float16"],
    ],
    ids=" ".join,
)
def test_a_run_does_not_go_on_under_other_settings(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, change: list[str]
) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    command = ["align", *fake, "--input", source, "--output", output, "--json"]
    cli(*command)
    before = output.read_bytes()
    ran = cli(*command, *change)
    assert ran.code == ExitCode.FAILED
    assert "settings" in ran.document["error"]["message"]
    assert output.read_bytes() == before
    ran = cli(*command, *change, "--fresh")
    assert ran.code == ExitCode.OK
    assert (ran.document["resumed"], ran.document["records"]) == (0, 3)
    assert len(stored(output)) == 3


@pytest.mark.parametrize("text", ["dear diary\n", "dear diary", '{"id": 1, "line": 1}\n'])
@pytest.mark.parametrize("fresh", [[], ["--fresh"]], ids=["", "fresh"])
def test_a_file_of_somebody_else_is_not_touched(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, text: str, fresh: list[str]
) -> None:
    output.write_text(text)
    source = prompts(tmp_path / "in.jsonl", 3)
    ran = cli("align", *fake, "--input", source, "--output", output, *fresh)
    assert ran.code == ExitCode.FAILED
    assert "another --output" in ran.err
    assert output.read_text() == text


def test_lines_without_their_store(cli: Cli, fake: list[str], tmp_path: Path, output: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    command = ["align", *fake, "--input", source, "--output", output]
    cli(*command)
    for file in tmp_path.glob("out.sqlite*"):
        file.unlink()
    ran = cli(*command)
    assert ran.code == ExitCode.FAILED
    assert "--store" in ran.err
    assert len(read_jsonl(output)) == 3


def test_output_and_store_may_be_moved_together(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    cli("align", *fake, "--input", source, "--output", output)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for file in tmp_path.glob("out.*"):
        file.rename(folder / file.name)
    ran = cli("align", *fake, "--input", source, "--output", folder / "out.jsonl", "--json")
    assert (ran.document["resumed"], ran.document["answered"]) == (3, 0)


def test_runs_share_a_store(cli: Cli, fake: list[str], tmp_path: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    path = tmp_path / "all.sqlite"
    runs = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        output = tmp_path / folder / "out.jsonl"
        ran = cli("align", *fake, "--input", source, "--output", output, "--store", path, "--json")
        runs.add(ran.document["run"])
    with Store.open(path) as store:
        assert [len(store.done(run)) for run in sorted(runs)] == [3, 3]


def test_input_and_output_must_differ(cli: Cli, fake: list[str], tmp_path: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    before = source.read_bytes()
    ran = cli("align", *fake, "--input", source, "--output", source)
    assert ran.code == ExitCode.BAD_INPUT
    assert source.read_bytes() == before


@pytest.mark.parametrize("lines", [[], ["{"]], ids=["empty", "broken"])
def test_an_input_without_a_prompt_loads_no_model(
    cli: Cli,
    fake: list[str],
    tmp_path: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
) -> None:
    monkeypatch.delattr("rerail.engines.FakeEngine")
    source = write_jsonl(tmp_path / "in.jsonl", *lines)
    ran = cli("align", *fake, "--input", source, "--output", output, "--json")
    assert ran.code == ExitCode.BAD_INPUT
    assert "holds no prompt" in ran.document["error"]["message"]
    assert not output.exists()


def test_an_id_may_be_the_number_of_a_line_without_one(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    lines = {"prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": "#1", "prompt": "c"}
    source = write_jsonl(tmp_path / "in.jsonl", *lines, {"id": None, "prompt": "d"})
    command = ["align", *fake, "--input", source, "--output", output, "--json"]
    assert cli(*command).code == ExitCode.OK
    ids = {1: None, 2: 1, 3: "#1", 4: None}
    assert {line["line"]: line["id"] for line in read_jsonl(output)} == ids
    assert {record.item for record in stored(output)} == {"#1", "1", "##1", "#4"}
    assert cli(*command).document["answered"] == 0


TURNS = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "what "}, {"type": "text", "text": "x"}]},
    {"role": "assistant", "content": None, "refusal": "No.", "annotations": []},
    {"role": "user", "content": "why", "name": None},
]


def test_conversations_are_what_the_server_takes(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    columns = {"id": None, "prompt": None, "messages": TURNS}
    source = write_jsonl(tmp_path / "in.jsonl", columns, {"prompt": "x", "messages": None})
    ran = cli("align", *fake, "--input", source, "--output", output, "--with-prompt")
    assert ran.code == ExitCode.OK
    by_line = {line["line"]: line["messages"] for line in read_jsonl(output)}
    turns = [("system", "Be brief."), ("user", "what x"), ("assistant", "No."), ("user", "why")]
    assert [(turn["role"], turn["content"]) for turn in by_line[1]] == turns
    assert by_line[2] == [{"role": "user", "content": "x"}]


def test_lines_may_have_tools(cli: Cli, faked: Path, tmp_path: Path, output: Path) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    source = write_jsonl(tmp_path / "in.jsonl", {"prompt": "x", "tools": [tool]},
                         {"prompt": "x", "tools": [{"type": "function"}]},
                         {"prompt": "x", "tools": "look"})  # fmt: skip
    command = ["align", "--model", "fake", "--policy", faked, "--input", source]
    cli(*command, "--output", tmp_path / "refused.jsonl")
    (refused,) = read_jsonl(tmp_path / "refused.jsonl")
    assert "tools: judge" in refused["error"]
    faked.write_text(f"{faked.read_text('utf-8')}tools: judge\n", encoding="utf-8")
    ran = cli(*command, "--output", output)
    assert ran.code == ExitCode.PARTLY
    (line,) = read_jsonl(output)
    assert (line["line"], line["tool_calls"]) == (1, [])
    assert "'tools' must be a list" in ran.err


LOOK = {"type": "function", "function": {"name": "look"}}
GO = {"type": "function", "function": {"name": "go"}}
NAMED = {"type": "function", "function": {"name": "go"}}


def test_a_line_may_say_what_is_called_and_what_form_its_answer_has(
    cli: Cli, faked: Path, tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerail.engines import FakeEngine

    told = {}

    def answer(embedded: Any, point: Any) -> str:
        prompt = embedded.prompt
        *before, asked = [turn.content for turn in prompt.messages]
        told[asked] = [tool.name for tool in prompt.tools], *before
        call = '<tool_call>{"name": "go", "arguments": {}}</tool_call>'
        return "{}" if asked == "json" else call if "call" in asked else "No."

    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: FakeEngine(answer))
    tools = [LOOK, GO]
    source = write_jsonl(
        tmp_path / "in.jsonl",
        {"prompt": "call any", "tools": tools, "tool_choice": "required"},
        {"messages": [{"role": "user", "content": "call go"}], "tools": tools,
         "tool_choice": NAMED},
        {"prompt": "silent", "tools": tools, "tool_choice": "required"},
        {"prompt": "none", "tools": tools, "tool_choice": "none"},
        {"prompt": "auto", "tools": tools, "tool_choice": "auto"},
        {"prompt": "null", "tools": None, "tool_choice": None, "response_format": None},
        {"prompt": "json", "response_format": {"type": "json_object"}},
        {"prompt": "no form", "response_format": {"type": "json_object"}},
    )  # fmt: skip
    write_policy(faked, "name: agent\nmoderators: [fake]\ntools: judge\n")
    ran = cli("align", "--model", "fake", "--policy", faked, "--input", source, "--output", output)
    assert ran.code == ExitCode.OK
    lines = {line["line"]: line for line in read_jsonl(output)}
    outcomes = [lines[number]["outcome"] for number in range(1, 9)]
    passed, refused = "passed", "refused"
    assert outcomes == [passed, passed, refused, passed, passed, passed, passed, refused]
    called = [[c["function"]["name"] for c in lines[n]["tool_calls"]] for n in range(1, 9)]
    assert called == [["go"], ["go"], [], [], [], [], [], []]
    both = ["look", "go"]
    assert told["call any"] == (both, "Answer with a call of one of your tools.")
    assert told["call go"] == (["go"], "Answer with a call of the tool go.")
    assert (told["none"], told["auto"]) == (([],), (both,))


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"tool_choice": "any"}, "tool_choice: auto, none, required, or one function of tools"),
        ({"tool_choice": "required"}, "tool_choice: a call must be of one of tools"),
        ({"tool_choice": NAMED, "tools": [LOOK]}, "tool_choice: no function of tools has that"),
        ({"tool_choice": {"type": "function"}, "tools": [LOOK]},
         "tool_choice.function: Field required"),
        ({"tools": [{"type": "function"}]}, "tools.0.function: Field required"),
        ({"tools": [LOOK] * 129}, "tools: List should have at most 128 items"),
        ({"tools": [LOOK, LOOK]}, "a tool's name stands twice: look"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: only tools of type function"),
        ({"response_format": "json"}, "response_format: Input should be"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: goes with"),
    ],
)  # fmt: skip
def test_what_a_line_may_not_say_is_told_as_the_server_tells_it(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, beside: Any, said: str
) -> None:
    turns = [{"role": "user", "content": "SECRET"}]
    source = write_jsonl(
        tmp_path / "in.jsonl", {"prompt": "x"}, {"prompt": "SECRET", **beside},
        {"messages": turns, **beside}, {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "tool", "content": "SECRET"}]},
    )  # fmt: skip
    ran = cli("align", *fake, "--input", source, "--output", output)
    assert (ran.code, len(read_jsonl(output))) == (ExitCode.PARTLY, 1)
    faults = " ".join(ran.err.split())
    assert faults.count(said) == 2
    assert "line 4: messages.0.content: Input should be a valid string" in faults
    assert "SECRET" not in ran.err


def test_a_run_does_not_change_what_its_lines_have(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path
) -> None:
    command = ["align", *fake, "--input", prompts(tmp_path / "in.jsonl", 2), "--output", output]
    assert cli(*command, "--with-prompt").code == ExitCode.OK
    assert cli(*command, "--with-prompt").code == ExitCode.OK
    ran = cli(*command)
    assert ran.code == ExitCode.FAILED
    assert "with_prompt" in ran.err


def test_failed_lines_are_counted(cli: Cli, fake: list[str], tmp_path: Path, output: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", {"prompt": "x"}, "", "{")
    shown = cli("align", *fake, "--input", source, "--output", output).out
    assert "1 failed line: 3" in [line.removeprefix("lines").strip() for line in shown.splitlines()]


# Standard streams, pipes and devices


def test_standard_input_to_standard_output(cli: Cli, fake: list[str]) -> None:
    lines = '{"prompt": "x"}\n{"prompt": "y", "id": 7}\n{\n'
    ran = cli("align", *fake, "--input", "-", "--output", "-", stdin=lines)
    assert ran.code == ExitCode.PARTLY
    assert {json.loads(line)["id"] for line in ran.out.splitlines()} == {None, 7}
    assert ran.err.count("cannot go on later") == 1
    assert "standard input, line 3" in ran.err
    assert "1 failed line: 3" in ran.err
    assert not Path("-").exists()


@pytest.mark.parametrize("more", [["--json"], ["--fresh"]], ids=str)
def test_what_standard_output_cannot_be(
    cli: Cli, fake: list[str], tmp_path: Path, more: list[str]
) -> None:
    source = prompts(tmp_path / "in.jsonl", 1)
    ran = cli("align", *fake, "--input", source, "--output", "-", *more)
    assert ran.code == ExitCode.BAD_INPUT


def test_nothing_is_kept_of_what_goes_to_the_null_device(
    cli: Cli, fake: list[str], tmp_path: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 2)
    command = ["align", *fake, "--input", source, "--output", "/dev/null", "--json"]
    ran = cli(*command)
    assert ran.code == ExitCode.OK
    assert (ran.document["records"], ran.document["store"]) == (2, None)
    store = tmp_path / "kept.sqlite"
    assert cli(*command, "--store", store).document["store"] == str(store)


def test_a_pipe_gets_the_lines(fake: list[str], tmp_path: Path) -> None:
    source, pipe = prompts(tmp_path / "in.jsonl", 3), tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start("align", *fake, "--input", source, "--output", pipe)
    assert len(read_jsonl(pipe)) == 3
    process.communicate()
    assert process.returncode == ExitCode.OK


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_by_its_other_names(fake: list[str], tmp_path: Path, name: str) -> None:
    source = prompts(tmp_path / "in.jsonl", 3)
    with (tmp_path / "out").open("wb") as file:
        start("align", *fake, "--input", source, "--output", name, stdout=file).communicate()
    assert len(read_jsonl(tmp_path / "out")) == 3


@pytest.mark.parametrize("kept", [False, True])
def test_text_is_recorded_only_if_the_policy_says_so(
    cli: Cli, tmp_path: Path, output: Path, kept: bool
) -> None:
    text = f"name: p\nmoderators: [fake]\nrecord_text: {json.dumps(kept)}\n"
    policy = write_policy(tmp_path / "p.yaml", text)
    source = write_jsonl(tmp_path / "in.jsonl", {"prompt": "hello there"})
    cli("align", "--model", "fake", "--policy", policy, "--input", source, "--output", output)
    (record,) = stored(output)
    expected = [{"role": "user", "content": "hello there"}] if kept else None
    assert record.prompt == expected
    assert (record.first_answer is not None, record.final_answer is not None) == (kept, kept)


@pytest.mark.parametrize("part", ["moderator", "engine"])
def test_lines_whose_moderator_or_model_failed_are_tried_again(
    cli: Cli,
    fake: list[str],
    tmp_path: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    from rerail.engines import FakeEngine
    from rerail.moderators import FakeModerator

    def unhappy(text: str) -> None:
        if "5" in text:
            raise RuntimeError

    def answer(embedded: Any, _: Any) -> str:
        unhappy(embedded.prompt.messages[-1].content)
        return "Fine."

    def scorer(exchange: Any) -> dict[str, float]:
        unhappy(exchange.messages[-1].content)
        return {"illicit": 0.0}

    source = prompts(tmp_path / "in.jsonl", 8)
    command = ["align", *fake, "--input", source, "--output", output, "--max-open", 1, "--json"]
    with monkeypatch.context() as patched:
        patched.setattr(
            *("rerail.engines.FakeEngine", lambda: FakeEngine(answer))
            if part == "engine"
            else ("rerail.moderators.fake.FakeModerator", lambda **_: FakeModerator(scorer))
        )
        ran = cli(*command)
    assert ran.code == ExitCode.PARTLY
    assert [fault["line"] for fault in ran.document["failed"]] == [6]
    assert len(read_jsonl(output)) == len(stored(output)) == 7
    ran = cli(*command)
    assert ran.code == ExitCode.OK
    assert (ran.document["answered"], ran.document["failed"]) == (1, [])
    assert len(read_jsonl(output)) == len(stored(output)) == 8


def test_nothing_flagged_is_written(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerail.engines import FakeEngine

    monkeypatch.setattr(
        "rerail.engines.FakeEngine", lambda: FakeEngine(answer=lambda *_: "Sure, zebra.")
    )
    source = prompts(tmp_path / "in.jsonl", 3)
    ran = cli("align", *fake, "--input", source, "--output", output, "--json")
    assert ran.code == ExitCode.OK
    assert ran.document["outcomes"]["refused"] == 3
    written = b"".join(file.read_bytes() for file in tmp_path.glob("out*"))
    assert b"zebra" not in written + ran.out.encode() + ran.err.encode()


def test_progress_without_a_terminal_is_lines_on_stderr(
    cli: Cli, fake: list[str], tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerail.cli._batch._SAY_EVERY", 0.0)
    source = prompts(tmp_path / "in.jsonl", 3)
    ran = cli("align", *fake, "--input", source, "--output", output, "--json")
    assert ran.document["records"] == 3
    assert ran.err.splitlines()[-1] == "aligning 3/3: 3 steered"


def slowed(policy: Path) -> Path:
    """Verdicts take a moment, so that a run can be killed in its middle."""
    return write_policy(
        policy,
        "name: slow\nmoderators: [{name: fake, options: {words: [sure], delay: 0.005}}]\n",
    )


def start(*args: object, stdout: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rerail", *(str(arg) for arg in args)],
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen[bytes], path: Path, count: int) -> None:
    while process.poll() is None and lines_in(path) < count:
        time.sleep(0.005)


def test_killed_again_and_again_and_resumed(cli: Cli, tmp_path: Path, output: Path) -> None:
    total = 90
    source = prompts(tmp_path / "in.jsonl", total)
    policy = slowed(tmp_path / "slow.yaml")
    command = ("align", "--model", "fake", "--policy", policy, "--max-open", 4)
    command += ("--input", source, "--output", output, "--json")
    finished: set[str] = set()
    for until in (1, 45):
        with start(*command) as process:
            wait_for_lines(process, output, until)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        whole = output.read_bytes().rpartition(b"\n")[0].splitlines()
        now = [json.loads(line)["id"] for line in whole]
        assert len(now) == len(set(now)) < total
        assert finished <= set(now)
        finished = set(now)
    ran = cli(*command)
    assert ran.code == ExitCode.OK
    summary = ran.document
    assert summary["records"] == total
    assert summary["resumed"] >= len(finished)
    ids = [line["id"] for line in read_jsonl(output)]
    assert sorted(ids) == sorted(f"p{i}" for i in range(total))
    assert sorted(record.item for record in stored(output)) == sorted(ids)


def test_a_killed_run_gives_the_answers_of_an_undisturbed_one(
    cli: Cli, tmp_path: Path, output: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 30)
    policy = slowed(tmp_path / "slow.yaml")
    command = ("align", "--model", "fake", "--policy", policy, "--max-open", 4, "--input", source)
    with start(*command, "--output", output) as process:
        wait_for_lines(process, output, 10)
        process.kill()
    for path in (output, tmp_path / "undisturbed.jsonl"):
        assert cli(*command, "--output", path).code == ExitCode.OK
    disturbed, undisturbed = (
        {line["id"]: (line["text"], line["seed"]) for line in read_jsonl(path)}
        for path in (output, tmp_path / "undisturbed.jsonl")
    )
    assert disturbed == undisturbed


def test_two_runs_cannot_write_one_output(cli: Cli, tmp_path: Path, output: Path) -> None:
    pytest.importorskip("fcntl")
    source = prompts(tmp_path / "in.jsonl", 200)
    policy = slowed(tmp_path / "slow.yaml")
    command = ("align", "--model", "fake", "--policy", policy, "--max-open", 1)
    command += ("--input", source, "--output", output)
    with start(*command) as process:
        wait_for_lines(process, output, 1)
        ran = cli(*command)
        process.kill()
    assert ran.code == ExitCode.FAILED
    assert "another process" in ran.err


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path, output: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 200)
    policy = slowed(tmp_path / "slow.yaml")
    command = ("align", "--model", "fake", "--policy", policy, "--max-open", 1)
    # A test run in the background of a shell ignores Ctrl-C, and so would the process it starts.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = start(*command, "--input", source, "--output", output, "--json")
    finally:
        signal.signal(signal.SIGINT, ignored)
    with process:
        wait_for_lines(process, output, 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
    assert json.loads(out)["error"]["exit_code"] == ExitCode.INTERRUPTED
    assert err.splitlines() == [f"stopped; the same command goes on with {output}".encode()]
    assert len(read_jsonl(output)) >= 3


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "about 10 s left"), (44, "about 40 s left"), (130, "about 2 min left"),
     (3600, "about 60 min left"), (9000, "about 2.5 h left")],
)  # fmt: skip
def test_the_time_left_is_told_roughly(seconds: float, said: str) -> None:
    assert _left(seconds) == said
