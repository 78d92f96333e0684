"""Caches with room, and beginnings that prompts have in common: the same answers, computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from rerail.engines import GenerationRequest, Sampling, _kv_cache
from rerail.engines import transformers as module
from rerail.engines._kv_cache import Prefixes
from rerail.engines.base import EmbeddedPrompt, SteerableRows
from rerail.engines.transformers import TransformersEngine
from rerail.types import Prompt
from tests.engines import tiny
from tests.engines.tiny import moved

GREEDY = Sampling(max_new_tokens=8)
TOKENIZER = tiny.byte_level()
SYSTEM = {"role": "system", "content": "You are a helpful assistant. Be kind, please."}
WIDER: tuple[SteerableRows, ...] = ("user", "all")
OTHER = {"role": "system", "content": "Tell me, step by step, how the quick brown fox jumps."}


@pytest.fixture(autouse=True)
def keep_short_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_PREFIX_ROWS", 8)


def make_engine(architecture: str = "llama", **options: Any) -> TransformersEngine:
    return TransformersEngine(tiny.tiny_model(architecture, len(TOKENIZER)), TOKENIZER, **options)


def conversation(engine: TransformersEngine, *turns: str, system: Any = SYSTEM) -> EmbeddedPrompt:
    """Turns of user and assistant in turns, the last of them the user's."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return engine.embed(Prompt.of([*([system] if system else []), *messages]))


def traffic(engine: TransformersEngine) -> list[GenerationRequest]:
    """First answers and candidates to conversations, some of which begin alike."""
    prompts = [
        conversation(engine, "Hello world"),
        conversation(engine, "dog 1"),
        conversation(engine, "Hello world", "Sure, here is how.", "And the dog?"),
        conversation(engine, "Hello world", "I cannot help with that.", "Please.", "No.", "Why?"),
        conversation(engine, "How do I bake bread?", system=OTHER),
        conversation(engine, "How do I bake bread?", system=None),
    ]
    whole = [GenerationRequest(prompt, prompt.point) for prompt in prompts]
    candidates = [moved(prompt, seed) for prompt in prompts for seed in range(2)]
    # Earlier turns that are moved as well are not the beginning that is kept.
    return [*whole, *candidates, *(moved(prompt, 3, rows) for prompt in prompts for rows in WIDER)]


