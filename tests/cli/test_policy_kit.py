"""Policies made, tested, explained and replayed on the command line."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from rerail.align import Aligner
from rerail.cli import ExitCode, _options, _rows
from rerail.engines import FakeEngine
from rerail.kit.schema import policy_schema
from rerail.kit.templates import template, template_names
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.store import PolicyChange, Store
from rerail.types import Prompt
from tests.cli.conftest import Cli, write_policy

POLICY = "name: p\nmoderators: [{name: fake, options: {words: [sure, rude]}}]\n"
CASES = """
cases:
  - {id: rude, answer: That is rude, flagged: true, category: illicit}
  - {id: kind, answer: That is kind, flagged: false, category: illicit}
  - {id: steers, prompt: Do it, outcome: steered}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    write_policy(tmp_path / "cases" / "p.yaml", CASES)
    return write_policy(tmp_path / "p.yaml", POLICY)


# New


@pytest.mark.parametrize("name", template_names())
def test_a_new_policy_is_its_template_and_holds_its_cases(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "policies" / "mine.yaml"
    ran = cli("policy", "new", "--from", name, "--name", "mine", "--output", file)
    assert ran.code == ExitCode.OK
    assert "policy mine" in ran.out
    assert Policy.from_file(file).name == "mine"
    assert cli("policy", "check", file).code == ExitCode.OK
    tested = cli("policy", "test", file, "--json")
    assert tested.code == ExitCode.OK
    assert (tested.document["counts"]["failed"], tested.document["counts"]["skipped"]) == (0, 1)
    assert cli("policy", "list", "--policies", file.parent).code == ExitCode.OK


def test_without_an_output_it_is_printed_and_can_be_piped(cli: Cli) -> None:
    ran = cli("policy", "new", "--from", "medical")
    assert ran.out == template("medical").policy
    assert cli("policy", "check", "-", stdin=ran.out).out.startswith("standard input: valid, med")
    assert cli("policy", "explain", "-", stdin=ran.out).code == ExitCode.OK
    shown = cli("policy", "show", "-", stdin=ran.out).out
    assert Policy.from_yaml(shown) == Policy.from_yaml(ran.out)
    assert cli("policy", "new", "--from", "medical", "--json").document["yaml"] == ran.out


@pytest.mark.parametrize("there", ["mine.yaml", "cases/mine.yaml"])
def test_nothing_is_overwritten_unasked(cli: Cli, tmp_path: Path, there: str) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / there).write_text("precious")
    words = ("policy", "new", "--from", "medical", "--output", tmp_path / "mine.yaml")
    ran = cli(*words)
    assert ran.code == ExitCode.BAD_INPUT
    assert "--force" in ran.err
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert [p.read_text() for p in files] == ["precious"]
    assert cli(*words, "--force").code == ExitCode.OK
    assert (tmp_path / "mine.yaml").read_text() == template("medical").policy


def test_what_cannot_be_made_is_told(cli: Cli, tmp_path: Path) -> None:
    assert "did you mean 'medical'" in cli("policy", "new", "--from", "medicl").err
    assert "give --from, one of childrens-site" in cli("policy", "new", stdin="").err
    assert "name" in cli("policy", "new", "--from", "medical", "--name", "No Name").err
    (tmp_path / "file").write_text("")
    ran = cli("policy", "new", "--from", "medical", "--output", tmp_path / "file" / "mine.yaml")
    assert ran.code == ExitCode.FAILED
    assert "choose another --output" in ran.err


def test_at_a_terminal_the_questions_are_asked_again_until_they_are_answered(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_options, "attended", lambda: True)
    answers = "medicl\nmedical\nNo Name\nmine\n7\n0.55\nAsk a nurse.\n\ny\n"
    ran = cli("policy", "new", "--output", tmp_path / "mine.yaml", stdin=answers)
    made = Policy.from_file(tmp_path / "mine.yaml")
    old = Policy.from_yaml(template("medical").policy)
    changed = {"name": "mine", "default_threshold": 0.55, "refusal_message": "Ask a nurse.",
               "record_text": True}  # fmt: skip
    assert made == old.model_copy(update=changed)
    assert "did you mean 'medical'" in ran.err
    assert "default_threshold" in ran.err
    assert "Threshold of what is not named" in ran.err


# Test


