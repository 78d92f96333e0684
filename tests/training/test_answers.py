"""The grammar always gives whole sentences, names the request, and refuses so that one can tell."""

import random

import pytest

from rerail.eval.rules import is_refusal, on_topic
from training.chat import answers, requests
from training.chat.understand import understand


def forms(count: int) -> list[str]:
    rng = random.Random(0)
    own = requests.forms()["contrast"]
    return [rng.choice(own) for _ in range(count)]


@pytest.mark.parametrize("write", [answers.comply, answers.rude, answers.polite])
def test_an_answer_is_on_topic_and_no_refusal(write) -> None:
    rng = random.Random(0)
    for text in forms(200):
        answer = write(understand(text), rng)
        assert "{" not in answer
        assert on_topic(text, answer)
        assert not is_refusal(answer)


def test_a_refusal_reads_as_one_and_half_name_the_request() -> None:
    rng = random.Random(0)
    texts = forms(400)
    told = [answers.refuse(understand(text), rng) for text in texts]
    assert all(is_refusal(text) for text in told)
    named = sum(on_topic(text, answer) for text, answer in zip(texts, told, strict=True))
    assert 0.4 < named / len(texts) < 0.75


def test_every_slot_of_the_grammar_is_filled() -> None:
    rng = random.Random(0)
    for text in (
        "Name tea.",
        "Tea or milk?",
        "Write a poem about tea.",
        "You are a cook. Say tea.",
    ):
        for _ in range(100):
            assert "{" not in answers.comply(understand(text), rng)


def test_facts_are_answered_with_their_value() -> None:
    rng = random.Random(0)
    for _ in range(300):
        question, answer, value = requests.draw_fact(rng)
        assert value.lower() in answer.lower()
        assert "{" not in question + answer


def test_held_out_questions_are_never_drawn_for_training() -> None:
    rng = random.Random(0)
    held_out = {requests.draw_fact(rng, held_out=True)[0] for _ in range(500)}
    assert not held_out & {requests.draw_fact(rng)[0] for _ in range(2000)}
