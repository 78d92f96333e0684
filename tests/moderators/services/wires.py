"""Loopback servers that speak each service's wire format, and do on command what services do.

Formats: openai-python ``types/moderation_create_response.py``; mistralai/client-python
``models/classificationresponse.py``; Azure's REST reference of ``text:analyze``; the reference of
``commentanalyzer/v1alpha1``. The servers check path, method, key and body as the services do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rerail.moderators._http import Service
from rerail.moderators.azure import AzureModerator
from rerail.moderators.http import HttpModerator
from rerail.moderators.mistral import MistralModerator
from rerail.moderators.openai import OpenAIModerator
from rerail.moderators.perspective import PerspectiveModerator

KEY = "key-7f3a9c-never-shown"


def grade(text: str, name: str) -> float:
    """The number that every fake service gives a text for a category: 0/7 to 7/7."""
    return hashlib.sha256(f"{name}:{text}".encode()).digest()[0] % 8 / 7


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Bytes of the body after which the connection is reset; None: it is not."""
    hang: bool = False


class Wire:
    """One service: how it is asked, and what it answers."""

    name: str
    batched = False
    ids = False

    def make(self, url: str, **options: Any) -> Service:
        raise NotImplementedError

    def accepts(self, request: Request) -> bool:
        """Whether method, path, key and the body's form are those that are documented."""
        raise NotImplementedError

    def texts(self, body: Any) -> list[str]:
        raise NotImplementedError

    def success(self, body: Any) -> Any:
        """The documented reply to a request's body."""
        raise NotImplementedError

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        """Replace one score of the n-th verdict."""
        raise NotImplementedError

    def drop(self, reply: Any, n: int) -> None:
        """Leave one score of the n-th verdict out."""
        raise NotImplementedError

    def verdicts(self, reply: Any) -> list[Any]:
        """The list of verdicts in a batched reply, to be shuffled or shortened."""
        raise NotImplementedError

    def error(self, status: int) -> Any:
        raise NotImplementedError


OPENAI = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit",
    "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual",
    "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


class OpenAIWire(Wire):
    name = "openai"
    batched = True
    categories: Sequence[str] = OPENAI

    def make(self, url: str, **options: Any) -> Service:
        return OpenAIModerator(base_url=f"{url}/v1", **options)

    def accepts(self, request: Request) -> bool:
        return (
            (request.method, request.path) == ("POST", "/v1/moderations")
            and request.headers["authorization"] == f"Bearer {KEY}"
            and set(request.body) == {"model", "input"}
            and isinstance(request.body["input"], list)
        )

    def texts(self, body: Any) -> list[str]:
        return list(body["input"])

    def success(self, body: Any) -> Any:
        return {
            "id": "modr-0",
            "model": body["model"],
            "results": [self.result(text) for text in self.texts(body)],
        }

    def result(self, text: str) -> dict[str, Any]:
        scores = {name: grade(text, name) for name in self.categories}
        return {
            "flagged": any(score > 0.5 for score in scores.values()),
            "categories": {name: score > 0.5 for name, score in scores.items()},
            "category_scores": scores,
            "category_applied_input_types": {name: ["text"] for name in scores},
        }

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        scores = reply["results"][n]["category_scores"]
        scores["sexual"] = value(scores["sexual"])

    def drop(self, reply: Any, n: int) -> None:
        del reply["results"][n]["category_scores"]["sexual"]

    def verdicts(self, reply: Any) -> list[Any]:
        return reply["results"]

    def error(self, status: int) -> Any:
        return {"error": {"message": "no", "type": "error", "param": None, "code": str(status)}}


MISTRAL = (
    "sexual", "hate_and_discrimination", "violence_and_threats", "dangerous", "criminal",
    "selfharm", "health", "financial", "law", "pii", "jailbreaking",
)  # fmt: skip


class MistralWire(OpenAIWire):
    name = "mistral"
    categories = MISTRAL

    def make(self, url: str, **options: Any) -> Service:
        return MistralModerator(base_url=f"{url}/v1", **options)

    def result(self, text: str) -> dict[str, Any]:
        scores = {name: grade(text, name) for name in self.categories}
        return {"categories": {n: s > 0.5 for n, s in scores.items()}, "category_scores": scores}

    def error(self, status: int) -> Any:
        if status == 422:
            return {"detail": [{"loc": ["body", "input"], "msg": "no", "type": "value_error"}]}
        return {"message": "no", "request_id": "0"}


