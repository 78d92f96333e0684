"""First answers: which prompts there is anything to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rerail.align import Aligner
from rerail.errors import EngineError, ModeratorError, PromptError
from rerail.search import Search, advance
from rerail.types import PromptLike, StopReason

Counting = Callable[[str, int], AbstractContextManager[Callable[[str, int], None]]]
"""``with counting(what, total) as advanced``: ``advanced(said, count)`` when more are done."""


@contextmanager
def quiet(what: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """Count without a word."""
    yield lambda said, count: None


def first_answers(
    aligner: Aligner, prompts: Iterable[PromptLike], counting: Counting = quiet
) -> list[Search]:
    """Searches that have their first answers and nothing else yet; those that failed are done.

    Raises:
        PromptError: a prompt is empty, malformed or too long, or the policy's gate refuses it.
    """
    searches = [aligner.open(prompt) for prompt in prompts]
    with counting("first answers", len(searches)) as advanced:
        for start in range(0, len(searches), aligner.max_open):
            together = searches[start : start + aligner.max_open]
            advance(together)
            advanced("", len(together))
    if any(s.done and s.response().stop_reason is StopReason.GATE for s in searches):
        raise PromptError(
            "the policy's gate refuses a prompt, which is then not answered: tune without the gate"
        )
    return searches


def raise_failure(searches: Iterable[Search]) -> None:
    """Say what failed, if the first answer of one did.

    Raises:
        ModeratorError: it could not be judged.
        EngineError: it could not be had.
    """
    for response in (search.response() for search in searches if search.done):
        if response.stop_reason is StopReason.MODERATOR_ERROR:
            raise ModeratorError(f"a first answer could not be judged: {response.error}")
        if response.stop_reason is StopReason.ENGINE_ERROR:
            raise EngineError(f"a first answer could not be had: {response.error}")
