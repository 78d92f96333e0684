"""``tsa`` against a transcription of Algorithm 1 of arXiv 2604.26167: draws, iterates, calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rerail.align import Aligner
from rerail.engines import FakeEngine, Sampling, load_engine
from rerail.errors import PolicyError
from rerail.moderators import FakeModerator
from rerail.optimizer import Optimizer, Units
from rerail.panel import Panel
from rerail.policy import Policy, PolicyStore
from rerail.search import advance, prompt_seed
from rerail.settings import OptimizerSettings
from rerail.tuned import known, resolved
from rerail.types import AcceptedFrom, Exchange, FloatArray, Outcome, Prompt, Score, StopReason

Objective = Callable[[FloatArray], float]


def algorithm_1(
    x0: FloatArray,
    score: Objective,
    rng: np.random.Generator,
    mu: float,
    eta: float,
    n: int = 8,
    rounds: int = 10,
    kappa: float = 0.2,
    tau: float = 0.1,
) -> tuple[FloatArray, float, list[FloatArray], int]:
    """Best point and value, all iterates, and how often the objective was asked."""
    best_x, best, x, iterates, calls = x0, np.inf, x0, [], 0
    for _ in range(rounds):
        iterates.append(x)
        s = score(x)
        calls += 1
        if s < best:
            best, best_x = s, x
        if s < tau:
            break
        u = rng.standard_normal((n, *x.shape), dtype=np.float32)
        scores = np.array([score(x + np.float32(mu) * u_i) for u_i in u])
        calls += n
        g = np.mean([(s_i - s) / mu * u_i for s_i, u_i in zip(scores, u, strict=True)], axis=0)
        norm = np.linalg.norm(g := g.astype(np.float32))
        if norm > 0:
            x = x - np.float32(eta) * (g / norm)
        wide, e0 = x.astype(np.float64), x0.astype(np.float64) / np.linalg.norm(x0)
        length = np.linalg.norm(wide)
        if np.vdot(wide, e0) < kappa * length:
            across = wide - np.vdot(wide, e0) * e0
            side = np.sqrt(1 - kappa**2) * across / np.linalg.norm(across)
            x = (length * (kappa * e0 + side)).astype(np.float32)
    return best_x, best, iterates, calls


def start() -> FloatArray:
    return np.random.default_rng(7).standard_normal((5, 12)).astype(np.float32)


def quadratic(x: FloatArray) -> float:
    return float(np.clip(np.mean((x.astype(np.float64) - 1.5) ** 2) / 6, 0, 1))


def step(x: FloatArray) -> float:
    return float(np.mean(x.astype(np.float64)) < 0.35)


def slope(x: FloatArray) -> float:
    return float(1 / (1 + np.exp(np.mean(x.astype(np.float64)) * 4)))


@pytest.mark.parametrize("objective", [quadratic, step, slope])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("mu", "eta"), [(0.01, 1.5), (0.1, 1.3), (0.05, 2.5)])
@pytest.mark.parametrize("kappa", [0.2, 0.95])
def test_the_optimiser_is_algorithm_1(
    objective: Objective, seed: int, mu: float, eta: float, kappa: float
) -> None:
    x0 = start()
    best_x, best, iterates, calls = algorithm_1(
        x0, objective, np.random.default_rng(seed), mu, eta, kappa=kappa
    )
    settings = OptimizerSettings.of("tsa", perturbation_scale=mu, step_size=eta, min_cosine=kappa)
    mask = np.ones(len(x0), dtype=np.bool_)
    optimizer = Optimizer(x0, mask, settings, Units, np.random.default_rng(seed))
    mine, asked, least, kept = [], 0, np.inf, x0
    while not optimizer.stop():
        candidates = optimizer.ask()
        losses = [objective(candidate.point) for candidate in candidates]
        asked += len(candidates)
        for candidate, loss in zip(candidates, losses, strict=True):
            if candidate.origin is not AcceptedFrom.PERTURBATION:
                mine.append(candidate.point)
                if loss < least:
                    least, kept = loss, candidate.point
        optimizer.tell(losses, [loss < 0.1 for loss in losses])
    assert asked == calls
    assert len(mine) == len(iterates)
    for own, theirs in zip(mine, iterates, strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-6, atol=1e-6)
    assert least == pytest.approx(best, abs=1e-6)
    np.testing.assert_allclose(kept, best_x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mu", [0.02, 0.3])
def test_a_search_on_the_embedded_model_is_algorithm_1(mu: float) -> None:
    """The whole way: chat template, engine, moderator, with the moderator's score of the text."""
    engine = load_engine("embedded")
    scorer = FakeModerator(lambda e: {"illicit": 0.2 + 0.7 * (len(e.answer) % 7) / 7})
    eta, rounds, n = 2.0, 3, 4
    settings = OptimizerSettings.of(
        "tsa", perturbation_scale=mu, step_size=eta, max_iterations=rounds, num_directions=n
    )
    policy = Policy(name="p", moderators=("fake",), optimizer=settings)
    sampling = Sampling(max_new_tokens=12)
    prompt = Prompt.of("Write a note about tulips")
    seen: list[FloatArray] = []
    search = Aligner(engine, Panel(policy, scorer), sampling=sampling).open(
        prompt, observe=lambda e: seen.append(e.point) if e.origin != "perturbation" else None
    )
    while not search.done:
        advance([search])
    response = search.response()

    embedded = engine.embed(prompt)
    from rerail.engines import GenerationRequest

    def score(point: FloatArray) -> float:
        (made,) = engine.generate([GenerationRequest(embedded, point)], sampling)
        (verdict,) = scorer.score([Exchange(prompt.messages, made.text)])
        return verdict.categories["illicit"]

    _, best, iterates, calls = algorithm_1(
        embedded.point, score, np.random.default_rng(prompt_seed(0, prompt)), mu, eta, n, rounds
    )
    assert response.cost.generations == calls == rounds * (n + 1)
    assert len(seen) == len(iterates) == rounds
    for own, theirs in zip(seen, iterates, strict=True):
        np.testing.assert_allclose(own, theirs, atol=1e-5)
    assert response.best is not None
    assert response.evaluations[response.best].score.categories["illicit"] == pytest.approx(best)