class MistralChatWire(MistralWire):
    name = "mistral, include_prompt"

    def make(self, url: str, **options: Any) -> Service:
        return MistralModerator(base_url=f"{url}/v1", include_prompt=True, **options)

    def accepts(self, request: Request) -> bool:
        return (
            request.path == "/v1/chat/moderations"
            and request.headers["authorization"] == f"Bearer {KEY}"
            and all(turns[-1]["role"] == "assistant" for turns in request.body["input"])
        )

    def texts(self, body: Any) -> list[str]:
        return [turns[-1]["content"] for turns in body["input"]]


class AzureWire(Wire):
    name = "azure"

    def make(self, url: str, **options: Any) -> Service:
        return AzureModerator(endpoint=url, **options)

    def accepts(self, request: Request) -> bool:
        return (
            (request.method, request.path)
            == ("POST", "/contentsafety/text:analyze?api-version=2024-09-01")
            and request.headers["ocp-apim-subscription-key"] == KEY
            and request.body["outputType"] == "EightSeverityLevels"
        )

    def texts(self, body: Any) -> list[str]:
        return [body["text"]]

    def success(self, body: Any) -> Any:
        return {
            "blocklistsMatch": [],
            "categoriesAnalysis": [
                {"category": name, "severity": round(7 * grade(body["text"], name))}
                for name in body["categories"]
            ],
        }

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        entry = reply["categoriesAnalysis"][2]
        changed = value(entry["severity"] / 7)
        number = isinstance(changed, float)
        entry["severity"] = changed * 7 if number else changed

    def drop(self, reply: Any, n: int) -> None:
        del reply["categoriesAnalysis"][2]

    def error(self, status: int) -> Any:
        return {"error": {"code": "InvalidRequestBody", "message": "no", "details": []}}


class PerspectiveWire(Wire):
    name = "perspective"

    def make(self, url: str, **options: Any) -> Service:
        return PerspectiveModerator(base_url=f"{url}/v1alpha1", **options)

    def accepts(self, request: Request) -> bool:
        return (
            (request.method, request.path) == ("POST", "/v1alpha1/comments:analyze")
            and request.headers["x-goog-api-key"] == KEY
            and request.body["doNotStore"] is True
        )

    def texts(self, body: Any) -> list[str]:
        return [body["comment"]["text"]]

    def success(self, body: Any) -> Any:
        (text,) = self.texts(body)
        scores = {}
        for name in body["requestedAttributes"]:
            score = {"value": grade(text, name), "type": "PROBABILITY"}
            span = {"begin": 0, "end": len(text), "score": score}
            scores[name] = {"spanScores": [span], "summaryScore": dict(score)}
        return {"attributeScores": scores, "languages": ["en"], "detectedLanguages": ["en"]}

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        score = reply["attributeScores"]["THREAT"]["summaryScore"]
        score["value"] = value(score["value"])

    def drop(self, reply: Any, n: int) -> None:
        del reply["attributeScores"]["THREAT"]

    def error(self, status: int) -> Any:
        return {"error": {"code": status, "message": "no", "status": "ERROR", "details": []}}


class HttpWire(Wire):
    """A made-up classifier of one text, with numbers of 0 to 100."""

    name = "http"

    def make(self, url: str, **options: Any) -> Service:
        return HttpModerator(
            url=f"{url}/classify",
            headers={"X-Api-Key": "${CLASSIFIER_KEY}"},
            request={"text": "{answer}"},
            scores={"hate": "labels.hate", "illicit": "found[?name=crime].score"},
            divide_by=100,
            **options,
        )

    def accepts(self, request: Request) -> bool:
        return request.path == "/classify" and request.headers["x-api-key"] == KEY

    def texts(self, body: Any) -> list[str]:
        return [body["text"]]

    def success(self, body: Any) -> Any:
        text = body["text"]
        crime = {"name": "crime", "score": 100 * grade(text, "found[?name=crime].score")}
        other = {"name": "other", "score": 1}
        return {"labels": {"hate": 100 * grade(text, "labels.hate")}, "found": [other, crime]}

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        changed = value(reply["labels"]["hate"] / 100)
        reply["labels"]["hate"] = changed * 100 if isinstance(changed, float) else changed

    def drop(self, reply: Any, n: int) -> None:
        del reply["labels"]["hate"]

    def error(self, status: int) -> Any:
        return {"error": "no"}


