"""Each guard's score is the closed-form softmax of the logits where its verdict would stand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rerail.errors import ModeratorError
from rerail.moderators import Moderator
from rerail.moderators.guards._generative import FENCES, NO_REQUEST, GenerativeGuard
from rerail.moderators.guards._models import Loaded, load, tempered, tempered_threshold
from rerail.moderators.guards.custom import PROMPT, CustomGuard
from rerail.moderators.guards.granite_guardian import BLOCK, RISKS, GraniteGuardian
from rerail.moderators.guards.llama_guard import NAMES, LlamaGuard
from rerail.moderators.guards.qwen3_guard import NAMES as QWEN_NAMES
from rerail.moderators.guards.qwen3_guard import Qwen3Guard, close_thinking
from rerail.moderators.guards.shield_gemma import GUIDELINES, ShieldGemma
from rerail.moderators.guards.wild_guard import PROMPT as WILD_PROMPT
from rerail.moderators.guards.wild_guard import WildGuard
from rerail.types import EMPTY_ANSWER, Exchange, Message
from tests.moderators.guards import tiny

REQUEST, ANSWER = "Where is the lantern?", "In the harbour, by the old pier."


def exchange(request: str = REQUEST, answer: str = ANSWER) -> Exchange:
    return Exchange((Message("user", request),), answer)


EXCHANGES = [
    exchange(),
    exchange("Hi", "No."),
    exchange("And the ship, " * 20, "It sailed. " * 30),
    exchange(answer="Yes"),
]


def rendered(loaded: Loaded, parts: bool = False, **options: Any) -> str:
    """A template filled with the first exchange."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": REQUEST},
        {"role": "assistant", "content": ANSWER},
    ]
    if parts:
        for m in messages:
            m["content"] = [{"type": "text", "text": m["content"]}]
    return str(
        loaded.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **options
        )
    )


def score_of(guard: GenerativeGuard, one: Exchange | None = None) -> dict[str, float]:
    (score,) = guard.score([one or exchange()])
    assert score.scored, score.cause
    return dict(score.categories)


# Llama Guard


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (tiny.LLAMA_GUARD_3_8B, False),
        (tiny.LLAMA_GUARD_3_1B, True),
        (tiny.LLAMA_GUARD_4, True),
    ],
)
def test_llama_guard(template: str, parts: bool) -> None:
    loaded = tiny.guard("llama", template)
    text = rendered(loaded, parts).removesuffix("\n\n") + "\n\n"
    unsafe, _ = tiny.chances(loaded, text, "unsafe", "safe")
    assert 0.001 < unsafe < 0.999
    codes = tiny.chances(loaded, text + "unsafe\nS", *(c[1:] for c in NAMES))
    share = {code: p / max(codes) for code, p in zip(NAMES, codes, strict=True)}
    scores = score_of(LlamaGuard(loaded))
    assert scores["self-harm"] == pytest.approx(unsafe * share["S11"], abs=1e-6)
    assert scores["illicit/violent"] == pytest.approx(
        unsafe * max(share["S1"], share["S9"]), abs=1e-6
    )
    every = LlamaGuard(loaded, map={f"S{i}": f"custom/{i}" for i in (5, 6, 7, 8, 13)})
    assert max(score_of(every).values()) == pytest.approx(unsafe, abs=1e-6)
    # The literal first position, before the newlines, is another number.
    first = tiny.chances(loaded, text.rstrip("\n"), "unsafe", "safe")[0]
    assert abs(first - unsafe) > 1e-3


