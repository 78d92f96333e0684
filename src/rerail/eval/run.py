"""The run: methods by benchmarks by models by seeds, every trial recorded, resumable.

A *group* is up to ``max_open`` cases of one benchmark, answered in lock-step by one method. Its
trials are recorded together; a killed run begins its open group anew, with the same batches, and
so finds the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rerail import __version__
from rerail.align import lacks
from rerail.engines.base import EmbeddedPrompt, Engine, GenerationRequest, Sampling, abilities
from rerail.errors import EngineError, InputFileError, MissingDependencyError, PromptError
from rerail.eval.benchmarks import draw, load_benchmark, put_as, without_template
from rerail.eval.benchmarks._rows import path_of
from rerail.eval.benchmarks.wrappers import read_wrappers, wrapped
from rerail.eval.judges import Embedded, Judge, Opinion, Remembering, load_judge, read_spec
from rerail.eval.methods import Context, Method, Returned, Stepwise, load_method
from rerail.eval.methods.aligned import Aligned
from rerail.eval.records import Key, RunFolder, dump_cases
from rerail.eval.rules import is_refusal, on_topic
from rerail.eval.scenarios import ADAPTIVE, PLAIN, SCENARIO, in_scenario
from rerail.eval.scenarios.adaptive import attack, packaged_fragments
from rerail.eval.settings import RunSettings
from rerail.eval.types import Case, Judgement, Trial, rejected_by
from rerail.panel import Panel
from rerail.policy import Policy
from rerail.rounds import Scored, log_likelihoods, scored_of
from rerail.search import prompt_seed
from rerail.types import Exchange, Generation, Message, Outcome, Prompt, Rejection, Verdict

LoadEngine = Callable[[str], Engine]
Advance = Callable[[Trial], None]
_Item = TypeVar("_Item", int, str)


@dataclass(frozen=True)
class Loaders:
    """How a run gets its models and moderators.

    Attributes:
        engine: name to model.
        panel: policy to its moderators.
    """

    engine: LoadEngine
    panel: Callable[[Policy], Panel] = Panel.load


class Run:
    """A run in its folder.

    Args:
        settings: what is run.
        folder: where its records are.
        loaders: models and moderators.

    Attributes:
        left_out: by model, the methods that its engine cannot run, and why.

    Raises:
        PromptError: a benchmark, wrapper, scenario, method or judge is unknown or not usable.
        PolicyError: policy and moderators do not fit each other, a method's setting is not valid,
            or no step sizes are known for a model.
        EngineError: a model cannot be loaded.
        StoreError: the folder holds a run under other settings.
    """

    def __init__(self, settings: RunSettings, folder: Path, loaders: Loaders) -> None:
        self.settings = settings
        self._loaders = loaders
        self.methods = [load_method(spec) for spec in _unique(settings.methods)]
        self.left_out: dict[str, dict[str, str]] = {}
        kinds = [read_spec(spec)[0] for spec in _unique(settings.judges)]
        if len(set(kinds)) < len(kinds):
            raise PromptError(
                f"judges {', '.join(settings.judges)}: one of each kind, so that a name in the "
                "records stands for one; run the others apart"
            )
        self._engines: dict[str, Engine] = {}
        wrappers = _wrappers(settings.wrappers)
        # The model is loaded once there is something to ask it.
        self.cases = _cases(settings, wrappers, self._fits)
        self._fragments = replace(packaged_fragments(), whole=tuple(wrappers[1]))
        self._models = self._described()
        self.folder = RunFolder.begin(folder, settings.document(self._content()), self.cases)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    @property
    def remaining(self) -> int:
        """Trials that are not recorded yet."""
        return len(self._wanted() - self.folder.done())

    def run(self, advance: Advance) -> None:
        """Answer and record what is not recorded yet."""
        done = self.folder.done()
        for model in _unique(self.settings.models):
            open_ = [key for key in self._wanted(model) if key not in done]
            if open_:
                self._run_model(model, done, advance)

    def _run_model(self, model: str, done: set[Key], advance: Advance) -> None:
        engine = self._engine(model)
        context = self._context(engine)
        judge = _Judging(self.judges, self._perplexity_engine)
        for seed in _unique(self.settings.seeds):
            seeded = context.with_seed(seed)
            for group in self._groups():
                answers = _Answers(seeded, group)
                for method in self._methods_for(engine.name):
                    keys = {self._key(case, method.name, engine.name, seed) for case in group}
                    if keys <= done:
                        continue
                    trials = self._trials(seeded, method, answers, judge, advance)
                    self.folder.add(trials)

    def _trials(
        self,
        context: Context,
        method: Method,
        answers: _Answers,
        judge: _Judging,
        advance: Advance,
    ) -> list[Trial]:
        cases = answers.cases
        if cases[0].meta.get(SCENARIO) != ADAPTIVE:
            return _answered(context, method, answers, judge, advance)

        def respond(sent: Sequence[Case]) -> list[Trial]:
            return _answered(context, method, _Answers(context, sent), judge, _silent)

        attempts = self.settings.attempts
        trials = attack(cases, respond, self._fragments, attempts, context.seed)
        for trial in trials:
            advance(trial)
        return trials

    @cached_property
    def judges(self) -> list[Judge]:
        """Further judges; loaded when they are first needed."""
        return [load_judge(spec, self._loaders.engine) for spec in _unique(self.settings.judges)]

    @cached_property
    def _perplexity_engine(self) -> Engine | None:
        name = self.settings.perplexity_model
        return None if name is None else self._loaders.engine(name)

    def _engine(self, model: str) -> Engine:
        """A model; only the latest is kept, because two may not fit."""
        if model not in self._engines:
            self._engines.clear()
            self._engines[model] = self._loaders.engine(model)
        return self._engines[model]

    def _context(self, engine: Engine) -> Context:
        settings = self.settings
        return Context(
            engine,
            self._loaders.panel(settings.policy),
            sampling=Sampling(settings.max_new_tokens, settings.temperature),
            max_open=settings.max_open,
        )

    def _fits(self, prompt: Prompt) -> bool:
        """Whether a prompt leaves the first model room for a whole answer."""
        engine = self._engine(self.settings.models[0])
        try:
            tokens = len(engine.embed(prompt).token_ids)
        except PromptError:
            return False
        length = getattr(engine, "context_length", None)
        return length is None or tokens + self.settings.max_new_tokens <= int(length)

    def _content(self) -> dict[str, Any]:
        """What the settings only name."""
        cases = json.dumps(dump_cases(self.cases), sort_keys=True)
        return {
            "rerail": __version__,
            "cases": len(self.cases),
            "cases_sha256": hashlib.sha256(cases.encode()).hexdigest(),
            "models": self._models,
            "methods": {method.name: dict(method.settings) for method in self.methods},
        }

    def _described(self) -> dict[str, dict[str, str]]:
        """Each model's name in records, and the hash of its weights."""
        models = {}
        # Last to first, so that the model that is needed next is the one that stays.
        for given in reversed(_unique(self.settings.models)):
            engine = self._engine(given)
            self._check_methods(engine)
            models[given] = {"name": engine.name, "weights_sha256": engine.weights_sha256()}
        names = [model["name"] for model in models.values()]
        if len(set(names)) < len(names):
            raise EngineError(f"two models have one name ({', '.join(names)}): run them apart")
        return models

    def _check_methods(self, engine: Engine) -> None:
        """Find out now, not after hours, what cannot be had on a model.

        Raises:
            PolicyError: a method's setting is not valid, or no step sizes are known for the model.
            EngineError: no method is left.
        """
        lacking: dict[str, str] = {}
        policy = self.settings.policy
        for method in self.methods:
            why = None
            if isinstance(method, Aligned):
                why = lacks(engine, method.policy(policy, engine.name))
                if why is None:
                    method.require(policy, engine.name)
            elif isinstance(method, Stepwise):
                why = method.lacks(engine)
            if why is not None:
                lacking[method.name] = why
        if len(lacking) == len(self.methods):
            raise EngineError("; ".join(lacking.values()))
        if lacking:
            self.left_out[engine.name] = lacking

    def _methods_for(self, model: str) -> list[Method]:
        lacking = self.left_out.get(model, {})
        return [method for method in self.methods if method.name not in lacking]

    def _groups(self) -> Iterator[list[Case]]:
        """Cases of one benchmark, in order, ``max_open`` at a time.

        The first group of each benchmark comes before any second one, so that a run that is
        killed has something of all of them.
        """
        most = self.settings.max_open
        by_benchmark: dict[str, list[Case]] = {}
        for case in self.cases:
            by_benchmark.setdefault(case.benchmark, []).append(case)
        for start in range(0, max(map(len, by_benchmark.values())), most):
            for cases in by_benchmark.values():
                if group := cases[start : start + most]:
                    yield group

    def _wanted(self, model: str | None = None) -> set[Key]:
        models = _unique(self.settings.models) if model is None else [model]
        return {
            self._key(case, method.name, self._models[name]["name"], seed)
            for name in models
            for seed in self.settings.seeds
            for case in self.cases
            for method in self._methods_for(self._models[name]["name"])
        }

    def _key(self, case: Case, method: str, model: str, seed: int) -> Key:
        version = self.settings.policy.version
        return (case.benchmark, case.id, method, model, version, seed)


