"""Keys that end, and what they may ask for: counted in memory, and in a real Redis."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from rerail.server import limits
from rerail.server.errors import ApiError
from rerail.server.keys import ApiKey, KeyRing, KeysFileError, new_key
from rerail.server.limits import MEMORY, LimitsError, RateLimits
from rerail.server.run import listening
from tests.server.conftest import COMPLY, PLAIN, TULIPS, WRAPPED, Made, Make, chat

INSTALL = "install the Debian package redis-server (and pip install 'rerail[redis]')"


@pytest.fixture(scope="module")
def redis() -> Iterator[str]:
    """The URL of a Redis of the test's own; skipped, loudly, without one."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip(f"no Redis: {INSTALL}")
    redis = pytest.importorskip("redis", reason=INSTALL)
    with listening("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([program, "--port", str(port), "--save", ""], **quiet)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                with redis.Redis(port=port) as client:
                    client.ping()
                break
            except redis.ConnectionError:
                assert server.poll() is None, "Redis did not start"
                assert time.monotonic() < deadline, "Redis is not ready"
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(params=["memory", "redis"])
def counts(request: pytest.FixtureRequest) -> RateLimits:
    return RateLimits(MEMORY if request.param == "memory" else request.getfixturevalue("redis"))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


_names = iter(range(10_000))


def key(**options: object) -> ApiKey:
    """A key that no other test counts."""
    return ApiKey.model_validate({"name": f"k{next(_names)}", "sha256": "0" * 64, **options})


def ask(made: Made, secret: str, words: str = PLAIN) -> httpx.Response:
    return httpx.post(
        f"{made.url}/v1/chat/completions",
        json=chat(words),
        headers={"Authorization": f"Bearer {secret}"},
    )


def test_a_key_without_limits_is_never_told_to_wait(counts: RateLimits) -> None:
    free = key()
    for _ in range(50):
        counts.request(free)
        counts.spend(free, 10_000)
    assert counts.left(free) == {}


def test_as_many_requests_as_may_be_and_not_one_more(counts: RateLimits) -> None:
    three, other = key(requests_per_minute=3), key(requests_per_minute=3)
    for left in (2, 1, 0):
        counts.request(three)
        assert counts.left(three) == {"requests_per_minute": left}
    with pytest.raises(ApiError, match="3 requests per minute: come back in") as caught:
        counts.request(three)
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
    assert caught.value.headers["X-RateLimit-Limit-Requests"] == "3"
    counts.request(other)  # each key has its own


@pytest.mark.parametrize("limit", ["tokens_per_minute", "tokens_per_day"])
def test_tokens_are_counted_after_the_answer(counts: RateLimits, limit: str) -> None:
    some = key(**{limit: 100})
    counts.request(some)
    counts.spend(some, 60)
    counts.request(some)
    assert counts.left(some) == {limit: 40}
    counts.spend(some, 60)  # the answer was longer than what was left
    assert counts.left(some) == {limit: 0}
    with pytest.raises(ApiError, match="100 tokens per") as caught:
        counts.request(some)
    wait = int(caught.value.headers["Retry-After"])
    assert wait <= 60 if limit == "tokens_per_minute" else 60 < wait <= 86_400
    assert caught.value.headers["X-RateLimit-Limit-Tokens"] == "100"


def test_a_request_that_lacks_tokens_takes_no_request(counts: RateLimits) -> None:
    both = key(requests_per_minute=2, tokens_per_day=1)
    counts.request(both)
    counts.spend(both, 1)
    for _ in range(3):
        with pytest.raises(ApiError, match="tokens per day"):
            counts.request(both)
    assert counts.left(both)["requests_per_minute"] == 1


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, one = RateLimits(), key(requests_per_minute=1)
    counts.request(one)
    with pytest.raises(ApiError):
        counts.request(one)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    counts.request(one)


def test_several_servers_count_together(redis: str) -> None:
    one, other, some = RateLimits(redis), RateLimits(redis), key(requests_per_minute=2)
    one.request(some)
    other.request(some)
    with pytest.raises(ApiError, match="2 requests per minute"):
        one.request(some)


def test_where_the_counts_cannot_be_had_nothing_is_answered(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis", reason=INSTALL)
    monkeypatch.setattr(limits, "_TIMEOUT", 0.2)
    with listening("127.0.0.1", 0) as place:
        port = place.getsockname()[1]
    counts, some = RateLimits(f"redis://127.0.0.1:{port}"), key(tokens_per_day=5)
    with pytest.raises(ApiError, match="cannot count") as caught:
        counts.request(some)
    assert (caught.value.status, caught.value.code) == (503, "limits_unavailable")
    counts.spend(some, 3)  # the answer is there: what cannot be counted is told
    assert "were not counted" in caplog.text
    counts.request(key())


@pytest.mark.parametrize("storage", ["nonsense", "no-such://host", "http://localhost", ""])
def test_what_is_no_storage_is_told(storage: str) -> None:
    with pytest.raises(LimitsError, match="redis://HOST:PORT"):
        RateLimits(storage)


def test_a_key_ends_when_it_says(serve: Make, key_file: Path) -> None:
    now = datetime.now(UTC)
    old = new_key(key_file, "old", expires=now - timedelta(seconds=1))
    new = new_key(key_file, "new", expires=now + timedelta(hours=1))
    made = serve(keys=KeyRing.read(key_file))
    refused = ask(made, old)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_expired")
    assert ask(made, new).status_code == 200


@pytest.mark.parametrize("wrong", [{"requests_per_minute": 0}, {"expires": datetime(2027, 1, 1)}])
def test_limits_that_make_no_sense_are_refused(key_file: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(KeysFileError, match=next(iter(wrong))):
        new_key(key_file, "alice", **wrong)
    assert not key_file.exists()


def test_requests_are_counted_on_every_route_that_answers(serve: Make, key_file: Path) -> None:
    secret = new_key(key_file, "alice", requests_per_minute=4)
    made = serve(keys=KeyRing.read(key_file))
    with httpx.Client(base_url=made.url, headers={"Authorization": f"Bearer {secret}"}) as client:
        completion = {"model": "rerail", "prompt": PLAIN}
        asked = [
            ("/v1/chat/completions", chat()),
            ("/v1/completions", completion),
            ("/v1/moderations", {"input": TULIPS}),
            ("/watch", chat()),
        ]
        for path, body in asked:
            assert client.post(path, json=body).status_code == 200, path
        for path, body in asked:
            reply = client.post(path, json=body)
            assert reply.status_code == 429, path
            assert reply.json()["error"]["code"] == "rate_limit_exceeded"
            assert "Retry-After" in reply.headers
        stream = client.post("/v1/chat/completions", json=chat() | {"stream": True})
        assert stream.status_code == 429
        assert client.get("/v1/models").status_code == 200


def test_tokens_of_all_candidates_count(serve: Make, key_file: Path) -> None:
    first = len(COMPLY.split())
    secret = new_key(key_file, "alice", tokens_per_day=first)
    admin = new_key(key_file, "ops", admin=True)
    made = serve(keys=KeyRing.read(key_file))
    reply = ask(made, secret, WRAPPED)
    assert reply.json()["rerail"]["outcome"] == "steered"
    told = httpx.get(f"{made.url}/admin/keys", headers={"Authorization": f"Bearer {admin}"}).json()
    alice, ops = told["keys"]
    assert alice["left"] == {"tokens_per_day": 0}
    assert alice["last_used"] is not None
    assert (alice["expired"], ops["left"]) == (False, {})
    assert "sha256" not in alice
    assert ask(made, secret).status_code == 429


def test_what_an_administrator_is_told_is_for_administrators(serve: Make, key_file: Path) -> None:
    secret = new_key(key_file, "alice")
    made = serve(keys=KeyRing.read(key_file))
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{made.url}/admin/keys", headers=headers).status_code == 403
    assert httpx.get(f"{serve().url}/admin/keys").json() == {"keys": []}
