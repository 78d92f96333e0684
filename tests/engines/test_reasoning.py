"""Reasoning is told from the answer by each model's own marks, all at once or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerail.engines import FakeEngine, GenerationRequest, Sampling
from rerail.engines._reasoning import (
    AUTO,
    FORMATS,
    NONE,
    Follower,
    Reader,
    Split,
    detected,
    split,
)
from rerail.engines.transformers import TransformersEngine
from rerail.engines.vllm_server import VllmServerEngine
from rerail.errors import EngineError
from rerail.types import Generation, Message, Prompt
from tests.engines import tiny
from tests.engines.test_template import PUBLISHED
from tests.engines.vllm_fake import FakeVllm

GENEROUS = Sampling(10_000, max_reasoning_tokens=10_000)


class Case(NamedTuple):
    """What was generated, and what it is by hand."""

    form: str
    at_once: bool
    text: str
    reasoning: str | None
    answer: str
    closed: bool = True


ANALYSIS = "<|channel|>analysis<|message|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>"
CASES = [
    # The model opens its block: Qwen3, SmolLM3
    Case("qwen3", True, "<think>\nhm\n</think>\n\nTwo.", "hm", "Two."),
    Case("qwen3", True, "\n<think>hm</think>Two.\n", "hm", "Two.\n"),
    Case("qwen3", True, "<think>\n\n</think>\n\nTwo.", None, "Two."),
    Case("qwen3", True, "Two.", None, "Two."),
    Case("qwen3", True, "\n\n Two. \n", None, "\n\n Two. \n"),
    Case("qwen3", True, "", None, ""),
    Case("qwen3", True, "<think>", None, "", False),
    Case("qwen3", True, "<think>\nhm", "hm", "", False),
    Case("qwen3", True, "<think>hm</think>", "hm", ""),
    Case("qwen3", True, "<think>hm</think>\n\n", "hm", ""),
    Case("qwen3", True, "hm</think>Two.", "hm", "Two."),
    Case("qwen3", True, "Sure. <think>hm</think>Two.", "Sure. <think>hm", "Two."),
    Case("qwen3", True, "Two.<think>hm", "Two.<think>hm", "", False),
    Case("smollm3", True, "<think>a\n\nb</think>\nTwo.", "a\n\nb", "Two."),
    # The end tag is quoted, blocks are nested or follow each other: no thought is an answer
    Case("qwen3", True, "<think>I write </think> and</think>Two.", "I write </think> and", "Two."),
    Case("qwen3", True, "<think>a<think>b</think>c</think>d", "a<think>b</think>c", "d"),
    Case("qwen3", True, "<think>a<think>b</think>c", "a<think>b", "c"),
    Case("qwen3", True, "<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
    Case("qwen3", True, "<think>a</think>b<think>c", "a</think>b<think>c", "", False),
    Case("qwen3", True, "<think>a</think></think>d", "a</think>", "d"),
    # The template opens the block: DeepSeek-R1, QwQ
    Case("deepseek-r1", False, "hm\n</think>\n\nTwo.", "hm", "Two."),
    Case("deepseek-r1", False, "<think>\nhm</think>Two.", "hm", "Two."),
    Case("deepseek-r1", False, "hm", "hm", "", False),
    Case("deepseek-r1", False, "", None, "", False),
    Case("deepseek-r1", False, "</think>Two.", None, "Two."),
    Case("deepseek-r1", False, "Is < / think > it?</think>Two.", "Is < / think > it?", "Two."),
    # Other tags
    Case("mistral", True, "[THINK]hm[/THINK]Two.", "hm", "Two."),
    Case("mistral", True, "[THINK]hm [/INST] hm", "hm [/INST] hm", "", False),
    Case("granite", True, "<think>hm</think>\n<response>Two.</response>", "hm", "Two."),
    Case("granite", True, "<think>hm</think> Two.", "hm", "Two."),
    Case("granite", True, "<think>hm</think><response>\nTwo.\n</response>\n", "hm", "Two."),
    Case("granite-3.2", True, "Here is my thought process:\nhm\nHere is my response:\nTwo.",
         "hm", "Two."),
    Case("command", True, "<|START_THINKING|>hm<|END_THINKING|>Two.", "hm", "Two."),
    Case("gemma-4", True, "<|channel>thought\nhm\n<channel|>Two.", "hm", "Two."),
    Case("apertus", True, "<|inner_prefix|>hm<|inner_suffix|>Two.", "hm", "Two."),
    # Channels
    Case("gpt-oss", False, f"{ANALYSIS}hm<|end|>{FINAL}Two.<|return|>", "hm", "Two."),
    Case("gpt-oss", False, f"{ANALYSIS}hm<|end|>{FINAL}Two.", "hm", "Two."),
    Case("gpt-oss", False, "<|channel|>final<|message|>Two.<|return|>", None, "Two."),
    Case("gpt-oss", False, f"{ANALYSIS}a<|end|><|start|>assistant<|channel|>commentary"
         f"<|message|>b<|end|>{FINAL}c<|return|>", "a\n\nb", "c"),
    Case("gpt-oss", False, f"{ANALYSIS}hm", "hm", "", False),
    Case("gpt-oss", False, f"{ANALYSIS}hm<|end|>", "hm", "", False),
    Case("gpt-oss", False, f"{ANALYSIS}hm<|end|><|start|>assistant<|channel|>fin", "hm", "", False),
    Case("gpt-oss", False, "Two.", None, "", False),
    Case("gpt-oss", False, "analysis hm assistantfinal Two.", None, "", False),
    Case("gpt-oss", False, "<|message|>Two.<|return|>", "Two.", "", False),
    Case("gpt-oss", False, f"{ANALYSIS}so final<|end|><|start|>assistant to=functions.f"
         "<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", "so final\n\n{}", "",
         False),
    Case("gpt-oss", False, "<|start|>assistant to=f<|channel|>final<|message|>Two.<|return|>",
         "Two.", "", False),
    Case("gpt-oss", False, "<|channel|>final <|constrain|>json<|message|>{}<|return|>", None, "{}"),
    Case("gpt-oss", False, f"{FINAL}Two.<|end|><|start|>assistant{ANALYSIS}hm<|end|>", None,
         "Two."),
    Case("gpt-oss", False, f"{ANALYSIS}hm<|end|>{FINAL}<|return|>", "hm", ""),
    Case("gpt-oss", True, "Two.", None, "Two."),
    Case("gpt-oss", True, f"Two.<|end|><|start|>assistant{ANALYSIS}hm", None, "Two."),
]  # fmt: skip

SPELT = {
    "qwen3": (True, "<think>\n{}\n</think>\n\n{}"),
    "smollm3": (True, "<think>\n{}\n</think>\n{}"),
    "deepseek-r1": (False, "{}\n</think>\n\n{}"),
    "mistral": (True, "[THINK]{}[/THINK]{}"),
    "gpt-oss": (False, f"{ANALYSIS}{{}}<|end|>{FINAL}{{}}<|return|>"),
}
"""How a model of the format writes what it thinks and what it answers."""
THOUGHTS = [
    "hm",
    "First this.\n\nThen that.",
    "  - a\n  - b",
    "Zürich, 東京 and 😀",
    '{"answer": "none"}',
    "Is < / think > or /think> it?",
    "analysis, commentary, final: assistantfinal",
    "<b>&amp;</b> and `code`",
]
SAID = [
    "",
    "Two.",
    "Two,\n\nor three. \n",
    "Grüße, 東京 😀",
    '{"city": "Paris"}',
    "So < think > is no tag, and [ THINK ] is none.",
]
CASES += [
    Case(form, at_once, spelling.format(thought, said), thought.strip(), said)
    for form, (at_once, spelling) in SPELT.items()
    for thought in THOUGHTS
    for said in SAID
]


def test_each_format_of_the_known_models_has_forty_cases() -> None:
    counts = {form: sum(case.form == form for case in CASES) for form in SPELT}
    assert min(counts.values()) >= 40, counts


@cache
def tokenizer_of(form: str, template: str | None = None) -> Any:
    """A tokenizer that has the format's marks as tokens; those of harmony are special."""
    tokenizer = tiny.byte_level(template)
    own = [mark for mark in FORMATS[form].marks if "Here" not in mark]
    if form == "gpt-oss":
        own.append("<|constrain|>")
    special = form not in ("qwen3", "smollm3", "deepseek-r1")
    tokenizer.add_tokens(own, special_tokens=special and form != "granite")
    return tokenizer


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def told(generation: Generation) -> Split:
    return Split(generation.reasoning, generation.text, generation.answered)