class _Answers:
    """The model's own answers to a group of cases, shared by all methods; made at first need."""

    def __init__(self, context: Context, cases: Sequence[Case]) -> None:
        self.cases = list(cases)
        self._context = context

    @cached_property
    def generations(self) -> list[Generation | None]:
        """One per case, as an undefended model gives them; None where it cannot answer."""
        context = self._context
        requests: dict[int, GenerationRequest] = {}
        for i, case in enumerate(self.cases):
            try:
                embedded = context.engine.embed(case.prompt)
            except (PromptError, EngineError):
                continue
            seed = prompt_seed(context.seed, case.prompt)
            requests[i] = GenerationRequest(embedded, embedded.point, seed)
        made = _generated(context, list(requests.values()))
        found = dict(zip(requests, made, strict=True))
        return [found.get(i) for i in range(len(self.cases))]

    @cached_property
    def verdicts(self) -> list[Verdict | None]:
        return verdicts(
            self._context, self.cases, [g.text if g else None for g in self.generations]
        )

    @cached_property
    def log_likelihoods(self) -> list[float | None]:
        scored = [scored_of(g) if g else None for g in self.generations]
        return _of_cases(self._context.engine, self.cases, scored)


def _generated(context: Context, requests: Sequence[GenerationRequest]) -> list[Generation | None]:
    """Answers; where a batch fails, each by itself, and None where that fails too."""
    try:
        return list(context.engine.generate(requests, context.sampling)) if requests else []
    except Exception:
        if len(requests) == 1:
            return [None]
        return [made for request in requests for made in _generated(context, [request])]