def test_llama_guard_4_is_a_model_of_text_and_images(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer("llama", tiny.LLAMA_GUARD_4)
    loaded = Loaded(tiny.llama4(len(tokenizer)), tokenizer)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    guard = LlamaGuard(tmp_path, device="cpu", max_batch=2)
    unsafe, _ = tiny.chances(loaded, rendered(loaded, parts=True), "unsafe", "safe")
    share = tiny.chances(
        loaded, rendered(loaded, parts=True) + "unsafe\nS", *(c[1:] for c in NAMES)
    )
    expected = unsafe * share[9] / max(share)
    assert score_of(guard)["hate"] == pytest.approx(expected, abs=1e-5)
    assert_batches_equal_one_by_one(guard)


def test_llama_guard_without_a_template_uses_the_published_prompt() -> None:
    loaded = tiny.guard("llama")
    guard = LlamaGuard(loaded)
    (row,) = guard._windows(exchange())[0]
    text = loaded.tokenizer.decode(row)
    assert f"User: {REQUEST}\n\nAgent: {ANSWER}\n\n<END CONVERSATION>" in text
    assert text.endswith("<|eot_id|><|start_header_id|>assistant<|end_header_id|>")
    assert "S14: Code Interpreter Abuse." in text
    unsafe, _ = tiny.chances(loaded, text + "\n\n", "unsafe", "safe")
    assert max(score_of(guard).values()) <= unsafe + 1e-6


@pytest.mark.parametrize(
    ("guard", "kind", "template"),
    [
        (LlamaGuard, "llama", tiny.LLAMA_GUARD_3_8B),
        (LlamaGuard, "llama", None),
        (Qwen3Guard, "qwen", tiny.QWEN3_GUARD),
    ],
)
def test_prompts_are_judged_as_the_users(guard: Any, kind: str, template: str | None) -> None:
    judges = guard(tiny.guard(kind, template), prompts=True)
    asked = Exchange((), REQUEST)
    ((row,),) = judges._windows(asked)
    text = judges._tokenizer.decode(row)
    assert REQUEST in text
    assert NO_REQUEST not in text
    assert "Agent" not in text
    if template is None:
        assert "ONLY THE LAST User message in the above conversation" in text
    assert score_of(judges, asked) != score_of(guard(tiny.guard(kind, template)), asked)
    limit = judges._limit - judges._room + 60
    long = Exchange((), "".join(f"part {i}, " for i in range(60)))
    windows = guard(tiny.guard(kind, template), prompts=True, max_tokens=limit)._windows(long)
    assert len(windows) > 3


def test_a_guard_of_answers_does_not_judge_prompts() -> None:
    with pytest.raises(ModeratorError, match="shieldgemma judges answers only"):
        ShieldGemma(tiny.guard("gemma", tiny.SHIELD_GEMMA), prompts=True)


# ShieldGemma


@pytest.mark.parametrize("template", [tiny.SHIELD_GEMMA, None])
def test_shield_gemma(template: str | None) -> None:
    loaded = tiny.guard("gemma", template)
    guard = ShieldGemma(loaded, custom={"custom/ships": "The chatbot shall not speak of ships."})
    categories = ["illicit", "harassment", "hate", "sexual", "custom/ships"]
    assert sorted(guard.categories) == sorted(categories)
    asked = [*GUIDELINES.items(), ("custom/ships", "The chatbot shall not speak of ships.")]
    scores = score_of(guard)
    for category, (name, words) in zip(categories, asked, strict=True):
        guideline = f'"{name}": {words}'
        if template:
            text = rendered(loaded, guideline=guideline)
        else:
            i = [n for n, _ in asked].index(name)
            text = loaded.tokenizer.decode(guard._windows(exchange())[0][i])
            assert f"Chatbot Response: {ANSWER}\n" in text
            assert guideline in text
        yes, _ = tiny.chances(loaded, text, "Yes", "No")
        assert scores[category] == pytest.approx(yes, abs=1e-6)


def test_shield_gemma_asks_only_what_it_is_told_to() -> None:
    guard = ShieldGemma(tiny.guard("gemma", tiny.SHIELD_GEMMA), guidelines=["No Hate Speech"])
    assert guard.categories == ("hate",)
    assert len(guard._windows(exchange())[0]) == 1


# Granite Guardian


def yes_of_spellings(
    loaded: Loaded,
    text: str,
    *spelt: tuple[str, ...],
) -> float:
    """P(yes), the probabilities of all spellings that are one token added up."""
    z = tiny.logits_after(loaded, text)
    yes, no = (
        torch.logsumexp(z[[tiny.token(loaded, word) for word in words]], 0)
        for words in spelt or ((" yes", "yes", "Yes"), (" no", "no", "No"))
    )
    return float(torch.sigmoid(yes - no))


def test_granite_guardian_3_0() -> None:
    loaded = tiny.guard("granite", tiny.GRANITE_3_0)
    guard = GraniteGuardian(
        loaded, risks=["harm", "violence"], criteria={"custom/ships": "It speaks of ships."}
    )
    configs = {
        "custom/harm": {"risk_name": "harm"},
        "violence": {"risk_name": "violence"},
        "custom/ships": {"risk_name": "ships", "risk_definition": "It speaks of ships."},
    }
    expected = {
        c: yes_of_spellings(loaded, rendered(loaded, guardian_config=g)) for c, g in configs.items()
    }
    assert score_of(guard) == pytest.approx(expected, abs=1e-6)


def test_granite_guardian_3_3() -> None:
    loaded = tiny.guard("granite", tiny.GRANITE_3_3)
    guard = GraniteGuardian(loaded, criteria={"custom/ships": "It speaks of ships."})
    configs = {
        "custom/harm": {"criteria_id": "harm"},
        "custom/ships": {"custom_criteria": "It speaks of ships."},
    }
    expected = {
        c: yes_of_spellings(loaded, rendered(loaded, guardian_config=g, think=False) + "<score>")
        for c, g in configs.items()
    }
    assert score_of(guard) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("tail", ["", "<think>\n</think>\n", "<think>\n"])
def test_granite_guardian_4_1_has_an_empty_think_block(tail: str) -> None:
    loaded = tiny.guard("granite", tiny.ends(tiny.GRANITE_4_1, tail))
    messages = [
        {"role": "user", "content": REQUEST},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": BLOCK.format(criterion=RISKS["harm"])},
    ]
    text = loaded.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    ).removesuffix(tail)
    expected = yes_of_spellings(loaded, text + "<think>\n</think>\n<score>")
    scores = score_of(GraniteGuardian(loaded))
    assert scores == pytest.approx({"custom/harm": expected}, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "template", "format_"),
    [
        ("ibm-granite/granite-guardian-3.1-2b", tiny.GRANITE_3_3, "3.0"),
        ("ibm-granite/granite-guardian-3.3-8b", tiny.GRANITE_3_0, "3.3"),
        ("ibm-granite/granite-guardian-4.1-8b", tiny.GRANITE_3_3, "4.1"),
        ("mine", tiny.GRANITE_3_0, "3.0"),
        ("mine", tiny.GRANITE_3_3, "3.3"),
        ("mine", tiny.GRANITE_4_1, "4.1"),
    ],
)
def test_granite_formats_are_told_apart(name: str, template: str, format_: str) -> None:
    guard = object.__new__(GraniteGuardian)
    guard.model_name, guard._tokenizer = name, tiny.tokenizer("granite", template)
    assert guard._told() == format_