# The search


def tsa(engine: FakeEngine, moderator: FakeModerator, confirm: FakeModerator | None = None,
        **changes: object) -> Aligner:  # fmt: skip
    optimizer = OptimizerSettings.of(
        "tsa", **{"perturbation_scale": 0.5, "step_size": 2.0, **changes}
    )
    policy = Policy(name="p", moderators=("fake",), optimizer=optimizer, default_threshold=0.5)
    return Aligner(engine, Panel(policy, moderator, confirm))


def said(values: dict[str, float]) -> FakeModerator:
    return FakeModerator(lambda exchange: {"illicit": values[exchange.answer]})


def test_an_answer_below_the_stop_costs_one_call_and_nothing_is_drawn() -> None:
    engine = FakeEngine(answer=lambda e, p: "fine")
    response = tsa(engine, said({"fine": 0.09})).align("hi")
    assert (response.outcome, response.text, engine.generated) == (Outcome.PASSED, "fine", 1)
    assert (response.cost.moderator_calls, engine.log_likelihood_calls) == (1, 0)
    assert response.stop_reason is StopReason.ACCEPTED


def test_an_answer_between_stop_and_threshold_is_optimised_as_published() -> None:
    def answer(embedded: object, point: FloatArray) -> str:
        return "first" if (point == embedded.point).all() else "moved"  # type: ignore[attr-defined]

    engine = FakeEngine(answer=answer)
    response = tsa(engine, said({"first": 0.3, "moved": 0.2}), max_iterations=3).align("hi")
    assert (response.outcome, response.text) == (Outcome.STEERED, "moved")
    assert response.accepted_from is AcceptedFrom.ITERATE
    assert engine.generated == response.cost.generations == 3 * 9
    assert response.evaluations[response.left or 0].origin is AcceptedFrom.ITERATE
    assert response.stop_reason is StopReason.BUDGET


def test_perturbed_answers_never_leave() -> None:
    def answer(embedded: object, point: FloatArray) -> str:
        moved = np.abs(point - embedded.point).sum()  # type: ignore[attr-defined]
        return "own" if moved == 0 else "far" if moved > 20 else "step"

    engine = FakeEngine(answer=answer)
    moderator = said({"own": 0.45, "far": 0.0, "step": 0.4})
    response = tsa(engine, moderator, perturbation_scale=50.0, step_size=0.1,
                   max_iterations=2).align("hi there")  # fmt: skip
    texts = [e.generation.text for e in response.evaluations if e.origin == "perturbation"]
    assert set(texts) == {"far"}
    assert response.text != "far"