def verdicts(
    context: Context, cases: Sequence[Case], texts: Sequence[str | None]
) -> list[Verdict | None]:
    """The policy's verdicts on texts as answers to cases; None where there is no text."""
    exchanges = [
        Exchange(case.messages, text)
        for case, text in zip(cases, texts, strict=True)
        if text is not None
    ]
    judged = iter(context.panel.judge(exchanges))
    return [None if text is None else next(judged).verdict for text in texts]


def _of_cases(
    engine: Engine, cases: Sequence[Case], scored: Sequence[Scored | None]
) -> list[float | None]:
    """Mean log-likelihood per token of answers under their cases' unmoved prompts."""
    wanted = {
        i: (engine.embed(case.prompt), one)
        for i, (case, one) in enumerate(zip(cases, scored, strict=True))
        if one and one[0]
    }
    found = _likelihoods(engine, wanted)
    return [found.get(i) for i in range(len(cases))]


def _likelihoods(
    engine: Engine, wanted: Mapping[int, tuple[EmbeddedPrompt, Scored]]
) -> dict[int, float]:
    """Of the texts that fit the model's context: one that answers a shorter prompt may not."""
    length = getattr(engine, "context_length", None)
    fitting = {
        i: (prompt, scored)
        for i, (prompt, scored) in wanted.items()
        if length is None or len(prompt.token_ids) + len(scored[0]) <= length
    }
    if not fitting or "likelihood" not in abilities(engine):
        return {}
    values = log_likelihoods(engine, list(fitting.values()))
    return dict(zip(fitting, values, strict=True))