# Qwen3Guard


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "tail", ["<think>\n\n</think>\n\n", "", "<think>\n", "<think>\n\n</think>"]
)
def test_qwen3_guard(weight: float, tail: str) -> None:
    loaded = tiny.guard("qwen", tiny.ends(tiny.QWEN3_GUARD, tail))
    plain = rendered(loaded).removesuffix(tail)
    text = plain + "<think>\n\n</think>\n\nSafety:"
    unsafe, controversial, _ = tiny.chances(loaded, text, " Unsafe", " Cont", " Safe")
    z = tiny.logits_after(loaded, text + " Unsafe\nCategories:")
    first = [
        loaded.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0]
        for name in QWEN_NAMES
    ]
    shares = torch.softmax(z[first], 0)
    expected = (unsafe + weight * controversial) * float(shares[0] / shares.max())
    scores = score_of(Qwen3Guard(loaded, controversial=weight))
    assert scores["violence"] == pytest.approx(expected, abs=1e-6)


def test_thinking_is_closed_once() -> None:
    closed = "x\n<think>\n\n</think>\n\n"
    tails = ("", "<think>", "<think>\n", "<think>\n\n</think>", "<think>\n\n</think>\n\n")
    assert {close_thinking(f"x\n{tail}") for tail in tails} == {closed}


# WildGuard


def test_wild_guard_sums_over_the_lines_before_the_verdict() -> None:
    loaded = tiny.guard("mistral")
    text = WILD_PROMPT.format(request=REQUEST, answer=ANSWER) + "Harmful request:"
    harmful = refused = 0.0
    for r, p_r in zip(("yes", "no"), yes_no(loaded, text), strict=True):
        line = f"{text} {r}\nResponse refusal:"
        for f, p_f in zip(("yes", "no"), yes_no(loaded, line), strict=True):
            p_h, _ = yes_no(loaded, f"{line} {f}\nHarmful response:")
            harmful += p_r * p_f * p_h
            refused += p_r * p_f * (f == "yes")
    guard = WildGuard(loaded, map={"response_refusal": "custom/refusal"})
    expected = {"custom/harm": harmful, "custom/refusal": refused}
    assert score_of(guard) == pytest.approx(expected, abs=1e-6)
    assert WildGuard(loaded).categories == ("custom/harm",)


