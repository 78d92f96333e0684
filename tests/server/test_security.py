"""Who may call, what browsers are told, and what is kept to oneself."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from rerail.server.keys import KeyRing, KeysFileError, new_key, revoke
from rerail.server.service import is_loopback
from rerail.server.settings import Settings
from tests.server.conftest import PLAIN, WRAPPED, Made, Make, chat, until


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_hashes_are_kept(key_file: Path) -> None:
    key = new_key(key_file, "alice", policy="strict")
    text = key_file.read_text()
    assert key not in text
    assert key.removeprefix("tsk-") not in text
    assert len(key) > 40
    assert key_file.stat().st_mode & 0o077 == 0
    ring = KeyRing.read(key_file)
    found = ring.find(key)
    assert found is not None
    assert found.name == "alice"
    assert ring.find(key + "x") is None
    assert ring.find("") is None
    assert ring.find("\ud800ä") is None
    for shown in (repr(ring), repr(found), str(found)):
        assert found.sha256 not in shown


def test_names_are_given_once(key_file: Path) -> None:
    new_key(key_file, "alice")
    with pytest.raises(KeysFileError, match="has a key 'alice'"):
        new_key(key_file, "alice")
    with pytest.raises(KeysFileError, match="name"):
        new_key(key_file, "a b")
    revoke(key_file, "alice")
    with pytest.raises(KeysFileError, match="no key 'alice'"):
        revoke(key_file, "alice")


@pytest.mark.parametrize(
    "text",
    ["keys: 3", "keys: [{name: a}]", "- a", "keys: [{name: a, sha256: zz}]", "\x00", "a: &x"],
)
def test_a_file_that_is_not_one_of_keys_is_refused_without_quoting_it(
    key_file: Path, text: str
) -> None:
    key_file.write_text(text)
    with pytest.raises(KeysFileError) as caught:
        KeyRing.read(key_file)
    assert "zz" not in str(caught.value)


def test_keys_open_what_they_should(serve: Make, key_file: Path) -> None:
    user = new_key(key_file, "user")
    admin = new_key(key_file, "root", admin=True)
    made = serve(keys=KeyRing.read(key_file))
    paths = ["/v1/models", "/admin/policies", "/admin/interventions"]
    with httpx.Client(base_url=made.url) as client:
        for headers in ({}, bearer("wrong"), {"Authorization": user}, {"Authorization": "Basic x"}):
            for path in paths:
                reply = client.get(path, headers=headers)
                assert reply.status_code == 401, path
                assert reply.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/chat/completions", json=chat()).status_code == 401
        assert client.post("/watch", json=chat()).status_code == 401
        assert client.get("/v1/models", headers=bearer(user)).status_code == 200
        assert client.get("/admin/policies", headers=bearer(user)).status_code == 403
        put = client.put("/admin/policies/default", content="name: default", headers=bearer(user))
        assert put.status_code == 403
        assert client.get("/admin/policies", headers=bearer(admin)).status_code == 200
        for path in ("/healthz", "/readyz", "/metrics", "/", "/ui/config"):
            assert client.get(path).status_code == 200, path
        assert client.get("/ui/config").json() == {
            "models": [], "served": {}, "policies": [], "default_policy": None,
            "auth_required": True, "admin": True,
        }  # fmt: skip
        told = client.get("/ui/config", headers=bearer(user)).json()
        assert told["models"] == ["rerail"]
        assert told["policies"] == ["default"]


def test_without_an_admin_key_nothing_is_administered(serve: Make, key_file: Path) -> None:
    user = new_key(key_file, "user")
    made = serve(keys=KeyRing.read(key_file))
    reply = httpx.get(f"{made.url}/admin/policies", headers=bearer(user))
    assert reply.status_code == 403
    assert "serve keys new" in reply.json()["error"]["message"]
    assert not httpx.get(f"{made.url}/ui/config").json()["admin"]


def test_keys_are_taken_in_and_revoked_while_it_runs(serve: Make, key_file: Path) -> None:
    first = new_key(key_file, "first")
    made = serve(keys=KeyRing.read(key_file))

    def status(key: str) -> int:
        return httpx.get(f"{made.url}/v1/models", headers=bearer(key)).status_code

    second = new_key(key_file, "second")
    until(lambda: status(second) == 200, "the new key works")
    revoke(key_file, "first")
    until(lambda: status(first) == 401, "the old key does not")
    revoke(key_file, "second")
    until(lambda: status(second) == 401, "no key is left, and the server is not open")
    assert httpx.get(f"{made.url}/v1/models").status_code == 401


def test_which_policy_a_key_gets(serve: Make, key_file: Path) -> None:
    pinned = new_key(key_file, "pinned", policy="strict")
    plain = new_key(key_file, "plain")
    some = new_key(key_file, "some", policy="strict", policies=["small"])
    all_ = new_key(key_file, "all", policies=["*"])
    made = serve(
        keys=KeyRing.read(key_file),
        settings=Settings(model_policies={"rerail": "recorded"}),
    )

    def policy(key: str, named: str | None = None) -> object:
        headers = bearer(key) | ({"X-Rerail-Policy": named} if named else {})
        reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat(), headers=headers)
        return reply.json()["rerail"]["policy"]["name"] if reply.is_success else reply.status_code

    assert policy(pinned) == "strict"
    assert policy(pinned, "strict") == "strict"
    assert policy(pinned, "default") == 403
    assert policy(pinned, "nonsense") == 403
    assert policy(plain) == "recorded"
    assert policy(plain, "default") == 403
    assert policy(some) == "strict"
    assert policy(some, "small") == "small"
    assert policy(some, "default") == 403
    assert policy(all_, "default") == "default"
    assert policy(all_, "nonsense") == 400


def test_without_keys_only_this_machine_is_answered(make: Make) -> None:
    app = make().app
    with TestClient(app, base_url="http://localhost", client=("203.0.113.7", 1)) as client:
        for path in ("/v1/models", "/admin/policies", "/ui/config"):
            assert client.get(path).status_code == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True),
        ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
        ("example.org", False), ("localhost.example.org", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_what_loopback_is(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_pages_elsewhere_may_not_call(made: Made) -> None:
    with httpx.Client(base_url=made.url) as client:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/admin/policies")):
            reply = client.request(method, path, headers={"Origin": "https://evil.example"})
            assert reply.status_code == 403
            assert "access-control-allow-origin" not in reply.headers
        rebound = client.get("/admin/policies", headers={"Host": "evil.example:8000"})
        assert rebound.status_code == 421
        preflight = client.options(
            "/v1/chat/completions",
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 403
        assert client.get("/v1/models", headers={"Origin": made.url}).status_code == 200


def test_an_origin_that_is_allowed_may(serve: Make) -> None:
    made = serve(settings=Settings(cors_origins=("https://app.example",)))
    with httpx.Client(base_url=made.url) as client:
        origin = {"Origin": "https://app.example"}
        reply = client.get("/v1/models", headers=origin)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        preflight = client.options(
            "/v1/chat/completions",
            headers={**origin, "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "authorization,content-type"},
        )  # fmt: skip
        assert preflight.status_code == 200
        assert client.get("/v1/models", headers={"Origin": "https://b.example"}).status_code == 403


def test_every_response_has_the_headers(made: Made) -> None:
    with httpx.Client(base_url=made.url) as client:
        for path in ("/", "/v1/models", "/nowhere", "/healthz", "/static/nothing.js"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "server" not in headers


def test_a_body_that_is_too_large_is_refused(serve: Make) -> None:
    made = serve(settings=Settings(max_body_bytes=2000))
    with httpx.Client(base_url=made.url) as client:
        large = chat("x" * 3000)
        assert client.post("/v1/chat/completions", json=large).status_code == 413

        def in_parts():
            for _ in range(40):
                yield b"x" * 100

        kind = {"Content-Type": "application/json"}
        reply = client.post("/v1/chat/completions", content=in_parts(), headers=kind)
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"
        assert client.get("/healthz").status_code == 200


def test_texts_are_in_no_log_and_no_metric(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the tulips of Zanzibar"
    with httpx.Client(base_url=made.url) as client:
        client.post("/v1/chat/completions", json=chat(secret))
        client.post("/v1/chat/completions", json=chat(WRAPPED, stop=[secret]))
        client.post("/v1/chat/completions", json=chat(secret, nonsense=secret))
        made.engine.error = RuntimeError(secret)
        failed = client.post("/v1/chat/completions", json=chat(PLAIN))
        metrics = client.get("/metrics").text
    assert failed.status_code == 500
    assert "Zanzibar" not in failed.text
    ours = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx"))]
    assert "Zanzibar" not in "\n".join(record.getMessage() for record in ours)
    assert "Zanzibar" not in metrics
    assert 'rerail_responses_total{model="rerail",outcome="passed",policy="default"}' in metrics


def test_an_unforeseen_error_is_told_by_its_type_alone(
    made: Made, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)

    def fails(*_: object) -> None:
        raise RuntimeError("the tulips of Zanzibar")

    monkeypatch.setattr(made.service, "choose", fails)
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat())
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert reply.headers["x-frame-options"] == "DENY"
    assert "Zanzibar" not in reply.text + caplog.text
    assert "unexpected RuntimeError at test_security.py" in caplog.text


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["[::1", "http://[", "", "null", "//", "a:b:c"])
def test_malformed_headers_are_no_server_error(made: Made, name: str, value: str) -> None:
    reply = httpx.get(f"{made.url}/v1/models", headers={name: value})
    assert 400 <= reply.status_code < 500


def test_readiness_follows_the_workers(made: Made) -> None:
    with httpx.Client(base_url=made.url) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        made.service.drain()
        reply = client.get("/readyz")
        assert reply.status_code == 503
        late = client.post("/v1/chat/completions", json=chat())
        assert late.status_code == 503
        assert int(late.headers["retry-after"]) > 0
        assert client.get("/healthz").status_code == 200
