"""``rerail eval`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, write_jsonl
from tests.eval import published_files

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


TSA = "tsa:perturbation_scale=0.3,step_size=0.3,units=table"
METHODS = ["none", "smoothllm", "resta:prefix=10", "adasteer", "best-of-n", "random", TSA, "fast"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Local copies of what the recipe asks, as options."""
    found = []
    for write in (published_files.wildjailbreak, published_files.harmbench,
                  published_files.xstest, published_files.gsm8k):  # fmt: skip
        path = write(tmp_path)
        found += ["--benchmark", f"{path.stem}={path}"]
    return found


def test_a_recipe_writes_the_papers_table(
    cli: Cli, files: list[str], fake: list[str], tmp_path: Path
) -> None:
    methods = [arg for name in METHODS for arg in ("--method", name)]
    command = ["eval", "--recipe", "tsa-table-1", "--limit", 8, *files, *methods, *fake,
               "--seed", 0, "--seed", 1, "--out", tmp_path / "run", "--json"]  # fmt: skip
    ran = cli(*command)
    assert ran.code == 0, ran.err
    assert "left out: adasteer @ fake" in ran.err
    assert ran.document["seeds"] == [0, 1]
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert (settings["temperature"], settings["max_new_tokens"]) == (0.1, 128)
    table = (tmp_path / "run" / "tables" / "tsa-table-1.csv").read_text().splitlines()
    assert table[0].startswith("prompts of,method,n,flagged,iterations,")
    parts = {"wildjailbreak, harmful", "harmbench, harmful", "gsm8k, utility",
             "xstest, harmful", "xstest, benign"}  # fmt: skip
    rows = ran.document["tsa_table_1"]
    assert {row["part"] for row in rows} >= parts
    assert {row["method"] for row in rows} == {m for m in METHODS if m != "adasteer"}
    by_part = {row["part"]: row for row in rows if row["method"] == "fast"}
    assert by_part["harmbench, harmful"]["prompts"] == 8
    assert by_part["harmbench, harmful"]["before"] == 8
    assert by_part["harmbench, harmful"]["after"] == 0
    assert by_part["gsm8k, utility"]["official"] is not None
    assert by_part["harmbench, harmful"]["seconds_per_prompt"]["value"] > 0
    assert cli(*command).document == ran.document  # the same command goes on, and finds it done


def test_the_papers_experiment_at_the_size_of_a_toy(
    cli: Cli, files: list[str], tmp_path: Path
) -> None:
    """On the embedded model, with the step sizes that were tuned for it."""
    ran = cli("eval", "--recipe", "tsa-table-1", "--limit", 2, *files[:4], "--model", "embedded",
              "--method", "none", "--method", "tsa", "--seed", 0, "--max-new-tokens", 6,
              "--out", tmp_path / "run", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    rows = ran.document["tsa_table_1"]
    assert {row["method"] for row in rows} == {"none", "tsa"}
    assert all(row["prompts"] >= 1 for row in rows)


def test_a_recipe_without_its_data_says_what_to_get_and_how_to_give_it(
    cli: Cli, fake: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def fails(*args: object, **kwargs: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", fails)
    ran = cli("eval", "--recipe", "tsa-table-1", "--method", "none", *fake, "--out", tmp_path / "r")
    assert ran.code == 2
    assert "huggingface.co/datasets/allenai/wildjailbreak" in ran.err
    assert "--benchmark wildjailbreak=FILE" in ran.err
    assert "--benchmark 'harmbench'" in ran.err


def test_a_recipe_of_ones_own_and_its_policy(
    cli: Cli, given: list[str], faked: Path, tmp_path: Path
) -> None:
    mine = write_jsonl(tmp_path / "own.jsonl", *PROMPTS)
    path = tmp_path / "own.yaml"
    path.write_text(
        f"benchmarks: ['mine={mine}']\nmethods: [none]\nmodels: [fake]\npolicy: {faked}\nlimit: 2\n"
    )
    ran = cli("eval", "--recipe", path, "--limit", 3, "--out", tmp_path / "o", "--json")
    assert ran.code == 0, ran.err
    assert ran.document["methods"]["none"]["n"] == 3
    both = cli("eval", "--recipe", path, "--settings", "x.json", "--out", tmp_path / "b")
    assert "not both" in both.err


def test_a_sweep_is_run_and_drawn(cli: Cli, given: list[str], tmp_path: Path) -> None:
    ran = cli("eval", *given, "--sweep", "num_directions=2,4", "--json")
    assert ran.code == 0, ran.err
    assert list(ran.document["methods"]) == [
        "none", "fast:num_directions=2", "fast:num_directions=4",
    ]  # fmt: skip
    assert [row["value"] for row in ran.document["sweeps"]] == [2, 4]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Mean highest score after against num_directions" in page
    assert (tmp_path / "run" / "plots" / "sweep-num_directions-score.svg").is_file()
    told = cli("eval", *given, "--sweep", "num_directons=2")
    assert (told.code, "did you mean 'num_directions'" in told.err) == (2, True)