@pytest.mark.parametrize("case", CASES)
def test_texts_are_told_apart_as_by_hand(case: Case) -> None:
    found = split(case.text, FORMATS[case.form], at_once=case.at_once)
    assert found == Split(case.reasoning, case.answer, case.closed)


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_told_apart_as_by_hand(case: Case) -> None:
    tokenizer = tokenizer_of(case.form)
    reader = Reader.of(tokenizer, case.form)
    assert reader is not None
    tokens = tokens_of(tokenizer, case.text)
    made = reader.generation(tokens, GENEROUS, case.at_once, "stop")
    assert made.answered == case.closed
    assert made.text == case.answer
    assert (made.reasoning or "").split() == (case.reasoning or "").split()
    assert made.token_ids == tuple(tokens[: len(made.token_ids)])
    if not case.closed:
        assert made.answer_ids == ()


def test_letters_that_spell_a_mark_are_none_where_it_is_a_token() -> None:
    tokenizer = tokenizer_of("qwen3")
    reader = Reader.of(tokenizer, "qwen3")
    assert reader is not None
    letters = [token for letter in "</think>" for token in tokens_of(tokenizer, letter)]
    think, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    made = reader.generation([think, *letters, end, *letters], GENEROUS, True, "stop")
    assert told(made) == Split("</think>", "</think>", True)
    assert not reader.generation([think, *letters], GENEROUS, True, "stop").answered


