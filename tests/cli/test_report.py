"""``rerail report`` as a user meets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rerail.eval.records import RunFolder
from rerail.eval.types import Trial
from tests.cli.conftest import Cli
from tests.eval.trials import case, refused, steered

pytest.importorskip("matplotlib", reason="the extra eval is not installed")


def write_run(path: Path, trials: list[Trial]) -> Path:
    with RunFolder.begin(path, {"id": path.name}, [case(i) for i in range(20)]) as folder:
        folder.add(trials)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_run(tmp_path / "good", [steered(i) for i in range(20)])


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """One prompt more is refused, for fewer generations."""
    trials = [*(steered(i) for i in range(19)), refused(19, generations=3)]
    return write_run(tmp_path / "bad", trials)


def test_one_folder_gets_its_report(cli: Cli, good: Path) -> None:
    ran = cli("report", good)
    assert ran.code == 0, ran.err
    assert ran.out.split() == ["report:", str(good / "report.html")]
    assert (good / "report.html").is_file()
    assert cli("report", good, "--json").document == {"report": str(good / "report.html")}


def test_a_regression_fails_and_is_in_the_table(cli: Cli, good: Path, bad: Path) -> None:
    ran = cli("report", good, bad)
    assert ran.code == 1
    (block,) = (x for x in ran.out.split("\n\n") if "figure: neutralised\n" in x)
    assert "\nbefore: 100.0 %\nafter: 95.0 %\n" in block
    assert block.endswith("verdict: regression")
    assert "worse by more than their tolerance" in ran.out.splitlines()[-1]


@pytest.mark.parametrize("options", [["--tolerance", "0.06"], ["--certain"]])
def test_a_regression_that_is_tolerated_passes(
    cli: Cli, good: Path, bad: Path, options: list[str]
) -> None:
    ran = cli("report", good, bad, *options)
    assert ran.code == 0
    assert "nothing is worse by more than its tolerance" in ran.out


def test_json_is_the_comparison_with_the_same_exit_code(cli: Cli, good: Path, bad: Path) -> None:
    ran = cli("report", good, bad, "--json")
    assert ran.code == 1
    assert ran.document["regressed"] is True
    assert ran.document["runs"] == [str(good), str(bad)]
    rows = {row["quantity"]: row["verdict"] for row in ran.document["rows"]}
    assert rows["neutralised_share"] == "regression"
    assert rows["generations_per_prompt"] == "better"


def test_the_same_run_twice_passes(cli: Cli, good: Path) -> None:
    ran = cli("report", good, good)
    assert ran.code == 0
    assert "figures are the same" in ran.out


def test_of_many_settings_that_differ_the_first_are_named(cli: Cli, tmp_path: Path) -> None:
    for name in ("one", "two"):
        settings = {"id": name, "policy": {f"key-{i}": name for i in range(30)}}
        with RunFolder.begin(tmp_path / name, settings, [case(0)]) as folder:
            folder.add([steered(0)])
    ran = cli("report", tmp_path / "one", tmp_path / "two")
    (said,) = (line for line in ran.out.splitlines() if line.startswith("settings that differ"))
    assert said.count("policy.key-") == 10
    assert said.endswith("and 20 more")


def test_names_that_command_a_terminal_do_not(cli: Cli, tmp_path: Path, bad: Path) -> None:
    trials = [replace(steered(i), method="fast\x1b[31m\u202e") for i in range(20)]
    nasty = write_run(tmp_path / "nasty", [*trials, *(steered(i) for i in range(20))])
    ran = cli("report", nasty, bad)
    assert "only in" in ran.out
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 4, "holds no run"),
        (["good", "nothing"], 4, "holds no run"),
        (["good", "--tolerance", "0.1"], 2, "name a second folder"),
        (["good", "bad", "--tolerance", "-1"], 2, "--tolerance"),
        ([], 2, "folder"),
    ],
)
def test_bad_input_is_named(
    cli: Cli, good: Path, bad: Path, arguments: list[str], code: int, said: str
) -> None:
    where = {"good": good, "bad": bad, "nothing": good.parent / "nothing"}
    ran = cli("report", *(where.get(word, word) for word in arguments))
    assert ran.code == code
    assert said in ran.err
