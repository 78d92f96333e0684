"""Answers from embeddings are the model's own answers, in any batch."""

from __future__ import annotations

import inspect
import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rerail.engines import Engine, GenerationRequest, Sampling, load_engine
from rerail.engines import transformers as module
from rerail.engines.base import ActivationEngine, ContinuingEngine, EmbeddedPrompt
from rerail.engines.transformers import TransformersEngine
from rerail.errors import (
    EngineError,
    MissingDependencyError,
    PromptTooLongError,
    UnsteerableModelError,
)
from rerail.types import Generation, Prompt
from tests.engines import tiny
from tests.engines.tiny import moved

NEW_TOKENS = 8
GREEDY = Sampling(max_new_tokens=NEW_TOKENS)
TOKENIZER = tiny.byte_level()
SYSTEM = {"role": "system", "content": "You are a helpful assistant. Be kind, please."}
QUESTIONS = ("Hello world", "How do I bake a loaf of bread? Tell me, step by step.", "dog 1")


@pytest.fixture(autouse=True)
def share_every_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_SHARED_ROWS", 1)


def make_engine(architecture: str = "llama", **options: Any) -> TransformersEngine:
    return TransformersEngine(tiny.tiny_model(architecture, len(TOKENIZER)), TOKENIZER, **options)


def asked(engine: TransformersEngine, question: str) -> EmbeddedPrompt:
    return engine.embed(Prompt.of([SYSTEM, {"role": "user", "content": question}]))


def from_ids(engine: TransformersEngine, embedded: EmbeddedPrompt) -> tuple[int, ...]:
    """What the model itself generates from the tokens, alone and without padding."""
    ids = torch.tensor(embedded.token_ids)[None]
    row = engine._model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=1,
    )
    return tuple(row[0, ids.shape[1] :].tolist())


def tokens_of(answers: list[Generation]) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_answers_from_embeddings_equal_those_from_tokens(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(architecture)
    prefixes: list[int] = []
    prefix = engine._prefix

    def spy(embeds: torch.Tensor, cache: Any = None) -> Any:
        prefixes.append(embeds.shape[1])
        return prefix(embeds, cache)

    monkeypatch.setattr(engine, "_prefix", spy)
    prompts = [asked(engine, question) for question in QUESTIONS]
    ragged = [GenerationRequest(prompt, prompt.point) for prompt in prompts]
    expected = [from_ids(engine, prompt) for prompt in prompts]
    assert len(set(expected)) > 1

    candidates = [moved(prompts[1], seed) for seed in range(3)]
    shared = engine.generate(ragged, GREEDY), engine.generate(candidates, GREEDY)
    reused = list(prefixes)
    engine._prefix_reuse = False
    alone = engine.generate(ragged, GREEDY), engine.generate(candidates, GREEDY)
    assert len(prefixes) == len(reused)
    assert tokens_of(shared[0]) == tokens_of(alone[0]) == expected
    assert tokens_of(shared[1]) == tokens_of(alone[1])
    attention_only = architecture not in {"mamba", "lfm2"}
    assert bool(reused) == attention_only
    if attention_only:
        assert min(reused) > 20

    likelihoods = engine.log_likelihood(list(zip(prompts, expected, strict=True)))
    for prompt, answer, likelihood in zip(prompts, expected, likelihoods, strict=True):
        ids = torch.tensor([*prompt.token_ids, *answer])[None]
        with torch.no_grad():
            rows = engine._model(ids).logits[0].log_softmax(-1)[-len(answer) - 1 : -1]
        naive = rows.gather(1, torch.tensor(answer)[:, None]).mean().item()
        assert likelihood == pytest.approx(naive, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_unmoved_point_gives_what_plain_generation_from_tokens_gives(temperature: float) -> None:
    engine = make_engine()
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=temperature)
    embedded = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(e, e.point, seed) for seed, e in enumerate(embedded)]
    plain = [
        engine.generate_from_tokens(e.token_ids, sampling, seed) for seed, e in enumerate(embedded)
    ]
    assert engine.generate(requests, sampling) == plain
    if not temperature:
        assert tokens_of(plain) == [from_ids(engine, e) for e in embedded]


def test_the_engine_keeps_the_contract() -> None:
    engine = make_engine(name="mine")
    assert isinstance(engine, Engine)
    assert engine.name == "mine"
    assert engine.context_length == 256
    embedded = asked(engine, "Hello world")
    assert embedded.point.dtype == np.float32
    assert embedded.token_ids.dtype == embedded.message_index.dtype == np.int64
    assert engine.generate([], GREEDY) == []
    assert engine.log_likelihood([]) == []


