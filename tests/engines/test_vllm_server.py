"""vLLM servers that really run a tiny model: the same answers as transformers, whatever fails."""

from __future__ import annotations

import base64
import inspect
import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rerail.align import Aligner
from rerail.cli import app
from rerail.engines import Engine, GenerationRequest, Sampling, _replicas, load_engine
from rerail.engines._client_side import ClientSide
from rerail.engines.base import ContinuingEngine, WatchingEngine
from rerail.engines.transformers import TransformersEngine
from rerail.engines.vllm import VllmEngine
from rerail.engines.vllm_server import VllmServerEngine, payload
from rerail.errors import (
    EngineError,
    MissingDependencyError,
    PromptTooLongError,
    UnsteerableModelError,
)
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Budget, Policy
from rerail.search import advance
from rerail.types import Generation, Outcome, Prompt
from tests.engines import tiny, vllm_fake
from tests.engines.vllm_fake import FakeVllm, status, wait_until

NEW_TOKENS = 8
GREEDY = Sampling(max_new_tokens=NEW_TOKENS)
TOKENIZER = tiny.byte_level()
QUESTIONS = ("Hello world", "How do I bake a loaf of bread? Tell me, step by step.", "dog 1")
KEY = "a-key-nobody-may-see"


def make_folder(path: Path, architecture: str = "llama", dtype: str = "float32") -> Path:
    model = tiny.tiny_model(architecture, len(TOKENIZER)).to(getattr(torch, dtype))
    model.save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("model") / "tiny-chat")


@pytest.fixture(scope="module")
def local(folder: Path) -> TransformersEngine:
    return TransformersEngine.load(folder, device="cpu")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replicas, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(_replicas, "LONGEST_PAUSE", 0.05)


Start = Callable[..., FakeVllm]


@pytest.fixture
def start(local: TransformersEngine) -> Iterator[Start]:
    started: list[FakeVllm] = []

    def run(engine: TransformersEngine = local, **options: Any) -> FakeVllm:
        started.append(FakeVllm(engine, **options))
        return started[-1]

    yield run
    for fake in started:
        fake.stop()


@pytest.fixture
def connect(folder: Path) -> Iterator[Callable[..., VllmServerEngine]]:
    connected: list[VllmServerEngine] = []

    def run(*fakes: FakeVllm, **options: Any) -> VllmServerEngine:
        given = {"model": folder, "deadline": 30.0, "timeout": 10.0, **options}
        engine = VllmServerEngine.load([fake.url for fake in fakes], **given)
        connected.append(engine)
        for fake in fakes:
            fake.bodies.clear()
            fake.rows.clear()
        return engine

    yield run
    for engine in connected:
        engine.close()


Connect = Callable[..., VllmServerEngine]


def requests_of(engine: Engine) -> list[GenerationRequest]:
    unmoved = [engine.embed(Prompt.of(question)) for question in QUESTIONS]
    return [
        *(GenerationRequest(embedded, embedded.point) for embedded in unmoved),
        *(tiny.moved(embedded, seed) for embedded in unmoved for seed in range(4)),
    ]


# The same as transformers


