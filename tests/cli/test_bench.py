"""``rerail bench``, on the engine without a model."""

from pathlib import Path

import pytest

from rerail.cli import ExitCode
from tests.cli.conftest import Cli, write_jsonl

LINES = [{"prompt": f"please do thing number {i}"} for i in range(4)]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", *LINES)


def test_bench_prints_one_document_with_the_promised_keys(
    cli: Cli, fake: list[str], lines: Path
) -> None:
    ran = cli("bench", *fake, "--input", lines, "--sizes", "1,512", "--repetitions", 1, "--json")
    assert ran.code == ExitCode.OK
    keys = {"fast", "tide", "random", "benign_overhead", "seconds_per_prompt_512_vs_1"}
    assert keys <= ran.document.keys()
    promised = {"generation_equivalents_per_steered", "tokens_vs_tide", "neutralised_share",
                "naturalness_median", "seconds_vs_tide_64"}  # fmt: skip
    assert promised <= ran.document["fast"].keys()
    assert set(ran.document["benign_overhead"]) == {"1", "64"}


def test_bench_prints_markdown_of_the_methods_that_are_wanted(
    cli: Cli, fake: list[str], lines: Path
) -> None:
    ran = cli("bench", *fake, "--input", lines, "--sizes", "8", "--method", "fast",
              "--repetitions", 1)  # fmt: skip
    assert ran.code == ExitCode.OK
    assert "| | `fast` |" in ran.out
    assert "| 8 |" in ran.out


def test_bench_measures_memory_on_demand(cli: Cli, fake: list[str], lines: Path) -> None:
    ran = cli("bench", *fake, "--input", lines, "--soak", 20, "--json")
    assert ran.document["requests"] == 20
    assert "20 requests" in cli("bench", *fake, "--input", lines, "--soak", 20).out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--stream", "--method", "random"), "leave --method out"),
        (("--soak", 3, "--method", "random"), "leave --method out"),
        (("--soak", 3, "--stream"), "give one of them"),
    ],
)
def test_bench_says_what_it_would_not_heed(
    cli: Cli, fake: list[str], lines: Path, given: tuple[object, ...], told: str
) -> None:
    ran = cli("bench", *fake, "--input", lines, *given)
    assert ran.code == ExitCode.BAD_INPUT
    assert told in ran.err


def test_bench_measures_streams_on_demand(cli: Cli, fake: list[str], lines: Path) -> None:
    given = ("bench", *fake, "--input", lines, "--stream", "--max-new-tokens", 4)
    ran = cli(*given, "--json")
    assert set(ran.document["streams"]) == {"1", "8"}
    steps = ["answers that pass", "streams, 1 at once", "streams, 8 at once"]
    assert ran.err.splitlines() == steps
    own = cli(*given, "--sizes", "2")
    assert "time to first text" in own.out
    assert own.err.splitlines() == ["answers that pass", "streams, 2 at once"]
    none = cli(*given[:-1], 100)
    assert none.code == ExitCode.BAD_INPUT
    assert "no answer passes" in none.err


@pytest.mark.parametrize("sizes", ["0", "1,x", ""])
def test_sizes_are_whole_numbers(cli: Cli, fake: list[str], sizes: str) -> None:
    ran = cli("bench", *fake, "--sizes", sizes)
    assert ran.code == ExitCode.BAD_INPUT
    assert "1,8,64,512" in ran.err


def test_a_line_that_cannot_be_used_is_named(cli: Cli, fake: list[str], tmp_path: Path) -> None:
    broken = write_jsonl(tmp_path / "broken.jsonl", LINES[0], {"text": "x"})
    ran = cli("bench", *fake, "--input", broken)
    assert ran.code == ExitCode.BAD_INPUT
    assert "line 2" in ran.err


def test_a_file_without_prompts_is_named(cli: Cli, fake: list[str], tmp_path: Path) -> None:
    empty = write_jsonl(tmp_path / "empty.jsonl", "")
    ran = cli("bench", *fake, "--input", empty, "--soak", 3)
    assert ran.code == ExitCode.BAD_INPUT
    assert "holds no prompt" in ran.err


def test_the_preset_of_the_policy_keeps_its_own_values(cli: Cli, tmp_path: Path) -> None:
    policy = tmp_path / "own.yaml"
    policy.write_text(
        "name: own\nmoderators: [{name: fake, options: {words: [sure]}}]\n"
        "optimizer: {preset: fast, max_iterations: 0, use_fades: false}\n"
    )
    options = ("align", "--model", "fake", "--policy", policy, "--prompt", "do it", "--json")
    assert cli(*options, "--method", "fast").document["cost"]["generations"] == 1
    assert cli(*options, "--method", "random").document["cost"]["generations"] > 1