def test_rows_are_what_the_module_gives() -> None:
    engine = make_engine("gemma")
    embedded = asked(engine, "Hello world")
    weight = engine._model.get_input_embeddings().weight[embedded.token_ids].numpy()
    np.testing.assert_allclose(embedded.point, weight * np.float32(32**0.5), rtol=1e-5)
    norm = np.linalg.norm(engine._model.get_input_embeddings().weight.numpy() * 32**0.5, axis=1)
    assert engine.table.mean_row_norm == pytest.approx(norm.mean(), rel=1e-5)
    np.testing.assert_array_equal(engine.table.nearest_tokens(embedded.point), embedded.token_ids)


def test_half_precision_points_are_exact() -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER)).to(torch.bfloat16)
    engine = TransformersEngine(model, TOKENIZER)
    embedded = asked(engine, "Hello world")
    direct = model.get_input_embeddings()(torch.tensor(embedded.token_ids))
    assert torch.equal(torch.from_numpy(embedded.point).bfloat16(), direct)
    answers = engine.generate([GenerationRequest(embedded, embedded.point)], GREEDY)
    assert tokens_of(answers) == [from_ids(engine, embedded)]


def test_steering_changes_no_weight() -> None:
    engine = make_engine()
    before = engine.weights_sha256()
    embedded = asked(engine, "Hello world")
    answers = engine.generate([moved(embedded, seed) for seed in range(3)], GREEDY)
    engine.log_likelihood([(embedded, answer.token_ids) for answer in answers])
    _ = engine.table.principal_directions(2)
    assert engine.weights_sha256() == before
    with torch.no_grad():
        engine._model.lm_head.weight[3, 3] += 1e-3
    assert engine.weights_sha256() != before


def test_weights_hash_is_the_same_for_the_same_weights() -> None:
    assert make_engine("olmo2").weights_sha256() == make_engine("olmo2").weights_sha256()


def test_seeds_alone_decide_what_is_drawn() -> None:
    engine = make_engine()
    sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, top_p=0.9)
    short, long = asked(engine, "dog"), asked(engine, QUESTIONS[1])
    requests = [
        GenerationRequest(prompt, prompt.point, seed)
        for prompt in (short, long)
        for seed in range(6)
    ]
    together = tokens_of(engine.generate(requests, sampling))
    alone = [tokens_of(engine.generate([request], sampling))[0] for request in requests]
    reversed_batch = tokens_of(engine.generate(requests[::-1], sampling))[::-1]
    assert together == alone == reversed_batch
    assert len(set(together)) > 8
    other = [GenerationRequest(short, short.point, seed=2**80 + 1)]
    assert engine.generate(other, sampling) == engine.generate(other, sampling)


def test_draws_have_the_models_chances() -> None:
    engine = make_engine()
    embedded = asked(engine, "dog")
    with torch.no_grad():
        logits = engine._model(torch.tensor(embedded.token_ids)[None]).logits[0, -1].double()
    for top_p in (1.0, 0.5, 0.0):
        chances = (logits / 2.0).softmax(-1).numpy()
        order = np.argsort(-chances, kind="stable")
        kept = order[np.cumsum(chances[order]) - chances[order] < max(top_p, 1e-9)]
        expected = np.zeros_like(chances)
        expected[kept] = chances[kept] / chances[kept].sum()
        sampling = Sampling(max_new_tokens=1, temperature=2.0, top_p=top_p)
        requests = [GenerationRequest(embedded, embedded.point, seed) for seed in range(2000)]
        drawn = np.array(tokens_of(engine.generate(requests, sampling)))[:, 0]
        observed = np.bincount(drawn, minlength=len(chances)) / len(drawn)
        assert set(drawn.tolist()) <= set(kept.tolist())
        assert 0.5 * np.abs(observed - expected).sum() < 0.15


