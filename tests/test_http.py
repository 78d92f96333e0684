"""What clients of HTTP read from the environment is used, or named in one line."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from rerail._http import checked_url
from rerail.cli import app
from rerail.engines._replicas import Replicas
from rerail.errors import EngineError, ModeratorError
from rerail.moderators.mistral import MistralModerator
from rerail.moderators.openai import OpenAIModerator

SECRET = "hush"

FAULTS = [
    ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "ALL_PROXY names a SOCKS proxy: pip install socksio"),
    (
        {"all_proxy": "socks5h://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
        "all_proxy names a SOCKS proxy",
    ),
    ({"ALL_PROXY": "socks4://127.0.0.1:9"}, "ALL_PROXY is no proxy's URL"),
    ({"HTTP_PROXY": "http://[::1"}, "HTTP_PROXY is no proxy's URL"),
    ({"http_proxy": "http://"}, "http_proxy is no proxy's URL"),
    ({"HTTPS_PROXY": f"http://me:{SECRET}/x@127.0.0.1:9"}, "HTTPS_PROXY is no proxy's URL"),
    ({"https_proxy": f"http://me:{SECRET}@127.0.0.1:port"}, "https_proxy is no proxy's URL"),
    ({"https_proxy": "127.0.0.1:99999"}, "https_proxy is no proxy's URL"),
    ({"HTTPS_PROXY": "ftp://127.0.0.1"}, "HTTPS_PROXY is no proxy's URL"),
    ({"HTTPS_PROXY": "http://h\n"}, "HTTPS_PROXY is no proxy's URL"),
    ({"HTTPS_PROXY": "http://exämple..a"}, "HTTPS_PROXY is no proxy's URL"),
    ({"HTTPS_PROXY": "://"}, "HTTPS_PROXY is no proxy's URL"),
    ({"SSL_CERT_FILE": "/no/such/file"}, "SSL_CERT_FILE names a file that cannot be used"),
    ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE names a file that cannot be used (SSLError)"),
    ({"SSL_CERT_FILE": os.sep}, "SSL_CERT_FILE names a file that cannot be used"),
    ({"SSL_CERT_DIR": "/no/such/folder"}, "SSL_CERT_DIR names no folder"),
]
ONLY_HTTPX = [
    ({"NO_PROXY": "localhost,[::1]"}, "NO_PROXY holds what is no host"),
    ({"no_proxy": "fe80::/10"}, "no_proxy holds what is no host"),
    ({"no_proxy": "127.0.0.1:port"}, "no_proxy holds what is no host"),
    ({"SSLKEYLOGFILE": "/no/such/folder/log"}, "SSLKEYLOGFILE names a file"),
]
"""What the SDK's own copy of httpx takes, or does not read."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, clean_environment: object) -> None:
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.setenv(variable, "k")


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "says"), FAULTS + ONLY_HTTPX, ids=str)
def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    put(monkeypatch, variables)
    with pytest.raises(ModeratorError) as moderator:
        MistralModerator()
    with pytest.raises(EngineError) as engine:
        Replicas(["http://127.0.0.1:9"])
    assert str(moderator.value) == str(engine.value)
    assert str(engine.value).startswith(says)
    assert "\n" not in str(engine.value)
    assert SECRET not in str(engine.value)


@pytest.mark.parametrize(("variables", "says"), FAULTS, ids=str)
def test_so_it_is_for_the_client_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], says: str
) -> None:
    put(monkeypatch, variables)
    with pytest.raises(ModeratorError) as info:
        OpenAIModerator()
    assert str(info.value).startswith(says)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HTTPS_PROXY": "127.0.0.1:9", "http_proxy": "http://me:pass@127.0.0.1:9"},
        {"ALL_PROXY": "socks4://127.0.0.1:9", "no_proxy": "localhost, *"},
        {"NO_PROXY": "localhost,127.0.0.1,10.0.0.0/8,::1,.example.com"},
        {"SSL_CERT_DIR": os.pathsep.join(["/no/such/folder", os.sep])},
        {"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""},
    ],
    ids=str,
)
def test_what_can_be_used_is(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    put(monkeypatch, variables)
    MistralModerator().close()
    OpenAIModerator().close()
    Replicas(["http://127.0.0.1:9"]).close()


def test_the_command_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    run = CliRunner().invoke(app, ["moderate", "--moderator", "mistral", "--text", "x"])
    assert run.exit_code == 4
    assert "SSL_CERT_FILE names a file that cannot be used" in " ".join(run.stderr.split())


@pytest.mark.parametrize(
    "url",
    ["", "host:8000", "ftp://host", "http://", "http://host:port", "http://host:0", "http://[::1"],
)
def test_a_server_s_url_that_is_none(url: str) -> None:
    with pytest.raises(EngineError, match="write http://host:port"):
        Replicas([url])


def test_a_server_s_url_has_neither_key_nor_parameters() -> None:
    for url in (f"http://me:{SECRET}@host", f"http://host?api_key={SECRET}"):
        with pytest.raises(EngineError, match="carries a credential") as info:
            Replicas([url])
        assert SECRET not in str(info.value)
    with pytest.raises(EngineError, match="no parameters"):
        Replicas(["http://host?x=1"])
    assert checked_url(" http://host:1/v1/ ", EngineError) == "http://host:1/v1"
