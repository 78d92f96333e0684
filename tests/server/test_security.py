"""Who may call, what browsers are told, and what is kept to oneself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from rerail.server import security
from rerail.server.keys import KeyRing, KeysFileError, new_key, revoke
from rerail.server.run import NoProbes
from rerail.server.service import is_loopback
from rerail.server.settings import ServerSettings
from tests.server.conftest import PLAIN, WRAPPED, Made, Make, chat, running, until


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
    [
        "keys: 3", "keys: [{name: a}]", "- a", "keys: [{name: a, sha256: zz}]", "\x00", "a: &x",
        "keys: [{name: a, sha256: !!int zz}]", "keys: 2026-13-45", "keys: *zz", "zz: 1\nzz: 2",
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_of_keys_is_refused_without_quoting_it(
    key_file: Path, text: str
) -> None:
    key_file.write_text(text)
    with pytest.raises(KeysFileError, match=key_file.name) as caught:
        KeyRing.read(key_file)
    assert "zz" not in str(caught.value)


def test_where_a_file_of_keys_is_broken_is_told(key_file: Path) -> None:
    key_file.write_text("keys:\n- {name: a, sha256: !!int zz}\n")
    with pytest.raises(KeysFileError, match=r"keys\.yaml, line 2, column 21: "):
        KeyRing.read(key_file)


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


def test_a_file_of_keys_that_cannot_be_read_opens_nothing(
    serve: Make, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key(key_file, "first")
    made = serve(keys=KeyRing.read(key_file))

    def status() -> int:
        return httpx.get(f"{made.url}/v1/models", headers=bearer(key)).status_code

    text = key_file.read_text()
    for break_it in (
        key_file.unlink,
        lambda: key_file.write_text("keys: ["),
        lambda: key_file.write_text("keys: [{name: first}]"),
        lambda: key_file.write_bytes(b"\xff"),
        lambda: (key_file.unlink(), key_file.mkdir()),
    ):
        assert status() == 200
        break_it()
        until(lambda: status() == 503, "the key opens nothing")
        reply = httpx.get(f"{made.url}/v1/models", headers=bearer(key))
        assert reply.json()["error"]["code"] == "keys_unreadable"
        assert int(reply.headers["retry-after"]) > 0
        assert httpx.get(f"{made.url}/v1/models").status_code == 503
        assert httpx.get(f"{made.url}/readyz").status_code == 503
        assert httpx.get(f"{made.url}/ui/config").json()["models"] == []
        assert f"{key_file}" in caplog.text
        assert "no key opens anything" in caplog.text
        caplog.clear()
        if key_file.is_dir():
            key_file.rmdir()
        key_file.write_text(text)
        until(lambda: status() == 200, "it can be read again")
    assert httpx.get(f"{made.url}/readyz").status_code == 200


def test_a_key_that_is_gone_with_its_folder_opens_nothing(serve: Make, tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    taken_out = new_key(tmp_path / "old" / "keys.yaml", "first")
    kept = new_key(tmp_path / "new" / "keys.yaml", "second")
    link = tmp_path / "keys"
    link.symlink_to("old")
    made = serve(keys=KeyRing.read(link / "keys.yaml"))

    def status(key: str) -> int:
        return httpx.get(f"{made.url}/v1/models", headers=bearer(key)).status_code

    assert (status(taken_out), status(kept)) == (200, 401)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(link)
    until(lambda: (status(taken_out), status(kept)) == (401, 200), "the link is followed")


def test_which_policy_a_key_gets(serve: Make, key_file: Path) -> None:
    pinned = new_key(key_file, "pinned", policy="strict")
    plain = new_key(key_file, "plain")
    some = new_key(key_file, "some", policy="strict", policies=["small"])
    all_ = new_key(key_file, "all", policies=["*"])
    made = serve(
        keys=KeyRing.read(key_file),
        settings=ServerSettings(model_policies={"rerail": "recorded"}),
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
    made = serve(settings=ServerSettings(cors_origins=("https://app.example",)))
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


ASKED = (
    "authorization,content-type,openai-organization,openai-project,user-agent,"
    "x-stainless-arch,x-stainless-lang,x-stainless-retry-count,x-stainless-timeout"
)
"""Headers that OpenAI's client for browsers sends."""


@pytest.mark.parametrize("origin", ["https://app.example/", "HTTPS://App.Example:443"])
def test_a_browser_may_use_openais_client(serve: Make, origin: str) -> None:
    made = serve(settings=ServerSettings(cors_origins=(origin,)))
    page = {"Origin": "https://app.example"}
    with httpx.Client(base_url=made.url) as client:
        preflight = client.options(
            "/v1/chat/completions",
            headers={**page, "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": ASKED},
        )  # fmt: skip
        assert preflight.status_code == 200
        allowed = preflight.headers["access-control-allow-headers"].lower().replace(" ", "")
        assert set(ASKED.split(",")) <= set(allowed.split(","))
        reply = client.post("/v1/chat/completions", json=chat(), headers=page)
        exposed = reply.headers["access-control-expose-headers"]
        assert {"X-Request-Id", "Retry-After"} <= {name.strip() for name in exposed.split(",")}


