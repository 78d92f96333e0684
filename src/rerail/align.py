"""The main job: steer prompts until the model itself gives an acceptable answer.

aligner = Aligner(engine, Panel.load(policy))
response = aligner.align("How do I ...?")
for index, response in aligner.align_iter(prompts):
...  # many prompts in lock-step, each as soon as it is finished
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from rerail.engines.base import EmbeddingTable, Engine, Sampling, abilities, can_continue
from rerail.errors import EngineError, PolicyError, PromptError, RerailError
from rerail.optimizer import Units
from rerail.panel import Panel
from rerail.policy import Offsets, Policy
from rerail.search import Observer, Search, advance
from rerail.tuned import resolved
from rerail.types import (
    AcceptedFrom,
    Cost,
    FloatArray,
    Outcome,
    Prompt,
    PromptLike,
    Response,
    StopReason,
)
from rerail.window import Release


class Aligner:
    """Answers prompts under a policy.

    Args:
        engine: runs the model.
        panel: judges answers, under a policy that says what is harmful, what may move, and what
            it may cost.
        sampling: how answers are drawn; greedy by default.
        seed: of all searches, together with the prompt's own content.
        max_open: prompts that are steered in lock-step.

    Raises:
        PolicyError: the policy's offsets do not fit the model, no step sizes are known for it, or
            the policy needs what the engine cannot do: ``release: window`` that it goes on with an
            answer that has begun.
        ValueError: ``max_open`` is below 1.
    """

    def __init__(
        self,
        engine: Engine,
        panel: Panel,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        max_open: int = 64,
    ) -> None:
        if max_open < 1:
            raise ValueError(f"max_open is {max_open}: at least one prompt must be open")
        self.engine = engine
        self.panel = panel
        self.policy = panel.policy
        most = panel.policy.max_reasoning_tokens
        self.sampling = replace(sampling or Sampling(), max_reasoning_tokens=most)
        self.seed = seed
        self.max_open = max_open
        # What does not fit the model is found now, not by the first prompt.
        self.settings = resolved(panel.policy.optimizer, engine.name)
        if lacking := lacks(engine, panel.policy):
            raise PolicyError(lacking)
        self._known_offsets()

    def open(
        self,
        prompt: PromptLike,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        generations: int | None = None,
        observe: Observer | None = None,
        release: Release | None = None,
    ) -> Search:
        """Begin the search for an answer to one prompt; `advance` takes it further.

        Args:
            prompt: what is to be answered.
            sampling: how answers are drawn; the aligner's by default.
            seed: the aligner's by default.
            seconds: from now on at most. The policy's own limit holds, too.
            generations: at most. The policy's own limit holds, too.
            observe: is given each evaluation, with its point, when the search is told of it.
                What it raises is ignored.
            release: is given pieces of the answer while the rest of it is on its way, if the
                policy says ``release: window``; they are the beginning of the response's text.
                What it raises is ignored.

        Raises:
            PolicyError: the policy's offsets do not fit the model.
            PromptError: the prompt is empty, malformed or too long.
            EngineError: the engine cannot embed it.
        """
        self._known_offsets()  # refused before anything is spent, if they do not fit
        return Search(
            self.engine,
            self.panel,
            Prompt.of(prompt),
            self.settings,
            lambda: self.units,
            sampling=sampling or self.sampling,
            seed=self.seed if seed is None else seed,
            seconds=seconds,
            generations=generations,
            observe=observe,
            release=release,
        )

    def align(self, prompt: PromptLike) -> Response:
        """Answer one prompt.

        Raises:
            PromptError: the prompt is empty, malformed or too long.
            EngineError: the engine cannot embed it.
        """
        search = self.open(prompt)
        while not search.done:
            advance([search])
        return search.response()

    def align_many(self, prompts: Iterable[PromptLike]) -> list[Response]:
        """Answer many prompts in lock-step; responses in the order of the prompts.

        A prompt that is empty, malformed or too long has outcome ``error``.
        """
        return [response for _, response in sorted(self.align_iter(prompts), key=lambda r: r[0])]

    def align_iter(self, prompts: Iterable[PromptLike]) -> Iterator[tuple[int, Response]]:
        """Answer many prompts in lock-step, each with its index as soon as it is finished.

        At most ``max_open`` prompts are open; as one ends, the next is read.
        """
        waiting = enumerate(prompts)
        searches: dict[int, Search] = {}
        more = True
        while more or searches:
            while more and len(searches) < self.max_open:
                try:
                    index, prompt = next(waiting)
                except StopIteration:
                    more = False
                    break
                try:
                    searches[index] = self.open(prompt)
                except (PromptError, EngineError) as error:
                    yield index, self._rejected(error)
            advance(list(searches.values()))
            for index in [i for i, search in searches.items() if search.done]:
                yield index, searches.pop(index).response()

    @cached_property
    def units(self) -> Units:
        """The table's lengths, its leading directions (all, if it has too few), known offsets."""
        if "moves" not in abilities(self.engine):
            return Units()
        table, rank = self.engine.table, self.settings.subspace_rank
        basis = None if rank is None else table.principal_directions(min(rank, _width(table)))
        offsets = [offset(table, coordinates) for coordinates in self._known_offsets()]
        if self.settings.units == "absolute":
            return Units(1.0, 1.0, basis, offsets)
        return Units(table.rms, table.mean_row_norm, basis, offsets)

    def _known_offsets(self) -> Offsets:
        """The policy's offsets for this model, if its search uses them.

        Raises:
            PolicyError: they do not fit the model.
        """
        settings, name = self.settings, self.engine.name
        used = settings.use_offsets and "moves" in abilities(self.engine)
        known = self.policy.offsets.get(name, ()) if used else ()
        if known and max(map(len, known)) > (width := _width(self.engine.table)):
            raise PolicyError(
                f"policy {self.policy.name!r} has offsets for {name!r} with more than {width} "
                "coordinates: find new ones with rerail tune --what offsets"
            )
        return known

    def _rejected(self, error: RerailError) -> Response:
        """The response to a prompt that could not be opened."""
        prompt = isinstance(error, PromptError)
        return Response(
            outcome=Outcome.ERROR,
            text=self.policy.error_message,
            policy=self.policy.tag,
            initial=None,
            final=None,
            cost=Cost(),
            iterations=0,
            accepted_from=AcceptedFrom.NONE,
            naturalness=None,
            cosine=None,
            tokens_preserved=None,
            stop_reason=StopReason.PROMPT_ERROR if prompt else StopReason.ENGINE_ERROR,
            seed=self.seed,
            model=self.engine.name,
            error=str(error),
        )


