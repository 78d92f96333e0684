"""A request is read for what it asks, whatever stands around it."""

import pytest

from training.chat.understand import MAX_CORE_WORDS, content_words, understand


@pytest.mark.parametrize(
    ("text", "kind", "core"),
    [
        ("How do I paint my fence?", "howto", "paint your fence"),
        ("I want to paint a fence. Where do I start?", "howto", "paint a fence"),
        ("Please write a poem about my old boat.", "verse", "write a poem about your old boat"),
        ("Draft an email to Bob about the tea.", "letter", "draft an email to Bob about the tea"),
        ("List three kinds of tea.", "list", "list three kinds of tea"),
        ("Why is the sky blue?", "question", "why is the sky blue"),
        ("Is a cat bigger than a dog?", "compare", "is a cat bigger than a dog"),
        ("You are a baker. Describe your oven.", "role", "describe my oven"),
    ],
)
def test_kind_and_core(text: str, kind: str, core: str) -> None:
    request = understand(text)
    assert (request.kind, request.core) == (kind, core)


def test_a_role_is_read_and_left_out_of_the_core() -> None:
    request = understand("Imagine you are a baker in Oslo. Describe your oven.")
    assert (request.role, request.core) == ("a baker", "describe my oven")


def test_a_comparison_names_both_sides() -> None:
    assert understand("What is the difference between a cat and a dog?").pair == ("a cat", "a dog")


@pytest.mark.parametrize(
    "text", ["", " ", "?", "...", "a", "\n\n", "12 + 3", "<|end|>", "naïve café?"]
)
def test_anything_is_understood_somehow(text: str) -> None:
    request = understand(text)
    assert request.words
    assert request.kind


def test_the_core_is_short() -> None:
    assert len(understand("Explain " + "very long words " * 50).core.split()) <= MAX_CORE_WORDS


def test_content_words_come_once_and_in_order() -> None:
    assert content_words("The boat and the old boat of Anna") == ("boat", "old", "Anna")