def test_a_page_may_read_why_it_is_refused(serve: Make) -> None:
    made = serve(
        settings=ServerSettings(
            cors_origins=("https://app.example",), max_body_bytes=2000, hosts=("127.0.0.1",)
        )
    )
    page = {"Origin": "https://app.example"}
    with httpx.Client(base_url=made.url) as client:
        for status, headers, body in (
            (413, {}, chat("x" * 3000)),
            (421, {"Host": "evil.example"}, chat()),
            (400, {}, chat(temperature=9)),
        ):
            reply = client.post("/v1/chat/completions", json=body, headers={**page, **headers})
            assert reply.status_code == status
            assert reply.headers["access-control-allow-origin"] == "https://app.example"
            assert reply.headers["x-frame-options"] == "DENY"
        elsewhere = {"Origin": "https://b.example", "Host": "evil.example"}
        reply = client.post("/v1/chat/completions", json=chat(), headers=elsewhere)
        assert reply.status_code == 421
        assert "access-control-allow-origin" not in reply.headers


def test_a_body_that_does_not_arrive_is_told_to_the_page(
    serve: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "BODY_SECONDS", 0.05)
    made = serve(settings=ServerSettings(cors_origins=("https://app.example",)))
    go = threading.Event()

    def late() -> Iterator[bytes]:
        yield b"{"
        go.wait(20)

    threading.Timer(0.5, go.set).start()
    headers = {"Origin": "https://app.example", "Content-Type": "application/json"}
    reply = httpx.post(f"{made.url}/v1/chat/completions", content=late(), headers=headers)
    assert reply.status_code == 408
    assert reply.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("given", "browsers"),
    [
        ("https://App.Example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
        ("chrome-extension://abc", "chrome-extension://abc"),
    ],
)
def test_origins_are_what_browsers_make_of_them(given: str, browsers: str) -> None:
    assert ServerSettings(cors_origins=(given,)).cors_origins == (browsers,)


@pytest.mark.parametrize(
    "wrong",
    ["*", "null", "", "app.example", "localhost:3000", "https://*.example", "https://x/y",
     "https://x?y", "https://u@x", "https://x:99999", "https://a b", "https://ex\u00e4mple"],
)  # fmt: skip
def test_what_is_no_origin_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"https://app\.example"):
        ServerSettings(cors_origins=(wrong,))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Example.ORG", "example.org"), ("example.org:8443", "example.org"), ("x.", "x"),
        ("::1", "::1"), ("[::1]", "::1"), ("[::1]:8000", "::1"), ("127.0.0.1:80", "127.0.0.1"),
    ],
)  # fmt: skip
def test_hosts_are_names_without_their_port(serve: Make, given: str, name: str) -> None:
    made = serve(settings=ServerSettings(hosts=(given,)))
    assert made.service.settings.hosts == (name,)
    for sent in (given, f"[{name}]:5" if ":" in name else f"{name.upper()}:5"):
        reply = httpx.get(f"{made.url}/v1/models", headers={"Host": sent})
        assert reply.status_code == 200, sent
    assert httpx.get(f"{made.url}/v1/models", headers={"Host": "else"}).status_code == 421


@pytest.mark.parametrize("wrong", ["*", "*.x", "https://x", "x/y", "", "a:b:c", "u@x", "ex\u00e4"])
def test_what_is_no_host_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match="name of a server"):
        ServerSettings(hosts=(wrong,))


@pytest.mark.parametrize("path", ["/v1/assistants", "/chat/completions", "/v1/embeddings", "/v1"])
def test_an_endpoint_that_there_is_not_is_told_which_there_are(made: Made, path: str) -> None:
    for reply in (httpx.post(f"{made.url}{path}", json={}), httpx.get(f"{made.url}{path}")):
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert (error["code"], error["type"]) == ("not_found", "not_found_error")
        for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/models"):
            assert endpoint in error["message"]


def test_probes_are_in_the_log_of_requests_only_where_they_fail() -> None:
    keep = NoProbes().filter

    def record(path: str, status: int) -> logging.LogRecord:
        args = ("127.0.0.1:5", "GET", path, "1.1", status)
        message = '%s - "%s %s HTTP/%s" %d'
        return logging.LogRecord("uvicorn.access", logging.INFO, "", 0, message, args, None)

    for path in ("/healthz", "/readyz", "/metrics", "/metrics?x=1"):
        assert not keep(record(path, 200))
        assert keep(record(path, 503))
    assert keep(record("/v1/models", 200))
    assert keep(record("/healthz/more", 200))


def test_the_log_of_requests_leaves_probes_out(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(make()) as made:
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            assert httpx.get(f"{made.url}{path}").status_code == 200
    said = capfd.readouterr().out
    assert "/v1/models" in said
    for path in ("/healthz", "/readyz", "/metrics"):
        assert path not in said


def test_every_response_has_the_headers(made: Made) -> None:
    with httpx.Client(base_url=made.url) as client:
        for path in ("/", "/v1/models", "/nowhere", "/healthz", "/static/nothing.js"):
            headers = client.get(path).headers
            assert "default-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "server" not in headers


def test_a_body_that_is_too_large_is_refused(serve: Make) -> None:
    made = serve(settings=ServerSettings(max_body_bytes=2000))
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
