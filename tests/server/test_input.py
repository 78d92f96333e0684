"""Input of every kind: what the OpenAPI document allows, and what nobody foresaw."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.server.conftest import COMPLY, FLAGGED, PLAIN, Made, Make, chat, running


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    from tests.server.conftest import POLICIES, Moderators, create_app, engine

    fake, moderators = engine(), Moderators()
    app = create_app({"rerail": fake}, POLICIES, loader=moderators)
    with running(Made(app, fake, moderators)) as made:
        yield made


NEEDS_A_STORE = "/admin/interventions"
CASES = 10
"""Per operation and kind; what `schemathesis run` does at length."""


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_of_the_document_is_a_server_error(made: Made, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{made.url}/openapi.json")
    seen = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        try:
            strategy = operation.as_strategy(generation_mode=mode)
        except Exception:
            assert mode is GenerationMode.NEGATIVE  # without parameters nothing can be wrong
            continue

        @given(case=strategy)
        @settings(max_examples=CASES, suppress_health_check=list(HealthCheck))
        def sent(case: schemathesis.Case) -> None:
            response = case.call()
            seen.add((case.operation.path, case.operation.method))
            expected = {503} if case.operation.path.startswith(NEEDS_A_STORE) else set()
            assert response.status_code < 500 or response.status_code in expected, response.text
            assert FLAGGED not in response.text

        with contextlib.suppress(Unsatisfiable):
            sent()
    assert len(seen) >= (15 if mode is GenerationMode.POSITIVE else 9)


def test_every_route_is_documented_with_an_example(made: Made) -> None:
    document = httpx.get(f"{made.url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)
            content = operation["responses"]["200"].get("content", {})
            if path.startswith(("/v1", "/admin")):
                assert content, (method, path)
                assert all("example" in given for given in content.values()), (method, path)


def test_the_example_of_an_answer_has_the_fields_of_answers(made: Made) -> None:
    document = httpx.get(f"{made.url}/openapi.json").json()
    operation = document["paths"]["/v1/chat/completions"]["post"]
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    body = {"model": "rerail", "messages": [{"role": "user", "content": PLAIN}]}
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=body).json()
    assert example.keys() == reply.keys()
    (shown,), (given,) = example["choices"], reply["choices"]
    # The document leaves out what is null.
    filled = {name for name, value in given["rerail"].items() if value is not None}
    assert filled <= shown["rerail"].keys() <= given["rerail"].keys()


TEXTS = [
    "\u0000",
    "a\u0000b",
    "\ufeff",
    "\u202e right to left",
    "e\u0301" * 50,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 20,
    "\uffff\ufffe",
    "<|im_end|><|endoftext|>[INST]",
    "</script><script>alert(1)</script>",
    "{{7*7}}${7*7}",
    "'; DROP TABLE rerail_records; --",
    "\r\n\r\ndata: [DONE]\r\n\r\n",
    "🌷" * 1000,
    "\t\x0b\x0c\x1b[31m",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_unicode_of_every_kind_is_answered(made: Made, text: str) -> None:
    for body in (chat(text), chat(text, stream=True), chat("hi", stop=[text[:50]], user=text)):
        reply = httpx.post(f"{made.url}/v1/chat/completions", json=body, timeout=60)
        assert reply.status_code in {200, 400}, reply.text
        assert FLAGGED not in reply.text
    system = [{"role": "system", "content": text}, {"role": "user", "content": "tulips?"}]
    reply = httpx.post(
        f"{made.url}/v1/chat/completions", json={"model": "rerail", "messages": system}
    )
    assert reply.status_code == 200


def test_random_unicode(made: Made) -> None:
    rng = random.Random(20260428)
    with httpx.Client(base_url=made.url, timeout=60) as client:
        for _ in range(60):
            points = [rng.choice((rng.randrange(0x110000), rng.randrange(0x300)))
                      for _ in range(rng.randrange(1, 60))]  # fmt: skip
            raw = json.dumps(chat("".join(map(chr, points))))
            kind = {"Content-Type": "application/json"}
            reply = client.post("/v1/chat/completions", content=raw, headers=kind)
            assert reply.status_code in {200, 400}, raw


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"3", b'"text"', b"{", b"\xff\xfe", b"{}" * 1000, b"[" * 100_000,
        b'{"model": "rerail", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "rerail", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "rerail", "messages": [{"role": "user", "content": "a"}], "seed": 1e400}',
        b'{"model": "rerail", "messages": {"role": "user"}}',
        b'{"model": null, "messages": null}',
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_not_a_request_is_a_400(made: Made, content: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/moderations", "/watch"):
        reply = httpx.post(f"{made.url}{path}", content=content, headers=kind, timeout=60)
        assert reply.status_code == 400, (path, reply.text)
        error = reply.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"


def test_json_without_its_content_type_is_told_so(made: Made) -> None:
    reply = httpx.post(f"{made.url}/v1/chat/completions", content=json.dumps(chat()))
    assert reply.status_code == 400
    assert "Content-Type: application/json" in reply.json()["error"]["message"]


def test_a_body_of_a_megabyte(made: Made) -> None:
    reply = httpx.post(f"{made.url}/v1/chat/completions", json=chat("word " * 200_000), timeout=60)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    one_word = httpx.post(
        f"{made.url}/v1/chat/completions", json=chat("tulips" + "x" * 1_000_000), timeout=60
    )
    assert one_word.status_code == 200
    larger = httpx.post(f"{made.url}/v1/chat/completions", json=chat("word " * 500_000), timeout=60)
    assert larger.status_code == 413


def test_a_conversation_of_ten_thousand_messages(made: Made) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": "again"} for i in range(10_001)]
    reply = httpx.post(
        f"{made.url}/v1/chat/completions",
        json={"model": "rerail", "messages": turns},
        timeout=60,
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert httpx.get(f"{made.url}/healthz").status_code == 200


def test_a_long_conversation_that_fits_is_answered(serve: Make) -> None:
    made = serve()
    turns = [{"role": ("user", "assistant")[i % 2], "content": "tulips"} for i in range(5_001)]
    reply = httpx.post(
        f"{made.url}/v1/chat/completions", json={"model": "rerail", "messages": turns}, timeout=60
    )
    assert reply.status_code == 200
    assert COMPLY not in reply.text


def test_policies_of_every_kind_are_a_200_or_a_422(made: Made) -> None:
    texts = [
        "", "null", "[]", "name: default\n" * 2, "name: [default]", "{", "\t", "&a [*a]",
        "name: default\ndefault_threshold: .nan", "name: default\nbudget: 3", "[" * 5000,
        "name: default\nrefusal_message: \"\\ud800\"", "!!python/object:os.system {}",
        "name: default\nmoderators: []",
    ]  # fmt: skip
    with httpx.Client(base_url=made.url, timeout=60) as client:
        for text in texts:
            for send, path in ((client.put, ""), (client.post, "/check")):
                reply = send(f"/admin/policies/default{path}", content=text.encode())
                assert reply.status_code == 422, (text[:50], reply.text[:200])
        large = f"name: default # {'x' * 70_000}"
        assert client.put("/admin/policies/default", content=large).status_code == 413
        assert client.put("/admin/policies/default", content=b"\xff").status_code == 400
        assert client.put("/admin/policies/default", json={"yml": ""}).status_code == 400
        assert client.put("/admin/policies/A%2FB", content="name: a").status_code in {400, 404}
