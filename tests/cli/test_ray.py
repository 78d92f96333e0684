"""``rerail align --ray``: the same lines and records as on one machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rerail import cluster
from rerail.cli import ExitCode
from rerail.store import Store
from tests.cli.conftest import Cli, read_jsonl, write_jsonl
from tests.fake_ray import FakeRay


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(cluster, "_ray", lambda: fake)
    return fake


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines = ({"id": f"p{i}", "prompt": f"how is {i} done"} for i in range(40))
    return write_jsonl(tmp_path / "in.jsonl", *lines)


def lines_of(output: Path) -> list[dict[str, Any]]:
    lines = sorted(read_jsonl(output), key=lambda line: int(line["line"]))
    for line in lines:
        del line["cost"]["seconds"]
    return lines


def test_lines_and_records_are_those_of_one_machine(
    cli: Cli, fake: list[str], source: Path, tmp_path: Path, ray: FakeRay
) -> None:
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    cli("align", *fake, "--input", source, "--output", here)
    ray.losses, ray.comes_back = {9, 30}, 3
    command = ["align", *fake, "--input", source, "--output", there, "--ray", "auto", "--json"]
    command += ["--max-open", 6, "--ray-workers", 3]
    ran = cli(*command)
    assert ran.code == ExitCode.OK
    assert len(ray.handles) == 3
    assert max(ray.batches) == 6
    assert lines_of(there) == lines_of(here)
    with Store.open(there.with_suffix(".sqlite")) as store:
        assert sorted(r.item for r in store.records(there.name)) == sorted(
            line["id"] for line in lines_of(here)
        )
    again = cli(*command)
    assert (again.document["resumed"], again.document["answered"]) == (40, 0)
    # What one machine began, a cluster goes on with.
    beyond = write_jsonl(
        source, *({"id": f"p{i}", "prompt": f"how is {i} done"} for i in range(45))
    )
    more = cli("align", *fake, "--input", beyond, "--output", here, "--ray", "auto", "--json")
    assert (more.document["resumed"], more.document["answered"]) == (40, 5)


def test_a_run_that_ends_in_the_middle_is_gone_on_with(
    cli: Cli, fake: list[str], source: Path, tmp_path: Path, ray: FakeRay
) -> None:
    output = tmp_path / "out.jsonl"
    command = ["align", *fake, "--input", source, "--output", output, "--ray", "auto", "--json"]
    command += ["--max-open", 4]
    ray.losses, ray.comes_back = set(range(13, 1000)), 0
    ran = cli(*command)
    assert ran.code == ExitCode.FAILED
    assert "workers were lost" in ran.err
    finished = len(read_jsonl(output))
    assert 8 <= finished <= 12
    ray.losses = set()
    ran = cli(*command)
    assert (ran.document["resumed"], ran.document["records"]) == (finished, 40)
    assert len({line["id"] for line in read_jsonl(output)}) == len(read_jsonl(output)) == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompt", "x", "--ray", "auto"], "belong to --input"),
        (["--prompt", "x", "--ray-workers", "2"], "belong to --input"),
        (["--input", "x", "--output", "y", "--ray-workers", "2"], "--ray-workers belongs to --ray"),
    ],
)
def test_options_that_belong_elsewhere(
    options: list[str], said: str, cli: Cli, fake: list[str]
) -> None:
    ran = cli("align", *fake, *options)
    assert ran.code == ExitCode.BAD_INPUT
    assert said in ran.err


def test_without_ray_it_says_what_to_install(
    cli: Cli, fake: list[str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = cli("align", *fake, "--input", source, "--output", tmp_path / "o.jsonl", "--ray", "auto")
    assert ran.code == ExitCode.FAILED
    assert "pip install 'rerail[ray]'" in ran.err