PIECES = [
    *["<think>", "</think>", "[THINK]", "[/THINK]", "<response>", "</response>"],
    *["<|start|>", "assistant", "<|channel|>", "analysis", "final", "commentary", " to=f"],
    *["<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|constrain|>"],
    *["hello", " ", "\n\n", "é", "😀", "<", "/think>", "think>"],
]
ROWS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
FORMS = st.sampled_from(["qwen3", "mistral", "granite", "gpt-oss"])


@settings(max_examples=60)
@given(form=FORMS, text=ROWS, at_once=st.booleans(), cuts=st.sets(st.integers(0, 60)),
       most=st.tuples(st.integers(1, 40), st.integers(0, 40)))  # fmt: skip
def test_any_chunks_of_tokens_are_read_as_the_whole(
    form: str, text: str, at_once: bool, cuts: set[int], most: tuple[int, int]
) -> None:
    tokenizer = tokenizer_of(form)
    reader = Reader.of(tokenizer, form)
    assert reader is not None
    tokens = tokens_of(tokenizer, text)
    sampling = Sampling(most[0], max_reasoning_tokens=most[1])
    follower = Follower(reader, sampling, [at_once])
    for end in sorted({*(cut for cut in cuts if cut < len(tokens)), len(tokens)}):
        begin, _ = follower.follow(0, tokens[:end])
        whole = Follower(reader, sampling, [at_once]).follow(0, tokens[:end])[0]
        assert begin == whole

    # One by one they end where the whole is cut, and what comes behind changes nothing.
    stepper = Follower(reader, sampling, [at_once])
    ended = (n for n in range(1, len(tokens) + 1) if stepper.follow(0, tokens[:n])[1])
    count = next(ended, len(tokens))
    made = reader.generation(tokens, sampling, at_once, "stop")
    begun = reader.generation(tokens[:count], sampling, at_once, "stop")
    assert (told(begun), begun.token_ids) == (told(made), made.token_ids)
    assert len(made.answer_ids) <= most[0]
    if not made.answered:
        assert made.text == ""
        assert len(made.token_ids) <= max(most[1], 1) or at_once