def test_greedy_is_greedy_whatever_the_checkpoint_wishes(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    engine = make_engine()
    embedded = asked(engine, QUESTIONS[1])
    request = GenerationRequest(embedded, embedded.point)
    expected = engine.generate([request], GREEDY)
    wishes = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=3,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        max_length=3,
        num_beams=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    engine._model.generation_config = wishes
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert engine.generate([request], GREEDY) == expected
    finally:
        logger.removeHandler(caplog.handler)
    assert engine._model.generation_config is wishes
    assert not caplog.records
    assert not recwarn.list


def test_answers_end_at_any_of_the_models_ends() -> None:
    free = make_engine()
    embedded = asked(free, QUESTIONS[1])
    request = GenerationRequest(embedded, embedded.point)
    whole = free.generate([request], GREEDY)[0]
    assert whole.finish_reason == "length"
    assert len(whole.token_ids) == NEW_TOKENS
    end = whole.token_ids[3]
    model = tiny.tiny_model("llama", len(TOKENIZER))
    model.generation_config.eos_token_id = [399, end]
    cut = TransformersEngine(model, TOKENIZER).generate([request], GREEDY)[0]
    first = whole.token_ids.index(end)
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert cut.finish_reason == "stop"
    assert cut.text == TOKENIZER.decode(cut.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba", "gemma2"])
def test_answers_that_are_stopped_are_the_beginnings_of_whole_ones(architecture: str) -> None:
    engine = make_engine(architecture)
    sampling = Sampling(max_new_tokens=12)
    prompts = [asked(engine, question) for question in QUESTIONS]
    whole = engine.generate([GenerationRequest(p, p.point) for p in prompts], sampling)
    requests = [
        GenerationRequest(p, p.point, horizon=h) for p, h in zip(prompts, (2, 3, None), strict=True)
    ]
    shown: list[tuple[int, str]] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(zip(places, (a.text for a in answers), strict=True))
        return [place == 1 and sum(p == 1 for p, _ in shown) == 2 for place in places]

    watched = engine.generate_watched(requests, sampling, watch)
    assert (watched[0], watched[2]) == (whole[0], whole[2])
    assert watched[1].token_ids == whole[1].token_ids[:6]
    assert watched[1].finish_reason == "cut"
    begun = [TOKENIZER.decode(whole[p].token_ids[:n], skip_special_tokens=True)
             for p, n in ((0, 2), (0, 4), (0, 8), (1, 3), (1, 6))
             if n < len(whole[p].token_ids)]  # fmt: skip
    assert [text for _, text in sorted(shown, key=lambda pair: pair[0])] == begun


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_an_answer_that_has_begun_goes_on_as_it_went_on(
    architecture: str, temperature: float
) -> None:
    engine = make_engine(architecture)
    assert isinstance(engine, ContinuingEngine)
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    prompts = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(p, p.point, seed) for seed, p in enumerate(prompts)]
    requests += [moved(prompts[1], 3)]
    whole = engine.generate(requests, sampling)
    counts = (1, 5, 0, 8)
    begun = [
        replace(request, beginning=answer.token_ids[:count], horizon=2, looks=(3,))
        for request, answer, count in zip(requests, whole, counts, strict=True)
    ]
    assert engine.generate(begun, sampling) == whole
    shown: list[tuple[int, int]] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        for place, answer in zip(places, answers, strict=True):
            assert answer.token_ids == whole[place].token_ids[: len(answer.token_ids)]
            assert engine.read(begun[place], answer.token_ids, sampling) == answer
            shown.append((place, len(answer.token_ids) - counts[place]))
        return [False] * len(places)

    assert engine.generate_watched(begun, sampling, watch) == whole
    looks = {(p, n) for p, count in enumerate(counts) for n in (2, 3, 4, 8) if count + n < 12}
    assert set(shown) <= looks
    assert {n for _, n in shown} >= {2, 3, 4}
    stops = (whole[1].text[-3:],)
    with_stops = replace(sampling, stop=stops)
    assert engine.generate([begun[1]], with_stops) == engine.generate([requests[1]], with_stops)


def test_what_an_answer_begins_with_has_its_part_in_the_limit() -> None:
    engine = make_engine()
    embedded = asked(engine, QUESTIONS[0])
    [whole] = engine.generate([GenerationRequest(embedded, embedded.point)], GREEDY)
    full, over = (whole.token_ids, (*whole.token_ids, 7))
    requests = [
        GenerationRequest(embedded, embedded.point, beginning=b) for b in (full, over, full[:7])
    ]
    made = engine.generate(requests, GREEDY)
    assert tokens_of(made) == [full, over, full]
    assert {answer.finish_reason for answer in made} == {"length"}


def stops_of(answers: Sequence[Generation]) -> list[tuple[str, ...]]:
    """Stops in the middle of some of the answers, in or between tokens, alone and together."""
    texts = [answer.text for answer in answers if len(answer.text) > 8]
    inner = [text[n : n + 1 + n % 4] for n, text in enumerate(texts, 3)]
    return [(inner[0],), (texts[1][:2],), (inner[2], inner[1]), ("\n\n\n", inner[2] + "no")]


def ended(whole: Generation, stops: tuple[str, ...]) -> Generation:
    """What is left of an answer, by trying."""
    text = Sampling(stop=stops).cut(whole.text)
    if text == whole.text:
        return whole
    decode = partial(TOKENIZER.decode, skip_special_tokens=True)
    lengths = range(len(whole.token_ids) + 1)
    length = next(n for n in lengths if decode(whole.token_ids[:n]).startswith(text))
    return Generation(text, whole.token_ids[:length], "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gemma2", "bloom", "mamba"])
