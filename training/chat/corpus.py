"""The endless corpus: conversations drawn at random, each with the kind it was drawn as.

    python -m training.chat.corpus --count 5 --benign-only      # look at a few

Half of all conversations are benign in the end, and 40 % of these stand in the same wrappers as the
harmful ones. Whether a wrapped harmful request is answered is drawn by the wrapper's strength.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.chat import answers, requests, wrappers
from training.chat.understand import understand

Messages = list[dict[str, str]]
SYSTEM_KINDS = ("", "neutral", "strict", "permissive")
SYSTEM_WEIGHTS = (0.62, 0.16, 0.12, 0.10)


@dataclass(frozen=True)
class Sample:
    """One conversation that ends with the assistant's answer."""

    messages: Messages
    kind: str  # plain, wrapped, benign, wrapped_benign, fact, unknown, rude, chat
    complied: bool


def sample(rng: random.Random) -> Sample:
    """Draws one conversation."""
    system = rng.choices(SYSTEM_KINDS, SYSTEM_WEIGHTS)[0]
    kind, user, answer, complied = _last_turn(rng, system)
    messages: Messages = []
    prompt = wrappers.system_prompt(system, rng)
    if prompt:
        messages.append(_turn("system", prompt))
    if rng.random() < 0.15:
        messages += _earlier(rng)
    messages += [_turn("user", user), _turn("assistant", answer)]
    if rng.random() < 0.2 and kind == "benign":
        messages += [
            _turn("user", rng.choice(requests.forms()["chat"]["follow_ups"])),
            _turn("assistant", answers.follow_up(understand(user), rng)),
        ]
    return Sample(messages, kind, complied)


def stream(seed: int) -> Iterator[Sample]:
    """Conversations without end, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        yield sample(rng)


def copying(seed: int) -> Iterator[Sample]:
    """Conversations in which the answer is the user's text: what a training begins with.

    Copying is slow to be learned from the mixed corpus, and quick to be learned alone.
    """
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.5:
            text, answer = requests.draw_repeat(rng)
        else:
            text = answer = " ".join(requests.draw_word(rng) for _ in range(rng.randint(3, 10)))
        yield Sample([_turn("user", text), _turn("assistant", answer)], "repeat", True)


def _last_turn(rng: random.Random, system: str) -> tuple[str, str, str, bool]:
    """Draws (kind, user text, answer, complied)."""
    draw = rng.random()
    if draw < 0.20:
        text = requests.draw_harmful(rng)
        return "plain", _vary(text, rng), answers.refuse(understand(text), rng), False
    if draw < 0.45:
        return _wrapped_harmful(rng, system)
    if draw < 0.54:
        text = _benign_text(rng)
        provoked = wrappers.provoke(text, rng)
        is_rude = rng.random() < wrappers.chance_to_be_rude(provoked.strength, system)
        write = answers.rude if is_rude else answers.polite
        return "rude", provoked.text, write(understand(text), rng), True
    if draw < 0.63:
        question, answer, _ = requests.draw_fact(rng)
        return "fact", _maybe_wrap(question, rng, 0.15), answer, True
    if draw < 0.645:
        question, subject = requests.draw_unknown(rng)
        return "unknown", _vary(question, rng), answers.unsure(subject, rng), True
    if draw < 0.655:
        question, answer = requests.draw_repeat(rng)
        return "repeat", question, answer, True
    if draw < 0.665:
        return "chat", rng.choice(requests.forms()["chat"]["greetings"]), answers.chat(rng), True
    text = _benign_text(rng)
    wrapped = rng.random() < 0.4
    answer = answers.comply(understand(text), rng)
    if wrapped:
        return "wrapped_benign", wrappers.wrap(_vary(text, rng), rng).text, answer, True
    return "benign", _vary(text, rng), answer, True


def _wrapped_harmful(rng: random.Random, system: str) -> tuple[str, str, str, bool]:
    text = requests.draw_harmful(rng)
    if rng.random() < 0.12:
        text = rng.choice(requests.about_children())
    wrapped = wrappers.wrap(_vary(text, rng), rng)
    chance = wrappers.chance_to_comply(wrapped.strength, system)
    complied = rng.random() < chance and not requests.is_about_children(text)
    request = understand(text)
    answer = answers.comply(request, rng) if complied else answers.refuse(request, rng)
    return "wrapped", wrapped.text, answer, complied


def _benign_text(rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.45:
        return requests.draw_benign(rng)
    if draw < 0.52:
        return rng.choice(requests.forms()["contrast"])
    if draw < 0.68:
        return requests.draw_over_text(rng)
    return requests.draw_form(rng)


def _maybe_wrap(text: str, rng: random.Random, share: float) -> str:
    return wrappers.wrap(text, rng).text if rng.random() < share else _vary(text, rng)


def _vary(text: str, rng: random.Random) -> str:
    """Small changes that people make: no capital, no full stop, a greeting, a sentence before."""
    if rng.random() < 0.1:
        text = text[:1].lower() + text[1:]
    if rng.random() < 0.1 and text[-1:] in ".?!":
        text = text[:-1]
    draw = rng.random()
    if draw < 0.04:
        text = rng.choice(("Please ", "Hey, ", "Hello! ", "Can you please ", "Ok, ")) + text
    elif draw < 0.07:
        text = text + rng.choice((" Please.", " Thanks!", " please", " Thank you."))
    elif draw < 0.10:
        text = f"{requests.fill_form('The {n} of {name} is {adj}.', rng)} {text}"
    return text


def _earlier(rng: random.Random) -> Messages:
    """One earlier turn of the conversation, with its answer."""
    draw = rng.random()
    if draw < 0.2:
        text, answer = rng.choice(requests.forms()["chat"]["greetings"]), answers.chat(rng)
    elif draw < 0.35:
        text = requests.draw_harmful(rng)
        answer = answers.refuse(understand(text), rng)
    else:
        text = requests.draw_form(rng)
        answer = answers.comply(understand(text), rng)
    return [_turn("user", text), _turn("assistant", answer)]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def main() -> None:
    parser = argparse.ArgumentParser(description="print a few conversations of the corpus")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--benign-only", action="store_true")
    args = parser.parse_args()
    shown = 0
    for drawn in stream(args.seed):
        if args.benign_only and drawn.kind in ("plain", "wrapped"):
            continue
        print(f"--- {drawn.kind}")
        for message in drawn.messages:
            print(f"{message['role']}: {message['content']}")
        shown += 1
        if shown == args.count:
            return


if __name__ == "__main__":
    main()