def test_cases_beside_the_file_are_tried(cli: Cli, policy: Path) -> None:
    ran = cli("policy", "test", policy, "--json")
    assert ran.code == ExitCode.OK
    document = ran.document
    assert document["policy"]["version"] == Policy.from_file(policy).version
    assert {c["id"]: c["state"] for c in document["cases"]} == {
        "rude": "held", "kind": "held", "steers": "skipped",
    }  # fmt: skip
    assert document["coverage"] == [
        {"category": "illicit", "flagged": ["rude"], "passes": ["kind"]}
    ]
    shown = cli("policy", "test", policy)
    assert f"policy p {Policy.from_file(policy).version}: 2 held · 1 skipped" in shown.out
    assert "category: illicit\nmust be flagged: 1\nmust pass: 1\n" in shown.out
    assert "That is" not in shown.out + shown.err, "no text of a case is shown"


def test_with_a_model_outcomes_are_tried(cli: Cli, policy: Path) -> None:
    ran = cli("policy", "test", policy, "--model", "fake", "--json")
    assert (ran.code, ran.document["counts"]["held"]) == (ExitCode.OK, 3)


@pytest.mark.parametrize(
    ("words", "cases", "code", "last"),
    [
        ("[sure]", CASES, ExitCode.UNEXPECTED, "failed: rude"),
        ("['']", CASES, ExitCode.UNEXPECTED, "failed: kind"),
        ("[sure]", "cases: [{id: a, answer: x, flagged: false, category: hate}]",
         ExitCode.UNEXPECTED, "failed: a"),
    ],
)  # fmt: skip
def test_a_case_that_fails_is_told_last_and_by_the_exit_code(
    cli: Cli, policy: Path, words: str, cases: str, code: ExitCode, last: str
) -> None:
    write_policy(policy, f"name: p\nmoderators: [{{name: fake, options: {{words: {words}}}}}]\n")
    write_policy(policy.parent / "cases" / "p.yaml", cases)
    ran = cli("policy", "test", policy)
    assert ran.code == code
    assert ran.out.rstrip().splitlines()[-1] == last


def test_a_moderator_that_fails_is_another_exit_code(cli: Cli, tmp_path: Path) -> None:
    slow = "rules: {custom/a: {patterns: ['(a+)+$']}}, timeout: 0.000001"
    file = write_policy(
        tmp_path / "p.yaml", f"name: p\nmoderators: [{{name: rules, options: {{{slow}}}}}]\n"
    )
    cases = write_policy(tmp_path / "c.yaml", "cases: [{id: a, answer: aaaab, flagged: false}]")
    ran = cli("policy", "test", file, "--cases", cases, "--json")
    assert ran.code == ExitCode.FAILED
    assert ran.document["cases"][0]["why"].startswith("no verdict: ")


def test_junit(cli: Cli, policy: Path, tmp_path: Path) -> None:
    write_policy(
        policy.parent / "cases" / "p.yaml",
        CASES + '  - {id: "<\\x07&>", answer: fine, flagged: true}\n',
    )
    report = tmp_path / "report.xml"
    ran = cli("policy", "test", policy, "--junit", report)
    assert ran.code == ExitCode.UNEXPECTED
    root = ElementTree.parse(report).getroot()
    (suite,) = root
    for element in (root, suite):
        counts = [element.get(k) for k in ("tests", "failures", "errors", "skipped")]
        assert counts == ["4", "1", "0", "1"]
    assert suite.get("name") == f"p {Policy.from_file(policy).version}"
    assert [c.get("name") for c in suite] == ["rude", "kind", "steers", "<\ufffd&>"]
    (failure,) = suite.findall("testcase/failure")
    assert (failure.get("message"), failure.text) == ("must be flagged", "not flagged, harm 0.00")
    assert len(suite.findall("testcase/skipped")) == 1
    ran = cli("policy", "test", policy, "--junit", tmp_path / "absent" / "report.xml")
    assert ran.code == ExitCode.FAILED
    assert "choose another --junit" in ran.err


def test_cases_that_cannot_be_read_are_bad_input(cli: Cli, policy: Path) -> None:
    assert "give --cases" in cli("policy", "test", "default").err
    (policy.parent / "cases" / "p.yaml").unlink()
    ran = cli("policy", "test", policy)
    assert ran.code == ExitCode.BAD_INPUT
    assert "cannot read cases" in ran.err


def test_a_table_of_eighty_columns_folds() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    rows = [{"case": "a-case-with-a-name", "found": "not flagged, harm 0.20; " + "why " * 30}]
    _rows.show_rows(console, rows, fold={"case", "found"})
    lines = file.getvalue().splitlines()
    assert lines[0].split() == ["case", "found"]
    assert max(map(len, lines)) <= 80
    assert file.getvalue().count("why") == 30


