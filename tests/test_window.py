"""``release: window``: what leaves before the rest is there, and what becomes of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rerail import window as module
from rerail.align import Aligner
from rerail.engines import FakeEngine
from rerail.engines.base import EmbeddedPrompt, GenerationRequest, Sampling
from rerail.engines.transformers import TransformersEngine
from rerail.errors import PolicyError
from rerail.moderators import FakeModerator, Moderator
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.search import BEHIND, Search, advance
from rerail.settings import OptimizerSettings
from rerail.types import (
    Exchange,
    FloatArray,
    Generation,
    Outcome,
    Prompt,
    Rejection,
    Response,
    Score,
    StopReason,
)
from rerail.window import Window, looks
from tests.engines import tiny
from tests.streams import attack

WORDS = [f"w{i}" for i in range(100)]
PLAIN = " ".join(WORDS)
LATE = " ".join([*WORDS[:70], "comply", *WORDS[70:]])
REST = "but I would rather stop here."


class TestLooks:
    def test_they_begin_soon_and_grow_apart(self) -> None:
        assert looks(48, 256) == (64, 112, 160, 208)
        assert looks(48, 64) == ()
        assert looks(1, 60) == (17, 33, 49)
        long = looks(48, 4096)
        assert sum(long) < 5 * 4096
        gaps = [b - a for a, b in pairwise(long)]
        assert gaps == sorted(gaps)
        assert all(gap <= at / 4 for gap, at in zip(gaps[4:], long[4:], strict=False))


class TestWindow:
    """Text of which each token spells some characters."""

    def slid(self, *spelt: str, lookahead: int = 1, stop: tuple[str, ...] = ()) -> list[str]:
        """The pieces that leave of one answer that is judged after each of its tokens."""
        pieces: list[str] = []
        window = Window(lookahead, pieces.append)

        def read(tokens: Sequence[int]) -> Generation:
            raw = b"".join(spelt[t].encode("utf-8", "surrogateescape") for t in tokens)
            return Generation(raw.decode("utf-8", "replace"), tuple(tokens))

        for count in range(1, len(spelt) + 1):
            window.judged(read(range(count)), None, read, Sampling(stop=stop))
        assert window.sent.text == "".join(pieces)
        return pieces

    def test_what_leaves_is_the_text_up_to_the_lookahead(self) -> None:
        assert self.slid("a", " b", " c", " d") == ["a", " b", " c"]
        assert self.slid("a", " b", " c", " d", lookahead=3) == ["a"]
        assert self.slid("a", " b", lookahead=2) == []

    def test_no_character_leaves_in_part(self) -> None:
        flower = "🌷".encode()
        parts = [flower[i : i + 1].decode("utf-8", "surrogateescape") for i in range(4)]
        assert self.slid("a", *parts, "b", "c") == ["a", "🌷", "b"]

    def test_no_part_of_a_stop_leaves(self) -> None:
        assert self.slid("a", "\n", "b", "c", stop=("\n\n",)) == ["a", "\nb"]
        assert self.slid("a", "E", "N", "d", "e", stop=("END",)) == ["a", "ENd"]

    def test_tokens_that_spell_nothing_wait(self) -> None:
        assert self.slid("a", "", "b", "c") == ["a", "b"]
        assert self.slid(" ", "\n", "b", "c") == [" \nb"]

    @pytest.mark.parametrize("rejection", [Rejection.FLAGGED, Rejection.UNSCORED])
    def test_a_rejection_closes_it(self, rejection: Rejection) -> None:
        pieces: list[str] = []
        window = Window(1, pieces.append)

        def read(tokens: Sequence[int]) -> Generation:
            return Generation("x" * len(tokens), tuple(tokens))

        window.judged(read((1, 2)), None, read, Sampling())
        window.judged(read((1, 2, 3)), rejection, read, Sampling())
        window.judged(read((1, 2, 3, 4)), None, read, Sampling())
        assert (pieces, window.open) == (["x"], False)

    def test_an_answer_that_begins_otherwise_closes_it(self) -> None:
        pieces: list[str] = []
        window = Window(1, pieces.append)
        for text, tokens in (("ab", (1, 2)), ("zbc", (9, 2, 3)), ("abcd", (1, 2, 3, 4))):
            window.judged(
                Generation(text, tokens),
                None,
                lambda some, text=text: Generation(text[: len(some)], tuple(some)),  # type: ignore[misc]
                Sampling(),
            )
        assert (pieces, window.open) == (["a"], False)


def answered(late: str = LATE, rest: str = REST) -> Callable[[EmbeddedPrompt, FloatArray], str]:
    """Answers plain prompts; of others the first answer turns late, and moved ones end well."""

    def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
        if "plain" in embedded.prompt.messages[-1].content:
            return PLAIN
        return late if np.array_equal(point, embedded.point) else rest

    return answer


def make(
    answer: Callable[[EmbeddedPrompt, FloatArray], str] | None = None,
    moderator: Any = None,
    confirm: Any = None,
    engine: Any = None,
    sampling: Sampling | None = None,
    gate: Sequence[Moderator] = (),
    specs: Sequence[dict[str, str]] = (),
    **changes: Any,
) -> Aligner:
    search = {"subspace_rank": None, "max_iterations": 2, **changes.pop("search", {})}
    given = {"release": "window", "lookahead": 10, "gate": specs, **changes}
    policy = Policy(name="window", optimizer=OptimizerSettings.of(**search), **given)
    panel = Panel(policy, moderator or FakeModerator(), confirm, gate)
    return Aligner(engine or FakeEngine(answer or answered()), panel, sampling=sampling)


def run(aligner: Aligner, prompt: str = "turn late please") -> tuple[list[str], Response]:
    pieces: list[str] = []
    search = aligner.open(prompt, release=pieces.append)
    while not search.done:
        advance([search])
    assert search.sent == "".join(pieces)
    return pieces, search.response()


def test_an_answer_that_passes_leaves_in_pieces_and_is_what_it_is_whole() -> None:
    pieces, response = run(make(), "plain please")
    whole = make(release="whole").align("plain please")
    assert len(pieces) > 2
    assert response.text == whole.text == PLAIN
    assert response.text.startswith("".join(pieces))
    assert response.sent_tokens == len("".join(pieces).split()) > 60
    assert (response.outcome, response.cost.generations) == (Outcome.PASSED, 1)
    assert whole.sent_tokens == 0


def test_who_asks_for_no_pieces_has_the_answer_whole() -> None:
    aligner = make()
    response = aligner.align("turn late please")
    assert response.text == REST
    assert response.sent_tokens == 0


def test_under_release_whole_nothing_leaves_before() -> None:
    pieces, response = run(make(release="whole"))
    assert pieces == []
    assert response.text == REST


@pytest.mark.parametrize("prompt", ["plain lock please", "turn late lock please"])
def test_what_a_gate_has_steered_leaves_whole(prompt: str) -> None:
    gate = [FakeModerator(words=("lock",), name="gate")]
    spec = [{"name": "gate", "kind": "fake", "action": "steer"}]
    aligner = make(gate=gate, specs=spec)
    pieces, response = run(aligner, prompt)
    assert pieces == []
    assert response.text == (PLAIN if "plain" in prompt else REST)
    assert len(run(aligner, "plain please")[0]) > 2


def test_what_was_sent_stays_and_an_acceptable_rest_follows() -> None:
    aligner = make()
    pieces, response = run(aligner)
    sent = "".join(pieces)
    assert 0 < len(sent.split()) <= 60
    assert response.outcome is Outcome.STEERED
    assert response.text == f"{sent} {REST}"
    first, *candidates = response.evaluations
    assert LATE.startswith(first.generation.text)
    for candidate in candidates:
        assert candidate.generation.text.startswith(sent)
    # What was sent is generated once.
    beginning = len(sent.split())
    assert response.cost.generated_tokens == sum(
        len(e.generation.token_ids) - (beginning if e is not first else 0)
        for e in response.evaluations
    )
    assert response.naturalness is not None
    assert response.naturalness == pytest.approx(rest_naturalness(aligner, response, beginning))


def rest_naturalness(aligner: Aligner, response: Response, beginning: int) -> float:
    """Of the rests alone, both behind what was sent."""
    embedded = aligner.engine.embed(Prompt.of("turn late please"))
    assert response.left is not None
    tokens = [response.evaluations[i].generation.token_ids for i in (response.left, 0)]
    own, first = aligner.engine.log_likelihood([(embedded, t) for t in tokens], [beginning] * 2)
    return own - first


def test_where_no_rest_is_acceptable_the_message_follows() -> None:
    aligner = make(answered(rest="and so I comply with it"), budget={"generations": 4})
    pieces, response = run(aligner)
    sent = "".join(pieces)
    assert sent
    assert response.outcome is Outcome.REFUSED
    assert response.stop_reason is StopReason.BUDGET
    assert response.text == f"{sent}{BEHIND}{aligner.policy.refusal_message}"
    assert (response.left, response.final) == (None, None)
    assert response.sent_tokens == len(sent.split())


def test_the_whole_answer_decides_whatever_its_parts_were() -> None:
    """A part that is flagged, not beyond doubt, holds back what follows and no more than that."""

    def scorer(exchange: Exchange) -> dict[str, float]:
        return {"illicit": 0.51 * (len(exchange.answer.split()) in (42, 58))}

    pieces, response = run(make(moderator=FakeModerator(scorer)), "plain please")
    assert len("".join(pieces).split()) == 16
    assert (response.outcome, response.text) == (Outcome.PASSED, PLAIN)


@pytest.mark.parametrize("refuses", ["unscored", "flags"])
def test_pieces_need_the_consent_of_those_that_confirm(refuses: str) -> None:
    def scorer(exchange: Exchange) -> Score | dict[str, float]:
        long = len(exchange.answer.split()) > 50
        if refuses == "unscored":
            return Score.unscored("silent") if long else {"illicit": 0.0}
        return {"illicit": float(long)}

    pieces, response = run(make(confirm=FakeModerator(scorer, name="second")), "plain please")
    assert len("".join(pieces).split()) <= 40
    assert response.outcome is not Outcome.PASSED


def test_guidance_goes_on_from_what_was_sent_and_only_the_rest_may_repeat_it() -> None:
    told = " ".join(WORDS[:12])

    def answer(embedded: EmbeddedPrompt, point: FloatArray) -> str:
        guided = len(embedded.prompt.messages) > 1
        return REST if guided else LATE

    pieces, response = run(make(answer, guidance=[told], naturalness_floor=-9.0))
    assert response.accepted_from == "fade"
    assert response.text == f"{''.join(pieces)} {REST}"
    assert told in response.text


def test_a_call_that_fails_half_way_goes_on_from_what_was_sent() -> None:
    class FailsOnce(FakeEngine):
        failed = False

        def generate_watched(self, requests: Any, sampling: Any, watch: Any) -> Any:
            def watched(places: Sequence[int], answers: Sequence[Generation]) -> Sequence[bool]:
                stops = watch(places, answers)
                if len(answers[0].token_ids) > 40 and not self.failed:
                    self.failed = True
                    raise RuntimeError("out of memory")
                return stops

            return super().generate_watched(requests, sampling, watched)

    engine = FailsOnce(answered())
    aligner = make(engine=engine)
    pieces: list[list[str]] = [[], []]
    searches = [
        aligner.open(f"plain please {i}", release=own.append) for i, own in enumerate(pieces)
    ]
    advance(searches)
    assert engine.failed
    for search, own in zip(searches, pieces, strict=True):
        assert search.response().text == PLAIN
        assert PLAIN.startswith("".join(own))


def test_an_engine_that_forgets_what_was_sent_is_found_out() -> None:
    class Forgets(FakeEngine):
        def generate(
            self, requests: Sequence[GenerationRequest], sampling: Sampling
        ) -> list[Generation]:
            made = super().generate(requests, sampling)
            if requests[0].beginning:
                return [Generation("Elsewhere.", (1, 2)) for _ in made]
            return made

    aligner = make(engine=Forgets(answered()))
    pieces, response = run(aligner)
    assert pieces
    assert response.outcome is Outcome.ERROR
    assert "did not go on" in (response.error or "")
    assert response.text == f"{''.join(pieces)}{BEHIND}{aligner.policy.error_message}"


def test_nothing_leaves_once_the_search_is_cancelled() -> None:
    aligner = make()
    pieces: list[str] = []
    search: Search

    def release(piece: str) -> None:
        pieces.append(piece)
        search.cancel()

    search = aligner.open("plain please", release=release)
    advance([search])
    assert len(pieces) == 1
    cut = search.cut()
    assert (cut.text, cut.outcome) == (pieces[0], Outcome.REFUSED)
    assert (cut.stop_reason, cut.final) == (StopReason.CANCELLED, None)


def test_what_a_callback_raises_is_ignored() -> None:
    def fails(piece: str) -> None:
        raise RuntimeError("gone")

    search = make().open("plain please", release=fails)
    advance([search])
    assert search.response().text == PLAIN
    assert search.sent


def test_reasoning_is_no_part_of_what_leaves() -> None:
    pieces, response = run(make(engine=FakeEngine(answered(), reasoning="they ask me")))
    sent = "".join(pieces)
    assert sent.startswith("w0 w1")
    assert response.text == f"{sent} {REST}"
    assert response.reasoning_tokens == 5


def test_a_real_tokenizer_and_a_model_that_says_anything() -> None:
    tokenizer = tiny.byte_level()
    engine = TransformersEngine(tiny.tiny_model("llama", len(tokenizer)), tokenizer)
    nothing = FakeModerator(words=())
    for temperature in (0.0, 1.0):
        sampling = Sampling(60, temperature, stop=("a",))
        aligner = make(engine=engine, moderator=nothing, sampling=sampling)
        whole = make(engine=engine, moderator=nothing, sampling=sampling, release="whole")
        for i in range(6):
            pieces, response = run(aligner, f"Tell me {i}")
            assert response.text.startswith("".join(pieces))
            first = whole.align(f"Tell me {i}").evaluations[0].generation
            assert response.evaluations[0].generation == first
            assert not any("\ufffd" in piece[-1:] for piece in pieces)


def test_policies_and_engines_that_it_does_not_go_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for changes, match in (
        ({"reasoning": "show"}, "needs reasoning: withhold"),
        ({"judge_reasoning": True}, "judge_reasoning: false"),
        ({"optimizer": "tide"}, "does not go with optimizer tide"),
        ({"lookahead": 0}, "lookahead"),
    ):
        with pytest.raises(PolicyError, match=match):
            Policy.parse({"name": "p", "release": "window", **changes})
    monkeypatch.delattr(FakeEngine, "read")
    with pytest.raises(PolicyError, match=r"cannot go on with an answer.*release: whole"):
        make()
    assert make(release="whole")


# --- the promise ---------------------------------------------------------------------------------


def test_every_piece_was_part_of_a_text_that_was_judged_unflagged_when_it_left() -> None:
    counts = attack(300)
    assert counts["broken"] == 0, counts
    assert counts["pieces"] > 100
    for outcome in ("passed", "steered", "refused", "error", "cut"):
        assert counts[f"{outcome}, after pieces"] > 0, outcome


def test_the_attack_finds_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = Window.judged

    def trusting(self: Window, so_far: Any, rejection: Any, read: Any, sampling: Any) -> None:
        judged(self, so_far, None, read, sampling)

    monkeypatch.setattr(module.Window, "judged", trusting)
    assert attack(60)["fault: a piece left unjudged"] > 0
