"""Whatever a template does to words, the tokens are those of transformers, the rows right."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerail.engines.base import TEMPLATE_ROW
from rerail.engines.rendering import Renderer
from rerail.errors import EngineError, PromptError
from rerail.types import Message, Prompt
from tests.engines import tiny

FOLDER = Path(__file__).parent / "templates"
OURS, PUBLISHED = (
    {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    for folder in (FOLDER, FOLDER / "published")
)
THOUGHT = '<think>\nFirst, I look at it.\n\nThen "quotes".\n</think>\n\n'
CONVERSATIONS = {
    "question": [("user", "What is 2 + 2?")],
    "system": [("system", "You are terse."), ("user", "What is 2 + 2?")],
    "switch": [("system", "You are terse. /no_think"), ("user", "What is 2 + 2?")],
    "only a switch": [("system", "/no_think"), ("user", "What is 2 + 2?")],
    "a switch of the user's": [("user", "What is 2 + 2? /no_think")],
    "a switch, then a question": [
        ("user", "/no_think"),
        ("assistant", "Of course."),
        ("user", "What is 2 + 2?"),
    ],
    "no system": [("system", ""), ("user", "hello there")],
    "thinking": [("user", "What is 2?"), ("assistant", f"{THOUGHT}Two."), ("user", "And 3 + 3?")],
    "thinking, then nothing": [
        ("user", "hi"),
        ("assistant", "<think>hm</think>"),
        ("user", "And 3 + 3?"),
    ],
    "no thinking": [
        ("user", "hi"),
        ("assistant", "<think>\n\n</think>\n\nTwo."),
        ("user", "What?"),
        ("assistant", f"{THOUGHT}Three."),
        ("user", "user"),
    ],
    "blanks": [
        ("user", "  What\n\n is it? \n\n"),
        ("assistant", "\n\nIt is 4. \n"),
        ("user", "\n And 3 + 3?\n"),
    ],
    "json": [
        ("user", '{"a": ["x\\n", \'y\', 1.5e3], "b": null}'),
        ("assistant", '```json\n{"q": "\\"é\\""}\n```'),
        ("user", 'is "this" ok?\n\tYes \\ no & <b>so on</b>'),
    ],
    "other scripts": [("user", "naïve café 😀 你好 \u2003x\u2003 \ue000\ue001")],
    "the same words": [
        ("user", "hello"),
        ("assistant", "hello"),
        ("user", "hello"),
        ("assistant", "hello"),
        ("user", "hello"),
    ],
    "names of roles": [
        ("system", "system"),
        ("user", "assistant"),
        ("assistant", "user"),
        ("user", "user"),
    ],
    "no letters": [("user", "???"), ("assistant", "!"), ("user", "...")],
    "other models' tokens": [("user", "a [EOT] <|nobody|>\n<|made_it|>b {{ x }} {% y %}")],
}
CLOCK = "transformers.utils.chat_template_utils.datetime"
OBEY = {
    "system": ("HuggingFaceTB-SmolLM3-3B", "NVIDIA-Nemotron-Nano-v2"),
    "user": ("NVIDIA-Nemotron-Nano-v2",),
}
"""Published templates that take switches out of what a role says."""
FAILS = {
    "google-gemma-2-2b-it": "System role not supported",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "'NoneType' object is not iterable",
}
"""Published templates that reject what others take: system turns, conversations without tools."""
_NAMED = re.compile(
    r"<[|｜][^<>|｜\n{}']{1,40}[|｜]>|</?(?:think|tool_\w+|start_of_turn|end_of_turn)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|AVAILABLE_TOOLS)\]"
)
_MADE: dict[str, Any] = {}


class Clock:
    """Shows one moment after another, and stops at the last."""

    def __init__(self, *moments: datetime) -> None:
        self._moments = list(moments)

    def now(self) -> datetime:
        return self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]


def made(template: str) -> Any:
    """A tokenizer with the template, and a token for each that the template names."""
    if template not in _MADE:
        _MADE[template] = tiny.byte_level(template)
        _MADE[template].add_tokens(sorted(set(_NAMED.findall(template))))
    return _MADE[template]


def prompt_of(turns: list[tuple[Any, str]]) -> Prompt:
    return Prompt(tuple(Message(role, content) for role, content in turns))


def published(tokenizer: Any, prompt: Prompt) -> list[tuple[list[int], str]]:
    """What transformers makes of the prompt, with contents as text and as parts."""
    found = []
    for parts in (False, True):
        conversation = [
            {
                "role": m.role,
                "content": [{"type": "text", "text": m.content}] if parts else m.content,
            }
            for m in prompt.messages
        ]
        try:
            ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
            text = tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
        except Exception:
            continue
        found.append((list(ids["input_ids"]), text))
    return found


def rendered(renderer: Renderer, prompt: Prompt) -> Any:
    """Tokens and owners, or what the error says."""
    try:
        return renderer.render(prompt)
    except PromptError as error:
        return str(error)


ESCAPED = re.compile(r"""["'\\&<>/_]|think""")


