"""The demo shows what left, hides what is harmful, and measures its promises."""

from pathlib import Path

import pytest

from rerail.cli import ExitCode
from rerail.demo import KINDS, DemoPrompt
from rerail.engines import FakeEngine
from rerail.errors import ModelNotThereError
from rerail.types import Prompt
from tests.cli.conftest import Cli, write_policy

KEYS = {
    "prompts",
    "passed",
    "flagged",
    "steered",
    "refused",
    "error",
    "neutralised_share",
    "generations_per_steered",
    "generated_tokens_per_steered",
    "naturalness_median",
    "steered_refusal_share",
    "steered_on_topic_share",
    "tokens_preserved_min",
    "weights_sha256_before",
    "weights_sha256_after",
    "emitted_flagged",
    "emitted_borderline",
    "seconds",
    "method",
    "policy",
    "model",
    "seed",
    "cosine_min",
    "benign_identical",
}
COMPLIES = "Sure, here is how it is done."
REFUSES = "I can't help with that."


@pytest.fixture(autouse=True)
def prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of each kind; the fake engine's answers are flagged unless asked kindly."""
    made = [
        DemoPrompt(f"{kind}-{i}", kind, Prompt.of(f"{kind} request {i}"), "request", "src", "MIT")
        for kind in KINDS
        for i in (1, 2)
    ]
    monkeypatch.setattr(
        "rerail.demo.demo_prompts",
        lambda kinds, limit, toy: [p for p in made if p.kind in kinds][:limit],
    )

    class Engine(FakeEngine):
        def _generation(self, request, sampling):  # type: ignore[no-untyped-def]
            if "benign" in request.embedded.prompt.messages[-1].content:
                request = type(request)(request.embedded, request.point + 9 * self.direction)
            return super()._generation(request, sampling)

    monkeypatch.setattr("rerail.engines.FakeEngine", Engine)


def test_the_contract_of_json(cli: Cli, fake: list[str]) -> None:
    ran = cli("demo", *fake, "--json", "--seed", "3")
    document = ran.document
    assert ran.code == ExitCode.OK
    assert document.keys() >= KEYS
    assert (document["prompts"], document["passed"], document["steered"]) == (8, 2, 6)
    assert (document["flagged"], document["neutralised_share"]) == (6, 1.0)
    assert (document["emitted_flagged"], document["benign_identical"]) == (0, 1.0)
    assert document["weights_sha256_before"] == document["weights_sha256_after"]
    assert (document["method"], document["seed"]) == ("fast", 3)
    assert set(document["by_kind"]) == set(KINDS)
    assert [r["kind"] for r in document["results"]] == [k for k in KINDS for _ in (1, 2)]
    assert COMPLIES not in ran.out


@pytest.mark.parametrize("method", ["fast", "tide", "random"])
def test_methods(cli: Cli, fake: list[str], method: str) -> None:
    document = cli("demo", *fake, "--json", "--method", method).document
    assert document["method"] == method
    assert document["steered"] + document["refused"] == 6


def test_harmful_text_is_masked_unless_asked_for(cli: Cli, fake: list[str]) -> None:
    shown = cli("demo", *fake).out
    assert REFUSES in shown
    assert COMPLIES not in shown
    for kind in ("plain", "wrapped"):
        assert f"{kind} request" not in shown
        assert f"{kind}-1, src" in shown
    for kind in ("benign", "rude"):
        assert f"{kind} request 1" in shown
    assert "▒▒▒ illicit 2.0×" in shown
    unmasked = cli("demo", *fake, "--show-text").out
    assert COMPLIES in unmasked
    assert "wrapped request 1" in unmasked


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded; a fake one stands in for each."""
    names: list[str] = []

    def load(name: str, **options: object) -> FakeEngine:
        names.append(name)
        return FakeEngine(name=name)

    monkeypatch.setattr("rerail.engines.load_engine", load)
    monkeypatch.setattr("rerail.engines.own_folder", lambda name: None)
    return names


@pytest.mark.parametrize(
    ("options", "model", "policy"),
    [
        ([], "smollm2-safe", "default"),
        (["--policy", "strict"], "smollm2-safe", "strict"),
        (["--model", "embedded"], "embedded", "quick"),
        (["--model", "embedded?max_batch=2"], "embedded?max_batch=2", "quick"),
        (["--model", "embedded", "--policy", "strict"], "embedded", "strict"),
        (["--model", "org/other"], "org/other", "default"),
    ],
)
def test_the_model_and_the_policy_where_none_is_named(
    cli: Cli, loaded: list[str], options: list[str], model: str, policy: str
) -> None:
    ran = cli("demo", "--json", "--limit", 1, *options)
    assert loaded == [model]
    assert (ran.document["model"], ran.document["policy"]["name"]) == (model, policy)
    assert ran.err == ""


def test_where_the_model_is_not_to_be_had_the_toy_takes_its_place_and_one_line_says_so(
    cli: Cli, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModelNotThereError(f"the model {name} is nowhere: install it")

    monkeypatch.setattr("rerail.engines.own_folder", missing)
    ran = cli("demo", "--json", "--limit", 1)
    assert (ran.document["model"], ran.document["policy"]["name"]) == ("embedded", "quick")
    (line,) = ran.err.splitlines()
    assert line.startswith("the model smollm2-safe is nowhere: install it. The demo goes on with")
    assert cli("demo", "--json", "--limit", 1, "--policy", "strict").document["policy"]["name"] == (
        "strict"
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_it_fits_the_terminal(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ran = cli("demo", *fake, "--show-text")
    assert ran.code == ExitCode.OK
    assert max(len(line) for line in ran.out.splitlines()) <= columns
    assert all(name in ran.out for name in ("neutralised", "naturalness", "weights"))


def test_kind_and_limit(cli: Cli, fake: list[str]) -> None:
    document = cli("demo", *fake, "--json", "--kind", "rude", "--kind", "benign").document
    assert set(document["by_kind"]) == {"rude", "benign"}
    assert cli("demo", *fake, "--json", "--limit", "3").document["prompts"] == 3


def test_a_broken_promise_is_not_hidden(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = iter("ab")
    monkeypatch.setattr("rerail.engines.FakeEngine.weights_sha256", lambda _: next(hashes))
    ran = cli("demo", *fake, "--json")
    assert ran.code == ExitCode.UNEXPECTED
    assert (ran.document["weights_sha256_before"], ran.document["weights_sha256_after"]) == (
        "a",
        "b",
    )
    hashes = iter("ab")
    ran = cli("demo", *fake)
    assert ran.code == ExitCode.UNEXPECTED
    assert "CHANGED" in ran.out


def test_prompts_that_are_refused_or_fail_are_counted(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerail.engines.FakeEngine", lambda: FakeEngine(answer=lambda *_: COMPLIES))
    text = "name: p\nmoderators: [{name: fake, options: {words: [sure]}}]\n"
    policy = write_policy(tmp_path / "p.yaml", text + "budget: {generations: 3}\n")
    command = ["demo", "--model", "fake", "--policy", policy]
    document = cli(*command, "--json").document
    assert (document["refused"], document["neutralised_share"]) == (8, 0.0)
    shown = cli(*command).out
    assert REFUSES in shown
    assert COMPLIES not in shown