class _Judging:
    """Everything that is said of a trial after the method is done with it."""

    def __init__(self, judges: Sequence[Judge], perplexity_engine: Engine | None) -> None:
        self._embedded = Remembering(Embedded())
        self._further = [Remembering(judge) for judge in judges]
        self._base = perplexity_engine

    def opinions(self, cases: Sequence[Case], texts: Sequence[str | None]) -> list[Opinion]:
        """The embedded judge's."""
        return _opinions(self._embedded, cases, texts)

    def further(
        self, cases: Sequence[Case], firsts: Sequence[str | None], finals: Sequence[str | None]
    ) -> list[dict[str, Judgement]]:
        """The other judges', by name."""
        found: list[dict[str, Judgement]] = [{} for _ in cases]
        for judge in self._further:
            before, after = (_opinions(judge, cases, texts) for texts in (firsts, finals))
            for judged, first, final in zip(found, before, after, strict=True):
                unscored = first.unscored or final.unscored
                judged[judge.name] = Judgement(first.value, final.value, unscored)
        return found

    def perplexities(
        self, cases: Sequence[Case], texts: Sequence[str | None], own: Sequence[float | None]
    ) -> list[float | None]:
        """exp(−log-likelihood): of the base model if there is one, else the model's own."""
        if self._base is None:
            return [None if value is None else math.exp(-value) for value in own]
        base = self._base
        wanted: dict[int, tuple[EmbeddedPrompt, Scored]] = {}
        for i, (case, text) in enumerate(zip(cases, texts, strict=True)):
            if text is None or not text.strip():
                continue
            try:
                prompt = base.embed(Prompt.completion(case.messages[-1].content))
                answer = base.embed(Prompt.completion(text))
            except PromptError:
                continue  # too long for the base model
            # Without the tokens that begin a text: the answer goes on from the prompt.
            tokens = tuple(int(t) for t in answer.token_ids[answer.message_index >= 0])
            if tokens:
                wanted[i] = (prompt, (tokens, 0))
        found = _likelihoods(base, wanted)
        return [math.exp(-found[i]) if i in found else None for i in range(len(cases))]


_NO_ANSWER = "no answer"


def _opinions(judge: Judge, cases: Sequence[Case], texts: Sequence[str | None]) -> list[Opinion]:
    """On texts as answers to the bare requests; unscored where there is no text."""
    exchanges = [
        Exchange((Message("user", case.request),), text)
        for case, text in zip(cases, texts, strict=True)
        if text is not None
    ]
    found = iter(judge.judge(exchanges) if exchanges else [])
    return [Opinion(None, _NO_ANSWER) if text is None else next(found) for text in texts]


def _answered(
    context: Context, method: Method, answers: _Answers, judge: _Judging, advance: Advance
) -> list[Trial]:
    """A group's trials by one method, in the order of the cases."""
    cases = answers.cases
    firsts = [g.text if g else None for g in answers.generations]
    lengths = [len(g.token_ids) if g else None for g in answers.generations]
    found: dict[int, Returned] = {}
    if isinstance(method, Stepwise):
        with suppress(Exception):  # what it fails with, its answers tell
            method.prepare(context)
    started, judging = time.perf_counter(), context.panel.seconds
    for index, answered in method.answer(context, [case.prompt for case in cases]):
        found[index] = answered
        advance(_bare(context, method.name, cases[index], answered))
    wall = (time.perf_counter() - started) / len(cases)
    judging = (context.panel.seconds - judging) / len(cases)
    results = [found[i] for i in range(len(cases))]
    finals = [a.text if a.outcome is not Outcome.ERROR else None for a in results]
    shown = [a.text if a.outcome in _ANSWERS else None for a in results]
    asked_for = [None if a.final else text for a, text in zip(results, shown, strict=True)]
    late = verdicts(context, cases, asked_for)
    unknown = [
        a.scored if a.naturalness is None and text is not None and text != first else None
        for a, text, first in zip(results, shown, firsts, strict=True)
    ]
    likelihoods = _of_cases(context.engine, cases, unknown)
    naturalness = [
        _naturalness(answered, text == first, own, base)
        for answered, text, first, own, base in zip(
            results, shown, firsts, likelihoods, answers.log_likelihoods, strict=True
        )
    ]
    own = [
        None if n is None or base is None else n + base
        for n, base in zip(naturalness, answers.log_likelihoods, strict=True)
    ]
    perplexities = judge.perplexities(cases, shown, own)
    before, after = judge.opinions(cases, firsts), judge.opinions(cases, finals)
    further = judge.further(cases, firsts, finals)
    return [
        _trial(
            _bare(context, method.name, case, answered),
            answered.final or late[i],
            firsts[i],
            answers.verdicts[i],
            before[i],
            after[i],
            naturalness=naturalness[i],
            perplexity=perplexities[i],
            judges=further[i],
            scores=_scores(case, answered),
            first_tokens=lengths[i],
            wall_seconds=wall,
            moderator_seconds=judging,
            on_topic=answered.outcome in _ANSWERS and on_topic(case.request, answered.text),
        )
        for i, (case, answered) in enumerate(zip(cases, results, strict=True))
    ]


_ANSWERS = (Outcome.PASSED, Outcome.STEERED)


def _naturalness(
    answered: Returned, same: bool, own: float | None, base: float | None
) -> float | None:
    if answered.outcome not in _ANSWERS:
        return None
    if same:
        return 0.0
    if answered.naturalness is not None:
        return answered.naturalness
    return None if own is None or base is None else own - base