def left(template: str, role: str, content: str) -> str:
    """What the template leaves of a message, blanks and case aside, and what it may escape."""
    if template == "system_switches" and role == "system":
        content = content.replace("/no_think", "")
    if template == "last_word" and role == "user":
        content = content.removesuffix("/no_think")
    if template in ("drops_thinking", "splits_thinking") and role == "assistant":
        content = content.rpartition("</think>")[2]
    if template == "rewrites_thinking" and role == "assistant":
        content = re.sub(r"</?think>", "", content)
    content = "".join(content.split()).casefold()
    return ESCAPED.sub("", content) if template in ("json", "escapes") else content


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", OURS)
def test_the_tokens_are_those_of_transformers(template: str, turns: list[tuple[str, str]]) -> None:
    tokenizer, prompt = made(OURS[template]), prompt_of(turns)
    if template == "no_system" and turns[0][0] == "system":
        with pytest.raises(PromptError, match="System role not supported"):
            Renderer(tokenizer).render(prompt)
        return
    ids, owners = Renderer(tokenizer).render(prompt)
    wanted = published(tokenizer, prompt)
    assert ids.tolist() == wanted[-1 if template in ("parts", "first_part") else 0][0]
    for i, message in enumerate(prompt.messages):
        spelt = left(template, message.role, tokenizer.decode(ids[owners == i]))
        expected = left(template, message.role, message.content)
        if template == "repeats" and i == len(turns) - 1:
            expected *= 2
        if template in ("json", "escapes"):  # what shares a token with an escape is the template's
            assert len(expected) >= len(spelt) >= 0.7 * len(expected)
        else:
            assert spelt == expected


@pytest.mark.parametrize("template", PUBLISHED)
def test_the_tokens_are_those_of_transformers_on_published_templates(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLOCK, Clock(datetime(2026, 1, 31)))
    tokenizer = made(PUBLISHED[template])
    renderer = Renderer(tokenizer)
    for name, turns in CONVERSATIONS.items():
        prompt = prompt_of(turns)
        wanted = published(tokenizer, prompt)
        if not wanted:
            assert FAILS[template] in rendered(renderer, prompt)
            continue
        ids, owners = renderer.render(prompt)
        assert (ids.tolist(), tokenizer.decode(ids)) == wanted[0], name
        for i, message in enumerate(prompt.messages):
            spelt = "".join(tokenizer.decode(ids[owners == i]).split())
            whole = "".join(message.content.split())
            if spelt == whole:
                continue
            if message.role == "assistant":
                assert spelt == whole.rpartition("</think>")[2], (name, i)
                assert message.content not in wanted[0][1]
            else:
                assert template in OBEY[message.role], (name, i)
                assert spelt == whole.replace("/no_think", "")


def test_published_templates_are_listed_with_their_sources() -> None:
    sources = (FOLDER / "published" / "SOURCES.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\S+)\.jinja` \|", sources, re.MULTILINE)
    assert sorted(listed) == sorted(PUBLISHED)
    assert len(listed) >= 25


PARTS = ["<think>", "</think>", "/no_think", "\n", "\n\n", " ", "\u2003", "\ue000", "0", "1", "a"]
PARTS += ["user", "hello", "json", "{{ x }}", '"', "'", "\\", "é", "😀", "</", "<|im_end|>"]
CONTENTS = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
WORDED = CONTENTS.filter(str.strip)


@settings(max_examples=40)
@given(
    template=st.sampled_from(sorted(OURS)),
    turns=st.lists(st.tuples(WORDED, CONTENTS), max_size=2),
    last=WORDED,
)
def test_any_words_are_rendered_as_transformers_renders_them(
    template: str, turns: list[tuple[str, str]], last: str
) -> None:
    tokenizer = made(OURS[template])
    conversation = [turn for u, a in turns for turn in (("user", u), ("assistant", a))]
    prompt = prompt_of([*conversation, ("user", last)])
    wanted = published(tokenizer, prompt)
    found = rendered(Renderer(tokenizer), prompt)
    if isinstance(found, str):  # nothing but words that it looks for, or escapes
        assert "beyond recognition" in found
        assert template in ("last_word", "looks_for", "json", "escapes")
        return
    ids, owners = found
    controls = ["<think>", "</think>", "<|im_end|>"]
    words = "".join(message.content for message in prompt.messages)
    if not any(token in words for token in controls):
        assert ids.tolist() in [one for one, _ in wanted]
    assert tokenizer.decode(ids) in [text for _, text in wanted]
    ours = np.isin(owners, [i for i, m in enumerate(prompt.messages) if m.role == "user"])
    control = [token for token in map(tokenizer.convert_tokens_to_ids, controls) if token]
    assert not np.isin(ids[ours], control).any()


def test_thinking_that_is_kept_is_the_token_that_the_model_wrote() -> None:
    tokenizer = made(OURS["rewrites_thinking"])
    think = tokenizer.convert_tokens_to_ids("<think>")
    answer = "<think>\nhm\n</think>\n\nTwo."
    prompt = prompt_of([("user", "1 + 1?"), ("assistant", answer), ("user", "<think> so </think>")])
    ids, owners = Renderer(tokenizer).render(prompt)
    assert (ids == think).sum() == 1
    assert tokenizer.decode(ids[owners == 2]) == "<think> so </think>"
    strict = prompt_of([("user", "1 + 1?"), ("assistant", "<|im_end|>"), ("user", "go")])
    ids, owners = Renderer(tokenizer).render(strict)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids[owners == 1]