@settings(max_examples=60)
@given(form=FORMS, text=ROWS, at_once=st.booleans())
def test_what_is_thought_is_in_no_answer(form: str, text: str, at_once: bool) -> None:
    """However marks are strewn about, the last end, or the one final message, begins the answer."""
    found = split(text, FORMATS[form], at_once=at_once)
    marks = FORMATS[form].marks
    assert not any(mark in found.answer for mark in marks)
    if not found.closed:
        assert found.answer == ""
    if form != "gpt-oss" and marks[1] in text and found.closed:
        behind = text.rpartition(marks[1])[2]
        assert found.answer in behind


EXPECTED = {
    "openai-gpt-oss-120b": "gpt-oss",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command",
    "google-gemma-4-31B-it": "gemma-4",
    "Apertus-8B-Instruct": "apertus",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    **dict.fromkeys(
        [
            "GLM-4.6",
            "HuggingFaceTB-SmolLM3-3B",
            "MiniMax-M2",
            "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
            "NVIDIA-Nemotron-Nano-v2",
            "Qwen-QwQ-32B",
            "Qwen-Qwen3-0.6B",
            "Qwen3.5-4B",
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "deepseek-ai-DeepSeek-V3.1",
            "exaone4",
            "phi_4",
        ],
        "qwen3",
    ),
}


@pytest.mark.parametrize("template", PUBLISHED)
def test_the_published_templates_tell_their_format(template: str) -> None:
    assert detected(PUBLISHED[template]) == EXPECTED.get(template, NONE)


@pytest.mark.parametrize(
    ("template", "options", "at_once"),
    [
        ("Qwen-Qwen3-0.6B", {}, True),
        ("Qwen-Qwen3-0.6B", {"enable_thinking": False}, True),
        ("Qwen3.5-4B", {}, False),
        ("Qwen3.5-4B", {"enable_thinking": False}, True),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", {}, False),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", {"enable_thinking": True}, False),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", {}, True),
        ("HuggingFaceTB-SmolLM3-3B", {}, True),
        ("NVIDIA-Nemotron-Nano-v2", {}, False),
        ("openai-gpt-oss-120b", {}, False),
    ],
)
def test_the_rendered_template_tells_whether_its_block_is_open(
    template: str, options: dict[str, Any], at_once: bool
) -> None:
    engine = scripted(template, template_options=options)
    closed = Message("assistant", "<think>hm</think>Two.")
    for prompt in (Prompt.of("hi"), Prompt((Message("user", "hi"), closed, Message("user", "?")))):
        assert engine._at_once(engine.embed(prompt)) is at_once
    assert engine._at_once(engine.embed(Prompt.completion("hi"))) is True


def test_a_format_by_name() -> None:
    tokenizer = tokenizer_of("qwen3")
    assert Reader.of(tokenizer) is None
    tokenizer = tokenizer_of("qwen3", PUBLISHED["Qwen-Qwen3-0.6B"])
    assert Reader.of(tokenizer, AUTO) is not None
    assert Reader.of(tokenizer, NONE) is None
    always = Reader.of(tokenizer, "deepseek-r1")
    assert always is not None
    assert not always.at_once([])
    with pytest.raises(EngineError, match="did you mean 'qwen3'"):
        Reader.of(tokenizer, "qwen")
    half = tiny.byte_level()
    half.add_tokens(["<think>"])
    with pytest.raises(EngineError, match="has no token </think>, which reasoning=qwen3 needs"):
        Reader.of(half, "qwen3")


