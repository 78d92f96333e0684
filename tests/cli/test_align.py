"""One prompt: the answer on standard output, the figures beside it, the contract of --json."""

from pathlib import Path

import pytest

from rerail.cli import ExitCode
from rerail.engines import FakeEngine
from rerail.store import Store
from tests.cli.conftest import Cli, write_policy

COMPLIES = "Sure, here is how it is done."
REFUSES = "I can't help with that."
KEYS = {
    "outcome",
    "text",
    "policy",
    "initial",
    "final",
    "cost",
    "iterations",
    "accepted_from",
    "naturalness",
    "cosine",
    "tokens_preserved",
    "stop_reason",
}


def test_a_flagged_answer_is_steered_and_only_the_answer_is_on_stdout(
    cli: Cli, fake: list[str]
) -> None:
    ran = cli("align", *fake, "--prompt", "how is it done")
    assert (ran.code, ran.out) == (ExitCode.OK, REFUSES + "\n")
    assert "steered" in ran.err
    assert COMPLIES not in ran.err


def test_the_contract_of_json(cli: Cli, fake: list[str]) -> None:
    document = cli("align", *fake, "--prompt", "how is it done", "--json").document
    assert document.keys() >= KEYS
    assert document["policy"].keys() >= {"name", "version"}
    assert document["cost"].keys() == {
        "generations",
        "generated_tokens",
        "prompt_tokens",
        "moderator_calls",
        "seconds",
    }
    for verdict in (document["initial"], document["final"]):
        assert verdict.keys() >= {"harm", "scores", "flagged"}
    assert document["initial"]["flagged"]
    assert not document["final"]["flagged"]
    assert (document["outcome"], document["text"]) == ("steered", REFUSES)


def test_an_acceptable_answer_costs_one_generation(cli: Cli, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "p.yaml", "name: p\nmoderators: [fake]\n")
    ran = cli("align", "--model", "fake", "--policy", policy, "--prompt", "hello", "--json")
    assert ran.document["outcome"] == "passed"
    assert ran.document["text"] == COMPLIES
    assert ran.document["cost"]["generations"] == 1


def test_the_same_seed_gives_the_same_answer(cli: Cli, fake: list[str]) -> None:
    command = ["align", *fake, "--prompt", "how is it done", "--seed", "7", "--json"]
    first, second = cli(*command).document, cli(*command).document
    for document in (first, second):
        del document["cost"]["seconds"]
    assert first == second


@pytest.mark.parametrize("stdin", ["how is it done", "how is it done\n", "\ufeffhow is it done"])
def test_a_prompt_from_standard_input(cli: Cli, fake: list[str], stdin: str) -> None:
    from_option = cli("align", *fake, "--prompt", "how is it done", "--json").document
    from_stdin = cli("align", *fake, "--prompt", "-", "--json", stdin=stdin.encode()).document
    assert from_stdin["seed"] == from_option["seed"]


@pytest.mark.parametrize("args", [["how is it done"], ["-"], []], ids=str)
def test_a_prompt_without_an_option(cli: Cli, fake: list[str], args: list[str]) -> None:
    given = cli("align", *fake, "--prompt", "how is it done", "--json").document
    found = cli("align", *fake, "--json", *args, stdin="how is it done\n").document
    assert found["seed"] == given["seed"]


def test_a_file_that_is_taken_for_a_prompt(cli: Cli, fake: list[str], faked: Path) -> None:
    ran = cli("align", *fake, faked)
    assert ran.code == ExitCode.BAD_INPUT
    assert f"--input {faked}" in ran.err


def test_a_system_message_is_part_of_the_prompt(cli: Cli, fake: list[str]) -> None:
    without = cli("align", *fake, "--prompt", "how is it done", "--json").document
    with_system = cli(
        "align", *fake, "--prompt", "how is it done", "--system", "Be brief.", "--json"
    ).document
    assert without["seed"] != with_system["seed"]


def test_the_method_replaces_the_optimiser_of_the_policy(cli: Cli, fake: list[str]) -> None:
    versions = {
        cli("align", *fake, "--prompt", "x", "--json", "--method", m).document["policy"]["version"]
        for m in ("fast", "tide", "random")
    }
    assert len(versions) == 3


@pytest.mark.parametrize("stdin", [b"", b"  \n ", b"\xff\xfe\x00"], ids=["empty", "blank", "bytes"])
def test_standard_input_that_is_no_prompt(cli: Cli, fake: list[str], stdin: bytes) -> None:
    ran = cli("align", *fake, "--prompt", "-", "--json", stdin=stdin)
    assert ran.code == ExitCode.BAD_INPUT
    assert ran.document["error"]["type"] == "PromptError"


def test_a_prompt_longer_than_the_context(cli: Cli, fake: list[str]) -> None:
    ran = cli("align", *fake, "--prompt", "word " * 600, "--json")
    assert ran.code == ExitCode.BAD_INPUT
    assert ran.document["error"]["type"] == "PromptTooLongError"
    assert "shorten" in ran.document["error"]["message"]


