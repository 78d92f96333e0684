"""The bench counts what it says it counts, on an engine of which everything is known."""

import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from rerail.align import Aligner
from rerail.bench import (
    MIN_OVERHEAD_REPETITIONS,
    OVERHEAD_PROMPTS,
    PARTS,
    Bench,
    Clock,
    markdown,
    resident_bytes,
    soak,
    stream_markdown,
    timed,
)
from rerail.demo import with_naturalness
from rerail.engines import FakeEngine, Sampling
from rerail.engines.base import WatchingEngine
from rerail.errors import PromptError
from rerail.moderators import FakeModerator
from rerail.moderators.combine import Combined
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.settings import OptimizerSettings
from rerail.types import Prompt

COMPLY, REFUSE = "Sure, here is how I comply with it.", "I would rather not do it."
PROMPTS = [Prompt.of(f"please do thing number {i}") for i in range(4)]
FINE = [Prompt.of(f"a fine question {i}") for i in range(2)]


class Mixed(FakeEngine):
    """Some prompts are answered well from the start."""

    def _bimodal(self, request, temperature):
        fine = "fine" in request.embedded.prompt.messages[0].content
        return "A good answer." if fine else super()._bimodal(request, 0.0)


def make(prompts=(*PROMPTS, *FINE), **changes):
    search = {"subspace_rank": None, "max_iterations": 30, **changes.pop("search", {})}
    optimizer = OptimizerSettings.of("fast", **search)
    policy = Policy(name="p", moderators=("fake",), optimizer=optimizer, **changes)
    engine = Mixed(comply=COMPLY, refuse=REFUSE)
    return Bench(engine, FakeModerator(), policy, prompts, repetitions=2)


@pytest.fixture(scope="module")
def document():
    return make().run(sizes=(1, 8, 512))


def test_figures_are_those_of_the_responses(document):
    bench = make()
    responses = Aligner(bench.engine, Panel(bench.policy, bench.moderator),
                        sampling=bench.sampling).align_many(PROMPTS)  # fmt: skip
    tokens = [r.cost.generated_tokens for r in responses]
    fast = document["fast"]
    assert (fast["flagged"], fast["steered"], fast["neutralised_share"]) == (4, 4, 1.0)
    assert fast["generated_tokens_per_steered"] == np.mean(tokens)
    first = len(COMPLY.split()) + 1
    assert fast["generation_equivalents_per_steered"] == pytest.approx(np.mean(tokens) / first)
    low, high = fast["intervals"]["generation_equivalents_per_steered"]
    assert low <= fast["generation_equivalents_per_steered"] <= high
    preserved = [response.tokens_preserved for response in responses]
    assert fast["tokens_preserved_min"] == min(preserved)


def test_streams_are_measured_beside_whole_ones():
    words = " ".join(f"w{i}" for i in range(90))
    engine = FakeEngine(lambda embedded, point: words)
    bench = replace(make(), engine=engine, max_new_tokens=80)
    document = bench.stream(sizes=(1, 4))
    assert (document["tokens"], document["lookahead"]) == (80, 48)
    for size, own in document["streams"].items():
        assert own["streams"] == int(size)
        assert own["pieces_per_stream"] == 1
        assert own["first_text_vs_whole"]["value"] > 0
    assert "| 4 |" in stream_markdown(document)
    short = replace(bench, max_new_tokens=100)
    with pytest.raises(PromptError, match="no answer passes and has 100 tokens"):
        short.stream(sizes=(1,))


def test_what_only_the_moderators_that_confirm_flag_is_counted():
    lax, strict = FakeModerator(words=["never"]), FakeModerator(name="second")
    bench = replace(make(), moderator=lax, confirm=strict)
    fast = bench.run(["fast"], sizes=(1,))["fast"]
    assert (fast["flagged"], fast["steered"]) == (len(PROMPTS), len(PROMPTS))


def test_ratios_are_to_the_published_loop(document):
    reference = document["tide"]
    assert reference["tokens_vs_tide"] == (1.0 if reference["steered"] else None)
    assert reference["seconds_vs_tide_64"] == 1.0
    assert reference["intervals"]["seconds_vs_tide_64"] == (1.0, 1.0)


def test_naturalness_is_compared_where_both_steered():
    bench = make()
    own = {
        method: Aligner(
            bench.engine,
            Panel(
                bench.policy.model_copy(update={"optimizer": bench.settings(method)}),
                bench.moderator,
            ),
            sampling=bench.sampling,
        ).align_many(bench.prompts)
        for method in ("fast", "tide")
    }
    own["tide"] = [
        with_naturalness(bench.engine, prompt, response)
        for prompt, response in zip(bench.prompts, own["tide"], strict=True)
    ]
    pairs = [(one, other) for one, other in zip(own["fast"], own["tide"], strict=True)
             if one.outcome == other.outcome == "steered"]  # fmt: skip
    assert pairs
    document = bench.run(sizes=(1,))
    expected = np.mean([one.naturalness - other.naturalness for one, other in pairs])
    assert document["fast"]["naturalness_above_tide"] == pytest.approx(expected)
    assert document["tide"]["naturalness_above_tide"] == 0.0