class Scripted(TransformersEngine):
    """A tiny model that says what it is told to."""

    script: list[int] | None = None
    given = 0

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        model.register_forward_hook(self._prompted, with_kwargs=True)
        super().__init__(model, tokenizer, **options)

    def _prompted(self, module: Any, args: Any, given: Any, output: Any) -> None:
        places = given.get("position_ids")
        if self.script is None or places is None:
            return
        for row, place in enumerate((places[:, -1] + 1 - self.given).tolist()):
            if 0 <= place < len(self.script):
                output.logits[row, -1, self.script[place]] = 1e6

    def says(self, text: str, prompt: str = "hi") -> GenerationRequest:
        """A request that is answered so."""
        embedded = self.embed(Prompt.of(prompt))
        self.given = len(embedded.token_ids)
        self.script = tokens_of(self.tokenizer, text)
        return GenerationRequest(embedded, embedded.point)


_ENGINES: dict[tuple[str, str], Scripted] = {}
_FORM_OF = {"openai-gpt-oss-120b": "gpt-oss"}


def scripted(template: str, *, reasoning: str = AUTO, **options: Any) -> Scripted:
    """An engine with a published template and its special tokens."""
    key = (template, f"{reasoning} {options}")
    if key not in _ENGINES:
        tokenizer = tokenizer_of(_FORM_OF.get(template, "qwen3"), PUBLISHED[template])
        vocabulary = tokenizer.get_vocab()
        ends = [vocabulary[end] for end in ("<|return|>", "<|im_end|>") if end in vocabulary]
        model = tiny.tiny_model("llama", len(tokenizer), max_position_embeddings=2048)
        model.generation_config.eos_token_id = ends
        _ENGINES[key] = Scripted(model, tokenizer, reasoning=reasoning, **options)
    return _ENGINES[key]


