"""``rerail moderate --moderator ... --input ... --json`` with each kind of moderator there is.

Services are asked over loopback in their own wire format; guards and classifiers are random models
of their architecture, read from a folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerail.cli import ExitCode
from rerail.moderators import REGISTRY
from tests.cli.conftest import Cli, Ran, write_jsonl
from tests.moderators import test_classifier as classifier
from tests.moderators.guards import tiny
from tests.moderators.services import test_plugins as plugins
from tests.moderators.services import wires

pytestmark = pytest.mark.filterwarnings(
    "ignore::rerail.moderators._http.ModeratorWarning"  # azure and perspective warn as they should
)

ANSWERS = ["In the harbour, by the old pier.", "No.", "It sailed at noon."]
SERVICES: dict[str, tuple[wires.Wire, dict[str, Any]]] = {
    "openai": (wires.OpenAIWire(), {"base_url": "{url}/v1"}),
    "mistral": (wires.MistralWire(), {"base_url": "{url}/v1"}),
    "azure": (wires.AzureWire(), {"endpoint": "{url}"}),
    "perspective": (wires.PerspectiveWire(), {"base_url": "{url}/v1alpha1"}),
    "http": (
        wires.HttpWire(),
        {
            "url": "{url}/classify",
            "headers": {"X-Api-Key": "${CLASSIFIER_KEY}"},
            "request": {"text": "{answer}"},
            "scores": {"hate": "labels.hate", "illicit": "found[?name=crime].score"},
            "divide_by": 100,
        },
    ),
}
GUARDS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "llama-guard": ("llama", tiny.LLAMA_GUARD_3_8B, {}),
    "shieldgemma": ("gemma", tiny.SHIELD_GEMMA, {}),
    "granite-guardian": ("granite", tiny.GRANITE_3_3, {}),
    "qwen3guard": ("qwen", tiny.QWEN3_GUARD, {}),
    "wildguard": ("mistral", None, {}),
    "custom-guard": ("qwen", tiny.QWEN3, {"rules": {"custom/ships": "No word of ships."}}),
}
LOCAL: dict[str, dict[str, Any]] = {
    "embedded": {},
    "embedded-small": {},
    "fake": {"words": ["sailed"]},
    "rules": {"rules": {"custom/sailing": {"words": ["sailed"]}}},
}
"""Each flags the third answer only, except the embedded ones, which flag none."""


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in wires.KEYS:
        monkeypatch.setenv(variable, wires.KEY)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [{"prompt": "Where is the ship?", "answer": answer} for answer in ANSWERS]
    return write_jsonl(tmp_path / "in.jsonl", *rows)


def flags(options: dict[str, Any]) -> list[str]:
    """Options of a moderator as a user writes them."""
    return [x for k, v in options.items() for x in ("--option", f"{k}={json.dumps(v)}")]


def check(ran: Ran, name: str) -> dict[str, Any]:
    """One full verdict per line, and the pace."""
    assert ran.code == ExitCode.OK, ran.err
    document = ran.document
    assert document["moderator"] == name
    assert (document["texts"], document["unscored"]) == (len(ANSWERS), 0)
    assert document["texts_per_second"] > 0
    categories = set(document["thresholds"])
    assert categories
    for result in document["results"]:
        assert set(result["scores"]) == categories
        assert all(0.0 <= score <= 1.0 for score in result["scores"].values())
        assert result["flagged"] == (result["harm"] >= 1.0)
    return dict(document)


def explains(cli: Cli, name: str, options: dict[str, Any], categories: set[str]) -> None:
    """``--explain`` names every category that the verdicts hold."""
    ran = cli("moderate", "--moderator", name, *flags(options), "--explain", "--json")
    assert ran.code == ExitCode.OK, ran.err
    (mapped,) = ran.document.values()
    assert categories <= {row["ours"] for row in mapped}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service(cli: Cli, source: Path, name: str) -> None:
    wire, declared = SERVICES[name]
    with wires.FakeServer(wire) as server:
        options = {
            key: value.replace("{url}", server.url) if isinstance(value, str) else value
            for key, value in declared.items()
        }
        run = ("moderate", "--moderator", name, *flags(options), "--input", source)
        document = check(cli(*run, "--json"), name)
        asked = document["asked"][name]
        assert asked["requests"] == len(server.requests)
        assert (asked["verdicts"], asked["texts"], asked["breaker"]) == (3, 3, "closed")
        assert asked["characters"] == sum(map(len, ANSWERS))
        assert asked["seconds"] >= asked["slowest"] > 0
        shown = cli(*run)
        explains(cli, name, options, set(document["thresholds"]))
    assert f"{name}: {asked['requests']} requests (0 retries), " in shown.out.replace("\n", " ")
    assert "texts/s" in shown.out.replace("\n", " ")
    assert wires.KEY not in shown.out + shown.err


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard(cli: Cli, source: Path, tmp_path: Path, name: str) -> None:
    kind, template, options = GUARDS[name]
    loaded = tiny.guard(kind, template)
    loaded.model.save_pretrained(tmp_path / "guard")
    loaded.tokenizer.save_pretrained(tmp_path / "guard")
    options = {"model": str(tmp_path / "guard"), "device": "cpu", **options}
    run = ("moderate", "--moderator", name, *flags(options), "--input", source, "--json")
    document = check(cli(*run), name)
    assert len({json.dumps(row["scores"]) for row in document["results"]}) > 1
    explains(cli, name, options, set(document["thresholds"]))


def test_a_classifier(cli: Cli, source: Path, tmp_path: Path) -> None:
    loaded = classifier.bert(classifier.JIGSAW, "multi_label_classification")
    loaded.model.save_pretrained(tmp_path / "toxic")
    loaded.tokenizer.save_pretrained(tmp_path / "toxic")
    options = {"model": str(tmp_path / "toxic"), "device": "cpu"}
    run = ("moderate", "--moderator", "classifier", *flags(options), "--input", source, "--json")
    document = check(cli(*run), "classifier")
    explains(cli, "classifier", options, set(document["thresholds"]))


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_moderator(cli: Cli, source: Path, name: str) -> None:
    options = LOCAL[name]
    run = ("moderate", "--moderator", name, *flags(options), "--input", source, "--json")
    document = check(cli(*run), name)
    flagged = [row["flagged"] for row in document["results"]]
    assert flagged == [False, False, not name.startswith("embedded")]
    assert document["asked"] == {}
    explains(cli, name, options, set(document["thresholds"]))


def test_personal_data(cli: Cli, tmp_path: Path) -> None:
    answers = ["Write to ann@example.org.", "Write to Ann.", "Pay with 4111 1111 1111 1111."]
    source = write_jsonl(tmp_path / "in.jsonl", *({"text": answer} for answer in answers))
    rules = {
        "custom/mail": {"personal_data": ["email"]},
        "custom/card": {"personal_data": ["card"]},
    }
    run = ("moderate", "--moderator", "rules", *flags({"rules": rules}), "--input", source)
    document = check(cli(*run, "--json"), "rules")
    assert [row["scores"] for row in document["results"]] == [
        {"custom/mail": 1.0, "custom/card": 0.0},
        {"custom/mail": 0.0, "custom/card": 0.0},
        {"custom/mail": 0.0, "custom/card": 1.0},
    ]


def test_a_plugin(cli: Cli, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.install(tmp_path, monkeypatch, {"shouting": "rerail_shouting:ShoutingModerator"})
    run = ("moderate", "--moderator", "shouting", "--option", "least_letters=2")
    document = check(cli(*run, "--input", source, "--json"), "shouting")
    assert set(document["thresholds"]) == {"custom/shouting"}
    explains(cli, "shouting", {}, {"custom/shouting"})


def test_two_services_of_one_kind_under_names_of_their_own(
    cli: Cli, source: Path, tmp_path: Path
) -> None:
    wire = wires.HttpWire()
    _, declared = SERVICES["http"]
    with wires.FakeServer(wire) as first, wires.FakeServer(wire) as second:
        members = [
            {"name": name, "kind": "http", "options": {**declared, "url": f"{server.url}/classify"}}
            for name, server in (("ours", first), ("theirs", second))
        ]
        policy = {"name": "two", "moderators": members, "routes": {"hate": "theirs"}}
        path = tmp_path / "two.yaml"
        path.write_text(json.dumps(policy), encoding="utf-8")  # JSON is YAML
        ran = cli("moderate", "--policy", path, "--input", source, "--json")
        document = check(ran, "ours+theirs")
        explained = cli("moderate", "--policy", path, "--explain", "--json").document
    assert {name: asked["requests"] for name, asked in document["asked"].items()} == {
        "ours": len(first.requests),
        "theirs": len(second.requests),
    }
    assert len(first.requests) == len(second.requests) == len(ANSWERS)
    assert set(explained) == {"ours", "theirs"}


def test_options_that_cannot_be_read(cli: Cli, source: Path) -> None:
    for wrong in (["words"], ["=x"], ["words=[a"], ["words=[a]", "words=[b]"],
                  ["words=2026-13-45"], ["words=!!int a"], ["words=&a [*a]"]):  # fmt: skip
        pairs = [part for pair in wrong for part in ("--option", pair)]
        ran = cli("moderate", "--moderator", "fake", *pairs, "--input", source)
        assert ran.code == ExitCode.BAD_INPUT, wrong
    ran = cli("moderate", "--option", "words=[a]", "--input", source)
    assert "belongs to --moderator" in ran.err.replace("\n", " ")


def test_every_kind_is_here() -> None:
    assert {*SERVICES, *GUARDS, *LOCAL, "classifier"} == set(REGISTRY)