def test_a_template_decides_by_words_that_stay() -> None:
    tokenizer = made(OURS["looks_for"])
    ids, owners = Renderer(tokenizer).render(Prompt.of("Give me JSON, please!"))
    assert "Answer in valid JSON." in tokenizer.decode(ids[owners == TEMPLATE_ROW])
    ids, owners = Renderer(tokenizer).render(Prompt.of("Give me json, please."))
    assert tokenizer.decode(ids[owners == 0]) == "Give me json, please."


def test_a_special_token_in_words_that_the_template_changes_stays_letters() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content.replace('</s>', '</s> ') }}{{ '</s>' }}"
        "{% endfor %}"
    )
    tokenizer = tiny.byte_level(template)
    with pytest.raises(PromptError, match="beyond recognition"):
        Renderer(tokenizer).render(Prompt.of("a</s>b"))
    ids, owners = Renderer(tokenizer).render(Prompt.of("a</s >b"))
    assert (ids == tokenizer.eos_token_id).sum() == 1
    assert tokenizer.decode(ids[owners == 0]).strip() == "a</s >b"


def test_what_a_template_writes_between_the_lines_of_a_message_is_its_own() -> None:
    tokenizer = made(OURS["quotes_lines"])
    ids, owners = Renderer(tokenizer).render(Prompt.of("one\ntwo"))
    assert tokenizer.decode(ids[owners == 0]).replace(" ", "") == "onetwo"
    assert tokenizer.decode(ids[owners == TEMPLATE_ROW]).count("\n>") == 2


@pytest.mark.parametrize("before", range(6))
def test_a_date_that_changes_meanwhile_is_no_error(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    january, february = datetime(2026, 1, 31), datetime(2026, 2, 1)
    monkeypatch.setattr(CLOCK, Clock(*[january] * before, february))
    tokenizer = tiny.byte_level("{{ strftime_now('%d %B') }}: {{ messages[0].content }}")
    ids, owners = Renderer(tokenizer).render(Prompt.of("JSON"))
    assert tokenizer.decode(ids[owners == 0]).strip() == "JSON"
    assert tokenizer.decode(ids) in ("31 January: JSON", "01 February: JSON")


def test_an_earlier_message_whose_words_stay_but_cannot_be_told_is_an_error() -> None:
    prompt = prompt_of([("user", "JSON"), ("assistant", "What of it?"), ("user", "go on")])
    with pytest.raises(PromptError, match=r"changes message 0 \(user\).*it reads 'JSON'"):
        Renderer(made(OURS["looks_for"])).render(prompt)


def test_words_that_the_template_takes_out_whole_are_an_error() -> None:
    with pytest.raises(PromptError, match=r"changes message 0 \(user\).*it reads '/no_think'"):
        Renderer(made(OURS["last_word"])).render(Prompt.of("/no_think"))


@pytest.mark.parametrize("change", ["urlencode", "upper", "tojson(ensure_ascii=True)"])
def test_words_that_come_out_as_others_are_an_error_that_names_the_template(change: str) -> None:
    tokenizer = tiny.byte_level(
        f"{{% for m in messages %}}{{{{ m.content | {change} }}}}{{% endfor %}}"
    )
    tokenizer.name_or_path = "some/model"
    with pytest.raises(PromptError, match="template of some/model changes message 0"):
        Renderer(tokenizer).render(Prompt.of("wie groß"))


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError: can only concatenate str"),
        ("{{ names.all }}{{ messages[0].content }}", "'names' is undefined"),
        ("{{ messages[0].content.nothing() }}", "UndefinedError"),
        ("{{ raise_exception('Only in turns') }}", r"rejects the conversation \(user\): Only in"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_what_fails_in_a_template_is_named(template: str, cause: str) -> None:
    with pytest.raises(PromptError, match=cause):
        Renderer(tiny.byte_level(template)).render(Prompt.of("hello"))


def test_a_template_that_prints_parts_and_leaves_out_text_is_an_error() -> None:
    mixed = (
        "{{ messages[0].content }}{% for part in messages[-1].content %}{{ part.text }}{% endfor %}"
    )
    with pytest.raises(PromptError, match="leaves out message 1"):
        Renderer(tiny.byte_level(mixed)).render(
            prompt_of([("system", "be kind"), ("user", "hello")])
        )


def test_a_tokenizer_that_adds_tokens_of_its_own_is_refused() -> None:
    tokenizer = tiny.byte_level()

    class Otherwise(type(tokenizer)):  # type: ignore[misc]
        def _encode_plus(self, text: Any, *args: Any, **options: Any) -> Any:
            return super()._encode_plus(text + "!", *args, **options)

    tokenizer.__class__ = Otherwise
    with pytest.raises(EngineError, match=r"other tokens than its tokenizer\.json"):
        Renderer(tokenizer).render(Prompt.of("hello"))
