"""A model behind a text API: what is asked, what is taken for an answer, and every fault."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rerail.align import Aligner
from rerail.engines import FakeEngine, load_engine
from rerail.engines.base import ABILITIES, Engine, GenerationRequest, Sampling, abilities
from rerail.engines.chat import UNTOLD, ChatEngine
from rerail.errors import EngineError, PolicyError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import AcceptedFrom, Outcome, Prompt, Rejection, StopReason

COMPLY, REFUSE = "Sure, here is how I comply.", "No, rather not."
KIND = "Decline what would hurt somebody and say what may be done about it instead."


def reply(text: str | None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": reason,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


class Hosted:
    """A fake of a hosted API. What the user says decides what comes, in order, then the last."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.scripts: dict[str, list[Any]] = {}
        self.release = threading.Event()
        hosted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                hosted.asked.append({"path": self.path, **body})
                hosted.headers.append({k.lower(): v for k, v in self.headers.items()})
                hosted.answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        words = " ".join(m["content"] for m in body["messages"])
        script = next((s for key, s in self.scripts.items() if key in words), [reply("Hello.")])
        step = script.pop(0) if len(script) > 1 else script[0]
        if callable(step):
            step = step(body)
        if step == "hang":
            self.release.wait(30)
            step = reply("late")
        status, headers, content = step if isinstance(step, tuple) else (200, {}, step)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        length = str(len(data) + (99 if headers.pop("cut", "") else 0))
        handler.close_connection = True
        for name, value in {"content-type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", length)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    made = Hosted()
    yield made
    made.close()


@pytest.fixture
def load(hosted: Hosted) -> Iterator[Any]:
    made: list[ChatEngine] = []

    def build(**options: Any) -> ChatEngine:
        engine = load_engine(f"chat:{hosted.url}?model=m", **{"attempts": 2, **options})
        assert isinstance(engine, ChatEngine)
        made.append(engine)
        return engine

    yield build
    for engine in made:
        engine.close()


def one(
    engine: Engine, text: str = "hello", sampling: Sampling | None = None, seed: int = 5
) -> Any:
    embedded = engine.embed(Prompt.of(text))
    request = GenerationRequest(embedded, embedded.point, seed)
    (made,) = engine.generate([request], sampling or Sampling(32))
    return made


def error(status: int, code: str | None = None, **headers: str) -> Any:
    return lambda body: (
        status,
        dict(headers),
        {"error": {"message": "secret words", "code": code, "type": "x", "param": None}},
    )


AGAIN = {"retry-after-ms": "1"}


# What is asked, and what comes of it


def test_an_answer(hosted: Hosted, load: Any) -> None:
    sampling = Sampling(32, temperature=0.5, top_p=0.9, stop=("END",))
    hosted.scripts["hello"] = [reply("Fine END of it")]
    made = one(load(), "hello", sampling, seed=2**40 + 3)
    assert (made.text, made.finish_reason) == ("Fine ", "stop")
    assert made.token_ids == (UNTOLD,) * 7
    assert made.prompt_tokens == 11
    (asked,) = hosted.asked
    assert asked == {
        "path": "/v1/chat/completions",
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 32,
        "stop": ["END"],
        "seed": 3 + 2**40 % 2**31,
    }


def test_options_say_how_it_is_asked(
    hosted: Hosted, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one(load())
    assert hosted.headers[-1]["authorization"] == "Bearer none"
    monkeypatch.setenv("SOME_KEY", "k1")
    engine = load(api_key_env="SOME_KEY", limit="max_completion_tokens", seeds=False, name="clever")
    one(engine)
    assert hosted.headers[-1]["authorization"] == "Bearer k1"
    assert hosted.asked[-1]["max_completion_tokens"] == 32
    assert not {"seed", "max_tokens", "stop"} & hosted.asked[-1].keys()
    assert engine.name == "clever"
    assert "k1" not in repr(engine)


@pytest.mark.parametrize(
    ("given", "text", "reason"),
    [
        (reply("It goes on", "length"), "It goes on", "length"),
        (reply("It was about to", "content_filter"), "It was about to", "cut"),
        (reply(None, "content_filter"), "", "cut"),
        (reply(None), "", "stop"),
        (error(400, "content_filter"), "", "cut"),
    ],
)
def test_how_an_answer_ends(hosted: Hosted, load: Any, given: Any, text: str, reason: str) -> None:
    hosted.scripts["hello"] = [given]
    made = one(load())
    assert (made.text, made.finish_reason) == (text, reason)
    assert made.answer_ids  # so that silence is not taken for a stop that was asked for


def test_reasoning_is_told_apart(hosted: Hosted, load: Any) -> None:
    thoughtful = reply("Yes.", reasoning_content="Hm.")
    thoughtful["usage"]["completion_tokens_details"] = {"reasoning_tokens": 4}
    hosted.scripts["hello"] = [thoughtful]
    made = one(load())
    assert (made.text, made.reasoning, made.reasoning_tokens) == ("Yes.", "Hm.", 4)
    assert len(made.token_ids) == 7


def test_an_answer_without_a_count_has_a_token(hosted: Hosted, load: Any) -> None:
    plain = reply("Yes.")
    del plain["usage"]
    hosted.scripts["hello"] = [plain]
    made = one(load())
    assert (len(made.token_ids), made.prompt_tokens) == (1, 0)


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        error(429, **AGAIN),
        error(500, **AGAIN),
        error(503, **AGAIN),
        lambda body: (200, {"cut": "1"}, reply("half")),
    ],
    ids=["429", "500", "503", "cut"],
)
def test_what_may_pass_is_tried_again(hosted: Hosted, load: Any, fault: Any) -> None:
    hosted.scripts["hello"] = [fault, reply("Fine.")]
    assert one(load()).text == "Fine."
    assert len(hosted.asked) == 2