def yes_no(loaded: Loaded, text: str) -> list[float]:
    """Softmax over the tokens of " yes" and " no", as they follow other words."""
    z = tiny.logits_after(loaded, text)[loaded.tokenizer.convert_tokens_to_ids(["▁yes", "▁no"])]
    return [float(p) for p in torch.softmax(z, 0)]


# A guard of one's own


@pytest.mark.parametrize("tail", ["", "<think>\n"])
def test_custom_guard(tail: str) -> None:
    loaded = tiny.guard(
        "qwen", tiny.QWEN3 if not tail else tiny.QWEN3.split("{% if en")[0] + tail + "{% endif %}"
    )
    rules = {"custom/ships": "It speaks of ships.", "hate": "It demeans people."}
    guard = CustomGuard(loaded, rules=rules)
    assert guard.categories == ("hate", "custom/ships")
    scores = score_of(guard)
    for category, rule in rules.items():
        prompt = PROMPT.format(rule=rule, request=REQUEST, answer=ANSWER)
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True,
            enable_thinking=False,
        )  # fmt: skip
        text = text.rstrip() + "\n\n</think>\n\n" if tail else text
        yes = yes_of_spellings(loaded, text, ("Yes",), ("No", " No"))
        assert scores[category] == pytest.approx(yes, abs=1e-6)


# What all have in common

GUARDS: dict[str, Callable[..., GenerativeGuard]] = {
    "llama": lambda **o: LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B), **o),
    "gemma": lambda **o: ShieldGemma(tiny.guard("gemma", tiny.SHIELD_GEMMA), **o),
    "granite": lambda **o: GraniteGuardian(tiny.guard("granite", tiny.GRANITE_3_0), **o),
    "qwen": lambda **o: Qwen3Guard(
        tiny.guard("qwen", tiny.ends(tiny.QWEN3_GUARD, "<think>\n\n</think>\n\n")), **o
    ),
    "mistral": lambda **o: WildGuard(tiny.guard("mistral"), **o),
    "custom": lambda **o: CustomGuard(
        tiny.guard("qwen", tiny.QWEN3), rules={"custom/ships": "It speaks of ships."}, **o
    ),
}
MAKERS = pytest.mark.parametrize("make", GUARDS.values(), ids=GUARDS)


def assert_batches_equal_one_by_one(guard: GenerativeGuard) -> None:
    for one, score in zip(EXCHANGES, guard.score(EXCHANGES), strict=True):
        assert dict(score.categories) == pytest.approx(score_of(guard, one), abs=1e-5)


@MAKERS
def test_batches_equal_one_by_one(make: Callable[..., GenerativeGuard]) -> None:
    guard = make(max_batch=3, name="g")
    assert isinstance(guard, Moderator)
    assert guard.name == "g"
    assert_batches_equal_one_by_one(guard)
    assert guard.score([]) == []


@MAKERS
def test_long_answers_are_judged_in_windows(make: Callable[..., GenerativeGuard]) -> None:
    full = make()
    limit = full._limit - full._room + 60
    guard = make(max_tokens=limit)
    answer = "".join(f"part {i}, " for i in range(60))
    windows = guard._windows(exchange(answer=answer))
    assert windows is not None
    assert len(windows) > 3
    longest = max(len(s.forced) for s in guard._scripts)
    assert all(len(ids) + longest <= limit for rows in windows for ids in rows)
    texts = [guard._tokenizer.decode(rows[0]) for rows in windows]
    assert all(any(f"part {i}," in text for text in texts) for i in range(60))
    assert guard.score([exchange(answer=answer)])[0].scored


@MAKERS
def test_temperature_keeps_order_and_one_half(make: Callable[..., GenerativeGuard]) -> None:
    cool, warm = ([max(s.categories.values()) for s in make(temperature=t).score(EXCHANGES)]
                  for t in (1.0, 5.0))  # fmt: skip
    assert sorted(range(4), key=cool.__getitem__) == sorted(range(4), key=warm.__getitem__)
    assert all(abs(w - 0.5) <= abs(c - 0.5) + 1e-9 for c, w in zip(cool, warm, strict=True))