def lacks(engine: Engine, policy: Policy) -> str | None:
    """What a policy needs and an engine cannot do, with what to write instead; None: nothing."""
    needs = {
        "moves": (
            policy.optimizer.moves,
            "its embeddings cannot be moved (write optimizer: resample)",
        ),
        "extends": (
            policy.optimizer.use_guidance and bool(policy.guidance),
            "it cannot be given guidance (leave guidance out)",
        ),
        "likelihood": (
            policy.naturalness_floor is not None or policy.relevance_floor is not None,
            "it gives no log-likelihoods to measure naturalness and relevance by (write "
            "naturalness_floor: null and relevance_floor: null, so that only the moderators "
            "decide)",
        ),
    }
    able = abilities(engine)
    lacking = [why for ability, (needed, why) in needs.items() if needed and ability not in able]
    hint = ". The policy 'text' is made for models behind a text API" if lacking else ""
    if policy.release == "window" and not can_continue(engine):
        lacking.append(
            "it cannot go on with an answer that has begun (write release: whole, or run the "
            "model with transformers or vLLM)"
        )
    if not lacking:
        return None
    return f"policy {policy.name!r} does not fit {engine.name}: {'; '.join(lacking)}{hint}"


def _width(table: EmbeddingTable) -> int:
    return int(table.principal_directions(1).shape[1])


def offset(table: EmbeddingTable, coordinates: Sequence[float]) -> FloatArray:
    """``(d_model,)`` RMS · √d_model · c V, with V the table's leading principal directions."""
    along = table.principal_directions(len(coordinates))
    length = table.rms * math.sqrt(along.shape[1])
    return np.asarray(length * np.asarray(coordinates) @ along, dtype=np.float32)
