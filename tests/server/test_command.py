"""``rerail serve`` and its keys, as an operator meets them."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from rerail.cli import ExitCode, app
from rerail.server import run
from rerail.server.settings import ServerSettings
from rerail.server.tracing import Tracing
from tests.server.conftest import PLAIN, WRAPPED, Make, chat, until


def cli(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Servers that would have been run."""
    servers: list[Any] = []

    def note(self: run.Server, sockets: list[socket.socket]) -> None:
        servers.append(self)
        for place in sockets:
            place.close()

    monkeypatch.setattr(run.Server, "run", note)
    monkeypatch.setattr(run, "listening", lambda host, port: socket.socket())
    return servers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_addresses_need_keys(host: str, started: list[Any], tmp_path: Path) -> None:
    code, _, said = cli("serve", "--model", "fake", "--host", host, "--store", "none")
    assert code == ExitCode.BAD_INPUT
    assert "rerail serve keys new" in said
    empty = tmp_path / "keys.yaml"
    empty.write_text("keys: []\n")
    code, _, said = cli("serve", "--model", "fake", "--host", host, "--keys", empty)
    assert code == ExitCode.BAD_INPUT
    assert not started
    cli("serve", "keys", "new", "me", "--keys", empty)
    code, _, said = cli(
        "serve", "--model", "fake", "--host", host, "--keys", empty, "--store", "none"
    )
    assert code == ExitCode.OK, said
    assert len(started) == 1


def test_options_become_settings(started: list[Any], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    code, _, said = cli(
        "serve", "--model", "a=fake", "--model", "b=fake", "--policies", tmp_path,
        "--policy", "mine", "--model-policy", "b=strict", "--port", 0, "--max-open", 3,
        "--store", tmp_path / "x.sqlite", "--record", "all", "--retention-days", 7,
        "--cors-origin", "https://a.example", "--allowed-host", "rerail.example",
    )  # fmt: skip
    assert code == ExitCode.OK, said
    service = started[0].config.app.state.service
    assert set(service.workers) == {"a", "b"}
    assert service.settings == ServerSettings(
        default_policy="mine", model_policies={"b": "strict"}, max_open=3, record="all",
        retention_days=7, cors_origins=("https://a.example",), hosts=("rerail.example",),
    )  # fmt: skip
    assert "mine" in service.policies.names()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "nonsense"], "unknown policy 'nonsense'"),
        (["--model-policy", "x=strict"], "names no --model"),
        (["--model-policy", "strict"], "NAME="),
        (["--model", "a=fake", "--model", "a=fake"], "stands twice"),
        (["--model", "a=fake", "--model", "fake"], "NAME="),
        (["--keys", "/nowhere/keys.yaml"], "cannot read the keys"),
        (["--policies", "/nowhere"], "no such folder"),
        (["--port", "70000"], "--port"),
        (["--cors-origin", "*"], "not the origin of a page"),
        (["--allowed-host", "*.example"], "not the name of a server"),
    ],
)
def test_what_cannot_be_served_is_said(started: list[Any], options: list[str], said: str) -> None:
    model = [] if "--model" in options else ["--model", "fake"]
    code, out, err = cli("serve", *model, "--store", "none", *options)
    assert code in {ExitCode.BAD_INPUT, ExitCode.FAILED}
    assert said in out + err
    assert not started


def test_a_model_may_hold_an_equals_sign() -> None:
    from rerail.cli.serve import _pairs

    server = "vllm-server:http://127.0.0.1:8001?model=m"
    assert _pairs([server], "--model", "rerail") == {"rerail": server}
    assert _pairs([f"a={server}", "b=x"], "--model", "rerail") == {"a": server, "b": "x"}


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    with run.listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, _, said = cli("serve", "--model", "fake", "--port", port, "--store", "none")
    assert code == ExitCode.BAD_INPUT
    assert f"port {port}" in said
    code, _, said = cli(
        "serve", "--model", "fake", "--store", "none", "--tls-certificate", tmp_path / "none.pem"
    )
    assert code == ExitCode.BAD_INPUT


