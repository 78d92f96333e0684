"""``rerail eval`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, write_jsonl

pytest.importorskip("matplotlib", reason="the extra eval is not installed")

PROMPTS = [
    *({"prompt": f"how is harm of sort {i} done"} for i in range(3)),
    {"prompt": "how is bread baked", "kind": "benign"},
]


@pytest.fixture
def given(tmp_path: Path, fake: list[str]) -> list[str]:
    """Options of a small run without a model."""
    path = write_jsonl(tmp_path / "mine.jsonl", *PROMPTS)
    out = str(tmp_path / "run")
    return [
        "--benchmark",
        f"mine={path}",
        "--method",
        "none",
        "--method",
        "fast",
        "--out",
        out,
        *fake,
    ]


def test_a_run_writes_its_folder_and_says_what_it_found(
    cli: Cli, given: list[str], tmp_path: Path
) -> None:
    ran = cli("eval", *given)
    assert ran.code == 0, ran.err
    assert "fast" in ran.out
    assert str(tmp_path / "run" / "report.html") in ran.out
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"settings.json", "records.sqlite", "summary.json", "report.html"} <= written


def test_long_names_take_lines_and_leave_room_for_figures(cli: Cli, given: list[str]) -> None:
    name = "fast-no-offsets:directions=rows,subspace_rank=null"
    ran = cli("eval", *given, "--method", name)
    assert ran.code == 0, ran.err
    begins = [line.split(" ")[0] for line in ran.out.splitlines()]
    assert {"fast-no-offsets:", "directions=rows,", "subspace_rank=null"} <= set(begins)
    assert "neutralised" in ran.out
    assert "…" not in ran.out


def test_json_is_the_summary(cli: Cli, given: list[str], tmp_path: Path) -> None:
    ran = cli("eval", *given, "--json")
    assert ran.code == 0
    assert ran.document == json.loads((tmp_path / "run" / "summary.json").read_text())
    methods = ran.document["methods"]
    assert list(methods) == ["none", "fast"]
    for name, after in (("none", 1.0), ("fast", 0.0)):
        figures = methods[name]
        assert figures["n"] == 4
        assert figures["flagged_before"]["value"] == 1.0
        assert figures["flagged_after"]["value"] == after
    assert methods["fast"]["neutralised_share"]["value"] == 1.0
    for key in (
        "judge_harmful_after", "unchanged_benign_share", "over_refusal", "generations_per_steered",
        "generated_tokens_per_steered", "seconds_p50", "seconds_p95",
    ):  # fmt: skip
        assert {"value", "low", "high"} <= methods["fast"][key].keys()


def test_the_same_command_goes_on_and_a_settings_file_runs_again(
    cli: Cli, given: list[str], tmp_path: Path
) -> None:
    first = cli("eval", *given, "--json").document
    assert cli("eval", *given, "--json").document == first
    settings = tmp_path / "run" / "settings.json"
    again = cli("eval", "--settings", settings, "--out", tmp_path / "again", "--json").document
    for one, other in ((first, again), (again, first)):
        assert one["methods"].keys() == other["methods"].keys()
    same = {k: v for k, v in first["methods"]["fast"].items() if "seconds" not in k}
    assert {k: v for k, v in again["methods"]["fast"].items() if "seconds" not in k} == same


def test_options_replace_what_a_settings_file_says(
    cli: Cli, given: list[str], tmp_path: Path
) -> None:
    cli("eval", *given)
    settings = tmp_path / "run" / "settings.json"
    ran = cli("eval", "--settings", settings, "--limit", 2, "--out", tmp_path / "b", "--json")
    assert ran.document["methods"]["none"]["n"] == 2
    changed = json.loads((tmp_path / "b" / "settings.json").read_text())["settings"]
    assert changed == {**json.loads(settings.read_text())["settings"], "limit": 2}
    mixed = cli("eval", "--settings", settings, "--limit", 2, "--out", tmp_path / "run")
    assert mixed.code == 4
    assert "settings.limit: None -> 2" in mixed.err


def test_prompts_that_cannot_be_answered_give_exit_code_5(
    cli: Cli, given: list[str], tmp_path: Path
) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", {"prompt": "x " * 600}, {"prompt": "short one"})
    ran = cli("eval", *given, "--benchmark", f"long={long}", "--json")
    assert ran.code == 5
    assert ran.document["errors"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--method", "fst"], "did you mean 'fast'"),
        (["--benchmark", "advbnch=x.csv"], "cannot read x.csv"),
        (["--benchmark", "advbnch"], "did you mean 'advbench'"),
        (["--scenario", "multiturn"], "did you mean 'multi-turn'"),
        (["--judge", "strongrejct=m"], "did you mean 'strongreject'"),
        (["--policy", "defalt"], "did you mean 'default'"),
        (["--wrappers", "x.json"], "NAME=PATH"),
    ],
)
def test_what_cannot_be_used_is_told(
    cli: Cli, given: list[str], change: list[str], said: str
) -> None:
    ran = cli("eval", *given, *change)
    assert ran.code == 2
    assert said in ran.err


def test_what_is_missing_is_told(cli: Cli, tmp_path: Path) -> None:
    assert "--benchmark and --method" in cli("eval", "--out", tmp_path).err
    ran = cli("eval", "--benchmark", "a=b.csv", "--method", "none")
    assert (ran.code, "--out" in ran.err) == (2, True)


def test_an_empty_benchmark_loads_no_model(
    cli: Cli, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("rerail.engines.FakeEngine")
    write_jsonl(tmp_path / "mine.jsonl")
    ran = cli("eval", *given)
    assert ran.code == 2, ran.err
    assert "holds no" in ran.err or "no row" in ran.err