def test_answers_end_before_a_stop_and_are_whole_ones_up_to_there(
    architecture: str, temperature: float
) -> None:
    engine = make_engine(architecture)
    sampling = Sampling(max_new_tokens=16, temperature=temperature)
    prompts = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(p, p.point, seed) for seed, p in enumerate(prompts)]
    requests += [moved(prompts[1], seed) for seed in range(4)]
    whole = engine.generate(requests, sampling)
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [False] * len(answers)

    watched = [replace(request, horizon=1) for request in requests]
    counts = set()
    for stops in stops_of(whole):
        with_stops = replace(sampling, stop=stops)
        expected = [ended(answer, stops) for answer in whole]
        assert engine.generate(requests, with_stops) == expected
        assert engine.generate_watched(watched, with_stops, watch) == expected
        assert not any(stop in text for stop in stops for text in shown)
        assert shown
        shown.clear()
        plain = [engine.generate_from_tokens(r.embedded.token_ids, with_stops, r.seed)
                 for r in requests[:3]]  # fmt: skip
        assert plain == expected[:3]
        counts |= {len(answer.token_ids) for answer in expected}
    assert min(counts) == 0
    assert len(counts) > 2


class _NamedAnew(transformers.LlamaForCausalLM):
    """Calls its cache ``cache``, as all models do from transformers 5.24 on."""

    names: set[str] = set()  # noqa: RUF012

    def forward(self, position_ids: Any = None, cache: Any = None, **options: Any) -> Any:
        self.names.update({"past_key_values"} & options.keys())
        if cache is not None:
            self.names.add("cache")
            known = inspect.signature(super().forward).parameters
            options["cache" if "cache" in known else "past_key_values"] = cache
        return super().forward(position_ids=position_ids, **options)


def test_a_cache_goes_by_the_name_that_the_model_has_for_it() -> None:
    made = tiny.tiny_model("llama", len(TOKENIZER))
    model = _NamedAnew(made.config)
    model.load_state_dict(made.state_dict())
    engine = TransformersEngine(model, TOKENIZER)
    model.names.clear()
    requests = [moved(asked(engine, question), 1) for question in QUESTIONS]
    assert engine.generate(requests, GREEDY) == make_engine().generate(requests, GREEDY)
    assert model.names == {"cache"}


@pytest.mark.parametrize("options", [{}, {"prefix_reuse": False}, {"static_cache": True}])
def test_generation_ends_at_a_stop(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(**options)
    embedded = asked(engine, QUESTIONS[1])
    request = GenerationRequest(embedded, embedded.point)
    whole = engine.generate([request], Sampling(max_new_tokens=60))[0]
    stop = whole.text[7:11]  # of two tokens
    complete = (n for n in range(60) if stop in TOKENIZER.decode(whole.token_ids[:n]))
    calls: list[int] = []
    forward = engine._model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", spy)
    answer = engine.generate([request], Sampling(max_new_tokens=60, stop=(stop,)))[0]
    assert answer.finish_reason == "stop"
    assert len(calls) == next(complete) < 20


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2"])
def test_a_static_cache_gives_the_same_answers(architecture: str) -> None:
    prompts = [asked(make_engine(architecture), question) for question in QUESTIONS]
    requests = [moved(prompt, seed) for seed, prompt in enumerate(prompts)]
    expected = make_engine(architecture).generate(requests, GREEDY)
    assert make_engine(architecture, static_cache=True).generate(requests, GREEDY) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"static_cache": True}, {"prefix_reuse": False}])
def test_on_a_gpu_in_bfloat16_answers_are_those_of_plain_generation(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    engine = TransformersEngine.load(
        tmp_path, device="cuda", dtype="bfloat16", attention="sdpa", **options
    )
    on_cpu = TransformersEngine.load(tmp_path, device="cpu", dtype="bfloat16")
    embedded = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(e, e.point) for e in embedded]
    assert engine._device.type == "cuda"
    assert engine._model.dtype is torch.bfloat16
    answers = engine.generate(requests, GREEDY)
    # In half precision two likely tokens may change places; the first ones do not.
    for request, answer, other in zip(
        embedded, answers, on_cpu.generate(requests, GREEDY), strict=True
    ):
        plain = engine.generate_from_tokens(request.token_ids, GREEDY)
        assert answer.token_ids[:2] == plain.token_ids[:2] == other.token_ids[:2]
    assert engine.weights_sha256() == on_cpu.weights_sha256()


def test_a_complete_answer_is_not_shown() -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    embedded = asked(make_engine(), QUESTIONS[1])
    request = GenerationRequest(embedded, embedded.point, horizon=1)
    whole = make_engine().generate([request], GREEDY)[0]
    model.generation_config.eos_token_id = [399, whole.token_ids[1]]
    engine = TransformersEngine(model, TOKENIZER)
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [False] * len(answers)

    assert engine.generate_watched([request], GREEDY, watch) == engine.generate([request], GREEDY)
    assert len(shown) == 1


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_an_answer_that_reached_its_limit_is_not_shown(architecture: str) -> None:
    engine = make_engine(architecture)
    embedded = asked(engine, QUESTIONS[1])
    request = GenerationRequest(embedded, embedded.point, horizon=2)
    sampling = Sampling(max_new_tokens=4)
    whole = engine.generate([request], sampling)
    assert whole[0].finish_reason == "length"
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [len(shown) > 1] * len(answers)

    assert engine.generate_watched([request], sampling, watch) == whole
    assert len(shown) == 1