def test_a_folder_without_a_model(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    ran = cli("align", "--model", tmp_path, "--prompt", "hello", "--json")
    assert ran.code == ExitCode.FAILED
    assert ran.document["error"]["type"] == "EngineError"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: p\nmoderators: [embeded]\n", "did you mean 'embedded'"),
        ("name: p\nmoderators: [fake]\ncategories: {ilicit: 0.5}\n", "did you mean 'illicit'"),
        ("name: p\nmoderators: [fake]\ncategories: {hate: 0.5}\n", "valid: illicit"),
        ("name: p\nmoderators: [{name: fake, options: {colour: 1}}]\n", "rejects its options"),
    ],
)
def test_a_policy_that_cannot_work(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    policy = write_policy(tmp_path / "p.yaml", text)
    ran = cli("align", "--model", "fake", "--policy", policy, "--prompt", "x", "--json")
    assert ran.code in {ExitCode.BAD_INPUT, ExitCode.FAILED}
    assert message in ran.document["error"]["message"]


def never_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: FakeEngine(answer=lambda *_: COMPLIES))


def test_nothing_flagged_is_shown_when_nothing_helps(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    never_refuses(monkeypatch)
    ran = cli("align", *fake, "--prompt", "how is it done")
    assert (ran.code, ran.out) == (ExitCode.REFUSED, REFUSES + "\n")
    assert COMPLIES not in ran.err
    ran = cli("align", *fake, "--prompt", "how is it done", "--json")
    assert (ran.code, ran.document["outcome"]) == (ExitCode.REFUSED, "refused")
    assert ran.document["final"] is None
    assert COMPLIES not in ran.out + ran.err


@pytest.mark.parametrize("fault", ["raises", "hangs", "gives NaN", "gives nothing"])
def test_nothing_is_shown_when_the_moderator_fails(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    from rerail.moderators import FakeModerator

    faulty = {
        "raises": lambda: FakeModerator(error=RuntimeError(COMPLIES)),
        "hangs": lambda: FakeModerator(delay=5),
        "gives NaN": lambda: FakeModerator(lambda _: {"illicit": float("nan")}),
        "gives nothing": lambda: FakeModerator(lambda _: {}),
    }
    monkeypatch.setattr("rerail.moderators.fake.FakeModerator", faulty[fault])
    text = "name: p\nmoderators: [fake]\nmoderator_timeout: 0.2\n"
    policy = write_policy(tmp_path / "p.yaml", text)
    options = ["--model", "fake", "--policy", str(policy)]
    ran = cli("align", *options, "--prompt", "how is it done", "--json")
    assert ran.code == ExitCode.FAILED
    assert ran.document["outcome"] == "error"
    assert ran.document["error"]
    assert COMPLIES not in ran.out + ran.err
    ran = cli("align", *options, "--prompt", "how is it done")
    assert ran.code == ExitCode.FAILED
    assert COMPLIES not in ran.out + ran.err


def test_a_store_keeps_one_prompt_too(cli: Cli, fake: list[str], tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    for _ in range(2):
        assert cli("align", *fake, "--prompt", "how is it done", "--store", path).code == 0
    with Store.open(path) as store:
        records = list(store.records("prompts"))
    assert [record.outcome for record in records] == ["steered", "steered"]
    assert {record.final_answer for record in records} == {None}


def test_a_store_that_cannot_be_opened_costs_no_answer(
    cli: Cli, fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: engine)
    store = tmp_path / "nowhere" / "records.sqlite"
    ran = cli("align", *fake, "--prompt", "how is it done", "--store", store, "--json")
    assert ran.code == ExitCode.FAILED
    assert ran.document["error"]["type"] == "StoreError"
    assert engine.generated == 0


def test_an_audit_policy_says_so(cli: Cli, tmp_path: Path) -> None:
    policy = write_policy(tmp_path / "p.yaml", "name: p\naudit: true\nmoderators: [fake]\n")
    command = ["align", "--model", "fake", "--policy", policy, "--prompt", "hello"]
    assert cli(*command, "--json").document["policy"]["audit"]
    assert "AUDIT" in cli(*command).err


def test_an_answer_cannot_command_the_terminal(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rerail.engines.FakeEngine",
        lambda: FakeEngine(answer=lambda *_: "[bold]fine[/bold] \x1b[2J :smile:"),
    )
    ran = cli("align", *fake, "--prompt", "hello")
    assert ran.out == "[bold]fine[/bold] \ufffd[2J :smile:\n"


def test_a_first_answer_that_is_steered_and_not_flagged_says_why(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "first answer" not in cli("align", *fake, "--prompt", "sing").err
    monkeypatch.setattr(
        "rerail.engines.FakeEngine",
        lambda: FakeEngine(lambda e, p: "" if (p == e.point).all() else "A song."),
    )
    told = cli("align", *fake, "--prompt", "sing").err
    assert "empty" in told
    assert "first answer" in told