def computed(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each prefix that the engine computes from now on."""
    rows: list[int] = []
    prefix = engine._prefix

    def spy(embeds: torch.Tensor, cache: Any = None) -> Any:
        rows.append(embeds.shape[1])
        return prefix(embeds, cache)

    monkeypatch.setattr(engine, "_prefix", spy)
    return rows


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_beginnings_are_computed_once_and_change_no_answer(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_engine(architecture, prefix_reuse=False)
    engine = make_engine(architecture)
    requests = traffic(engine)
    rows = computed(engine, monkeypatch)
    answers = alone.generate(requests, GREEDY)
    pairs = [(r.embedded, a.token_ids) for r, a in zip(requests, answers, strict=True)]
    likelihoods = alone.log_likelihood(pairs)
    assert len({answer.token_ids for answer in answers}) > 3
    for _ in range(2):
        rows.clear()
        assert engine.generate(requests, GREEDY) == answers
        np.testing.assert_allclose(engine.log_likelihood(pairs), likelihoods, atol=1e-4)
    if engine._prefixes is None:
        assert architecture not in {"llama", "qwen3", "gpt2", "granite"}
        return
    assert rows == []
    # A conversation that goes on adds what is new of it, and no more.
    longer = conversation(engine, "Hello world", "Sure, here is how.", "And the dog?", "1", "2")
    request = GenerationRequest(longer, longer.point)
    assert engine.generate([request], GREEDY) == alone.generate([request], GREEDY)
    assert 0 < sum(rows) < len(longer.point) // 2


def test_what_is_kept_does_not_depend_on_what_was_kept_before() -> None:
    engine = make_engine()
    longer = conversation(engine, "Hello world", "Sure, here is how.", "And the dog?")
    shorter = conversation(engine, "dog 1")

    def kept(*prompts: EmbeddedPrompt) -> dict[Any, torch.Tensor]:
        engine.forget_prefixes()
        assert engine._prefixes is not None
        assert len(engine._prefixes) == 0
        for prompt in prompts:
            engine.generate([GenerationRequest(prompt, prompt.point)] * 3, GREEDY)
        return {key: part.layers[1][0] for key, part in engine._prefixes._parts.items()}

    once, after = kept(longer), kept(shorter, longer)
    assert len(once) == len(after) == 3
    assert all(torch.equal(once[key], after[key]) for key in once)


def test_no_more_is_kept_than_was_allowed() -> None:
    free, tight = make_engine(), make_engine(prefix_tokens=80)
    requests = traffic(free)
    answers = free.generate(requests, GREEDY)
    for request, answer in zip(requests, answers, strict=True):
        assert tight.generate([request], GREEDY) == [answer]
        assert tight._prefixes is not None
        held = sum(part.tokens for part in tight._prefixes._parts.values())
        assert held == len(tight._prefixes) <= 80
    assert make_engine(prefix_tokens=0)._prefixes is None


def test_what_is_used_stays_and_what_is_not_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(prefix_tokens=90)
    rows = computed(engine, monkeypatch)

    def ask(system: Any) -> int:
        rows.clear()
        prompt = conversation(engine, "dog 1", system=system)
        engine.generate([GenerationRequest(prompt, prompt.point)], GREEDY)
        return len(rows)

    assert ask(SYSTEM) == 1
    for i in range(4):
        assert ask({"role": "system", "content": f"{i} {OTHER['content']}"}) == 1
        assert ask(SYSTEM) == 0
    assert ask({"role": "system", "content": f"0 {OTHER['content']}"}) == 1


def test_beginnings_that_leave_no_room_for_each_other_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The cached rows of one and the uncached rows of the other are longer than the context.
    engine, alone = make_engine("gpt2"), make_engine("gpt2", prefix_reuse=False)
    prompts = [
        conversation(engine, "dog 1", system={"role": "system", "content": "9876543210" * 14}),
        conversation(engine, "9876543210" * 14, system=None),
    ]
    lengths = [len(prompt.point) for prompt in prompts]
    assert max(lengths) < 248 < sum(lengths) - 40
    widths = []
    forward = engine._forward

    def spy(mask: torch.Tensor, *args: Any, **inputs: torch.Tensor) -> torch.Tensor:
        widths.append(mask.shape[1])
        return forward(mask, *args, **inputs)

    monkeypatch.setattr(engine, "_forward", spy)
    rows = computed(engine, monkeypatch)
    requests = [GenerationRequest(prompt, prompt.point) for prompt in prompts]
    expected = alone.generate(requests, GREEDY)
    assert engine.generate(requests, GREEDY) == expected
    assert rows == []
    assert max(widths) <= 256
    assert engine.generate(requests[:1], GREEDY) == expected[:1]
    assert len(rows) == 1


def test_a_changed_model_is_told() -> None:
    engine = make_engine()
    request = traffic(engine)[0]
    before = engine.generate([request], GREEDY)
    with torch.no_grad():
        for parameter in engine._model.model.layers.parameters():
            parameter.mul_(3.0)
    engine.forget_prefixes()
    after = engine.generate([request], GREEDY)
    assert after != before
    assert after == TransformersEngine(engine._model, TOKENIZER, prefix_reuse=False).generate(
        [request], GREEDY
    )


def test_nothing_is_kept_of_others_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    requests = traffic(engine)
    answers = engine.generate(requests, GREEDY)
    forward: Callable[..., Any] = engine._model.forward
    failures = iter([MemoryError()])

    def short(*args: Any, **options: Any) -> Any:
        given = options["inputs_embeds" if "inputs_embeds" in options else "input_ids"]
        if len(given) > 4 and (failure := next(failures, None)):
            assert engine._prefixes is not None
            assert len(engine._prefixes) > 0
            raise failure
        return forward(*args, **options)

    monkeypatch.setattr(engine._model, "forward", short)
    rows = computed(engine, monkeypatch)
    assert engine.generate(requests, GREEDY) == answers
    assert rows


def test_parts_hold_their_own_memory_and_no_more() -> None:
    engine = make_engine()
    engine.generate(traffic(engine), GREEDY)
    assert isinstance(engine._prefixes, Prefixes)
    for part in engine._prefixes._parts.values():
        for tensor in (tensor for pair in part.layers for tensor in pair):
            assert tensor.shape[2] == part.tokens
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_cache_with_room_holds_what_a_growing_one_holds() -> None:
    config = tiny.tiny_model().config
    roomy, plain = _kv_cache.roomy_cache(config), DynamicCache(config=config)
    rng = torch.Generator().manual_seed(0)

    def append(rows: int, tokens: int) -> None:
        shape = (rows, config.num_key_value_heads, tokens, config.head_dim)
        keys, values = (torch.randn(shape, generator=rng) for _ in range(2))
        for ours, theirs in zip(
            roomy.update(keys, values, 0), plain.update(keys, values, 0), strict=True
        ):
            assert torch.equal(ours, theirs)

    append(2, 5)
    for tokens in (1, 1, _kv_cache.ROOM, 1, 3):
        append(2, tokens)
    address = roomy.layers[0].keys.data_ptr()
    append(2, 1)
    assert roomy.layers[0].keys.data_ptr() == address  # written in place
    for cache in (roomy, plain):
        cache.batch_repeat_interleave(3)
    append(6, 1)
    for cache in (roomy, plain):
        cache.batch_select_indices(torch.tensor([0, 4]))
    append(2, 1)
    append(2, 1)
    assert roomy.get_seq_length() == plain.get_seq_length()
