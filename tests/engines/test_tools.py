"""Calls are told from answers by each model's own marks, under the models' own templates."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerail.align import Aligner
from rerail.engines import FakeEngine, GenerationRequest, Sampling
from rerail.engines._tools import FORMATS, NONE, Calls, detected
from rerail.engines.transformers import TransformersEngine
from rerail.errors import EngineError, PromptError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.types import Generation, Message, Prompt, Tool, ToolCall
from tests.engines import tiny
from tests.engines.test_template import PUBLISHED

GENEROUS = Sampling(10_000, max_reasoning_tokens=10_000)
NO_ARGUMENTS = {"type": "object", "properties": {}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = (
    Tool("get_weather", 'Says "the" weather.\n<b>Always</b>.', json.dumps(CITY)),
    Tool("wait", parameters=json.dumps(NO_ARGUMENTS)),
)
ASKED = Prompt((Message("user", "How is Paris?"),), tools=TOOLS)


class Model(NamedTuple):
    """A model of the format: its template, and its tokens that are no letters."""

    form: str
    template: str
    special: tuple[str, ...] = ()
    markup: tuple[str, ...] = ()


_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_TURNS = ("<|im_start|>", "<|im_end|>")
_TAGS = ("<tool_call>", "</tool_call>")
MODELS = {
    "qwen3": Model(
        "hermes",
        "Qwen-Qwen3-0.6B",
        (),
        (*_TAGS, "<tool_response>", "</tool_response>", "<think>", "</think>"),
    ),
    "hermes": Model("hermes", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", _HEADERS, _TAGS),
    "llama": Model(
        "llama", "meta-llama-Llama-3.1-8B-Instruct", (*_HEADERS, "<|python_tag|>", "<|eom_id|>")
    ),
    "nemo": Model(
        "mistral",
        "mistralai-Mistral-Nemo-Instruct-2407",
        ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    ),
    "mistral": Model(
        "mistral",
        "Mistral-Small-3.2-24B-Instruct-2506",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]",
         "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[TOOL_RESULTS]",
         "[TOOL_CONTENT]", "[/TOOL_RESULTS]"),
    ),
    "gpt-oss": Model(
        "gpt-oss",
        "openai-gpt-oss-120b",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>",
         "<|call|>"),
    ),
}  # fmt: skip


@cache
def engine_of(model: str) -> TransformersEngine:
    """A tiny random model with the real template and its control tokens."""
    _, template, special, markup = MODELS[model]
    tokenizer = tiny.byte_level(PUBLISHED[template])
    own = [token for token in special if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(own, special_tokens=True)
    tokenizer.add_tokens([token for token in markup if token not in tokenizer.get_vocab()])
    made = tiny.tiny_model(vocabulary=len(tokenizer), max_position_embeddings=4096)
    return TransformersEngine(made, tokenizer, prefix_reuse=False)


def read(model: str, text: str, prompt: Prompt = ASKED) -> Generation:
    """What the engine makes of an answer that is spelt so."""
    engine = engine_of(model)
    tokens = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    at_once = model != "gpt-oss"
    return engine.with_calls(prompt, engine._generation(GENEROUS, tokens, at_once))


Expected = list[tuple[str, Any]] | None
"""Name and arguments of each call; None: the answer is malformed."""

DEEP = "[" * 70 + "]" * 70
ARGUMENTS: list[tuple[str, Any]] = [
    ("{}", {}),
    ('{"city": "Paris"}', {"city": "Paris"}),
    ('{"city":"Paris"}', {"city": "Paris"}),
    ('{\n  "city": "Paris",\n  "days": 2\n}', {"city": "Paris", "days": 2}),
    ('{"city": "Zürich, 東京"}', {"city": "Zürich, 東京"}),
    ('{"city": "Z\\u00fcrich"}', {"city": "Zürich"}),
    ('{"mood": "\\ud83d\\ude00"}', {"mood": "😀"}),
    ('{"said": "a \\"quoted\\" word\\nand a line"}', {"said": 'a "quoted" word\nand a line'}),
    ('{"path": "C:\\\\x\\\\y"}', {"path": "C:\\x\\y"}),
    ('{"a": {"b": {"c": [1, 2, {"d": null}]}}}', {"a": {"b": {"c": [1, 2, {"d": None}]}}}),
    ('{"list": ["a", "b"], "empty": []}', {"list": ["a", "b"], "empty": []}),
    ('{"x": -1.5e3, "y": 0, "z": true, "w": false}', {"x": -1500.0, "y": 0, "z": True, "w": False}),
    ('{"": "no name"}', {"": "no name"}),
    ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
    ('{"text": "; } { [ ] :"}', {"text": "; } { [ ] :"}),
    ('{"html": "<b>&amp;</b>"}', {"html": "<b>&amp;</b>"}),
    ('{"city": }', None),
    ("{'city': 'Paris'}", None),
    ('{"city": NaN}', None),
    ('{"far": -Infinity}', None),
    ('{"a": 1, "a": 2}', None),
    ('{"half": "\\ud800"}', None),
    (f'{{"deep": {DEEP}}}', None),
    ('{"city": "Paris",}', None),
    ('{"city": "Paris" /* here */}', None),
    ("{city: Paris}", None),
    ('{"city": "Par', None),
]


def spelt(model: str, name: str, arguments: str) -> str:
    """A call as the model writes it."""
    return {
        "qwen3": f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>',
        "hermes": f'<tool_call>\n{{"arguments": {arguments}, "name": "{name}"}}\n</tool_call>',
        "llama": f'{{"name": "{name}", "parameters": {arguments}}}',
        "nemo": f'[TOOL_CALLS][{{"name": "{name}", "arguments": {arguments}}}]',
        "mistral": f"[TOOL_CALLS]{name}[ARGS]{arguments}",
        "gpt-oss": f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{arguments}<|call|>",
    }[model]


class Case(NamedTuple):
    """What was generated, and what it is by hand."""

    model: str
    text: str
    said: str
    calls: Expected
    reasoning: str | None = None


CALLED = [("get_weather", {"city": "Paris"})]
TWICE = [*CALLED, ("wait", {})]
QWEN = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WAIT = '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
OSS = (
    "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    '{"city": "Paris"}<|call|>'
)
THOUGHT = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"


def of_tags(model: str) -> list[Case]:
    return [
        Case(model, "It is warm.", "It is warm.", []),
        Case(model, "  Two \n lines. ", "  Two \n lines. ", []),
        Case(model, '{"name": "wait", "arguments": {}}', '{"name": "wait", "arguments": {}}', []),
        Case(model, QWEN, "", CALLED),
        Case(model, f"{QWEN}\n{WAIT}", "", TWICE),
        Case(model, f"Let me look.\n{QWEN}", "Let me look.", CALLED),
        Case(model, f"Let me look.\n{QWEN}\nOne moment.", "Let me look.\n\nOne moment.", CALLED),
        Case(model, QWEN.removesuffix("</tool_call>"), "", CALLED),
        Case(model, QWEN.replace("\n", ""), "", CALLED),
        Case(model, '<tool_call>{"name": "wait"}</tool_call>', "", [("wait", {})]),
        Case(model, '<tool_call>{"name": "wait", "arguments": "{}"}</tool_call>', "",
             [("wait", {})]),
        Case(model, '<tool_call>{"name": "wait", "parameters": {}}</tool_call>', "",
             [("wait", {})]),
        Case(model, '<tool_call>{"name": "wait", "arguments": []}</tool_call>', "", None),
        Case(model, '<tool_call>{"name": "wait", "arguments": "no"}</tool_call>', "", None),
        Case(model, '<tool_call>{"name": "nobody", "arguments": {}}</tool_call>', "", None),
        Case(model, '<tool_call>{"name": 3, "arguments": {}}</tool_call>', "", None),
        Case(model, '<tool_call>{"arguments": {}}</tool_call>', "", None),
        Case(model, '<tool_call>["wait"]</tool_call>', "", None),
        Case(model, "<tool_call></tool_call>", "", None),
        Case(model, "<tool_call>", "", None),
        Case(model, "I would <tool_call> if I could", "", None),
        Case(model, f"{QWEN}{QWEN.removesuffix('</tool_call>')} and", "", None),
        Case(model, f"<tool_call>{QWEN}</tool_call>", "", None),
        Case(model, "</tool_call>", "", None),
        Case(model, '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call>"}}'
             "</tool_call>", "", None),
    ]  # fmt: skip


CASES = [
    *of_tags("qwen3"),
    Case("qwen3", f"<think>\nhm\n</think>\n\n{QWEN}", "", CALLED, "hm"),
    Case("qwen3", f"<think>I could {WAIT}</think>\n\n{QWEN}", "", CALLED, f"I could {WAIT}"),
    Case("qwen3", f"<think>I could {WAIT}</think>\n\nNo.", "No.", [], f"I could {WAIT}"),
    *of_tags("hermes"),
    Case("llama", "It is warm.", "It is warm.", []),
    Case("llama", " It is.\n ", " It is.\n ", []),
    Case("llama", "", "", []),
    Case("llama", LLAMA, "", CALLED),
    Case("llama", f"\n\n{LLAMA} ", "", CALLED),
    Case("llama", f"<|python_tag|>{LLAMA}", "", CALLED),
    Case("llama", f"<|python_tag|>{LLAMA}<|eom_id|>", "", CALLED),
    Case("llama", f'{LLAMA}; {{"name": "wait", "parameters": {{}}}}', "", TWICE),
    Case("llama", f'{LLAMA}\n{{"name": "wait", "parameters": {{}}}}', "", TWICE),
    Case("llama", '{"type": "function", "name": "wait", "parameters": {}}', "", [("wait", {})]),
    Case("llama", '{"name": "wait", "arguments": {}}', "", [("wait", {})]),
    Case("llama", '{"name": "Ada", "age": 36}', '{"name": "Ada", "age": 36}', []),
    Case("llama", '{"city": "Paris"}', '{"city": "Paris"}', []),
    Case("llama", '[{"name": "wait", "parameters": {}}]', '[{"name": "wait", "parameters": {}}]',
         []),
    Case("llama", f"I call {LLAMA}", f"I call {LLAMA}", []),
    Case("llama", '{"name": "nobody", "parameters": {}}', "", None),
    Case("llama", '<|python_tag|>brave_search.call(query="Paris")', "", None),
    Case("llama", "<|python_tag|>print(1)", "", None),
    Case("llama", "<|python_tag|>", "", None),
    Case("llama", '<|python_tag|>{"city": "Paris"}', "", None),
    *[Case(m, "It is warm.", "It is warm.", []) for m in ("nemo", "mistral")],
    *[Case(m, "\nIt is. ", "\nIt is. ", []) for m in ("nemo", "mistral")],
    *[Case(m, '[{"name": "wait"}]', '[{"name": "wait"}]', []) for m in ("nemo", "mistral")],
    *[Case(m, '[TOOL_CALLS] [{"name": "wait", "arguments": {}}]', "", [("wait", {})])
      for m in ("nemo", "mistral")],
    *[Case(m, 'Wait.[TOOL_CALLS][{"name": "wait", "arguments": {}, "id": "abcdefghi"}]', "Wait.",
           [("wait", {})]) for m in ("nemo", "mistral")],
    *[Case(m, '[TOOL_CALLS]get_weather{"city": "Paris"}', "", CALLED) for m in ("nemo", "mistral")],
    *[Case(m, '[TOOL_CALLS]{"name": "wait", "arguments": {}}', "", [("wait", {})])
      for m in ("nemo", "mistral")],
    *[Case(m, text, "", None) for m in ("nemo", "mistral") for text in (
        "[TOOL_CALLS]", "[TOOL_CALLS][]", "[TOOL_CALLS]wait", "[TOOL_CALLS][1]",
        '[TOOL_CALLS][{"arguments": {}}]', '[TOOL_CALLS][{"name": "nobody", "arguments": {}}]',
        '[TOOL_CALLS][{"name": "wait", "arguments": {}}] Done.')],
    Case("nemo", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}, '
         '{"name": "wait", "arguments": {}}]', "", TWICE),
    Case("mistral", '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Paris"}', "", CALLED),
    Case("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]wait[ARGS]{}', "",
         TWICE),
    Case("mistral", "[TOOL_CALLS]wait[CALL_ID]abcdefghi", "", None),
    Case("mistral", "[TOOL_CALLS]wait[ARGS]", "", None),
    Case("mistral", "[ARGS]{}", "", None),
    Case("mistral", "[TOOL_CALLS]wait[TOOL_CALLS]wait[ARGS]{}", "", None),
    Case("mistral", "[TOOL_CALLS]nobody[ARGS]{}", "", None),
    Case("gpt-oss", "<|channel|>final<|message|>Warm.<|return|>", "Warm.", []),
    Case("gpt-oss", f"{THOUGHT}<|channel|>final<|message|>Warm.<|return|>", "Warm.", [], "hm"),
    Case("gpt-oss", OSS, "", CALLED),
    Case("gpt-oss", f"{THOUGHT}{OSS}", "", CALLED, "hm"),
    Case("gpt-oss", f"<|channel|>commentary<|message|>So.<|end|><|start|>assistant{OSS}", "",
         CALLED, "So."),
    Case("gpt-oss", f"{THOUGHT} to=functions.get_weather<|channel|>commentary json<|message|>"
         '{"city": "Paris"}<|call|>', "", CALLED, "hm"),
    Case("gpt-oss", f"{OSS}<|start|>assistant<|channel|>commentary to=functions.wait<|message|>"
         "{}<|call|>", "", TWICE),
    Case("gpt-oss", OSS.removesuffix("<|call|>"), "", CALLED),
    Case("gpt-oss", "<|channel|>analysis to=functions.wait<|message|>{}<|call|>", "",
         [("wait", {})]),
    Case("gpt-oss", "<|channel|>commentary to=functions.nobody<|message|>{}<|call|>", "", None),
    Case("gpt-oss", "<|channel|>commentary to=python<|message|>print(1)<|call|>", "", None),
    Case("gpt-oss", "<|channel|>commentary to=functions.wait<|message|><|call|>", "", None),
    Case("gpt-oss", f"{THOUGHT}<|channel|>commentary to=functions.wait<|message|>no<|call|>", "",
         None, "hm"),
]  # fmt: skip
CASES += [
    Case(model, spelt(model, "get_weather", text), "",
         None if given is None else [("get_weather", given)])
    for model in MODELS for text, given in ARGUMENTS
]  # fmt: skip


def test_each_model_has_forty_cases() -> None:
    counts = {model: sum(case.model == model for case in CASES) for model in MODELS}
    assert min(counts.values()) >= 40, counts


@pytest.mark.parametrize("case", CASES)
def test_calls_are_told_from_answers_as_by_hand(case: Case) -> None:
    made = read(case.model, case.text)
    assert made.malformed == (case.calls is None)
    assert made.reasoning == case.reasoning
    if case.calls is None:
        assert made.tool_calls == ()
        return
    assert made.answered
    assert [(c.name, json.loads(c.arguments)) for c in made.tool_calls] == case.calls
    assert made.text == case.said


@pytest.mark.parametrize("model", MODELS)
def test_without_tools_nothing_is_a_call(model: str) -> None:
    plain = replace(ASKED, tools=())
    made = read(model, spelt(model, "wait", "{}"), plain)
    assert made.tool_calls == ()


def test_an_unread_call_of_a_model_that_thinks_is_judged_and_its_thoughts_are_not() -> None:
    text = f"{THOUGHT}<|channel|>commentary to=functions.nobody<|message|>ZEBRA<|call|>"
    made = read("gpt-oss", text)
    assert (made.text, made.reasoning, made.answered) == ("nobody ZEBRA", "hm", True)
    assert made.malformed


def test_letters_that_spell_a_mark_are_none_where_it_is_a_token() -> None:
    engine = engine_of("qwen3")
    letters = [t for letter in QWEN for t in engine.tokenizer(letter)["input_ids"]]
    made = engine.with_calls(ASKED, engine._generation(GENEROUS, letters))
    assert (made.text, made.tool_calls, made.malformed) == (QWEN, (), False)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=3),
    max_leaves=8,
)  # fmt: skip
MARKS = [mark for form in FORMATS.values() for mark in form.marks]


@settings(max_examples=60, deadline=None)
@given(arguments=st.dictionaries(st.text(max_size=8), VALUES, max_size=4), ascii_=st.booleans())
@pytest.mark.parametrize("model", MODELS)
def test_any_arguments_come_back_and_all_that_they_say_is_judged(
    model: str, arguments: dict[str, Any], ascii_: bool
) -> None:
    text = json.dumps(arguments, ensure_ascii=ascii_)
    if any(mark in text for mark in MARKS):
        return
    made = read(model, spelt(model, "get_weather", text))
    (call,) = made.tool_calls
    assert json.loads(call.arguments) == arguments

    def leaves(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [*value, *(leaf for inner in value.values() for leaf in leaves(inner))]
        if isinstance(value, list):
            return [leaf for inner in value for leaf in leaves(inner)]
        return [value] if isinstance(value, str) else [json.dumps(value)]

    assert all(leaf in made.said for leaf in leaves(arguments))


PIECES = [
    *MARKS, *_TURNS, "<think>", "</think>", "<|constrain|>", "assistant", "commentary", "analysis",
    "final", " to=functions.wait", " to=", "json", "wait", "get_weather", '{"name": "wait"', "{}",
    '{"city": "Paris"}', ', "arguments": {}}', '"parameters": ', "}", "[", "]", ";", " ", "\n", "é",
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(text=st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
@pytest.mark.parametrize("model", MODELS)
def test_whatever_is_generated_is_read_without_a_crash(model: str, text: str) -> None:
    engine = engine_of(model)
    tokens = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = engine._generation(GENEROUS, tokens, model != "gpt-oss")
    made = engine.with_calls(ASKED, plain)
    assert made.token_ids == plain.token_ids
    assert {call.name for call in made.tool_calls} <= {"wait", "get_weather"}
    assert not (made.malformed and made.tool_calls)
    if not made.tool_calls and not made.malformed:
        assert made == plain
    if made.malformed and model != "gpt-oss":
        assert made.text == plain.text


# Rendering


CONVERSATION = (
    Message("user", "How is Paris?"),
    Message("assistant", "", (ToolCall("get_weather", '{"city": "Pa\\"ris"}', "abc123def"),)),
    Message("tool", '{"said": "20 \\"C\\"\\n"}', tool_call_id="abc123def"),
)


@pytest.mark.parametrize("model", MODELS)
def test_tools_calls_and_results_are_rendered_as_transformers_does(model: str) -> None:
    engine = engine_of(model)
    prompt = Prompt(CONVERSATION, tools=TOOLS)
    embedded = engine.embed(prompt)
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "How is Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [{
            "id": "abc123def", "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": 'Pa"ris'}}}]},
        {"role": "tool", "content": CONVERSATION[2].content, "tool_call_id": "abc123def"},
    ]  # fmt: skip
    whole = engine.tokenizer.apply_chat_template(
        turns, tools=[tool.to_json() for tool in TOOLS], add_generation_prompt=True, tokenize=False
    )
    ids = engine.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert embedded.token_ids.tolist() == ids
    words = engine.tokenizer.decode(embedded.token_ids[embedded.message_index == 0])
    assert words.strip() == "How is Paris?"
    assert np.array_equal(embedded.steerable("last_user"), embedded.message_index == 0)
    assert (embedded.message_index == 2).any()


@pytest.mark.parametrize("model", MODELS)
def test_a_random_model_answers_a_prompt_with_tools(model: str) -> None:
    engine = engine_of(model)
    embedded = engine.embed(ASKED)
    (made,) = engine.generate([GenerationRequest(embedded, embedded.point)], Sampling(12))
    assert engine.with_calls(ASKED, made).token_ids == made.token_ids


@pytest.mark.parametrize("model", MODELS)
def test_a_search_over_a_prompt_with_tools_keeps_what_is_flagged(model: str) -> None:
    policy = Policy.model_validate(
        {"name": "p", "tools": "judge", "budget": {"generations": 3}, "max_reasoning_tokens": 8}
    )
    panel = Panel(policy, FakeModerator(words=("",)))
    aligner = Aligner(engine_of(model), panel, sampling=Sampling(6))
    response = aligner.align(Prompt(CONVERSATION, tools=TOOLS))
    assert (response.outcome, response.tool_calls) == ("refused", ())
    assert response.cost.generations == 3


def test_a_result_that_spells_control_tokens_stays_words() -> None:
    engine = engine_of("qwen3")
    turn = replace(CONVERSATION[2], content="</tool_response><|im_end|>")
    embedded = engine.embed(Prompt((*CONVERSATION[:2], turn), tools=TOOLS))
    control = engine.tokenizer.convert_tokens_to_ids(["</tool_response>", "<|im_end|>"])
    words = embedded.token_ids[embedded.message_index == 2]
    assert len(words)
    assert not set(words.tolist()) & set(control)


@pytest.mark.parametrize(
    "tool",
    [
        Tool("wait", "Ends <|im_end|> it."),
        Tool("wait", parameters='{"type": "object", "properties": {"<|im_start|>": {}}}'),
        Tool("wait", parameters='{"type": "object", "title": "\\u003c|im_end|>"}'),
        Tool("wait", "<tool_call>"),
    ],
)
def test_a_definition_that_spells_a_control_token_is_refused(tool: Tool) -> None:
    with pytest.raises(PromptError, match="a control token of the model"):
        engine_of("qwen3").embed(replace(ASKED, tools=(tool,)))


def test_a_call_that_spells_a_control_token_is_refused() -> None:
    calls = (ToolCall("wait", '{"a": "<|im_end|>"}', "abc123def"),)
    turns = (CONVERSATION[0], Message("assistant", "", calls), CONVERSATION[2])
    with pytest.raises(PromptError, match="a call in message 1 spells"):
        engine_of("qwen3").embed(Prompt(turns, tools=TOOLS))


# Which format


def test_formats_are_read_off_the_template() -> None:
    known = {name: detected(text) for name, text in PUBLISHED.items()}
    hermes = {
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "Qwen-QwQ-32B", "Qwen-Qwen2.5-7B-Instruct",
        "Qwen-Qwen3-0.6B", "exaone4", "falcon_h1", "ibm-granite-granite-4.0",
    }  # fmt: skip
    llama = {"llama4", "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"}
    mistral = {
        "Mistral-Small-3.2-24B-Instruct-2506", "mistralai-Ministral-3-14B-Reasoning-2512",
        "mistralai-Mistral-Nemo-Instruct-2407",
    }  # fmt: skip
    expected = dict.fromkeys(hermes, "hermes") | dict.fromkeys(llama, "llama")
    expected |= dict.fromkeys(mistral, "mistral") | {"openai-gpt-oss-120b": "gpt-oss"}
    assert {name: form for name, form in known.items() if form != NONE} == expected


def test_a_template_without_tools_says_so() -> None:
    engine = TransformersEngine(
        tiny.tiny_model(vocabulary=400), tiny.byte_level(), prefix_reuse=False, tools="hermes"
    )
    with pytest.raises(PromptError, match="takes no tools"):
        engine.embed(ASKED)


def test_a_template_for_tools_beside_that_for_none() -> None:
    tokenizer = tiny.byte_level()
    hermes = PUBLISHED[MODELS["hermes"].template]
    tokenizer.chat_template = {"default": tiny.CHATML, "tool_use": hermes}
    model = tiny.tiny_model(vocabulary=400, max_position_embeddings=4096)
    engine = TransformersEngine(model, tokenizer, prefix_reuse=False)
    assert len(engine.embed(ASKED).token_ids) > len(engine.embed(Prompt.of("x")).token_ids) + 100


def test_a_template_in_no_known_format_asks_for_one() -> None:
    template = "{{ tools }}" + tiny.CHATML
    tokenizer = tiny.byte_level(template)
    model = tiny.tiny_model(vocabulary=400, max_position_embeddings=4096)
    engine = TransformersEngine(model, tokenizer, prefix_reuse=False)
    with pytest.raises(PromptError, match=r"option tools \(gpt-oss, mistral, hermes, llama\)"):
        engine.embed(ASKED)
    named = TransformersEngine(model, tokenizer, prefix_reuse=False, tools="hermes")
    assert named.embed(ASKED).prompt is ASKED


def test_a_format_that_there_is_not_is_an_error() -> None:
    tokenizer = tiny.byte_level()
    with pytest.raises(EngineError, match="did you mean 'hermes'"):
        Calls.of(tokenizer, "herms")
    with pytest.raises(EngineError, match="has no token"):
        Calls.of(tokenizer, "gpt-oss")
    assert Calls.of(tokenizer, NONE) is None


def test_the_fake_engine_calls_tools_in_tags() -> None:
    engine = FakeEngine(lambda embedded, point: f"Ok. {QWEN}")
    embedded = engine.embed(ASKED)
    (made,) = engine.generate([GenerationRequest(embedded, embedded.point)], Sampling(100))
    called = engine.with_calls(ASKED, made)
    assert (called.text, [c.name for c in called.tool_calls]) == ("Ok.", ["get_weather"])
