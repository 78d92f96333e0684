"""A stand-in for vLLM's OpenAI-compatible server, on loopback, that really runs a model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling
from rerail.engines.transformers import TransformersEngine
from rerail.engines.vllm_server import payload
from rerail.types import Prompt

Fault = Callable[["_Handler"], None]
"""Answers a request instead of the model."""


def status(code: int, message: str = "no", **headers: str) -> Fault:
    def fault(handler: _Handler) -> None:
        handler.reply(code, {"error": {"message": message}}, headers)

    return fault


def body(document: Any) -> Fault:
    def fault(handler: _Handler) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        handler.write(200, data)

    return fault


def cut(handler: _Handler) -> None:
    """The connection ends in the middle of the reply."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def slow(handler: _Handler) -> None:
    """No reply for longer than any client of a test waits."""
    handler.fake.closing.wait(20.0)


class FakeVllm:
    """One replica.

    Args:
        engine: answers from what arrives.
        dtype: that the server computes in.
        max_model_len: tokens of prompt and answer together.
        key: that it wants.
        models: names that it serves.

    Attributes:
        bodies: of the requests to ``/v1/completions``, in order.
        rows: the tensors that arrived.
        faults: answer the next requests, one each.
        broken: answers every request while it is not None.
        healthy: what ``/health`` says.
        says_length: whether ``/v1/models`` has ``max_model_len``, which a router may leave out.
        heeds_stops: whether it knows the parameter ``stop``, as vLLM does.
        keys: authorization headers that arrived.
    """

    def __init__(
        self,
        engine: TransformersEngine,
        *,
        dtype: torch.dtype = torch.float32,
        max_model_len: int = 256,
        key: str = "",
        models: tuple[str, ...] = ("tiny",),
        embeds: bool = True,
    ) -> None:
        self.engine = engine
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.key = key
        self.models = models
        self.embeds = embeds
        self.bodies: list[Mapping[str, Any]] = []
        self.rows: list[torch.Tensor] = []
        self.faults: deque[Fault] = deque()
        self.broken: Fault | None = None
        self.healthy = True
        self.says_length = True
        self.heeds_stops = True
        self.keys: set[str | None] = set()
        self.closing = threading.Event()
        self.connections: set[socket.socket] = set()
        self._address = ("127.0.0.1", 0)
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._address[1]}"

    def start(self) -> None:
        """Listen, at the address of before."""
        fake = self
        self.closing.clear()

        class Handler(_Handler):
            pass

        Handler.fake = fake
        server = ThreadingHTTPServer(self._address, Handler)
        server.daemon_threads = True
        self._address = server.server_address[:2]  # type: ignore[assignment]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and cut what is connected."""
        self.closing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What vLLM answers to a completion request."""
        module = self.engine._embedding
        if "prompt_embeds" in body:
            assert not body.get("prompt")
            rows = [self._decoded(text) for text in body["prompt_embeds"]]
            self.rows += rows
            rows = [row.to(self.dtype) for row in rows]
        else:
            rows = [module(torch.tensor(ids)[None])[0] for ids in body["prompt"]]
        choices = [self._choice(i, row, body) for i, row in enumerate(rows)]
        return {"choices": choices[::-1]}

    def _decoded(self, text: str) -> torch.Tensor:
        data = base64.b64decode(text, validate=True)
        rows = torch.load(io.BytesIO(data), weights_only=True)
        assert rows.dim() == 2
        assert rows.shape[1] == self.engine._embedding.weight.shape[1]
        assert len(data) < rows.numel() * rows.element_size() + 4096, "saved a view's storage"
        return rows

    def _choice(self, index: int, rows: torch.Tensor, body: Mapping[str, Any]) -> dict[str, Any]:
        assert len(rows) + body["max_tokens"] <= self.max_model_len
        if not torch.isfinite(rows).all():
            return {"index": index, "text": "", "token_ids": [], "finish_reason": "stop"}
        point = rows.float().numpy()
        embedded = EmbeddedPrompt(
            Prompt.completion("x"), np.zeros(len(rows), dtype=np.int64), point, np.zeros(len(rows))
        )
        sampling = Sampling(body["max_tokens"], body["temperature"], body["top_p"])
        request = GenerationRequest(embedded, point, body.get("seed", 0))
        answer = self.engine.generate([request], sampling)[0]
        tokens, finish_reason = list(answer.token_ids), answer.finish_reason
        if self.heeds_stops and (length := self._stopped(tokens, body)):
            tokens, finish_reason = tokens[:length], "stop"
        choice: dict[str, Any] = {
            "index": index,
            "text": answer.text,
            "token_ids": tokens,
            "finish_reason": finish_reason,
            "logprobs": None,
            "prompt_logprobs": None,
        }
        with torch.no_grad():
            logits = self.engine._model(inputs_embeds=rows[None]).logits[0]
        chances = logits.float().log_softmax(-1)
        if body.get("logprobs") is not None:
            first = float(chances[-1, answer.token_ids[0]])
            choice["logprobs"] = {"token_logprobs": [first], "tokens": ["?"]}
        if body.get("prompt_logprobs") is not None:
            ids = body["prompt"][index]
            choice["prompt_logprobs"] = [None] + [
                {str(token): {"logprob": float(row[token]), "rank": 1}}
                for row, token in zip(chances, ids[1:], strict=False)
            ]
        return choice

    def _stopped(self, tokens: list[int], body: Mapping[str, Any]) -> int | None:
        """How many of the tokens vLLM gives: those up to where the text first holds a stop."""
        special = body["skip_special_tokens"]
        for length in range(1, len(tokens) + 1):
            text = self.engine.tokenizer.decode(tokens[:length], skip_special_tokens=special)
            if any(stop in text.rstrip("\ufffd") for stop in body["stop"]):
                return length
        return None


class FakeSamplingParams(SimpleNamespace):
    """vLLM's ``SamplingParams``."""

    def __init__(self, **given: Any) -> None:
        if given["stop"] and not given["detokenize"]:
            raise ValueError("stop strings are only supported when detokenize is True")
        super().__init__(**given)


