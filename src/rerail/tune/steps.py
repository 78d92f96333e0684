"""The grid run on a model: every scheduled pair of a setting and a prompt is one search.

    tuner = Tuner(engine, panel, prompts, grid(settings, engine.table))
    found = tuner.run()
    found.best  # None: nothing was better than no steering

Searches of all settings are advanced together. A search depends on its seed alone, so the order
does not matter, and a run that was killed and is given its trials back finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from rerail.align import Aligner
from rerail.engines.base import (
    EmbeddedPrompt,
    EmbeddingTable,
    Engine,
    GenerationRequest,
    Sampling,
    Watch,
    WatchingEngine,
)
from rerail.errors import EngineError, ModeratorError, PromptError
from rerail.optimizer import FADES
from rerail.panel import Panel
from rerail.search import Search, advance, worst_score
from rerail.tune.first import Counting, first_answers, quiet, raise_failure
from rerail.tune.grid import (
    Objective,
    Round,
    Row,
    Setting,
    Trial,
    applied,
    counting_prompts,
    default_objective,
    helps,
    ranked,
    row,
    schedule,
    total,
)
from rerail.types import AcceptedFrom, Generation, Prompt, PromptLike, Response, StopReason

Pair = tuple[Setting, int]
"""A setting and the place of a prompt."""


@dataclass(frozen=True)
class Found:
    """What a grid came to.

    Attributes:
        rows: of every setting, in the order of the grid, each over the prompts it was tried on.
        unsteered: no steering, over all prompts that count.
        best: of the settings tried on all of those; None if it is no better than no steering.
        rounds: the schedule.
    """

    rows: tuple[Row, ...]
    unsteered: Row
    best: Row | None
    rounds: tuple[Round, ...]


class Tuner:
    """Finds μ and η for the policy's optimiser on a model.

    Args:
        engine: the model.
        panel: judges, under a policy whose optimiser is tuned.
        prompts: tuning prompts.
        settings: the grid.
        objective: what is best; by default that of the optimiser.
        sampling: of the answers; greedy by default.
        seed: of all searches, and of the order of the prompts.
        max_open: searches that are advanced together.
        known: trials of an earlier run under the same settings.
        keep: is given every new trial.
    """

    def __init__(
        self,
        engine: Engine,
        panel: Panel,
        prompts: Iterable[PromptLike],
        settings: Sequence[Setting],
        *,
        objective: Objective | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        max_open: int = 64,
        known: Iterable[Trial] = (),
        keep: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self._policy = panel.policy
        self._base = panel.policy.optimizer
        self._objective = objective or default_objective(self._base)
        self._prompts = [Prompt.of(prompt) for prompt in prompts]
        self._settings = tuple(settings)
        self._max_open = max_open
        self._seed = seed
        self._trials = {(trial.setting, trial.prompt): trial for trial in known}
        self._keep = keep
        shared = _shared(engine)
        self._aligners = {
            setting: Aligner(
                shared,
                panel.under(
                    self._policy.model_copy(
                        update={"release": "whole", "optimizer": applied(self._base, setting)}
                    )
                ),
                sampling=sampling,
                seed=seed,
                max_open=max_open,
            )
            for setting in self._settings
        }

    def run(self, counting: Counting = quiet) -> Found:
        """Try what is not known yet.

        Raises:
            PromptError: a prompt is empty, malformed or too long, or there is nothing to steer.
            ModeratorError: an answer could not be judged.
            EngineError: an answer could not be had.
        """
        places = self._counting_prompts(counting)
        rounds = schedule(len(self._settings), len(places))
        left = list(self._settings)
        left_to_try = total(rounds) - sum(setting is not None for setting, _ in self._trials)
        with counting("answers of settings", left_to_try * self._most) as advanced:
            for number, (count, prompts) in enumerate(rounds, 1):
                left, asked = left[:count], places[:prompts]
                said = f"round {number} of {len(rounds)}, {count} settings on {prompts} prompts"
                pairs = [(setting, place) for place in asked for setting in left]
                self._try(pairs, partial(advanced, said))
                # By the prompts of this round alone: a run that goes on knows of later ones.
                left = self._ranked(left, asked)
        rows = tuple(self._row(setting, places) for setting in self._settings)
        unsteered = self._row(None, places)
        best = self._row(left[0], places)
        better = best if helps(best, unsteered, self._objective) else None
        return Found(rows, unsteered, better, rounds)

    def _counting_prompts(self, counting: Counting) -> list[int]:
        """Places of the prompts that count, in an order drawn by the seed."""
        wanted = [p for p in range(len(self._prompts)) if (None, p) not in self._trials]
        aligner = next(iter(self._aligners.values()))
        prompts = [self._prompts[place] for place in wanted]
        searches = first_answers(aligner, prompts, counting)
        raise_failure(searches)
        for place, search in zip(wanted, searches, strict=True):
            first = search.evaluations[0]
            score, tokens = worst_score(first), len(first.generation.token_ids)
            self._add(Trial(None, place, first.flagged, score, False, 1, tokens))
        firsts = [self._trials[None, place] for place in range(len(self._prompts))]
        places = counting_prompts(firsts, self._base, self._objective)
        if not places:
            raise PromptError(
                "no first answer is flagged: give prompts that the model complies with"
            )
        np.random.default_rng(self._seed).shuffle(places)
        return places

    @property
    def _most(self) -> int:
        """Answers that one search takes at most."""
        base, limit = self._base, self._policy.budget.generations
        directions = base.num_directions * (2 if base.estimator == "antithetic" else 1)
        offsets = sum(map(len, self._policy.offsets.values())) if base.use_offsets else 0
        fades = len(FADES) if base.use_fades else 0
        most = 1 + offsets + fades + base.max_iterations * (directions + 1)
        return most if limit is None else min(most, limit)

    def _try(self, pairs: Iterable[Pair], advanced: Callable[[int], None]) -> None:
        """Search for every pair that is not known, at most ``max_open`` at a time.

        Told is of answers, a search that ends counting as all that it could have taken: searches
        that are advanced together end together.
        """
        waiting = (pair for pair in pairs if pair not in self._trials)
        searches: dict[Pair, Search] = {}
        while True:
            while len(searches) < self._max_open and (pair := next(waiting, None)):
                setting, place = pair
                searches[pair] = self._aligners[setting].open(self._prompts[place])
            if not searches:
                return
            before = sum(search.cost.generations for search in searches.values())
            advance(list(searches.values()))
            answers = sum(search.cost.generations for search in searches.values()) - before
            for pair in [pair for pair, search in searches.items() if search.done]:
                search = searches.pop(pair)
                self._add(self._trial(pair, search.response()))
                answers += self._most - search.cost.generations
            advanced(answers)

    def _trial(self, pair: Pair, response: Response) -> Trial:
        if response.stop_reason is StopReason.MODERATOR_ERROR:
            raise ModeratorError(f"an answer could not be judged: {response.error}")
        if response.stop_reason is StopReason.ENGINE_ERROR:
            raise EngineError(f"an answer could not be had: {response.error}")
        perturbed = self._base.accept_perturbations
        scores = [
            worst_score(evaluation)
            for evaluation in response.evaluations
            if perturbed or evaluation.origin is not AcceptedFrom.PERTURBATION
        ]
        cost = response.cost
        return Trial(
            *pair,
            response.flagged,
            min(scores),
            response.neutralised,
            cost.generations,
            cost.generated_tokens,
        )

    def _add(self, trial: Trial) -> None:
        self._keep(trial)
        self._trials[trial.setting, trial.prompt] = trial

    def _row(self, setting: Setting | None, places: Sequence[int]) -> Row:
        there = (self._trials.get((setting, place)) for place in places)
        return row([trial for trial in there if trial is not None])

    def _ranked(self, settings: Sequence[Setting], places: Sequence[int]) -> list[Setting]:
        """Best first; of equals the one that comes first in the grid."""
        in_order = sorted(settings, key=self._settings.index)
        rows = ranked([self._row(setting, places) for setting in in_order], self._objective)
        return [one.setting for one in rows if one.setting is not None]


def trial_line(trial: Trial) -> dict[str, Any]:
    """The JSON form of a trial; null is an infinite score."""
    return {**asdict(trial), "score": trial.score if math.isfinite(trial.score) else None}


def trial_of(line: Mapping[str, Any]) -> Trial:
    """The trial of its JSON form."""
    setting, score = line["setting"], line["score"]
    typed = {
        "setting": None if setting is None else Setting(*setting),
        "score": math.inf if score is None else score,
    }
    return Trial(**{**line, **typed})


class _Shared:
    """An engine that answers an unmoved prompt once, however many settings begin there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[Prompt, int, Sampling], Generation] = {}

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def table(self) -> EmbeddingTable:
        return self._engine.table

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        return self._engine.embed(prompt)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        wanted = self._wanted(requests, sampling)
        given = self._engine.generate([requests[i] for i in wanted], sampling) if wanted else []
        return self._all(requests, sampling, dict(zip(wanted, given, strict=True)))

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        return self._engine.log_likelihood(requests, given)

    def weights_sha256(self) -> str:
        return self._engine.weights_sha256()

    def _wanted(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[int]:
        """Places of the requests that have to be answered."""
        wanted: list[int] = []
        seen = set(self._known)
        for place, request in enumerate(requests):
            key = _key(request, sampling)
            if key is None or key not in seen:
                wanted.append(place)
            if key is not None:
                seen.add(key)
        return wanted

    def _all(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        given: Mapping[int, Generation],
    ) -> list[Generation]:
        """Answers to all requests, of which some were given just now."""
        for place, generation in given.items():
            if (key := _key(requests[place], sampling)) is not None:
                self._known[key] = generation
        found = []
        for place, request in enumerate(requests):
            key = _key(request, sampling)
            found.append(given[place] if key is None else self._known[key])
        return found


class _SharedWatching(_Shared):
    """The same for an engine that can be watched."""

    def __init__(self, engine: WatchingEngine) -> None:
        super().__init__(engine)
        self._watching = engine

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        wanted = self._wanted(requests, sampling)

        def watched(places: Sequence[int], answers: Sequence[Generation]) -> Sequence[bool]:
            return watch([wanted[place] for place in places], answers)

        asked = [requests[i] for i in wanted]
        given = self._watching.generate_watched(asked, sampling, watched) if wanted else []
        return self._all(requests, sampling, dict(zip(wanted, given, strict=True)))


def _shared(engine: Engine) -> _Shared:
    return _SharedWatching(engine) if isinstance(engine, WatchingEngine) else _Shared(engine)


def _key(request: GenerationRequest, sampling: Sampling) -> tuple[Prompt, int, Sampling] | None:
    """What an answer that is never cut, from an unmoved prompt, depends on; None for others."""
    if request.point is not request.embedded.point or request.horizon is not None:
        return None
    return request.embedded.prompt, request.seed, sampling