def test_answers_fit_the_context() -> None:
    engine = make_engine("gpt2")
    long = engine.embed(Prompt.completion("dog " * 245))
    assert 244 < len(long.token_ids) < 256
    short = engine.embed(Prompt.completion("dog"))
    requests = [GenerationRequest(p, p.point) for p in (long, short, long)]
    answers = engine.generate(requests, Sampling(max_new_tokens=20))
    assert len(answers[0].token_ids) == 256 - len(long.token_ids)
    assert len(answers[1].token_ids) == 20
    assert answers[0] == answers[2]
    with pytest.raises(PromptTooLongError, match="256"):
        engine.embed(Prompt.completion("dog " * 260))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_points_that_are_not_finite_are_refused(value: float) -> None:
    engine = make_engine()
    embedded = asked(engine, "dog")
    point = embedded.point.copy()
    point[2, 3] = value
    with pytest.raises(EngineError, match="not finite"):
        engine.generate([GenerationRequest(embedded, point)], GREEDY)
    point[0] = 0.5
    with pytest.raises(EngineError, match="shape"):
        engine.generate([GenerationRequest(embedded, point[1:])], GREEDY)


class _Memory:
    """Lets batches through up to a number of rows; beyond it, memory is out."""

    def __init__(self, run: Callable[..., Any], rows: int, error: Exception) -> None:
        self._run, self._rows, self._error = run, rows, error
        self.seen: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = kwargs["inputs_embeds" if "inputs_embeds" in kwargs else "input_ids"].shape[0]
        self.seen.append(batch)
        if batch > self._rows:
            raise self._error
        return self._run(*args, **kwargs)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(prefix_reuse=False)
    requests = [moved(asked(engine, question), seed=1) for question in QUESTIONS * 3]
    expected = engine.generate(requests, GREEDY)
    memory = _Memory(engine._model.generate, 3, error)
    monkeypatch.setattr(engine._model, "generate", memory)
    assert engine.generate(requests, GREEDY) == expected
    assert memory.seen[0] == 9
    assert sum(n for n in memory.seen if n <= 3) == 9
    memory.seen.clear()
    assert engine.generate(requests, GREEDY) == expected
    assert memory.seen[0] < 9
    memory._rows = 0
    with pytest.raises(EngineError, match="memory does not suffice"):
        engine.generate(requests, GREEDY)


def test_a_batch_that_does_not_fit_is_halved_in_the_engines_own_loop_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine()
    requests = [moved(asked(engine, question), seed=1) for question in QUESTIONS * 3]
    expected = engine.generate(requests, GREEDY)
    memory = _Memory(engine._model.forward, 3, MemoryError())
    monkeypatch.setattr(engine._model, "forward", memory)
    assert engine.generate(requests, GREEDY) == expected
    assert max(memory.seen) == 9
    memory._rows = 0
    with pytest.raises(EngineError, match="memory does not suffice"):
        engine.generate(requests, GREEDY)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt_oss", "bloom"])
def test_rows_that_end_leave_the_batch_and_the_others_stay_as_they_are(
    architecture: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(architecture)
    sampling = Sampling(max_new_tokens=16, temperature=temperature)
    requests = [moved(asked(engine, q), seed) for seed, q in enumerate(QUESTIONS * 3)]
    alone = [engine.generate([request], sampling)[0] for request in requests]
    # Whatever each row says last is made an end, so that rows end at different times.
    engine._stops = sorted({a.token_ids[min(n, len(a.token_ids) - 1)] for n, a in enumerate(alone)})
    expected = [engine.generate([request], sampling)[0] for request in requests]
    assert len({len(answer.token_ids) for answer in expected}) > 1
    sizes: list[int] = []
    forward = engine._model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["attention_mask"])) if "attention_mask" in kwargs else None
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", spy)
    assert engine.generate(requests, sampling) == expected
    if engine._bridges:
        assert min(sizes) < len(requests)