class FakeLlm:
    """vLLM's ``LLM``, answering as a server would.

    Args:
        server: what it would answer.
    """

    def __init__(self, server: FakeVllm) -> None:
        self._server = server
        self.model_config = SimpleNamespace(dtype=server.dtype, max_model_len=server.max_model_len)
        self.given: list[FakeSamplingParams] = []

    def generate(
        self, prompts: list[dict[str, Any]], given: list[FakeSamplingParams], use_tqdm: bool
    ) -> list[Any]:
        assert not use_tqdm
        self.given += given
        return [self._output(p, vars(one)) for p, one in zip(prompts, given, strict=True)]

    def _output(self, prompt: dict[str, Any], body: dict[str, Any]) -> Any:
        if "prompt_embeds" in prompt:
            sent = {"prompt_embeds": [payload(prompt["prompt_embeds"])]}
        else:
            sent = {"prompt": [prompt["prompt_token_ids"]]}
        (choice,) = self._server.complete({**body, **sent})["choices"]
        tokens, first, asked = (choice[k] for k in ("token_ids", "logprobs", "prompt_logprobs"))
        answer = SimpleNamespace(
            token_ids=tokens,
            finish_reason=choice["finish_reason"],
            logprobs=first and [{tokens[0]: SimpleNamespace(logprob=first["token_logprobs"][0])}],
        )
        rows = asked and [
            row and {int(t): SimpleNamespace(logprob=v["logprob"]) for t, v in row.items()}
            for row in asked
        ]
        return SimpleNamespace(outputs=[answer], prompt_logprobs=rows)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVllm
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.fake.connections.add(self.connection)

    def finish(self) -> None:
        self.fake.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, code: int, document: Any, headers: Mapping[str, str] | None = None) -> None:
        self.write(code, json.dumps(document).encode(), headers)

    def write(self, code: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200 if self.fake.healthy else 503, {})
        elif self.path != "/v1/models":
            self.reply(404, {"error": {"message": "no such path"}})
        elif self._admitted():
            length = self.fake.max_model_len if self.fake.says_length else None
            self.reply(
                200,
                {
                    "data": [
                        {"id": name, "parent": None, "max_model_len": length}
                        for name in self.fake.models
                    ]
                },
            )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._admitted():
            return
        self.fake.bodies.append(body)
        if body.get("model") not in self.fake.models:
            self.reply(404, {"error": {"message": f"The model {body.get('model')} is not here."}})
            return
        fault = self.fake.broken or (self.fake.faults.popleft() if self.fake.faults else None)
        if fault is not None:
            fault(self)
            return
        if "prompt_embeds" in body and not self.fake.embeds:
            message = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
            self.reply(400, {"error": {"message": message}})
            return
        self.reply(200, self.fake.complete(body))

    def _admitted(self) -> bool:
        given = self.headers["authorization"]
        self.fake.keys.add(given)
        if not self.fake.key or given == f"Bearer {self.fake.key}":
            return True
        self.reply(401, {"error": {"message": f"bad key {given}"}})
        return False


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