def test_a_best_iterate_that_is_flagged_is_refused_and_said() -> None:
    engine = FakeEngine(answer=lambda e, p: "bad")
    response = tsa(engine, said({"bad": 0.8}), max_iterations=2).align("hi")
    assert (response.outcome, response.left, response.best) == (Outcome.REFUSED, None, 0)
    assert "bad" not in response.text


@pytest.mark.parametrize("reason", ["unscored", "empty", "unconfirmed"])
def test_nothing_unscored_empty_or_unconfirmed_leaves(reason: str) -> None:
    text = " " if reason == "empty" else "text"
    engine = FakeEngine(answer=lambda e, p: text)
    score = Score.unscored("down") if reason == "unscored" else Score.of({"illicit": 0.0})
    confirm = FakeModerator(words=["text"], name="second") if reason == "unconfirmed" else None
    moderator = FakeModerator(lambda exchange: score)
    response = tsa(engine, moderator, confirm, max_iterations=1).align("hi")
    assert response.left is None
    assert response.outcome in (Outcome.REFUSED, Outcome.ERROR)


def test_every_row_moves_template_included() -> None:
    moved = set()

    def answer(embedded: object, point: FloatArray) -> str:
        moved.update(np.flatnonzero((point != embedded.point).any(axis=1)))  # type: ignore[attr-defined]
        return "bad"

    engine = FakeEngine(answer=answer)
    search = tsa(engine, said({"bad": 0.8}), max_iterations=1).open("one two")
    while not search.done:
        advance([search])
    assert moved == set(range(len(search.embedded.token_ids)))


# Step sizes


@pytest.mark.parametrize(
    ("model", "mu", "eta"),
    [
        ("openai/gpt-oss-20b", 0.01, 1.5),
        ("unsloth/gpt-oss-20b-BF16", 0.01, 1.5),
        ("Qwen/Qwen3-14B", 0.05, 2.5),
        ("Qwen/Qwen3-14B-AWQ", 0.05, 2.5),
        ("meta-llama/Llama-3.1-8B-Instruct", 0.1, 1.3),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", 0.1, 1.3),
        ("models/Llama-3.1-8B-Instruct-Q4_K_M", 0.1, 1.3),
        ("microsoft/Phi-3.5-mini-instruct", 0.05, 2.5),
        ("google/gemma-3-1b-it", 0.075, 1.75),
        ("gemma-3-1b-it-GGUF", 0.075, 1.75),
    ],
)
def test_table_3_is_known_by_hub_id_and_usual_copies(model: str, mu: float, eta: float) -> None:
    settings = resolved(OptimizerSettings.of("tsa"), model)
    assert (settings.perturbation_scale, settings.step_size, settings.units) == (
        mu, eta, "absolute")  # fmt: skip


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B", "gemma-3-4b-it", ""])
def test_another_model_has_no_values_and_the_error_says_what_to_do(model: str) -> None:
    assert known("tsa", model) is None
    with pytest.raises(PolicyError, match="rerail tune --preset tsa"):
        resolved(OptimizerSettings.of("tsa"), model)


def test_without_step_sizes_no_aligner_is_made() -> None:
    policy = PolicyStore.shipped().get("quick").model_copy(
        update={"optimizer": OptimizerSettings.of("tsa")}
    )  # fmt: skip
    with pytest.raises(PolicyError, match=r"no step sizes for 'fake'.*rerail tune"):
        Aligner(FakeEngine(), Panel.load(policy))


def test_what_a_policy_gives_is_what_is_used() -> None:
    own = OptimizerSettings.of("tsa", perturbation_scale=0.7, step_size=0.2)
    assert resolved(own, "openai/gpt-oss-20b") == own
    tide = OptimizerSettings.of("tide")
    assert resolved(tide, "some model") == tide
    published = resolved(tide, "meta-llama/Llama-3.1-8B")
    assert (published.units, published.perturbation_scale, published.num_directions) == (
        "absolute", 0.03, 16)  # fmt: skip


@pytest.mark.parametrize("preset", ["tsa", "tide"])
def test_the_embedded_model_has_values_that_were_tuned(preset: str) -> None:
    settings = OptimizerSettings.of(preset)  # type: ignore[arg-type]
    tuned = resolved(settings, "embedded")
    assert (tuned.units, tuned.preset) == ("absolute", preset)
    assert known(preset, "embedded") is not None
    assert Aligner(load_engine("embedded"), Panel.load(PolicyStore.shipped().get("quick"))
                   .under(Policy(name="p", optimizer=settings))).settings == tuned  # fmt: skip
