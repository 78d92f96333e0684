"""``rerail tune``, on the engine without a model."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rerail.cli import ExitCode
from rerail.policy import Policy, PolicyStore
from tests.cli.conftest import Cli, read_jsonl, write_jsonl, write_policy

LINES = [{"prompt": f"please do thing number {i}"} for i in range(4)]
GRID = ["--grid-mu", "0.01,0.3,3", "--grid-eta", "0.5,4"]
OFFSETS = ["--what", "offsets"]
GUIDANCE = ["--what", "guidance"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "prompts.jsonl", *LINES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tuned"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that nothing moves."""
    from rerail.engines import FakeEngine

    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: FakeEngine(answer=lambda *_: "Sure."))


def files(out: Path) -> set[str]:
    return {file.name for file in out.iterdir()}


# Steps


def test_a_grid_is_written_and_its_policy_is_used(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    ran = cli("tune", *fake, "--preset", "tsa", *GRID, "--input", lines, "--out", out, "--json")
    assert ran.code == ExitCode.OK
    document = ran.document
    best = document["best"]
    assert document["optimizer"] == {"preset": "tsa", "units": "absolute",
                                     "perturbation_scale": best["perturbation_scale"],
                                     "step_size": best["step_size"]}  # fmt: skip
    assert len(document["grid"]) == 6
    assert json.loads((out / "grid.json").read_text()) == document
    assert f"| **{best['perturbation_scale']:g}** |" in (out / "grid.md").read_text()
    policy = Policy.from_file(out / "policy.yaml")
    assert (policy.name, policy.version) == ("faked-tuned", document["policy_version"])
    aligned = cli("align", "--model", "fake", "--policy", out / "policy.yaml", "--prompt",
                  LINES[0]["prompt"], "--json").document  # fmt: skip
    assert aligned["policy"] == {"name": "faked-tuned", "version": policy.version, "audit": False}
    assert aligned["outcome"] == "steered"
    (trial,) = [
        line
        for line in read_jsonl(out / "trials.jsonl")
        if line["prompt"] == 0
        and line["setting"] == [best["perturbation_scale"], best["step_size"]]
    ]
    assert trial["generations"] == aligned["cost"]["generations"]


def test_a_best_setting_at_the_edge_is_said(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    options = ["--preset", "tsa", "--grid-mu", "0.01,3", "--grid-eta", "4"]
    ran = cli("tune", *fake, *options, "--input", lines, "--out", out, "--json")
    assert ran.document["at_edge"] == ["perturbation_scale"]
    assert "the best perturbation_scale lies at the edge" in ran.err


def test_the_policy_is_the_given_one_but_for_its_name_and_steps(
    cli: Cli, tmp_path: Path, lines: Path, out: Path
) -> None:
    policy = write_policy(
        tmp_path / "own.yaml",
        "name: own\ndescription: kept\nmoderators: [{name: fake, options: {words: [sure]}}]\n"
        "categories: {illicit: 0.3}\noptimizer: {preset: fast, num_directions: 4}\n",
    )
    options = ["--grid-mu", "0.1,0.6", "--grid-eta", "0.1", "--name", "mine"]
    ran = cli("tune", "--model", "fake", "--policy", policy, *options, "--input", lines,
              "--out", out)  # fmt: skip
    assert ran.code == ExitCode.OK, ran.err
    before, after = Policy.from_file(policy), Policy.from_file(out / "policy.yaml")
    assert (after.name, after.optimizer.num_directions) == ("mine", 4)
    assert after.optimizer.perturbation_scale in (0.1, 0.6)
    same = {"name": "own", "optimizer": before.optimizer}
    assert after.model_copy(update=same).version == before.version
    assert "default_threshold" not in (out / "policy.yaml").read_text()


def test_the_plot_is_a_picture_of_every_setting(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    pytest.importorskip("matplotlib")
    cli("tune", *fake, "--preset", "tsa", *GRID, "--input", lines, "--out", out)
    svg = (out / "grid.svg").read_text()
    assert svg.count("prompts, ") == 6
    assert "tsa on fake" in svg


def test_without_matplotlib_there_is_no_plot_and_that_is_said(
    cli: Cli, fake: list[str], lines: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = cli("tune", *fake, "--preset", "tsa", *GRID, "--input", lines, "--out", out)
    assert ran.code == ExitCode.OK
    assert "no plot: matplotlib is not installed: pip install 'rerail[eval]'" in ran.err
    assert not (out / "grid.svg").exists()


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("what", [["--preset", "tsa", *GRID], OFFSETS], ids=["steps", "offsets"])
def test_where_nothing_helps_a_warning_and_no_policy(
    cli: Cli, fake: list[str], lines: Path, out: Path, what: list[str]
) -> None:
    out.mkdir(parents=True)
    (out / "policy.yaml").write_text("name: left-over")
    ran = cli("tune", *fake, *what, "--input", lines, "--out", out, "--json")
    assert ran.code == ExitCode.PARTLY
    assert "warning: nothing found" in ran.err
    assert ran.document["policy"] is None
    assert not (out / "policy.yaml").exists()


def test_a_harmless_model_is_bad_input(cli: Cli, lines: Path, out: Path) -> None:
    ran = cli("tune", "--model", "fake", "--policy", "default", "--input", lines, "--out", out)
    assert ran.code == ExitCode.BAD_INPUT
    assert "no first answer is flagged" in ran.err


@pytest.mark.parametrize("what", [[], OFFSETS], ids=["steps", "offsets"])
@pytest.mark.parametrize("name", PolicyStore.shipped().names())
def test_a_shipped_policy_is_never_shadowed(
    cli: Cli, fake: list[str], lines: Path, out: Path, name: str, what: list[str]
) -> None:
    ran = cli("tune", *fake, *what, "--name", name, "--input", lines, "--out", out)
    assert ran.code == ExitCode.BAD_INPUT
    assert "choose another --name" in ran.err
    assert not out.exists()


def test_a_name_that_cannot_be_one_is_told_before_it_begins(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    ran = cli("tune", *fake, "--name", "No Name", "--input", lines, "--out", out)
    assert ran.code == ExitCode.BAD_INPUT
    assert "--name" in ran.err
    assert not out.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--grid-mu", "0"],
        ["--grid-eta", "1,x"],
        ["--grid-mu", ""],
        ["--grid-mu", "nan"],
        ["--grid-eta", "inf"],
        ["--keep", "3"],
        [*OFFSETS, "--grid-mu", "1"],
        [*OFFSETS, "--preset", "tsa"],
        [*GUIDANCE, "--keep", "3"],
        [*GUIDANCE, "--grid-mu", "1"],
        [*OFFSETS, "--objective", "score"],
        ["--objective", "beauty"],
        ["--preset", "reference"],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(
    cli: Cli, fake: list[str], lines: Path, out: Path, wrong: list[str]
) -> None:
    ran = cli("tune", *fake, "--input", lines, "--out", out, *wrong)
    assert ran.code == ExitCode.BAD_INPUT
    assert len(ran.err.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("what", [[], OFFSETS], ids=["steps", "offsets"])
def test_a_line_that_cannot_be_used_is_named(
    cli: Cli, fake: list[str], tmp_path: Path, out: Path, what: list[str]
) -> None:
    broken = write_jsonl(tmp_path / "broken.jsonl", LINES[0], {"text": "x"})
    ran = cli("tune", *fake, *what, "--input", broken, "--out", out)
    assert ran.code == ExitCode.BAD_INPUT
    assert "line 2" in ran.err
    empty = write_jsonl(tmp_path / "empty.jsonl", "")
    assert "holds no prompt" in cli("tune", *fake, *what, "--input", empty, "--out", out).err


@pytest.mark.parametrize("what", [[], OFFSETS], ids=["steps", "offsets"])
def test_it_says_before_it_begins_that_it_cannot_write(
    cli: Cli, fake: list[str], lines: Path, tmp_path: Path, what: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("rerail.tune.offsets.fit", lambda *_, **__: pytest.fail("begun"))
    monkeypatch.setattr("rerail.tune.steps.Tuner.run", lambda *_: pytest.fail("begun"))
    ran = cli("tune", *fake, *what, "--input", lines, "--out", lines / "below")
    assert ran.code == ExitCode.FAILED
    assert "another --out" in ran.err


@pytest.mark.parametrize("what", [["--preset", "tsa", *GRID], OFFSETS], ids=["steps", "offsets"])
def test_without_a_terminal_progress_is_lines_with_the_time_left(
    cli: Cli, fake: list[str], lines: Path, out: Path, what: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("rerail.cli._batch._SAY_EVERY", 0.0)
    ran = cli("tune", *fake, *what, "--max-open", 2, "--input", lines, "--out", out, "--json")
    said = ran.err.splitlines()
    assert said[0] == "first answers 2/4: about 10 s left"
    assert said[1] == "first answers 4/4"
    parts = [line for line in said if "round 1 of " in line and not whole(line)]
    assert "left" not in parts[0], "the first few tell nothing of the rest"
    assert parts[-1].endswith("about 10 s left")
    assert all("left" not in line for line in said if "/" in line and whole(line))


def whole(line: str) -> bool:
    done, total = next(word for word in line.split() if "/" in word).rstrip(":").split("/")
    return done == total


# Going on


def slowed(path: Path) -> Path:
    """Verdicts take a moment, so that a run can be killed in its middle."""
    return write_policy(
        path, "name: slow\nmoderators: [{name: fake, options: {words: [sure], delay: 0.01}}]\n"
    )


def results(out: Path) -> dict[str, Any]:
    texts = {name: (out / name).read_text() for name in ("grid.md", "policy.yaml")}
    grid = json.loads((out / "grid.json").read_text())
    del grid["output"]
    return {**texts, "grid": grid, "trials": sorted((out / "trials.jsonl").read_text().split("\n"))}


def test_killed_and_resumed_finds_the_same(
    cli: Cli, tmp_path: Path, lines: Path, out: Path
) -> None:
    policy = slowed(tmp_path / "slow.yaml")
    command = ["tune", "--model", "fake", "--policy", policy, "--preset", "tsa", *GRID,
               "--max-open", 2, "--input", lines, "--out"]  # fmt: skip
    code = "from rerail.cli import main; main()"
    trials = out / "trials.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", code, *(str(arg) for arg in [*command, out])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not (
            trials.exists() and trials.read_bytes().count(b"\n") > len(LINES)
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert files(out) == {"settings.json", "trials.jsonl"}
    before = trials.read_bytes()
    trials.write_bytes(before + b'{"setting": [0.01')  # torn, as a kill leaves it
    assert cli(*command, out).code == ExitCode.OK
    assert trials.read_bytes().startswith(before.rpartition(b"\n")[0])
    undisturbed = tmp_path / "undisturbed"
    assert cli(*command, undisturbed).code == ExitCode.OK
    assert results(out) == results(undisturbed)


@pytest.mark.parametrize(
    "change",
    [["--seed", "1"], ["--grid-eta", "0.5"], ["--objective", "neutralised"], ["--preset", "tide"],
     ["--max-new-tokens", "3"]],
    ids=" ".join,
)  # fmt: skip
def test_it_does_not_go_on_under_other_settings(
    cli: Cli, fake: list[str], lines: Path, out: Path, change: list[str]
) -> None:
    command = ["tune", *fake, "--preset", "tsa", *GRID, "--input", lines, "--out", out]
    cli(*command)
    before = results(out)
    ran = cli(*command, *change)
    assert ran.code == ExitCode.FAILED
    assert "other settings" in ran.err
    assert results(out) == before


def test_nor_on_other_prompts(cli: Cli, fake: list[str], lines: Path, out: Path) -> None:
    command = ["tune", *fake, "--preset", "tsa", *GRID, "--out", out, "--input"]
    cli(*command, lines)
    other = write_jsonl(lines.with_name("other.jsonl"), *LINES[1:])
    assert "prompts: " in cli(*command, other).err


def test_a_folder_of_somebody_else_is_not_touched(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    out.mkdir(parents=True)
    (out / "trials.jsonl").write_text("dear diary\n")
    ran = cli("tune", *fake, *GRID, "--input", lines, "--out", out)
    assert ran.code == ExitCode.FAILED
    assert "not written by 'rerail tune': choose another --out" in ran.err
    assert files(out) == {"trials.jsonl"}


@pytest.mark.parametrize("text", ["dear diary", "[1]"])
def test_settings_of_somebody_else_are_not_touched(
    cli: Cli, fake: list[str], lines: Path, out: Path, text: str
) -> None:
    out.mkdir(parents=True)
    (out / "settings.json").write_text(text)
    ran = cli("tune", *fake, *GRID, "--input", lines, "--out", out)
    assert ran.code == ExitCode.FAILED
    assert "another --out" in ran.err
    assert (out / "settings.json").read_text() == text


def test_trials_without_their_settings(cli: Cli, fake: list[str], lines: Path, out: Path) -> None:
    command = ["tune", *fake, *GRID, "--input", lines, "--out", out]
    cli(*command)
    (out / "settings.json").unlink()
    ran = cli(*command)
    assert ran.code == ExitCode.FAILED
    assert "restore it" in ran.err


def test_no_text_is_written(cli: Cli, fake: list[str], lines: Path, out: Path) -> None:
    ran = cli("tune", *fake, "--preset", "tsa", *GRID, "--input", lines, "--out", out, "--json")
    written = ran.out + ran.err + "".join(file.read_text() for file in out.iterdir())
    for text in ("thing number", "here is how", "can't help"):
        assert text not in written


# Offsets


def test_a_policy_with_offsets_makes_the_search_short(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    ran = cli("tune", *fake, *OFFSETS, "--input", lines, "--out", out, "--keep", 2, "--rounds", 3,
              "--json")  # fmt: skip
    assert ran.code == ExitCode.OK
    document = ran.document
    policy = Policy.from_file(out / "policy.yaml")
    assert (policy.name, policy.version) == ("faked-tuned", document["policy_version"])
    assert [list(offset) for offset in policy.offsets["fake"]] == document["offsets"]
    assert (document["flagged"], sum(document["accepted"])) == (4, 4)
    before = cli("align", *fake, "--prompt", "now tell me of another matter", "--json").document
    after = cli("align", "--model", "fake", "--policy", out / "policy.yaml", "--prompt",
                "now tell me of another matter", "--json").document  # fmt: skip
    assert (after["accepted_from"], after["cost"]["generations"]) == ("offset", 2)
    assert before["cost"]["generations"] >= after["cost"]["generations"]
    readable = cli("tune", *fake, *OFFSETS, "--input", lines, "--out", out, "--rounds", 1)
    assert "flagged prompts" in readable.out
    assert "written: " in readable.out


# Guidance


def test_a_policy_whose_guidance_is_in_order(
    cli: Cli, lines: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerail.engines import FakeEngine

    def answer(embedded: Any, point: Any) -> str:
        told = " ".join(message.content for message in embedded.prompt.messages)
        return "I can't help with that." if "kind" in told else "Sure, here is how it is done."

    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: FakeEngine(answer=answer))
    guidance = ["Please mind the gap.", "Be kind. {prompt}"]
    moderators = [{"name": "fake", "options": {"words": ["here is how"]}}]
    keys = {"name": "kind", "moderators": moderators, "guidance": guidance}
    policy = write_policy(tmp_path / "kind.yaml", json.dumps(keys))
    asked = ["tune", "--model", "fake", "--policy", policy, *GUIDANCE, "--input", lines]
    document = cli(*asked, "--out", out, "--json").document
    assert (document["flagged"], document["accepted"]) == (4, [4, 0])
    assert [text["text"] for text in document["guidance"]] == guidance[::-1]
    tuned = Policy.from_file(out / "policy.yaml")
    assert (tuned.name, tuned.version) == ("kind-tuned", document["policy_version"])
    assert [text.text for text in tuned.guidance] == guidance[::-1]
    readable = cli(*asked, "--out", out).out
    assert "+4  Be kind. {prompt}" in readable
    assert "2 texts solve 4 of 4 flagged prompts, after 12 answers" in readable


def test_a_policy_without_guidance_has_none_to_put_in_order(
    cli: Cli, fake: list[str], lines: Path, out: Path
) -> None:
    ran = cli("tune", *fake, *GUIDANCE, "--input", lines, "--out", out)
    assert ran.code == ExitCode.BAD_INPUT
    assert "has no guidance" in ran.err