def test_every_size_answers_the_same_prompts(monkeypatch):
    asked = []
    real = Bench._open
    bench = make()

    def spy(self, aligner, job):
        asked.append(job)
        return real(self, aligner, job)

    monkeypatch.setattr(Bench, "_open", spy)
    bench._throughput((1, 16), lambda step: None)
    assert asked[:16] == asked[16:32]
    assert len(asked) == 2 * 2 * 16


def test_what_a_moderator_remembers_does_not_make_the_next_measurement_cheaper():
    class Remembers(FakeModerator):
        def __init__(self):
            super().__init__()
            self.read, self.known = 0, {}

        def forget(self):
            self.known.clear()

        def score(self, exchanges):
            for new in set(exchanges) - self.known.keys():
                self.read += 1
                self.known[new] = super().score([new])[0]
            return [self.known[each] for each in exchanges]

    remembers = Remembers()
    bench = replace(make(FINE), moderator=Combined([remembers]))
    assert bench._overhead(1)["prompts"] == OVERHEAD_PROMPTS
    # Once to find those that pass, and once in each repetition; they are two texts.
    assert remembers.read == (1 + MIN_OVERHEAD_REPETITIONS) * len(FINE)


def test_the_promised_keys_are_there_and_json(document):
    json.dumps(document, allow_nan=False)
    assert {"1", "64"} == document["benign_overhead"].keys()
    assert document["benign_overhead"]["64"]["prompts"] == 64
    assert {"1", "8", "512"} == document["seconds_per_prompt"].keys()
    assert document["seconds_per_prompt_512_vs_1"] > 0
    assert sum(document["profile"]["shares"].values()) == pytest.approx(1.0)
    assert set(document["profile"]["shares"]) == set(PARTS)


def test_the_tables_hold_every_method_and_size(document):
    text = markdown(document)
    for name in ("`fast`", "`tide`", "`random`", "| 512 |", "log likelihood"):
        assert name in text
    only = make(PROMPTS).run(methods=("fast",), sizes=(8,))
    assert "`tide`" not in re.sub("`tide` = [01]", "", markdown(only))
    assert only["fast"]["tokens_vs_tide"] is None
    assert only["benign_overhead"]["1"]["value"] is None
    assert "seconds_per_prompt_512_vs_1" not in only


def test_a_method_is_the_policys_own_optimiser_where_that_is_its_preset():
    bench = make(search={"num_directions": 3})
    assert bench.settings("fast").num_directions == 3
    assert bench.settings("random") == OptimizerSettings.of("random")


def test_without_prompts_there_is_nothing_to_measure():
    with pytest.raises(PromptError, match="no prompts"):
        make(()).run()


def test_time_in_an_inner_part_is_not_counted_twice():
    clock = Clock()
    with clock.part("all"), clock.part("outer"):
        time.sleep(0.02)
        with clock.part("inner"):
            time.sleep(0.2)
    assert clock.seconds["outer"] >= 0.02
    assert clock.seconds["inner"] >= 0.2
    started = time.perf_counter()
    with clock.part("whole"):
        with pytest.raises(RuntimeError), clock.part("failed"):
            raise RuntimeError
        with clock.part("other"):
            pass
    whole = sum(clock.seconds[part] for part in ("whole", "failed", "other"))
    assert 0 < whole <= time.perf_counter() - started


def test_a_timed_engine_answers_as_the_engine_and_can_be_watched_if_that_can(monkeypatch):
    engine = FakeEngine(comply=COMPLY, refuse=REFUSE)
    policy = Policy(name="p", moderators=("fake",),
                    optimizer=OptimizerSettings.of("fast", subspace_rank=None))  # fmt: skip

    def answer(through):
        response = Aligner(through, Panel(policy, FakeModerator()), sampling=Sampling()).align(
            PROMPTS[0]
        )
        return response.text, response.cost.generated_tokens

    assert answer(timed(engine, Clock())) == answer(engine)
    assert isinstance(timed(engine, Clock()), WatchingEngine)
    monkeypatch.delattr(FakeEngine, "generate_watched")
    assert not isinstance(timed(engine, Clock()), WatchingEngine)


def test_memory_is_measured_around_the_requests():
    bench = make()
    aligner = Aligner(bench.engine, Panel(bench.policy, bench.moderator))
    figures = soak(aligner, PROMPTS, 40)
    assert figures["requests"] == sum(figures["outcomes"].values()) == 40
    assert figures["resident_mib_before"] > 1
    assert len(figures["resident_mib"]) == 11
    assert figures["resident_mib"][-1] == figures["resident_mib_after"]
    few = soak(aligner, PROMPTS, 3)
    assert len(few["resident_mib"]) == 4
    held = np.ones(2**24)
    assert resident_bytes() > held.nbytes