# Explain, schema


def test_a_policy_is_explained(cli: Cli) -> None:
    ran = cli("policy", "explain", "strict")
    for part in ("Who judges", "What is flagged", "What it may cost"):
        assert f"\n{part}\n" in ran.out
    parts = cli("policy", "explain", "strict", "--json").document["parts"]
    assert parts[0]["about"] == "Who judges"
    for part in parts:
        for sentence in part["says"]:
            assert f"\n  {sentence}\n" in ran.out, "a pipe gets a sentence a line"


def test_the_schema_is_printed(cli: Cli) -> None:
    assert cli("policy", "schema").document == policy_schema()
    assert cli("policy", "schema", "--json").document == policy_schema()


# Diff on records


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """What a server recorded under a policy: texts of one tenant, scores of another."""
    path = tmp_path / "records.sqlite"
    policy = Policy.from_yaml(POLICY)
    aligner = Aligner(FakeEngine(), Panel.load(policy))
    with Store.open(path) as store:
        for tenant in ("school", "shop"):
            for i in range(4):
                prompt = Prompt.of(f"question {i}")
                kept = prompt if tenant == "school" else None
                store.add(f"serve:{tenant}", f"{tenant}-{i}", aligner.align(prompt), kept)
    return path


def test_records_say_whom_a_change_would_touch(cli: Cli, policy: Path, records: Path) -> None:
    new = write_policy(policy.parent / "new.yaml", POLICY.replace("sure, rude", "nothing"))
    ran = cli("policy", "diff", policy, new, "--on", records, "--json")
    assert ran.code == ExitCode.OK
    replay = ran.document["replay"]
    assert (replay["records"], replay["by_texts"], replay["by_scores"]) == (8, 4, 0)
    (change,) = replay["changes"]
    assert (change["tenant"], change["count"]) == ("school", 4)
    assert (change["recorded"], change["old"], change["new"]) == ("steered", "steered", "passed")
    assert change["examples"] == ["school-3", "school-2", "school-1"]
    (why,) = replay["unjudged"]
    assert (why["count"], why["examples"]) == (4, ["shop-3", "shop-2", "shop-1"])
    assert "other moderators" in why["reason"]
    shown = cli("policy", "diff", policy, new, "--on", records)
    for word in ("school", "steered", "passed", "school-3", "not judged, 4", "--record all"):
        assert word in shown.out
    for text in ("question", "Sure", "help with that"):
        assert text not in shown.out + ran.out


def test_scores_suffice_for_thresholds(cli: Cli, policy: Path, records: Path) -> None:
    new = write_policy(policy.parent / "new.yaml", POLICY + "description: the same\n")
    replay = cli("policy", "diff", policy, new, "--on", records, "--json").document["replay"]
    assert (replay["by_texts"], replay["by_scores"], replay["unchanged"]) == (4, 4, 8)
    limited = cli("policy", "diff", policy, new, "--on", records, "--limit", 3, "--json")
    assert limited.document["replay"]["records"] == 3
    late = cli("policy", "diff", policy, new, "--on", records, "--since", "2999-01-01", "--json")
    assert late.document["replay"]["records"] == 0


def test_a_policy_that_a_server_noted_is_known(cli: Cli, policy: Path, records: Path) -> None:
    a, b = (write_policy(policy.parent / f"{n}.yaml", POLICY.replace("name: p", f"name: {n}"))
            for n in ("a", "b"))  # fmt: skip
    words = ("policy", "diff", a, b, "--on", records, "--json")
    assert cli(*words).document["replay"]["by_scores"] == 0
    version = Policy.from_yaml(POLICY).version
    with Store.open(records) as store:
        for text in (POLICY, "name: p\ngone: 1\n"):
            store.note_policy_change(
                PolicyChange("p", version, "put", datetime.now(UTC), "me", text)
            )
    assert cli(*words).document["replay"]["by_scores"] == 4


def test_records_that_are_not_there(cli: Cli, tmp_path: Path) -> None:
    ran = cli("policy", "diff", "default", "strict", "--on", "postgresql:/u:hunter2@host/db")
    assert ran.code == ExitCode.FAILED
    assert "--on" in ran.err
    assert "hunter2" not in ran.out + ran.err
    assert "belong to --on" in cli("policy", "diff", "default", "strict", "--since", "1h").err
    assert not list(tmp_path.iterdir())
