"""Recipes: all that come with rerail name what there is, and one of one's own is read strictly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rerail.errors import InputFileError
from rerail.eval.benchmarks import BENCHMARKS, load_benchmark
from rerail.eval.methods import Method, load_method
from rerail.eval.methods.aligned import Aligned
from rerail.eval.methods.resta import Resta
from rerail.eval.methods.smooth_llm import SmoothLLM
from rerail.eval.recipes import load_recipe, names
from rerail.eval.settings import RunSettings
from tests.eval.worlds import policy
from training.splits import bucket

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def test_there_are_recipes() -> None:
    assert names() == [
        "layers",
        "over-refusal-and-utility",
        "real-model",
        "real-model-peers",
        "real-model-quick",
        "tide-table",
        "tsa-table-1",
        "xstest",
    ]


@pytest.mark.parametrize("name", names())
def test_every_recipe_names_what_there_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description.endswith(".")
    settings = RunSettings.of(policy=policy(), **recipe.settings)
    for benchmark in settings.benchmarks:
        spec, _, path = benchmark.partition("=")
        found = BENCHMARKS[re.split(r"[+\[]", spec)[0]]
        assert path.startswith("$RERAIL_DATA/") if path else found.hub is not None
    for method in map(load_method, settings.methods):
        if isinstance(method, Aligned):
            method.require(policy(), LLAMA)


def test_tsa_table_1_is_the_papers_experiment() -> None:
    settings = RunSettings.of(policy=policy(), **load_recipe("tsa-table-1").settings)
    assert (settings.temperature, settings.max_new_tokens, len(settings.seeds)) == (0.1, 128, 3)
    assert settings.benchmarks[:2] == ("wildjailbreak", "harmbench")
    methods: dict[str, Method] = {
        m.name.partition(":")[0]: m for m in map(load_method, settings.methods)
    }
    assert {"none", "adasteer", "tsa", "fast", "random", "best-of-n"} < methods.keys()
    resta, smooth = methods["resta"], methods["smoothllm"]
    assert isinstance(resta, Resta)
    assert isinstance(smooth, SmoothLLM)
    assert (resta.noise, resta.units, resta.copies, resta.prefix) == (0.08, "absolute", 10, 10)
    assert (smooth.copies, smooth.share) == (10, 0.1)


@pytest.mark.parametrize("name", ["real-model", "real-model-peers", "real-model-quick"])
def test_a_real_model_is_asked_held_out_rows(name: str, data_dir: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("RERAIL_DATA", str(data_dir))
    for spec in load_recipe(name).settings["benchmarks"]:
        for case in load_benchmark(spec):
            if case.benchmark == "advbench":
                assert int(case.id) >= 420
            if case.benchmark == "strongreject":
                assert bucket(case.request) < 10


def test_one_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("benchmarks: [mine=x.csv]\nmethods: [none]\nlimit: 5\npolicy: strict\n")
    recipe = load_recipe(str(path))
    assert (recipe.policy, recipe.description) == ("strict", "")
    assert recipe.settings == {"benchmarks": ["mine=x.csv"], "methods": ["none"], "limit": 5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("benchmarks: [a]\nmethods: [none]\nlimt: 3\n", "did you mean 'limit'"),
        ("1: 2\n", "unknown setting 1"),
        ("benchmarks: [a]\n", "methods is no list of names"),
        ("benchmarks: a\nmethods: [none]\n", "benchmarks is no list of names"),
        ("benchmarks: [1]\nmethods: [none]\n", "benchmarks is no list of names"),
        ("benchmarks: [a]\nmethods: [none]\npolicy: {name: x}\n", "policy is no text"),
        ("- a\n", "no mapping"),
        ("", "no mapping"),
        ("a: [\n", "not YAML, line 2"),
        ("a: 1\na: 2\n", "stands twice"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputFileError, match=said):
        load_recipe(str(path))


def test_an_unknown_recipe_names_the_nearest_and_all() -> None:
    with pytest.raises(InputFileError, match=r"did you mean 'tsa-table-1'.*tide-table"):
        load_recipe("tsa-table1")


def test_a_recipe_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="no UTF-8 text"):
        load_recipe(str(tmp_path / "mine.yaml"))