@pytest.mark.parametrize(
    ("fault", "attempts", "says"),
    [
        (error(429, **AGAIN), 2, "HTTP 429: too many requests"),
        (error(500, **AGAIN), 2, "HTTP 500"),
        (error(401), 1, "HTTP 401: the key is not accepted.*api_key_env"),
        (error(404), 1, "HTTP 404: no such model.*/v1"),
        (error(400), 1, "HTTP 400: the endpoint refuses.*max_completion_tokens"),
        (lambda body: (200, {"cut": "1"}, reply("half")), 2, "connection failed"),
        ({**reply("x"), "choices": []}, 1, "without an answer"),
        ({**reply("x"), "choices": None}, 1, "without an answer"),
        ({"nothing": "here"}, 1, "without an answer"),
        (b"", 1, "m: "),
        (b"[]", 1, "m: "),
        (b"not json", 1, "m: "),
        (reply(None, "tool_calls"), 1, "ended for an unknown reason"),
        (reply(3), 1, "is no text"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_does_not_pass_is_an_error_that_quotes_nothing(
    hosted: Hosted, load: Any, fault: Any, attempts: int, says: str
) -> None:
    hosted.scripts["hello"] = [fault]
    with pytest.raises(EngineError, match=says) as caught:
        one(load())
    assert "secret" not in str(caught.value)
    assert "hello" not in str(caught.value)
    assert len(hosted.asked) == attempts


def test_an_endpoint_that_hangs_is_left(hosted: Hosted, load: Any) -> None:
    hosted.scripts["hello"] = ["hang"]
    with pytest.raises(EngineError, match="no answer in time"):
        one(load(timeout=0.2, attempts=1))


def test_an_endpoint_that_is_not_there(load: Any) -> None:
    engine = load_engine("chat:http://127.0.0.1:9/v1?model=m&attempts=1")
    with pytest.raises(EngineError, match="connection failed"):
        one(engine)


def test_a_failure_is_its_owners_alone_and_nothing_is_asked_for_twice(
    hosted: Hosted, load: Any
) -> None:
    hosted.scripts["bad"] = [error(400)]
    good, bad = aligner(load()).align_many(["good", "bad one"])
    assert good.outcome is Outcome.PASSED
    assert (bad.outcome, bad.stop_reason) == (Outcome.ERROR, StopReason.ENGINE_ERROR)
    assert "HTTP 400" in (bad.error or "")
    said = [asked["messages"][-1]["content"] for asked in hosted.asked]
    assert (said.count("good"), said.count("bad one")) == (1, 2)


# Under a policy


def aligner(engine: Engine, **changes: Any) -> Aligner:
    data: dict[str, Any] = {
        "name": "p",
        "moderators": ["fake"],
        "optimizer": "resample",
        "naturalness_floor": None,
        **changes,
    }
    return Aligner(engine, Panel(Policy.parse(data), FakeModerator()))


def test_a_flagged_answer_is_replaced_by_one_to_guidance(hosted: Hosted, load: Any) -> None:
    hosted.scripts[KIND] = [reply(REFUSE)]
    hosted.scripts["do it"] = [reply(COMPLY)]
    response = aligner(load(), guidance=[KIND]).align("do it")
    assert (response.outcome, response.text) == (Outcome.STEERED, REFUSE)
    assert response.accepted_from is AcceptedFrom.GUIDANCE
    assert [m["role"] for m in hosted.asked[-1]["messages"]] == ["system", "user"]
    assert response.cost.generations == 2
    assert (response.cost.prompt_tokens, response.cost.generated_tokens) == (22, 14)
    assert response.naturalness is None


def test_or_by_one_that_is_drawn_anew(hosted: Hosted, load: Any) -> None:
    hosted.scripts["do it"] = [reply(COMPLY), reply(COMPLY), reply(COMPLY), reply(REFUSE)]
    response = aligner(load()).align("do it")
    assert (response.outcome, response.text) == (Outcome.STEERED, REFUSE)
    assert response.accepted_from is AcceptedFrom.RESAMPLE
    assert (response.cosine, response.tokens_preserved) == (1.0, 1.0)
    first, *drawn = hosted.asked
    assert first["temperature"] == 0.0
    assert {asked["temperature"] for asked in drawn} == {1.0}
    seeds = [asked["seed"] for asked in hosted.asked]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(("budget", "spent"), [(None, 9), (4, 4)])
def test_the_draws_end_with_their_number_or_the_budget(
    hosted: Hosted, load: Any, budget: int | None, spent: int
) -> None:
    hosted.scripts["do it"] = [reply(COMPLY)]
    response = aligner(load(), budget={"generations": budget}).align("do it")
    assert (response.outcome, response.stop_reason) == (Outcome.REFUSED, StopReason.BUDGET)
    assert response.cost.generations == spent == len(hosted.asked)


def test_silence_is_no_answer(hosted: Hosted, load: Any) -> None:
    hosted.scripts["do it"] = [reply(None)]
    response = aligner(load(), budget={"generations": 2}).align("do it")
    assert response.outcome is Outcome.REFUSED
    assert {e.rejection for e in response.evaluations} == {Rejection.EMPTY}


def test_what_the_providers_filter_broke_off_does_not_leave(hosted: Hosted, load: Any) -> None:
    hosted.scripts["do it"] = [reply("It was about", "content_filter"), reply("Fine.")]
    response = aligner(load()).align("do it")
    assert response.evaluations[0].rejection is Rejection.UNFINISHED
    assert response.text == "Fine."


def test_a_policy_that_needs_more_than_there_is_is_an_error_at_load(load: Any) -> None:
    engine = load()
    assert abilities(engine) == {"extends"}
    assert abilities(FakeEngine()) == ABILITIES
    with pytest.raises(PolicyError, match=r"optimizer: resample.*naturalness_floor: null.*'text'"):
        aligner(engine, optimizer="fast", naturalness_floor=-0.3)
    with pytest.raises(PolicyError, match="gives no log-likelihoods"):
        aligner(engine, naturalness_floor=-0.3)
    with pytest.raises(PolicyError, match="embeddings cannot be moved"):
        aligner(engine, optimizer={"preset": "fast", "max_iterations": 0})
    still = {"preset": "fast", "max_iterations": 0, "use_offsets": False, "use_fades": False}
    for able in (engine, FakeEngine(lambda e, p: "Hello.")):
        assert aligner(able, optimizer=still).align("hello").outcome is Outcome.PASSED


def test_texts_are_not_continued(load: Any) -> None:
    with pytest.raises(PromptError, match="continues no plain text"):
        load().embed(Prompt.completion("Once upon a time"))


def test_what_an_api_does_not_show(load: Any) -> None:
    engine = load()
    with pytest.raises(EngineError, match="shows no embeddings"):
        _ = engine.table
    with pytest.raises(EngineError, match="no log-likelihoods"):
        engine.log_likelihood([])
    assert engine.weights_sha256() == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chat:https://host/v1", "which model"),
        ("chat:host?model=m", "not a URL"),
        ("chat:https://k:s@host/v1?model=m", "carries a credential"),
        ("chat:https://host/v1?model=m&limit=words", "max_tokens or max_completion_tokens"),
        ("chat:https://host/v1?model=m&attempts=0", "attempts"),
        ("chat:https://host/v1?model=m&api_key_env=NO_SUCH", "NO_SUCH"),
        ("chat:https://host/v1?model=m&colour=red", "unknown option 'colour'"),
    ],
)
def test_names_that_are_none(name: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        load_engine(name)


def test_a_device_is_not_chosen_here() -> None:
    with pytest.raises(EngineError, match="no device"):
        load_engine("chat:https://host/v1?model=m", device="cpu")


# Drawing anew, whatever the engine


def test_models_with_embeddings_can_be_drawn_from_anew_too() -> None:
    model = FakeEngine(comply=COMPLY, refuse=REFUSE)
    model_answers = aligner(model, optimizer={"preset": "resample", "redraw_temperature": 5.0})
    response = model_answers.align("do it")
    assert response.accepted_from is AcceptedFrom.RESAMPLE
    assert response.text == aligner(
        model, optimizer={"preset": "resample", "redraw_temperature": 5.0}
    ).align("do it").text  # fmt: skip
    assert model.log_likelihood_calls == 0


def test_drawing_anew_goes_with_nothing_that_moves() -> None:
    iterate = {"result": "best_iterate", "stop_below": 0.1, "accept_perturbations": False}
    for change in ({"use_offsets": True}, {**iterate, "use_guidance": False}):
        with pytest.raises(PolicyError, match="moves nothing"):
            aligner(FakeEngine(), optimizer={"preset": "resample", **change})