def test_the_worst_window_counts() -> None:
    guard = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B))
    limit = guard._limit - guard._room + 80
    small = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B), max_tokens=limit)
    answer = "".join(f"part {i}, " for i in range(40))
    rows = small._windows(exchange(answer=answer))
    readings = [small._readings([(w[0], small._scripts[0])]) for w in rows]
    each = [small._names(r) for r in readings]
    assert score_of(small, exchange(answer=answer))["hate"] == pytest.approx(
        max(names["S10"] for names in each), abs=1e-6
    )


def test_old_turns_go_first_and_then_the_start_of_the_request() -> None:
    turns = [Message("system", "SYS")]
    for i in range(6):
        turns += [Message("user", f"ask{i} " * 9), Message("assistant", f"told{i} " * 9)]
    turns.append(Message("user", "first " * 60 + "lastword"))
    guard = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B))
    everything = guard._tokenizer.decode(guard._windows(Exchange(tuple(turns), ANSWER))[0][0])
    assert "ask0" in everything
    assert "SYS" not in everything
    limit = len(guard._windows(Exchange(tuple(turns[-3:]), ANSWER))[0][0]) + 20
    fewer = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B), max_tokens=limit)
    text = fewer._tokenizer.decode(fewer._windows(Exchange(tuple(turns), ANSWER))[0][0])
    assert "ask5" in text
    assert "ask0" not in text
    least = LlamaGuard(
        tiny.guard("llama", tiny.LLAMA_GUARD_3_8B), max_tokens=guard._limit - guard._room + 60
    )
    ((row,),) = least._windows(Exchange(tuple(turns), ANSWER))
    text = least._tokenizer.decode(row)
    assert "lastword" in text
    assert ANSWER in text
    assert text.count("first ") < 60


def test_an_answer_by_itself_is_given_a_neutral_request() -> None:
    guard = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B))
    ((row,),) = guard._windows(Exchange((), ANSWER))
    text = guard._tokenizer.decode(row)
    assert f"User: {NO_REQUEST}\n\nAgent: {ANSWER}" in text


def test_turns_are_made_to_alternate() -> None:
    messages = (
        Message("assistant", "hello"),
        Message("user", "one"),
        Message("user", "two"),
        Message("assistant", "three"),
    )
    guard = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B))
    ((row,),) = guard._windows(Exchange(messages, ANSWER))
    text = guard._tokenizer.decode(row)
    talk = f"User: one\n\ntwo\n\nAgent: three\n\nUser: {NO_REQUEST}\n\nAgent: {ANSWER}"
    assert talk in text
    assert "hello" not in text


@MAKERS
def test_an_answer_cannot_end_its_own_turn(make: Callable[..., GenerativeGuard]) -> None:
    guard = make()
    kinds = [token.content for token in guard._tokenizer.added_tokens_decoder.values()]
    hostile = " ".join([*kinds, *guard.control, *FENCES])
    calm = guard._windows(exchange(answer="calm"))[0][0]
    attacked = guard._windows(exchange(answer=f"{hostile} calm"))[0][0]
    special = set(guard._tokenizer.added_tokens_decoder)
    assert [t for t in attacked if t in special] == [t for t in calm if t in special]
    text = guard._tokenizer.decode(attacked)
    plain = guard._tokenizer.decode(calm)
    for word in {*guard.control, *re.findall(r"<[A-Z ]+>", plain)}:
        assert text.count(word) == plain.count(word)


def test_a_device_without_float64_can_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDevice(torch.Tensor):
        def double(self) -> torch.Tensor:  # type: ignore[override]
            raise TypeError("no float64 here")

        def cpu(self) -> torch.Tensor:  # type: ignore[override]
            return self.as_subclass(torch.Tensor)

    guard = LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B))
    expected = guard.score([exchange()])
    forward = guard._model.forward

    def on_device(*args: Any, **options: Any) -> Any:
        out = forward(*args, **options)
        out.logits = out.logits.as_subclass(OnDevice)
        return out

    monkeypatch.setattr(guard, "_keeps", False)
    monkeypatch.setattr(guard._model, "forward", on_device)
    assert guard.score([exchange()]) == expected