@pytest.mark.parametrize("reuse", [True, False])
def test_other_failures_name_their_cause(reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(prefix_reuse=reuse)
    embedded = asked(engine, "dog")

    def broken(**_: Any) -> None:
        raise IndexError("device on fire")

    monkeypatch.setattr(engine._model, "forward", broken)
    with pytest.raises(EngineError, match="device on fire"):
        engine.generate([GenerationRequest(embedded, embedded.point)], GREEDY)
    with pytest.raises(EngineError, match="without tokens"):
        engine.log_likelihood([(embedded, ())])
    with pytest.raises(EngineError, match="at least one token"):
        engine.generate([], Sampling(max_new_tokens=0))
    with pytest.raises(EngineError, match="a stop is empty"):
        engine.generate([], Sampling(stop=("",)))


def test_batches_are_limited_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = make_engine(prefix_reuse=False)
    requests = [moved(asked(unlimited, q), seed=3) for q in ("dog", QUESTIONS[1]) * 5]
    expected = unlimited.generate(requests, GREEDY)
    longest = max(len(request.point) for request in requests) + NEW_TOKENS
    for limits in ({"max_batch": 4}, {"batch_tokens": 3 * longest}):
        engine = make_engine(prefix_reuse=False, **limits)
        memory = _Memory(engine._model.generate, 99, RuntimeError())
        monkeypatch.setattr(engine._model, "generate", memory)
        assert engine.generate(requests, GREEDY) == expected
        assert max(memory.seen) <= 4
        assert len(memory.seen) >= 3


def test_threads_take_turns() -> None:
    engine = make_engine()
    requests = [moved(asked(engine, question), seed=1) for question in QUESTIONS]
    expected = engine.generate(requests, GREEDY)
    results: list[list[Generation]] = []

    def work() -> None:
        asked(engine, "dog")
        results.append(engine.generate(requests, GREEDY))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_no_gradient_is_kept() -> None:
    engine = make_engine()
    assert not any(p.requires_grad for p in engine._model.parameters())
    assert not engine._model.training


@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_text", "t5"])
def test_models_that_read_more_than_embeddings_are_refused(kind: str, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model(kind)
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsteerableModelError, match="does not steer it"):
        load_engine(tmp_path)


class _ReadsTokens(transformers.LlamaForCausalLM):
    """A second embedding of the tokens, as of Gemma 3n, in an unknown architecture."""

    refuse = False

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **options: Any) -> Any:
        if inputs_embeds is not None and self.refuse:
            raise ValueError("give input_ids")
        out = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)
        if input_ids is not None:
            out.logits = out.logits + input_ids[..., None] % 7
        return out


@pytest.mark.parametrize("refuse", [False, True])
def test_the_probe_finds_unknown_cases(refuse: bool) -> None:
    model = _ReadsTokens(tiny.tiny_model("llama", len(TOKENIZER)).config)
    model.refuse = refuse
    with pytest.raises(UnsteerableModelError, match="another model"):
        TransformersEngine(model, TOKENIZER)


def test_a_model_that_reads_ahead_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        initializer_range=0.5,  # of weights so small that nothing depends on anything, none reads
    )
    torch.manual_seed(0)
    with pytest.raises(UnsteerableModelError, match="reads ahead"):
        TransformersEngine(transformers.BertLMHeadModel(config), TOKENIZER)


class _IgnoresPadding(transformers.LlamaForCausalLM):
    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **options: Any) -> Any:
        options |= {"attention_mask": None, "position_ids": None}
        return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **options)


def test_a_model_that_cannot_be_padded_is_not() -> None:
    made = tiny.tiny_model("llama", len(TOKENIZER))
    model = _IgnoresPadding(made.config)
    model.load_state_dict(made.state_dict())
    engine, normal = TransformersEngine(model, TOKENIZER), TransformersEngine(made, TOKENIZER)
    assert normal._pads
    assert normal._bridges
    assert not engine._pads
    assert not engine._bridges
    prompts = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(prompt, prompt.point) for prompt in prompts]
    answers = engine.generate(requests, GREEDY)
    assert tokens_of(answers) == [from_ids(engine, prompt) for prompt in prompts]
    pairs = [(p, a.token_ids) for p, a in zip(prompts, answers, strict=True)]
    np.testing.assert_allclose(
        engine.log_likelihood(pairs), normal.log_likelihood(pairs), atol=1e-5
    )