def test_answers_and_likelihoods_equal_those_of_transformers(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    engine = connect(start(), max_batch=4)
    assert isinstance(engine, Engine)
    assert engine.name == local.name == "tiny-chat"
    assert engine.context_length == 255
    requests = requests_of(engine)
    for ours, theirs in zip(requests, requests_of(local), strict=True):
        assert np.array_equal(ours.point, theirs.point)
        assert np.array_equal(ours.embedded.message_index, theirs.embedded.message_index)
    answers = engine.generate(requests, GREEDY)
    assert answers == local.generate(requests, GREEDY)
    assert len({answer.text for answer in answers}) > 5
    pairs = [(r.embedded, a.token_ids) for r, a in zip(requests, answers, strict=True)]
    np.testing.assert_allclose(engine.log_likelihood(pairs), local.log_likelihood(pairs), atol=1e-4)
    assert engine.generate([], GREEDY) == engine.log_likelihood([]) == []


def test_facts_of_the_table_equal_those_of_transformers(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    table = connect(start()).table
    assert table.rms == pytest.approx(local.table.rms)
    assert table.mean_row_norm == pytest.approx(local.table.mean_row_norm)
    np.testing.assert_allclose(
        table.principal_directions(3), local.table.principal_directions(3), atol=1e-5
    )
    rows = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    assert np.array_equal(table.nearest_tokens(rows), local.table.nearest_tokens(rows))


@pytest.mark.parametrize("architecture", ["gemma", "gemma3_text", "qwen3", "granite"])
def test_scaled_embeddings_are_sent_as_the_module_gives_them(
    architecture: str, start: Start, connect: Connect, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / architecture, architecture)
    local = TransformersEngine.load(folder, device="cpu")
    engine = connect(start(local), model=folder)
    requests = requests_of(engine)
    assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)


def test_whole_responses_equal_those_of_transformers(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    prompts = [f"{question} {i}" for question in QUESTIONS for i in range(2)]
    engine = connect(start(), start(), max_batch=3)
    first = local.generate([tiny.moved(local.embed(Prompt.of(p)), 0) for p in prompts], GREEDY)
    words = sorted({w for a in first for w in a.text.split() if w.isalpha()})[:40] or ["e"]
    moderator = FakeModerator(words=tuple(words))
    policy = Policy(name="p", moderators=("fake",), budget=Budget(generations=10))

    def responses(used: Engine) -> list[Any]:
        aligner = Aligner(used, Panel(policy, moderator), sampling=GREEDY)
        found = [response.to_json() for response in aligner.align_many(prompts)]
        for response in found:
            del response["cost"]["seconds"]
            del response["naturalness"]
        return found

    ours = responses(engine)
    assert ours == responses(local)
    assert {response["outcome"] for response in ours} > {str(Outcome.PASSED)}


def test_answers_that_are_stopped_equal_those_of_transformers(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    fake = start()
    engine = connect(fake, max_batch=4)
    assert isinstance(engine, WatchingEngine)
    horizons = (2, 3, 8, None)

    def answers(used: WatchingEngine) -> tuple[list[Generation], set[tuple[int, str]]]:
        looks: dict[int, int] = {}
        seen = set()

        def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
            assert places
            for place, text in zip(places, (a.text for a in answers), strict=True):
                looks[place] = looks.get(place, 0) + 1
                seen.add((place, text))
            return [looks[place] == 1 + place % 4 for place in places]

        requests = [
            replace(request, horizon=horizons[i % 4]) for i, request in enumerate(requests_of(used))
        ]
        return used.generate_watched(requests, GREEDY, watch), seen

    found = answers(engine)
    assert found == answers(local)
    assert {answer.finish_reason for answer in found[0]} > {"cut", "length"}
    # Nobody pays for tokens after the mark at which an answer was stopped.
    fake.bodies.clear()
    request = replace(requests_of(engine)[0], horizon=2)
    [stopped] = engine.generate_watched([request], GREEDY, lambda places, _: [True] * len(places))
    assert (len(stopped.token_ids), stopped.finish_reason) == (2, "cut")
    assert [body["max_tokens"] for body in fake.bodies] == [2]


@pytest.fixture(params=["server", "server that knows no stops", "offline"])
def vllm(
    request: pytest.FixtureRequest,
    start: Start,
    connect: Connect,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ClientSide:
    """An engine over each way to vLLM."""
    server = start()
    server.heeds_stops = request.param != "server that knows no stops"
    if request.param != "offline":
        return connect(server)
    llm = vllm_fake.FakeLlm(server)
    given = SimpleNamespace(LLM=lambda *_, **__: llm, SamplingParams=vllm_fake.FakeSamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", given)
    return VllmEngine.load(folder)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_end_before_a_stop_as_those_of_transformers(
    temperature: float, vllm: ClientSide, local: TransformersEngine
) -> None:
    sampling = replace(GREEDY, temperature=temperature)
    requests = [replace(request, horizon=2) for request in requests_of(local)]
    whole = local.generate(requests, sampling)
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [False] * len(places)

    for stops in [(whole[0].text[3:6], whole[1].text[:2]), ("none",)]:
        with_stops = replace(sampling, stop=stops)
        expected = local.generate(requests, with_stops)
        assert (expected == whole) == (stops == ("none",))
        assert vllm.generate(requests, with_stops) == expected
        ids = requests[0].embedded.token_ids
        assert vllm.generate_from_tokens(ids, with_stops, requests[0].seed) == expected[0]
        watched = vllm.generate_watched(requests, with_stops, watch)
        if not temperature:
            assert watched == expected
        assert not any(stop in text for stop in stops for text in shown)
        assert not any(stop in answer.text for stop in stops for answer in watched)
        assert shown
        shown.clear()


def test_servers_are_told_of_stops(start: Start, connect: Connect) -> None:
    fake = start()
    engine = connect(fake)
    request = requests_of(engine)[0]
    engine.generate([request], replace(GREEDY, stop=("one", "two")))
    engine.generate([request], GREEDY)
    assert [body["stop"] for body in fake.bodies] == [["one", "two"], []]
    with pytest.raises(EngineError, match="a stop is empty"):
        engine.generate([request], replace(GREEDY, stop=("",)))


def test_vllm_offline_equals_transformers(vllm: ClientSide, local: TransformersEngine) -> None:
    requests = requests_of(local)
    answers = vllm.generate(requests, GREEDY)
    assert answers == local.generate(requests, GREEDY)
    pairs = [(r.embedded, a.token_ids) for r, a in zip(requests, answers, strict=True)]
    np.testing.assert_allclose(vllm.log_likelihood(pairs), local.log_likelihood(pairs), atol=1e-4)


def test_what_nobody_stops_is_the_whole_answer(start: Start, connect: Connect) -> None:
    engine = connect(start())

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        return [False] * len(places)

    requests = [replace(request, horizon=3) for request in requests_of(engine)]
    assert engine.generate_watched(requests, GREEDY, watch) == engine.generate(requests, GREEDY)
    assert engine.generate_watched([], GREEDY, watch) == []
    drawn = replace(GREEDY, temperature=1.0)
    first = engine.generate_watched(requests, drawn, watch)
    assert first == engine.generate_watched(requests[::-1], drawn, watch)[::-1]
    assert first != engine.generate_watched(
        [replace(request, seed=request.seed + 1) for request in requests], drawn, watch
    )


def test_an_answer_that_has_begun_goes_on_as_that_of_transformers(
    vllm: ClientSide, local: TransformersEngine
) -> None:
    assert isinstance(vllm, ContinuingEngine)
    whole = local.generate(requests_of(local), GREEDY)
    counts = [1 + i % NEW_TOKENS for i in range(len(whole))]
    begun = [
        replace(request, beginning=answer.token_ids[:count], horizon=2, looks=(1, 3))
        for request, answer, count in zip(requests_of(local), whole, counts, strict=True)
    ]
    shown: list[tuple[int, Generation]] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(zip(places, answers, strict=True))
        return [False] * len(places)

    assert vllm.generate(begun, GREEDY) == whole
    assert vllm.generate_watched(begun, GREEDY, watch) == whole
    ours = sorted(shown, key=lambda pair: (pair[0], len(pair[1].token_ids)))
    shown.clear()
    assert local.generate_watched(begun, GREEDY, watch) == whole
    assert ours == sorted(shown, key=lambda pair: (pair[0], len(pair[1].token_ids)))
    assert {len(answer.token_ids) - counts[place] for place, answer in ours} == {1, 2, 3, 4}
    for place, answer in ours:
        assert vllm.read(begun[place], answer.token_ids, GREEDY) == answer


def test_above_temperature_0_an_answer_begins_with_what_it_has_to(vllm: ClientSide) -> None:
    drawn = replace(GREEDY, temperature=1.0)
    requests = [replace(request, beginning=(5, 6, 7)) for request in requests_of(vllm)]
    for answer in vllm.generate(requests, drawn):
        assert answer.token_ids[:3] == (5, 6, 7)
        assert len(answer.token_ids) <= NEW_TOKENS


def test_streams_begin_at_once_as_those_of_transformers(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    policy = Policy(name="p", moderators=("fake",), release="window", lookahead=4)
    sampling = Sampling(max_new_tokens=60)

    def streamed(used: Engine, words: tuple[str, ...]) -> list[Any]:
        panel = Panel(policy.model_copy(update={"budget": Budget(generations=4)}),
                      FakeModerator(words=words))  # fmt: skip
        aligner, found = Aligner(used, panel, sampling=sampling), []
        for question in QUESTIONS:
            pieces: list[str] = []
            search = aligner.open(question, release=pieces.append)
            while not search.done:
                advance([search])
            response = search.response()
            found.append((pieces, response.text, response.outcome, response.sent_tokens))
        return found

    engine = connect(start())
    passed = streamed(engine, ("never said",))
    assert passed == streamed(local, ("never said",))
    assert any(len(pieces) > 1 for pieces, *_ in passed)
    late = passed[0][1].split()[-1].lower()
    stopped = streamed(engine, (late,))
    assert stopped == streamed(local, (late,))
    assert stopped != passed


def test_a_server_that_fails_between_two_marks_is_asked_again(
    start: Start, connect: Connect
) -> None:
    fake = start()
    engine = connect(fake)
    request = replace(requests_of(engine)[0], horizon=2)

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        if len(fake.bodies) == asked + 1:
            fake.faults.append(status(503))
        return [False] * len(places)

    [whole] = engine.generate([request], GREEDY)
    asked = len(fake.bodies)
    assert engine.generate_watched([request], GREEDY, watch) == [whole]
    assert not fake.faults


def test_seeds_decide_what_is_drawn(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    fake = start()
    engine = connect(fake)
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, top_p=0.9)
    requests = requests_of(engine)
    answers = engine.generate(requests, sampling)
    # The stand-in draws as transformers does, so equal answers mean that every seed arrived.
    assert answers == local.generate(requests, sampling)
    assert answers == engine.generate(requests[::-1], sampling)[::-1]
    for sent in fake.bodies:
        assert (sent["temperature"], sent["top_p"]) == (1.0, 0.9)
        assert 0 <= sent["seed"] < 2**63
    huge = GenerationRequest(requests[0].embedded, requests[0].point, seed=2**80 + 1)
    assert engine.generate([huge], sampling)


def test_a_checkpoints_wishes_have_no_say(start: Start, connect: Connect) -> None:
    fake = start()
    engine = connect(fake)
    engine.generate(requests_of(engine)[:1], GREEDY)
    (sent,) = fake.bodies
    assert sent["stop_token_ids"] == [1]
    assert sent["max_tokens"] == NEW_TOKENS
    assert sent["temperature"] == 0
    assert "seed" not in sent
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "top_p": 1.0}
    assert sent.items() >= {**neutral, "presence_penalty": 0, "frequency_penalty": 0}.items()


# What is sent


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_sent_in_the_models_dtype(
    dtype: str, start: Start, connect: Connect, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "m", dtype=dtype)
    wanted = getattr(torch, dtype)
    local = TransformersEngine.load(folder, device="cpu", dtype=dtype)
    fake = start(local, dtype=wanted)
    engine = connect(fake, model=folder)
    requests = requests_of(engine)
    assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)
    assert {rows.dtype for rows in fake.rows} == {wanted}


def test_a_payload_is_the_rows_alone() -> None:
    storage = torch.arange(40_000.0).reshape(1000, 40)
    data = base64.b64decode(payload(storage[3:5]))
    assert len(data) < 4000
    assert torch.equal(torch.load(io.BytesIO(data), weights_only=True), storage[3:5])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_points_that_are_not_finite_are_never_sent(
    value: float, start: Start, connect: Connect
) -> None:
    fake = start()
    engine = connect(fake)
    embedded = engine.embed(Prompt.of("dog"))
    point = embedded.point.copy()
    with np.errstate(over="ignore"):
        point[2, 3] = value
    with pytest.raises(EngineError, match="not finite"):
        engine.generate([GenerationRequest(embedded, point)], GREEDY)
    with pytest.raises(EngineError, match="shape"):
        engine.generate([GenerationRequest(embedded, embedded.point[1:])], GREEDY)
    assert fake.bodies == []


def test_neither_are_points_that_overflow_the_models_dtype(
    start: Start, connect: Connect, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path / "half", dtype="float16")
    local = TransformersEngine.load(folder, device="cpu", dtype="float32")
    fake = start(local, dtype=torch.float32)
    engine = connect(fake, model=folder)
    embedded = engine.embed(Prompt.of("dog"))
    point = embedded.point.copy()
    point[2, 3] = 1e6
    in_half = TransformersEngine.load(folder, device="cpu", dtype="float16")
    for one in (engine, in_half):
        with pytest.raises(EngineError, match=r"dtype, which ends at 65504"):
            one.generate([GenerationRequest(embedded, point)], GREEDY)
    assert fake.bodies == []


def test_names_without_an_embedding_are_not_looked_up(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = start()
    length = len(TOKENIZER) + 5
    monkeypatch.setattr(type(TOKENIZER), "__len__", lambda self: length)
    assert len(connect(fake).table.nearest_tokens(np.eye(2, 32, dtype=np.float32))) == 2


def test_answers_fit_the_servers_context(start: Start, connect: Connect) -> None:
    fake = start(max_model_len=64)
    engine = connect(fake)
    long = engine.embed(Prompt.completion("dog " * 50))
    short = engine.embed(Prompt.completion("dog"))
    assert 50 < len(long.token_ids) < 62
    requests = [GenerationRequest(e, e.point) for e in (long, short)]
    answers = engine.generate(requests, Sampling(max_new_tokens=20))
    assert len(answers[0].token_ids) <= 63 - len(long.token_ids)
    assert len(engine.log_likelihood([(long, answers[0].token_ids)])) == 1
    with pytest.raises(EngineError, match="exceed"):
        engine.log_likelihood([(long, (5,) * 40)])
    with pytest.raises(EngineError, match="without tokens"):
        engine.log_likelihood([(long, ())])
    with pytest.raises(EngineError, match="max_new_tokens"):
        engine.generate(requests, Sampling(max_new_tokens=0))
    with pytest.raises(PromptTooLongError, match="63"):
        engine.embed(Prompt.completion("dog " * 63))


# What goes wrong, and is mended


PASSING = {
    "500": vllm_fake.status(500),
    "503": vllm_fake.status(503, retry_after="0.01"),
    "429": vllm_fake.status(429, retry_after="oops"),
    "408": vllm_fake.status(408),
    "cut": vllm_fake.cut,
    "no JSON": vllm_fake.body(b"<html>"),
    "no object": vllm_fake.body([1, 2]),
    "null": vllm_fake.body(None),
    "numbers": vllm_fake.body({"choices": [1, 2]}),
    "mixed": vllm_fake.body({"choices": [{"index": "0"}, {"index": 1}]}),
    "no choices": vllm_fake.body({"choices": []}),
    "no tokens": vllm_fake.body(
        {"choices": [{"index": i, "token_ids": [], "finish_reason": "stop"} for i in range(2)]}
    ),
    "wrong tokens": vllm_fake.body(
        {"choices": [{"index": i, "token_ids": [10**9], "finish_reason": "stop"} for i in range(2)]}
    ),
    "broken off": vllm_fake.body(
        {"choices": [{"index": i, "token_ids": [5], "finish_reason": "abort"} for i in range(2)]}
    ),
    "twice": vllm_fake.body({"choices": [{"index": 0, "token_ids": [5]}] * 2}),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_failure_that_may_pass_costs_another_request_and_nothing_else(
    fault: vllm_fake.Fault,
    replicas: int,
    start: Start,
    connect: Connect,
    local: TransformersEngine,
) -> None:
    fakes = [start() for _ in range(replicas)]
    engine = connect(*fakes)
    requests = requests_of(local)[3:5]
    for fake in fakes:
        fake.faults.append(fault)
    assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)
    assert sum(len(fake.bodies) for fake in fakes) <= replicas + 1
    wait_until(lambda: len(engine.replicas.up) == replicas)


def test_slow_servers_are_left_for_others(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    one, other = start(), start()
    engine = connect(one, other, timeout=2.0)
    one.broken, one.healthy = vllm_fake.slow, False
    requests = requests_of(local)[:2]
    for _ in range(3):
        assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)
    assert len(one.bodies) <= 1
    assert engine.replicas.up == [other.url]


def test_a_request_that_always_fails_is_given_up(start: Start, connect: Connect) -> None:
    fakes = [start(), start()]
    engine = connect(*fakes, attempts=3)
    for fake in fakes:
        fake.broken = vllm_fake.status(500, "out of order")
    with pytest.raises(EngineError, match=r"failed 3 times.*HTTP 500"):
        engine.generate(requests_of(engine)[:1], GREEDY)
    assert sum(len(fake.bodies) for fake in fakes) == 3


def test_a_replica_goes_down_in_the_middle_and_comes_back(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    one, other = start(), start()
    engine = connect(one, other, max_batch=1)
    requests = requests_of(local)
    expected = local.generate(requests, GREEDY)
    assert engine.generate(requests, GREEDY) == expected
    assert one.bodies
    assert other.bodies
    one.stop()
    for _ in range(2):
        assert engine.generate(requests, GREEDY) == expected
    assert engine.replicas.up == [other.url]
    one.start()
    wait_until(lambda: len(engine.replicas.up) == 2)
    one.bodies.clear()
    assert engine.generate(requests, GREEDY) == expected
    assert one.bodies


def test_all_down_is_waited_for_then_said(
    start: Start, connect: Connect, local: TransformersEngine
) -> None:
    fake = start()
    engine = connect(fake)
    requests = requests_of(local)[:2]
    fake.stop()
    timer = threading.Timer(0.3, fake.start)
    timer.start()
    assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)
    timer.join()
    impatient = connect(fake, deadline=0.5)
    fake.stop()
    with pytest.raises(EngineError, match=r"no server was well within 0\.5 s.*no connection"):
        impatient.generate(requests, GREEDY)


def test_a_server_that_is_not_there_is_named_and_waited_for_a_while(
    start: Start, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = start()
    fake.stop()
    with pytest.raises(EngineError, match=r"within 0\.2 s .*option.* wait"):
        load_engine(f"vllm-server:{fake.url}?model={folder}&wait=0.2")
    waits = [record.getMessage() for record in caplog.records]
    assert len(waits) == 1
    assert waits[0].startswith(f"waiting up to 0.2 s for a server ({fake.url}: no connection")
    assert inspect.signature(VllmServerEngine.load).parameters["wait"].default == 10
    timer = threading.Timer(0.2, fake.start)
    timer.start()
    VllmServerEngine.load(fake.url, model=folder, wait=20.0).close()
    timer.join()


def test_an_unhealthy_replica_is_not_asked_again(start: Start, connect: Connect) -> None:
    one, other = start(), start()
    engine = connect(one, other)
    one.broken, one.healthy = vllm_fake.status(500), False
    request = requests_of(engine)[:1]
    for _ in range(4):
        engine.generate(request, GREEDY)
    assert len(one.bodies) == 1
    time.sleep(0.2)
    engine.generate(request, GREEDY)
    assert len(one.bodies) == 1
    one.broken, one.healthy = None, True
    wait_until(lambda: len(engine.replicas.up) == 2)


# What goes wrong, and is said


def test_a_refused_request_is_not_repeated(start: Start, connect: Connect) -> None:
    fake = start()
    engine = connect(fake)
    fake.broken = vllm_fake.status(400, "hidden size 3 does not match")
    with pytest.raises(EngineError, match="HTTP 400: hidden size 3"):
        engine.generate(requests_of(engine)[:1], GREEDY)
    fake.broken = vllm_fake.status(404)
    with pytest.raises(EngineError, match="HTTP 404"):
        engine.generate(requests_of(engine)[:1], GREEDY)
    assert len(fake.bodies) == 2
    assert engine.replicas.up


def test_a_server_without_the_flag_is_named(start: Start, folder: Path) -> None:
    with pytest.raises(EngineError, match="--enable-prompt-embeds"):
        VllmServerEngine.load(start(embeds=False).url, model=folder)


def test_a_server_of_another_model_is_refused(
    start: Start, folder: Path, local: TransformersEngine
) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.5)
    other = TransformersEngine(model, TOKENIZER)
    with pytest.raises(UnsteerableModelError, match="serves this checkpoint"):
        VllmServerEngine.load(start(other).url, model=folder)


def test_the_served_name_is_found_or_asked_for(
    start: Start, connect: Connect, folder: Path
) -> None:
    fake = start(models=("a", "b"))
    with pytest.raises(EngineError, match=r"offers a, b.*served"):
        VllmServerEngine.load(fake.url, model=folder)
    with pytest.raises(EngineError, match=r"offers a, b.*served"):
        VllmServerEngine.load(fake.url, model=folder, served="c")
    engine = connect(fake, served="b")
    engine.generate(requests_of(engine)[:1], GREEDY)
    assert fake.bodies[0]["model"] == "b"


def test_a_server_without_log_probabilities_is_not_taken_for_vllm(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = start()
    complete = fake.complete
    monkeypatch.setattr(fake, "complete", lambda body: complete({**body, "logprobs": None}))
    with pytest.raises(EngineError, match="no 'logprobs' where it should be"):
        VllmServerEngine.load(fake.url, model=folder, attempts=1)


def test_something_else_than_vllm_is_not_taken_for_it(folder: Path, start: Start) -> None:
    fake = start()
    fake.max_model_len = None  # type: ignore[assignment]
    with pytest.raises(EngineError, match="max_model_len"):
        VllmServerEngine.load(fake.url, model=folder)


@pytest.mark.parametrize(
    ("says", "given", "taken"), [(True, 512, 64), (True, 32, 32), (False, 32, 32)]
)
def test_what_a_router_leaves_out_can_be_said_and_no_more_is_believed(
    folder: Path, start: Start, says: bool, given: int, taken: int
) -> None:
    fake = start(max_model_len=64)
    fake.says_length = says
    engine = VllmServerEngine.load(fake.url, model=folder, max_model_len=given)
    assert engine.context_length == taken - 1, "one token of it is always generated"
    engine.close()


def test_the_key_is_sent_and_never_shown(
    start: Start,
    connect: Connect,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = start(key=KEY)
    with pytest.raises(EngineError, match="HTTP 401: check the key"):
        VllmServerEngine.load(fake.url, model=folder)
    monkeypatch.setenv("MY_KEY", KEY)
    engine = connect(fake, api_key_env="MY_KEY")
    assert fake.keys == {None, f"Bearer {KEY}"}
    assert KEY not in repr(engine) + str(engine) + repr(engine.replicas)
    fake.broken = vllm_fake.status(400, f"no good: Bearer {KEY}")
    with pytest.raises(EngineError, match="no good: Bearer") as caught:
        engine.generate(requests_of(engine)[:1], GREEDY)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    fake.broken = None
    assert connect(fake).generate(requests_of(engine)[:1], GREEDY)
    for wrong in (KEY, "UNSET_VARIABLE"):
        with pytest.raises(EngineError) as caught:
            VllmServerEngine.load(fake.url, model=folder, api_key_env=wrong)
        assert KEY not in str(caught.value)
    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}\u00e9")
    with pytest.raises(EngineError, match="does not hold a usable key") as caught:
        VllmServerEngine.load(fake.url, model=folder)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host",
        "host:8000",
        "http://",
        "http://u:s3cret@host",
        "http://[",
        "http://h?x=1",
        "http://h:port",
        "http://h:70000",
    ],
)
def test_what_is_no_url_is_refused(url: str, folder: Path) -> None:
    with pytest.raises(EngineError, match="URL") as caught:
        VllmServerEngine.load(url, model=folder)
    assert "s3cret" not in str(caught.value)


def test_a_closed_engine_says_so(start: Start, connect: Connect) -> None:
    engine = connect(start())
    request = requests_of(engine)[:1]
    engine.close()
    with pytest.raises((EngineError, RuntimeError), match=r"closed|shutdown"):
        engine.generate(request, GREEDY)


# By name


def test_it_is_loaded_by_name(start: Start, folder: Path, local: TransformersEngine) -> None:
    one, other = start(), start()
    spelt = f"vllm-server:{one.url}/v1,{other.url}/?model={folder}&deadline=9&name=mine"
    engine = load_engine(spelt, dtype="float32")
    assert isinstance(engine, VllmServerEngine)
    assert engine.name == "mine"
    assert engine.replicas.urls == [one.url, other.url]
    requests = requests_of(engine)[:4]
    assert engine.generate(requests, GREEDY) == local.generate(requests, GREEDY)
    assert engine.weights_sha256() == engine.weights_sha256() != local.weights_sha256()
    engine.close()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("vllm-server:http://127.0.0.1:1", {}, "which model"),
        ("vllm-server:http://127.0.0.1:1?modle=x", {}, "did you mean 'model'"),
        ("vllm-server:http://127.0.0.1:1?model", {}, "key=value"),
        ("vllm-server:http://127.0.0.1:1?model=x", {"device": "cpu"}, "leave the device out"),
        ("vllm-server:http://127.0.0.1:1?model=./no/such/folder", {}, "no such folder"),
        ("vllm-server:http://127.0.0.1:1?urls=x", {}, "unknown option 'urls'"),
        ("vllm-server:http://127.0.0.1:1?model=x&attempts=0", {}, "'attempts' takes a whole"),
        ("vllm-server:http://127.0.0.1:1?model=x&wait=no", {}, "'wait' takes seconds above 0"),
        ("vllm-server:http://127.0.0.1:1?model=x&timeout=.inf", {}, "takes seconds above 0"),
        ("vllm-server:http://127.0.0.1:1?model=x&model=y", {}, "'model' is written twice"),
        ("vllm:x?trust_remote_code=2", {}, "'trust_remote_code' takes true or false"),
        ("vllm:x?seed=1&seed=1", {}, "'seed' is written twice"),
        ("vllm:", {}, "which model"),
        ("vllm:x", {"device": "cuda"}, "leave the device out"),
    ],
)
def test_a_name_that_cannot_be_used_is_explained(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        load_engine(name, **options)


def test_the_command_line_takes_it(start: Start, folder: Path, tmp_path: Path) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text("name: p\nmoderators: [fake]\n")
    name = f"vllm-server:{start().url}?model={folder}"
    command = ["align", "--model", name, "--policy", str(policy), "--prompt", "dog", "--json"]
    ran = CliRunner().invoke(app, [*command, "--dtype", "float32", "--max-new-tokens", "4"])
    assert ran.exit_code == 0
    assert json.loads(ran.stdout)["model"] == "tiny-chat"
    ran = CliRunner().invoke(app, [*command, "--device", "cpu"])
    assert ran.exit_code == 4
    assert "leave the device out" in ran.stderr


def test_a_missing_vllm_is_named() -> None:
    with pytest.raises(MissingDependencyError, match=r"vllm is not installed: pip install vllm$"):
        load_engine("vllm:somewhere")


def test_vllm_gets_the_folder_that_was_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def start_vllm(model: str, **options: Any) -> None:
        given.append(model)
        raise RuntimeError("out of order")

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=start_vllm))
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    with pytest.raises(EngineError, match="vLLM cannot load ~/tiny-chat: out of order"):
        load_engine("vllm:~/tiny-chat")
    assert given == [str(folder)]


def test_an_unknown_dtype_is_refused(start: Start, folder: Path) -> None:
    with pytest.raises(EngineError, match="unknown dtype 'int8'"):
        VllmServerEngine.load(start().url, model=folder, dtype="int8")