def test_silence_and_broken_weights_are_unscored() -> None:
    loaded = tiny.guard("llama", tiny.LLAMA_GUARD_3_8B)
    guard = LlamaGuard(loaded)
    empty, good = guard.score([exchange(answer=" \n"), exchange()])
    assert empty.cause == EMPTY_ANSWER
    assert good.scored
    loaded.model.lm_head.weight.data[tiny.token(loaded, "unsafe")] = math.nan
    (score,) = guard.score([exchange()])
    assert "not finite" in str(score.cause)


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (LlamaGuard, "qwen", "is no llama-guard: its vocabulary lacks the verdict 'unsafe'"),
        (ShieldGemma, "llama", "is no shieldgemma: its vocabulary lacks the verdict 'Yes'"),
        (GraniteGuardian, "llama", "lacks the verdict 'yes' and 'no'"),
        (WildGuard, "llama", "lacks the verdict 'yes' and 'no'"),
    ],
)  # fmt: skip
def test_another_models_vocabulary_is_an_error_that_names_the_verdict(
    make: Callable[..., GenerativeGuard], kind: str, says: str
) -> None:
    loaded = tiny.guard(kind, tiny.QWEN3)
    loaded = Loaded(loaded.model, tiny.tokenizer(kind, tiny.QWEN3, words=["xy"]))
    with pytest.raises(ModeratorError) as error:
        make(loaded)
    assert says in str(error.value)


@pytest.mark.parametrize("make", [GraniteGuardian, Qwen3Guard])
def test_a_template_that_is_needed_and_missing(make: Callable[..., GenerativeGuard]) -> None:
    with pytest.raises(ModeratorError, match="has no chat template"):
        make(tiny.guard("qwen"))


def test_a_template_that_hides_the_answer() -> None:
    with pytest.raises(ModeratorError, match="does not show request and answer"):
        LlamaGuard(tiny.guard("llama", "{{ messages[0]['content'] }}"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"max_batch": 0}, "max_batch"),
        ({"max_tokens": 40}, "max_tokens is 40"),
        ({"map": {"S99": "hate"}}, "unknown name 'S99'"),
        ({"map": {"S10": "hatred"}}, "cannot become 'hatred'"),
    ],
)
def test_options_that_are_not_valid(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ModeratorError, match=says):
        LlamaGuard(tiny.guard("llama", tiny.LLAMA_GUARD_3_8B), **options)


def test_options_of_single_guards_that_are_not_valid() -> None:
    gemma, granite = tiny.guard("gemma"), tiny.guard("granite", tiny.GRANITE_3_0)
    with pytest.raises(ModeratorError, match="unknown guideline 'No Fun'"):
        ShieldGemma(gemma, guidelines=["No Fun"])
    with pytest.raises(ModeratorError, match="cannot become 'ships'"):
        ShieldGemma(gemma, custom={"ships": "The chatbot shall not speak of ships."})
    with pytest.raises(ModeratorError, match="unknown risk 'fun'"):
        GraniteGuardian(granite, risks=["fun"])
    with pytest.raises(ModeratorError, match="no name becomes a category"):
        GraniteGuardian(granite, risks=[])
    with pytest.raises(ModeratorError, match="unknown format '9'"):
        GraniteGuardian(granite, format="9")  # type: ignore[arg-type]
    with pytest.raises(ModeratorError, match="from 0 to 1"):
        Qwen3Guard(gemma, controversial=1.5)
    with pytest.raises(ModeratorError, match="has no words"):
        CustomGuard(gemma, rules={"custom/ships": " "})


def test_loading_from_a_folder(tmp_path: Path) -> None:
    loaded = tiny.guard("llama", tiny.LLAMA_GUARD_3_8B)
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    guard = LlamaGuard(tmp_path, device="cpu")
    assert repr(guard) == f"LlamaGuard({tmp_path.name!r})"
    assert guard.score(EXCHANGES) == LlamaGuard(loaded).score(EXCHANGES)
    assert not any(p.requires_grad for p in guard._model.parameters())
    with pytest.raises(ModeratorError, match="its files lack weights"):
        load(tmp_path, "classifier", device="cpu")


def test_tempered_scores_and_their_thresholds() -> None:
    assert tempered(0.0, 3.0) == 0.5
    assert tempered(40.0, 4.0) < tempered(41.0, 4.0) < 1.0
    assert tempered(-800.0) == 0.0
    assert tempered_threshold(0.5, 7.0) == pytest.approx(0.5)
    z = math.log(0.9 / 0.1)
    assert tempered_threshold(0.9, 4.0) == pytest.approx(tempered(z, 4.0))
    with pytest.raises(ValueError, match="no log-odds"):
        tempered_threshold(1.0, 4.0)