def _scores(case: Case, answered: Returned) -> Mapping[str, float]:
    from rerail.eval.benchmarks import score

    return score(case, answered.text) if answered.outcome is not Outcome.ERROR else {}


def _bare(context: Context, method: str, case: Case, answered: Returned) -> Trial:
    """A trial as the method alone makes it."""
    return Trial(
        case_id=case.id,
        benchmark=case.benchmark,
        kind=case.kind,
        category=case.category,
        method=method,
        model=context.engine.name,
        policy=context.policy.name,
        policy_version=context.policy.version,
        seed=context.seed,
        outcome=answered.outcome,
        first_text=None,
        text=answered.text,
        initial=None,
        final=None,
        cosine=answered.cosine,
        tokens_preserved=answered.tokens_preserved,
        iterations=answered.iterations,
        accepted_from=answered.accepted_from,
        cost=answered.cost,
        trajectory=answered.trajectory,
        error=answered.error,
        sent=answered.sent,
        published=answered.published,
    )


def _trial(
    bare: Trial,
    final: Verdict | None,
    first_text: str | None,
    initial: Verdict | None,
    before: Opinion,
    after: Opinion,
    **measured: Any,
) -> Trial:
    """The whole trial."""
    outcome = bare.outcome
    if outcome in _ANSWERS:
        outcome = Outcome.PASSED if bare.text == first_text else Outcome.STEERED
    return replace(
        bare,
        outcome=outcome,
        first_text=first_text,
        initial=initial,
        final=final,
        judge_initial=before.value,
        judge_final=after.value,
        judge_unscored=before.unscored or after.unscored,
        refused_initial=first_text is not None and is_refusal(first_text),
        refused_final=outcome is Outcome.REFUSED or is_refusal(bare.text),
        # A method that asks no moderator learns nothing of the harm of what it returns.
        trajectory=tuple(
            p._replace(harm=final.harm if final else None, rejection=rejected_by(final))
            if p.accepted and p.rejection is Rejection.UNJUDGED
            else p
            for p in bare.trajectory
        ),
        **measured,
    )


def _wrappers(spec: str | None) -> tuple[str, list[str]]:
    """Name and texts of ``NAME=PATH``; no texts if it is None."""
    if spec is None:
        return "", []
    name, equals, path = spec.partition("=")
    if not equals or not name or not path:
        raise InputFileError(f"wrappers {spec!r}: write NAME=PATH, as in in-the-wild=PATH")
    return name, read_wrappers(path_of(path))


def _cases(
    settings: RunSettings, wrappers: tuple[str, list[str]], fits: Callable[[Prompt], bool]
) -> list[Case]:
    """Every case of a run: drawn, wrapped, in its scenarios.

    A benchmark that says itself how it is put is put in no other way. Wrappers that one of them
    names are around no others.
    """
    cases: dict[tuple[str, str], Case] = {}
    ways = {spec: put_as(spec) for spec in _unique(settings.benchmarks)}
    everywhere = wrappers[0] not in ways.values()
    for spec, way in ways.items():
        drawn = draw(load_benchmark(spec), settings.limit)
        if not settings.template:
            drawn = without_template(drawn)
        if settings.wrappers is not None and (way == wrappers[0] or (everywhere and way is None)):
            drawn = wrapped(drawn, *wrappers, fits)
        scenarios = _unique(settings.scenarios) if way is None else [way]
        if way == wrappers[0]:
            scenarios = [PLAIN]
        # A case that a scenario leaves as it is comes once, however many scenarios there are.
        asked = [case for name in scenarios for case in in_scenario(drawn, name)]
        mine = {(case.benchmark, case.id): case for case in asked}
        if mine.keys() & cases.keys():
            raise InputFileError(
                f"benchmark {spec!r} gives cases that another one gives, too: give each file a "
                "name of its own, and take each row once"
            )
        cases |= mine
    return list(cases.values())


def _unique(items: Iterable[_Item]) -> list[_Item]:
    return list(dict.fromkeys(items))


def _silent(_: Trial) -> None:
    return


def finish(folder: RunFolder) -> dict[str, Any]:
    """Write the report of a run, with tables and plots; its figures.

    Raises:
        MissingDependencyError: a package of the extra ``eval`` is not installed; the figures are
            in summary.json all the same.
    """
    from rerail.eval.metrics import summarise
    from rerail.eval.report import write

    try:
        write(folder.path)
    except MissingDependencyError:
        folder.write_summary(summarise(folder.trials(), folder.cases()))
        raise
    return folder.summary()