def test_likelihoods_of_answers_to_one_prompt_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    embedded, other = asked(engine, QUESTIONS[1]), asked(engine, "dog")
    answers = [(5, 6, 7, 8), (5, 6), (5,), tuple(range(20, 40))]
    pairs = [(embedded, answer) for answer in answers]
    shared = engine.log_likelihood(pairs)
    mixed = engine.log_likelihood([*pairs, (other, (5, 6))])
    engine._prefix_reuse = False
    monkeypatch.setattr(engine, "_prefix", None)
    np.testing.assert_allclose(shared, engine.log_likelihood(pairs), atol=1e-5)
    np.testing.assert_allclose(mixed[:4], shared, atol=1e-5)
    single = [engine.log_likelihood([pair])[0] for pair in [*pairs, (other, (5, 6))]]
    np.testing.assert_allclose(mixed, single, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tiny-chat"
    tiny.tiny_model("llama", len(TOKENIZER)).save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


def test_load_from_a_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = load_engine(folder, device="cpu")
    assert engine.name == "tiny-chat"
    assert engine._model.dtype == torch.float32
    made = make_engine()
    embedded = asked(made, QUESTIONS[1])
    assert asked(engine, QUESTIONS[1]).token_ids.tolist() == embedded.token_ids.tolist()
    request = GenerationRequest(embedded, embedded.point)
    assert engine.generate([request], GREEDY) == made.generate([request], GREEDY)
    assert engine.weights_sha256() == made.weights_sha256()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert load_engine(folder, device="cpu", dtype="bfloat16")._model.dtype == torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert TransformersEngine(model, TOKENIZER).name == "tiny-chat"


def test_options_may_follow_the_name(folder: Path) -> None:
    engine = load_engine(f"{folder}?max_batch=3&prefix_tokens=0&dtype=bfloat16", dtype="float32")
    assert isinstance(engine, TransformersEngine)
    assert (engine.name, engine._max_batch, engine._prefixes) == (folder.name, 3, None)
    assert engine._model.dtype == torch.float32
    odd = folder.with_name("is it?max_batch=3")
    shutil.copytree(folder, odd)
    engine = load_engine(odd, device="cpu")
    assert isinstance(engine, TransformersEngine)
    assert (engine.name, engine._max_batch) == (odd.name, 64)


def test_load_says_what_is_wrong(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EngineError, match=r"config\.json"):
        load_engine(empty)
    with pytest.raises(EngineError, match="no such folder"):
        load_engine(tmp_path / "nowhere")
    with pytest.raises(EngineError, match="no such folder"):
        load_engine("./nowhere/at/all")
    with pytest.raises(EngineError, match="hub id"):
        load_engine("nobody/nothing")
    with pytest.raises(EngineError, match="unknown option 'max_bach'; did you mean 'max_batch'"):
        load_engine(folder, max_bach=2)
    with pytest.raises(EngineError, match="unknown option 'max_bach'"):
        load_engine(f"{folder}?max_bach=2")
    with pytest.raises(EngineError, match="cannot be read"):
        load_engine(f"{folder}?max_batch")
    with pytest.raises(EngineError, match="cannot be read"):
        load_engine(f"{folder}?max_batch=2026-13-45")
    with pytest.raises(EngineError, match="unknown device 'gpu': use auto, cpu"):
        load_engine(folder, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no cuda is there"):
        load_engine(folder, device="cuda:0")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(EngineError, match="lack weights"):
        load_engine(folder)
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(EngineError, match="safetensors"):
        load_engine(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("max_batch=abc", "'max_batch' takes a whole number from 1, not 'abc'"),
        ("max_batch=", "'max_batch' takes a whole number from 1, not ''"),
        ("max_batch=0", "'max_batch' takes a whole number from 1, not '0'"),
        ("batch_tokens=1.5", "'batch_tokens' takes a whole number from 1, not '1.5'"),
        ("max_batch=true", "'max_batch' takes a whole number from 1, not 'true'"),
        ("prefix_tokens=-1", "'prefix_tokens' takes a whole number from 0, not '-1'"),
        ("static_cache=maybe", "'static_cache' takes true or false, not 'maybe'"),
        ("template_options=3", r"'template_options' takes a mapping, as in \{a: 1\}, not '3'"),
        ("dtype=", "'dtype' takes a text, not ''"),
        ("max_batch=1&dtype=float32&max_batch=2", "'max_batch' is written twice"),
        ("max_batch=[", "cannot be read"),
        ("urls=1", "unknown option 'urls'"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        load_engine(f"embedded?{options}")


def test_options_in_python_are_checked_too(folder: Path) -> None:
    with pytest.raises(EngineError, match="'max_batch' takes a whole number from 1, not 0"):
        load_engine(folder, max_batch=0)
    options = "max_batch=1&name=1e5&template_options={enable_thinking: false}"
    engine = load_engine(f"{folder}?{options}", max_batch=np.int64(2), dtype=torch.float32)
    assert isinstance(engine, TransformersEngine)
    assert (engine.name, engine._max_batch) == ("1e5", 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("embeded", "unknown model 'embeded'; did you mean 'embedded'?"),
        ("Embedded?max_batch=2", "unknown model 'Embedded'; did you mean 'embedded'?"),
        ("vllm", "did you mean 'vllm:MODEL'"),
        ("vllm-sever:http://h", "did you mean 'vllm-server:http://host:port"),
        ("vlm:model", "did you mean 'vllm:MODEL'"),
        ("./nomodel", "no such folder: ./nomodel"),
        ("../nomodel", "no such folder: ../nomodel"),
        (".nomodel/x", "no such folder: .nomodel/x"),
        ("nomodel/", "no such folder: nomodel/"),
    ],
)
def test_a_name_that_is_misspelt_is_not_asked_of_the_hub(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", None)
    with pytest.raises(EngineError, match=re.escape(said)):
        load_engine(name)


def test_code_of_others_does_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard-of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(EngineError, match="trust_remote_code"):
        load_engine(folder)


def test_engines_import_without_torch() -> None:
    code = "import sys, rerail.engines; print({'torch', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "rerail.engines.transformers")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package} .*rerail\[hf\]"):
        load_engine("embedded")
    for name in ("smollm2-safe", "a-model.gguf"):
        with pytest.raises(MissingDependencyError, match=rf"{package} .*rerail\[gguf\]"):
            load_engine(name)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_activations_moved_by_nothing_give_the_answers_of_plain_generation(
    architecture: str,
) -> None:
    engine = make_engine(architecture)
    assert isinstance(engine, ActivationEngine)
    requests = [GenerationRequest(p, p.point, 3) for p in (asked(engine, q) for q in QUESTIONS)]
    width = engine._config.hidden_size
    nothing = [{0: np.zeros(width, dtype=np.float32)}, {}, {1: np.zeros(width, dtype=np.float32)}]
    drawn = Sampling(NEW_TOKENS, temperature=0.7)
    for sampling in (GREEDY, drawn):
        assert engine.generate_shifted(requests, sampling, nothing) == engine.generate(
            requests, sampling
        )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "mamba"])
def test_what_is_added_to_a_layer_is_what_the_next_one_is_given(architecture: str) -> None:
    """The last layer's vector moves the logits as the head says; the hooks are gone after."""
    engine = make_engine(architecture)
    assert engine.layer_count() == 2
    prompts = [asked(engine, question) for question in QUESTIONS]
    before = engine.activations(prompts)
    assert before.shape == (3, 2, engine._config.hidden_size)
    for place, prompt in enumerate(prompts):  # padding and the others have no part in it
        np.testing.assert_allclose(engine.activations([prompt])[0], before[place], atol=1e-4)
    requests = [GenerationRequest(p, p.point) for p in prompts]
    plain = engine.generate(requests, GREEDY)
    rng = np.random.default_rng(0)
    far = 50 * rng.standard_normal(before.shape[2]).astype(np.float32)
    moved_answers = engine.generate_shifted(requests, GREEDY, [{}, {1: far}, {0: far}])
    assert moved_answers[0] == plain[0]
    assert moved_answers[1] != plain[1]
    assert moved_answers[2] != plain[2]
    seen: list[torch.Tensor] = []
    with engine._hooked([0], lambda layer, hidden: hidden + torch.from_numpy(far)):
        handle = engine._layers[1].register_forward_pre_hook(lambda m, x: seen.append(x[0][0, -1]))
        engine.activations(prompts[:1])
        handle.remove()
    np.testing.assert_allclose(seen[0].detach(), before[0, 0] + far, rtol=1e-4, atol=1e-4)
    assert engine.generate(requests, GREEDY) == plain
    assert not any(layer._forward_hooks for layer in engine._layers)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_an_answer_against_no_weight_of_another_prompt_is_the_plain_one(architecture: str) -> None:
    engine = make_engine(architecture)
    prompts = [asked(engine, question) for question in QUESTIONS]
    requests = [GenerationRequest(p, p.point, 3) for p in prompts]
    against = [*prompts[1:], prompts[0]]
    for sampling in (GREEDY, Sampling(NEW_TOKENS, temperature=0.7)):
        plain = engine.generate(requests, sampling)
        assert engine.generate_contrasted(requests, sampling, against, 0.0) == plain
        assert engine.generate_contrasted(requests, sampling, against, 5.0) != plain


def test_each_token_is_that_of_the_contrasted_logits() -> None:
    engine = make_engine()
    own, other = (asked(engine, question) for question in QUESTIONS[:2])
    request = GenerationRequest(own, own.point)
    (made,) = engine.generate_contrasted([request], GREEDY, [other], 0.7)
    for place, token in enumerate(made.token_ids):
        logits = []
        for prompt in (own, other):
            ids = torch.tensor([[*prompt.token_ids, *made.token_ids[:place]]])
            logits.append(engine._model(input_ids=ids).logits[0, -1])
        assert int((logits[0] - 0.7 * logits[1]).argmax()) == token


def test_a_model_without_padding_contrasts_nothing() -> None:
    engine = make_engine("mamba")
    prompt = asked(engine, "Hello world")
    with pytest.raises(EngineError, match="padding"):
        engine.generate_contrasted([GenerationRequest(prompt, prompt.point)], GREEDY, [prompt], 0.5)


def test_a_layer_that_there_is_not_is_told() -> None:
    engine = make_engine()
    prompt = asked(engine, "Hello world")
    shift = {2: np.zeros(32, dtype=np.float32)}
    with pytest.raises(EngineError, match="layers 0 to 1"):
        engine.generate_shifted([GenerationRequest(prompt, prompt.point)], GREEDY, [shift])


def test_a_compiled_model_shows_no_layers() -> None:
    """A hook that is set after compilation may do nothing: no defence would be taken for one."""
    engine = make_engine()
    engine._static_cache = True
    prompt = asked(engine, "Hello world")
    for call in (engine.layer_count, lambda: engine.activations([prompt])):
        with pytest.raises(EngineError, match="without"):
            call()