def test_a_key_without_its_certificate_is_not_plain_http(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    code, _, said = cli("serve", "--model", "fake", "--store", "none", "--tls-key", key)
    assert code == ExitCode.BAD_INPUT
    assert "--tls-certificate" in said


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    code, out, _ = cli(
        "serve", "keys", "new", "ops", "--keys", file, "--admin", "--may-choose", "*", "--json"
    )
    assert code == ExitCode.OK
    key = json.loads(out)["key"]
    code, out, err = cli("serve", "keys", "new", "alice", "--keys", file, "--policy", "strict")
    assert out.startswith("tsk-")
    assert out.strip() not in err
    code, out, _ = cli("serve", "keys", "list", "--keys", file, "--json")
    free = {"expires": None, "requests_per_minute": None, "tokens_per_minute": None,
            "tokens_per_day": None, "expired": False}  # fmt: skip
    assert json.loads(out)["keys"] == [
        {"name": "ops", "admin": True, "policy": None, "policies": ["*"], **free},
        {"name": "alice", "admin": False, "policy": "strict", "policies": [], **free},
    ]
    code, out, _ = cli("serve", "keys", "list", "--keys", file)
    assert "alice" in out
    assert key not in out
    assert cli("serve", "keys", "revoke", "alice", "--keys", file)[0] == ExitCode.OK
    assert cli("serve", "keys", "revoke", "alice", "--keys", file)[0] == ExitCode.FAILED


def test_a_key_may_end_and_be_limited(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    limits = ("--requests-per-minute", 60, "--tokens-per-day", 9000)
    new = ("serve", "keys", "new", "--keys", file)
    assert cli(*new, "alice", "--expires", "2101-06-30", *limits)[0] == ExitCode.OK
    assert cli(*new, "bob", "--expires", "2026-01-31", "--tokens-per-minute", 10)[0] == ExitCode.OK
    assert cli(*new, "carol", "--expires", "90d")[0] == ExitCode.OK
    code, out, _ = cli("serve", "keys", "list", "--keys", file, "--json")
    alice, bob, carol = json.loads(out)["keys"]
    assert (alice["expires"], alice["expired"]) == ("2101-07-01T00:00:00Z", False)
    assert (alice["requests_per_minute"], alice["tokens_per_day"]) == (60, 9000)
    assert (bob["expired"], bob["tokens_per_minute"]) == (True, 10)
    left = datetime.fromisoformat(carol["expires"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left <= timedelta(days=90)
    _, out, _ = cli("serve", "keys", "list", "--keys", file)
    assert "2026-02-01 (past)" in out
    for wrong in ("tomorrow", "2027-13-01", "999999d", "-3d", ""):
        code, _, said = cli(*new, "dora", "--expires", wrong)
        assert code == ExitCode.BAD_INPUT
        assert "90d" in said
    assert "dora" not in file.read_text()


def test_counts_that_cannot_be_had_are_told_before_a_model_is_loaded() -> None:
    code, _, said = cli("serve", "--model", "fake", "--limits", "nonsense")
    assert code == ExitCode.FAILED
    assert "redis://HOST:PORT" in said


def test_the_default_places_are_the_users_own(clean_environment: Path) -> None:
    code, _, _ = cli("serve", "keys", "new", "me")
    assert code == ExitCode.OK
    assert list(clean_environment.rglob("keys.yaml"))


def test_traces_hold_figures_and_texts_only_where_they_are_recorded(serve: Make) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install 'rerail[otel]'")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = serve(tracing=Tracing(provider))
    for policy in ("default", "recorded"):
        body = chat(f"{WRAPPED} in Zanzibar", policy=policy)
        httpx.post(f"{made.url}/v1/chat/completions", json=body)
    silent, told = exporter.get_finished_spans()
    assert silent.name == "POST /v1/chat/completions"
    assert silent.attributes["rerail.policy"] == "default"
    assert silent.events[0].attributes["rerail.outcome"] == "steered"
    assert "Zanzibar" not in silent.to_json()
    assert "Zanzibar" in told.to_json()


def test_traces_tell_the_type_of_an_error_and_not_its_message() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install 'rerail[otel]'")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        pytest.raises(ValueError, match="Zanzibar"),
        Tracing(provider).request("/v1/completions", "rerail", "default"),
    ):
        raise ValueError("quotes Zanzibar")
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.status.description == "ValueError"
    assert "Zanzibar" not in span.to_json()


def test_metrics_count_what_happened(serve: Make) -> None:
    made = serve()
    for text in (PLAIN, WRAPPED):
        httpx.post(f"{made.url}/v1/chat/completions", json=chat(text))
    httpx.get(f"{made.url}/nowhere/at/all")
    of = {"model": "rerail", "policy": "default"}
    assert made.metric("rerail_responses_total", **of, outcome="passed") == 1
    assert made.metric("rerail_responses_total", **of, outcome="steered") == 1
    assert made.metric("rerail_generations_sum", **of, outcome="passed") == 1
    assert made.metric("rerail_open", model="rerail") == 0
    good = {"route": "/v1/chat/completions", "status": "200"}
    until(lambda: made.metric("rerail_http_requests_total", **good) == 2, "both are counted")
    # A request is counted once its reply is sent, which the client may see first.
    other = {"route": "other", "status": "404"}
    until(lambda: made.metric("rerail_http_requests_total", **other) == 1, "a 404 is counted")
    page = httpx.get(f"{made.url}/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for name in made.service.metrics.labels:
        assert f"# HELP {name}" in page.text