SPOKEN = {
    "Qwen-Qwen3-0.6B": ("<think>\nThey ask.\n</think>\n\n", "<|im_end|>"),
    "HuggingFaceTB-SmolLM3-3B": ("<think>\nThey ask.\n</think>\n", "<|im_end|>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("They ask.\n</think>\n\n", "<|im_end|>"),
    "openai-gpt-oss-120b": (f"{ANALYSIS}They ask.<|end|>{FINAL}", "<|return|>"),
}
ANSWER = "The quick brown fox jumps over the lazy dog."


@pytest.mark.parametrize("template", SPOKEN)
def test_an_engine_gives_the_answer_and_what_was_thought(template: str) -> None:
    engine = scripted(template)
    before, end = SPOKEN[template]
    request = engine.says(f"{before}{ANSWER}{end}")
    [made] = engine.generate([request], Sampling())
    assert (made.text, made.reasoning, made.finish_reason) == (ANSWER, "They ask.", "stop")
    assert made.token_ids == tuple(engine.script or ())
    assert made.reasoning_tokens == len(tokens_of(engine.tokenizer, before.rstrip()))
    from_tokens = engine.generate_from_tokens(request.embedded.token_ids, Sampling())
    assert from_tokens == made

    # Stops belong to the answer: in the reasoning they are words.
    [cut] = engine.generate([request], Sampling(stop=("brown", "They", "\n")))
    assert (cut.text, cut.reasoning, cut.finish_reason) == ("The quick ", "They ask.", "stop")

    # Each has its own limit.
    [short] = engine.generate([request], Sampling(max_new_tokens=5))
    assert (len(short.answer_ids), short.finish_reason) == (5, "length")
    assert ANSWER.startswith(short.text.strip())
    [spent] = engine.generate([request], Sampling(max_reasoning_tokens=4))
    assert (spent.text, spent.answered, len(spent.token_ids)) == ("", False, 4)
    assert spent.finish_reason == "length"
    [over] = engine.generate([engine.says(f"{before.split('.')[0]}{end}")], Sampling())
    assert (over.text, over.answered, over.finish_reason) == ("", False, "stop")


@pytest.mark.parametrize("template", SPOKEN)
def test_half_way_only_the_answer_is_shown(template: str) -> None:
    engine = scripted(template)
    before, end = SPOKEN[template]
    said = engine.says(f"{before}{ANSWER}{end}")
    request = GenerationRequest(said.embedded, said.point, horizon=2)
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [len(shown) == 3] * len(answers)

    [made] = engine.generate_watched([request], Sampling(), watch)
    assert len(shown) == 3
    assert all(ANSWER.startswith(text) for text in shown)
    assert (made.text, made.finish_reason, len(made.answer_ids)) == (shown[-1], "cut", 8)
    assert made.reasoning == "They ask."


def test_vllm_is_read_alike(tmp_path: Path) -> None:
    local, served = (scripted("Qwen-Qwen3-0.6B", reasoning=reads) for reads in (AUTO, NONE))
    served._model.save_pretrained(tmp_path)
    served.tokenizer.save_pretrained(tmp_path)
    local.script = served.script = None
    fake = FakeVllm(served, max_model_len=512)
    engine = VllmServerEngine.load(fake.url, model=tmp_path)
    before, end = SPOKEN["Qwen-Qwen3-0.6B"]
    try:
        for text in (
            f"{before}{ANSWER}{end}",
            f"{before}{end}",
            f"{ANSWER}{end}",
            f"<think>a{end}",
        ):
            served.says(text)
            request = local.says(text)
            for sampling in (
                Sampling(),
                Sampling(stop=("brown", "They")),
                Sampling(max_new_tokens=5),
                Sampling(max_reasoning_tokens=4),
            ):
                [wanted] = local.generate([request], sampling)
                assert engine.generate([request], sampling) == [wanted]
                shown: list[str] = []

                def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
                    shown.extend(a.text for a in answers)  # noqa: B023 - used up before the next
                    return [False] * len(answers)

                looked_at = replace(request, horizon=2)
                assert engine.generate_watched([looked_at], sampling, watch) == [wanted]
                assert all(wanted.text.startswith(text) for text in shown)
                if sampling == Sampling():
                    assert bool(shown) == (len(wanted.answer_ids) > 8)
    finally:
        engine.close()
        fake.stop()
        served.script = None


def test_likelihood_is_of_the_answer_behind_its_reasoning() -> None:
    engine = scripted("Qwen-Qwen3-0.6B")
    engine.says("")
    embedded = engine.embed(Prompt.of("hi"))
    thought, answer = (5, 9, 12, 7), (20, 21, 22)
    ids = torch.tensor([[*embedded.token_ids.tolist(), *thought, *answer]])
    with torch.no_grad():
        chances = engine._model(input_ids=ids).logits[0].log_softmax(-1)
    wanted = np.mean([float(chances[-4 + i, token]) for i, token in enumerate(answer)])
    requests = [(embedded, (*thought, *answer)), (embedded, answer)]
    values = engine.log_likelihood(requests, [4, 0])
    assert values[0] == pytest.approx(wanted, abs=1e-4)
    assert values[1] == pytest.approx(engine.log_likelihood([(embedded, answer)])[0], abs=1e-4)
    with pytest.raises(EngineError, match="without tokens"):
        engine.log_likelihood([(embedded, thought)], [4])


@pytest.mark.parametrize("template", [name for name, form in EXPECTED.items() if form != NONE])
def test_templates_leave_out_what_was_thought_before_earlier_answers(template: str) -> None:
    """Which is why the server may leave out ``reasoning_content`` that is sent back."""
    tokenizer = tokenizer_of(EXPECTED[template], PUBLISHED[template])
    turns = [("user", "hi"), ("assistant", "Two."), ("user", "and?")]
    plain: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    replayed = [dict(turn) for turn in plain]
    replayed[1]["reasoning_content"] = "ZEBRA"
    texts = [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        for turns in (plain, replayed)
    ]
    assert "ZEBRA" not in texts[1]


def test_the_fake_engine_thinks() -> None:
    engine = FakeEngine(lambda embedded, point: "one two three", reasoning="they ask")
    embedded = engine.embed(Prompt.of("tell me"))
    request = GenerationRequest(embedded, embedded.point, horizon=1)
    [made] = engine.generate([request], Sampling())
    assert told(made) == Split("they ask", "one two three", True)
    assert (made.reasoning_tokens, len(made.token_ids)) == (4, 8)
    shown: list[str] = []

    def watch(places: Sequence[int], answers: Sequence[Generation]) -> list[bool]:
        shown.extend(a.text for a in answers)
        return [len(shown) == 2] * len(answers)

    [cut] = engine.generate_watched([request], Sampling(), watch)
    assert shown == ["one", "one two"]
    assert (cut.text, cut.reasoning, len(cut.token_ids)) == ("one two", "they ask", 6)
    [spent] = engine.generate([request], Sampling(max_reasoning_tokens=3))
    assert (spent.text, spent.answered) == ("", False)
    [short] = engine.generate([request], Sampling(max_new_tokens=1))
    assert (short.text, short.finish_reason) == ("one", "length")
    own = FakeEngine(lambda embedded, point: "<think> hm </think> ha <think>", reasoning="")
    [open_] = own.generate([request], Sampling())
    assert (open_.text, open_.answered) == ("", False)
    words = FakeEngine(lambda embedded, point: "<think> hm </think> ha")
    assert words.generate([request], Sampling())[0].text == "<think> hm </think> ha"


@pytest.fixture(scope="module")
def harmony() -> Any:
    """OpenAI's own parser, where it is installed and finds its vocabulary."""
    package = pytest.importorskip("openai_harmony")
    try:
        return package.load_harmony_encoding(package.HarmonyEncodingName.HARMONY_GPT_OSS)
    except Exception:  # it downloads the vocabulary unless TIKTOKEN_ENCODINGS_BASE says where it is
        pytest.skip("openai_harmony has no vocabulary here: set TIKTOKEN_ENCODINGS_BASE")


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["analysis", "commentary", "final"]),
        st.sampled_from(["", "", "functions.f"]),
        st.sampled_from(["", "<|constrain|>json"]),
        st.text("ab <|>é😀\n", min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


@given(messages=MESSAGES, whole=st.booleans())
def test_channels_are_read_as_openai_reads_them(
    harmony: Any, messages: list[tuple[str, str, str, str]], whole: bool
) -> None:
    text = "<|start|>assistant".join(
        f"{' to=' + to if to else ''}<|channel|>{channel}{' ' + kind if kind else ''}<|message|>"
        f"{said}<|end|>"
        for channel, to, kind, said in messages
    )
    text = text if whole else text.removesuffix("<|end|>")
    tokens = harmony.encode(text, allowed_special="all")
    special = {harmony.encode(mark, allowed_special="all")[0]: mark
               for mark in (*FORMATS["gpt-oss"].marks, "<|constrain|>")}  # fmt: skip
    marks = {token: mark for token, mark in special.items() if mark != "<|constrain|>"}

    def words(some: list[int]) -> str:
        return str(harmony.decode([token for token in some if token not in special]))

    reader = Reader(FORMATS["gpt-oss"], words, harmony.decode, marks)
    made = reader.generation(tokens, GENEROUS, False, "stop")
    role = pytest.importorskip("openai_harmony").Role.ASSISTANT
    parsed = harmony.parse_messages_from_completion_tokens(tokens, role, strict=False)
    said = [(m.channel, m.recipient, "".join(part.text for part in m.content)) for m in parsed]
    # What is constrained and addressed to nobody it takes for addressed.
    said = [(c, None if str(to).startswith("<|constrain|>") else to, w) for c, to, w in said]
    first = next((i for i, (c, to, _) in enumerate(said) if (c, to) == ("final", None)), None)
    before = [words for _, _, words in (said if first is None else said[:first])]
    assert made.answered == (first is not None)
    assert made.text == ("" if first is None else said[first][2])
    assert (made.reasoning or "").split() == " ".join(before).split()