class HttpItemsWire(HttpWire):
    """A made-up classifier of many texts, each with an id, that answers in an order of its own."""

    name = "http, items with ids"
    batched = True
    ids = True

    def make(self, url: str, **options: Any) -> Service:
        return HttpModerator(
            url=f"{url}/classify",
            headers={"X-Api-Key": "${CLASSIFIER_KEY}"},
            request={"documents": "{items}"},
            item={"id": "{id}", "text": "{answer}"},
            results="documents",
            id="id",
            scores={"hate": 'scores["hate/any"]', "illicit": "scores.illicit[0]"},
            **{"batch_size": 16, **options},
        )

    def texts(self, body: Any) -> list[str]:
        return [document["text"] for document in body["documents"]]

    def success(self, body: Any) -> Any:
        return {
            "documents": [
                {
                    "id": document["id"],
                    "scores": {
                        "hate/any": grade(document["text"], 'scores["hate/any"]'),
                        "illicit": [grade(document["text"], "scores.illicit[0]")],
                    },
                }
                for document in body["documents"]
            ]
        }

    def change(self, reply: Any, n: int, value: Callable[[Any], Any]) -> None:
        scores = reply["documents"][n]["scores"]
        scores["hate/any"] = value(scores["hate/any"])

    def drop(self, reply: Any, n: int) -> None:
        del reply["documents"][n]["scores"]["hate/any"]

    def verdicts(self, reply: Any) -> list[Any]:
        return reply["documents"]


WIRES: tuple[Wire, ...] = (
    OpenAIWire(),
    MistralWire(),
    MistralChatWire(),
    AzureWire(),
    PerspectiveWire(),
    HttpWire(),
    HttpItemsWire(),
)

KEYS = ("OPENAI_API_KEY", "MISTRAL_API_KEY", "AZURE_CONTENT_SAFETY_KEY", "PERSPECTIVE_API_KEY",
        "CLASSIFIER_KEY")  # fmt: skip

Step = Callable[[Wire, Any], Answer]


def ok(wire: Wire, body: Any) -> Answer:
    return Answer(200, wire.success(body))


class FakeServer:
    """A service on 127.0.0.1. The steps are its answers, one per request; the last one stays."""

    def __init__(self, wire: Wire, steps: Sequence[Step] = (ok,)) -> None:
        self.wire = wire
        self.steps = list(steps)
        self.requests: list[Request] = []
        self.connections = 0
        self.under_way = 0
        self.most_under_way = 0
        self.release = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        fake = self

        class Handler(_Handler):
            server_of = fake

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def connected(self) -> None:
        with self._lock:
            self.connections += 1

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            step = self.steps[0] if len(self.steps) == 1 else self.steps.pop(0)
        if not self.wire.accepts(request):
            return Answer(404, self.wire.error(404))
        return step(self.wire, request.body)

    @contextlib.contextmanager
    def counted(self) -> Any:
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: FakeServer

    def setup(self) -> None:
        super().setup()
        self.server_of.connected()

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        content = self.rfile.read(int(headers["content-length"]))
        request = Request(self.command, self.path, headers, json.loads(content))
        with self.server_of.counted():
            answer = self.server_of.answer(request)
            if answer.hang:
                self.server_of.release.wait(5.0)
            self.reply(answer)

    do_PUT = do_POST  # noqa: N815

    def reply(self, answer: Answer) -> None:
        body = answer.body
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        if answer.cut == 0:
            self.reset()
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: answer.cut])
        if answer.cut is not None:
            self.wfile.flush()
            self.reset()

    def reset(self) -> None:
        """End the connection in the middle of things."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass
