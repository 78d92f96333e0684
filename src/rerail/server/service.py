"""What all routes share: from a request and its key to answers that may leave."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rerail.align import lacks
from rerail.engines.base import EmbeddingTable, Engine, Sampling, abilities
from rerail.errors import EngineError, PolicyError, PromptError, StoreError
from rerail.server.errors import ApiError, of_ours
from rerail.server.keys import LOCAL, ApiKey, KeyRing
from rerail.server.limits import RateLimits
from rerail.server.metrics import Metrics
from rerail.server.policies import LivePolicies, Served
from rerail.server.records import Recorder
from rerail.server.schemas import MAX_SEED, ChatRequest, CompletionRequest, ResponsesRequest
from rerail.server.settings import ServerSettings
from rerail.server.tracing import Tracing
from rerail.server.worker import Finished, HandedBackError, QueueFullError, SearchWorker, Ticket
from rerail.types import (
    Evaluation,
    Exchange,
    Outcome,
    Prompt,
    Rejection,
    Response,
    StopReason,
    Verdict,
)

Observer = Callable[[Evaluation], None]

Releaser = Callable[[int, str], None]
"""Is given the place of a choice, and a piece of its text that leaves before the rest is there."""

_MODERATING = 16
"""Requests to ``/v1/moderations`` that are judged at once."""

_OVERRUN = 5.0
"""Seconds beyond the deadline after which a request no longer waits for its round to end."""


@dataclass(frozen=True)
class Call:
    """One request, ready to be answered.

    Attributes:
        id: of the request, its response and its records.
        route: that it came by.
        param: the parameter that holds what is to be answered.
        key: who asks.
        model: which model.
        served: the policy version that decides, from beginning to end.
        n: choices of each prompt, one after the other.
        prompts: one per choice.
        seeds: one per choice.
        sampling: of every choice.
        seconds: until its deadline.
        generations: per choice at most; None leaves it to the policy.
    """

    id: str
    route: str
    param: str
    key: ApiKey
    model: str
    served: Served
    n: int
    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    sampling: Sampling
    seconds: float
    generations: int | None


class Service:
    """Models, policies, keys and records of one server.

    Args:
        engines: by the name that clients use.
        policies: what decides.
        keys: who may call; None: whoever can reach a loopback address.
        recorder: keeps records.
        settings: limits and defaults.
        metrics: counts.
        tracing: makes spans.
        limits: count what keys ask for.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        policies: LivePolicies,
        keys: KeyRing | None,
        recorder: Recorder,
        settings: ServerSettings,
        metrics: Metrics,
        tracing: Tracing,
        limits: RateLimits,
    ) -> None:
        self._engines = dict(engines)
        self._moderating = asyncio.Semaphore(_MODERATING)
        # Threads of their own: moderators that hang must not keep the server from stopping.
        self._judges = ThreadPoolExecutor(_MODERATING, thread_name_prefix="moderations")
        self.policies = policies
        self.keys = keys
        self.recorder = recorder
        self.settings = settings
        self.metrics = metrics
        self.tracing = tracing
        self.limits = limits
        self.workers = {name: self._worker(name) for name in engines}
        self.started = int(time.time())

    def _worker(self, name: str) -> SearchWorker:
        size = self.metrics.round_size.labels(name)
        worker = SearchWorker(
            name,
            max_open=self.settings.max_open,
            max_waiting=self.settings.max_waiting,
            on_round=size.observe,
        )
        self.metrics.watch(name, lambda: worker.waiting, lambda: worker.open)
        return worker

    def start(self) -> None:
        """Begin to answer."""
        for worker in self.workers.values():
            worker.start()

    def drain(self) -> None:
        """Take nothing more and hand back what waits; open searches go on."""
        for worker in self.workers.values():
            worker.drain()

    def stop(self, seconds: float) -> None:
        """Drain, let open searches finish within the time, hand back the rest."""
        deadline = time.monotonic() + seconds
        self.drain()
        for worker in self.workers.values():
            worker.stop(max(0.0, deadline - time.monotonic()))

    @property
    def ready(self) -> bool:
        readable = self.keys is None or self.keys.readable
        return readable and all(worker.alive for worker in self.workers.values())

    @property
    def sources(self) -> dict[str, str]:
        """What each model was loaded from, by the name that clients use."""
        return {name: engine.name for name, engine in self._engines.items()}

    def table(self, model: str) -> EmbeddingTable | None:
        """The embedding table of a model; None where it is behind a text API."""
        engine = self._engines[model]
        return engine.table if "moves" in abilities(engine) else None

    def configured_policies(self) -> set[str]:
        """Names of the policies that something falls back to."""
        by_key = self.keys.policies if self.keys is not None else ()
        of_models = self.settings.model_policies.values()
        return {self.settings.default_policy, *of_models, *by_key}

    # Who asks, and under which policy

    def caller(self, authorization: str | None, client: str | None) -> ApiKey:
        """The key of a request.

        Raises:
            ApiError: 401 without a known key, or with one that has expired; 403 from elsewhere,
                on a server without keys; 503 while the keys cannot be read.
        """
        if self.keys is None:
            if client is not None and not is_loopback(client):
                raise ApiError("this server has no keys and answers this machine only", "no_keys")
            return LOCAL
        if not self.keys.readable:
            raise ApiError(
                "the server cannot read its keys: its log says why",
                "keys_unreadable",
                retry_after=self.settings.retry_after,
            )
        scheme, _, presented = (authorization or "").partition(" ")
        key = self.keys.find(presented.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                "no valid API key: send 'Authorization: Bearer KEY'",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if key.expired:
            raise ApiError(
                "this API key has expired: ask whoever gave it to you for another",
                "key_expired",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return key

    def choose(self, key: ApiKey, model: str | None, named: str | None) -> Served:
        """The policy of a request: that which it names, else its key's, its model's, the default.

        Raises:
            ApiError: 403 if the key may not choose it; 400 if it is unknown; 503 if the policy
                that is configured for the key, the model or the server is gone.
        """
        by_model = self.settings.model_policies.get(model) if model else None
        configured = key.policy or by_model or self.settings.default_policy
        if named is not None and named != configured and not key.may_choose(named):
            raise ApiError(
                f"this key may not choose policy {named[:64]!r}",
                "policy_not_allowed",
                param="policy",
            )
        try:
            return self.policies.get(named or configured)
        except PolicyError as error:
            if named is not None:
                raise ApiError(str(error), "policy_not_found", param="policy") from None
            raise ApiError(
                f"policy {configured!r} is configured and missing: put it back",
                "policy_missing",
                retry_after=self.settings.retry_after,
            ) from None

    def call(
        self,
        route: str,
        key: ApiKey,
        request: ChatRequest | CompletionRequest | ResponsesRequest,
        policy_header: str | None,
    ) -> Call:
        """Make a request ready.

        Raises:
            ApiError: a model or policy cannot be had, a limit is passed, or there is nothing to
                answer.
        """
        settings = self.settings
        if request.model not in self.workers:
            raise ApiError(
                f"no model {request.model!r}: there is {', '.join(sorted(self.workers))}",
                "model_not_found",
                param="model",
            )
        served = self.choose(key, request.model, named(policy_header, request.policy))
        if request.model not in served.aligners:
            raise ApiError(
                lacks(self._engines[request.model], served.policy) or "the policy does not fit",
                "policy_unfit",
                param="policy",
            )
        try:
            prompts = request.prompts()
        except PromptError as error:
            raise of_ours(error, request.words) from None
        if any(prompt.tools for prompt in prompts) and served.policy.tools == "refuse":
            raise ApiError(
                f"tools: policy {served.policy.name!r} refuses them; one with tools: judge judges "
                "tool calls as text of the answer",
                "invalid_request",
                param="tools",
            )
        n = request.n or 1
        if n * len(prompts) > settings.max_choices:
            raise ApiError(
                f"{n * len(prompts)} answers at once: at most {settings.max_choices}",
                "too_many_choices",
                param="n",
            )
        seed = settings.seed if request.seed is None else request.seed & MAX_SEED
        sampling = Sampling(
            max_new_tokens=min(
                request.token_limit or settings.max_new_tokens, settings.max_new_tokens_limit
            ),
            temperature=(
                0.0
                if request.greedy
                else settings.temperature
                if request.temperature is None
                else request.temperature
            ),
            top_p=request.top_p or 1.0,
            stop=request.stops,
        )
        return Call(
            id=f"{request.prefix}-{secrets.token_hex(12)}",
            route=route,
            param=request.words,
            key=key,
            model=request.model,
            served=served,
            n=n,
            prompts=[prompt for prompt in prompts for _ in range(n)],
            seeds=[(seed + i) & MAX_SEED for _ in prompts for i in range(n)],
            sampling=sampling,
            seconds=min(request.budget.seconds or math.inf, settings.request_seconds),
            generations=request.budget.generations,
        )

    # Answers

    async def answer(
        self, call: Call, observe: Observer | None = None, release: Releaser | None = None
    ) -> list[Finished]:
        """Answers that may leave, recorded.

        What left of answers that were cut off is recorded, too.

        Raises:
            ApiError: there are none: the server is full or stops, the deadline passed, or the
                model, the moderator or the store failed, or the prompt cannot be answered as it
                is, or the model writes nothing in the form that was asked for.
        """
        policy = call.served.policy
        tickets = self._tickets(call, observe, release)
        with self.tracing.request(call.route, call.model, policy.name) as span:
            try:
                answered = await self._searched(call, tickets)
            except BaseException:
                await self._keep_cut(call, tickets)
                raise
            pairs = list(zip(call.prompts, (a.response for a in answered), strict=True))
            for prompt, response in pairs:
                span.answered(prompt, response, policy.record_text)
            for a in answered:
                self.metrics.answered(call.model, a.response, a.waited)
            await self.recorder.keep(call.key.name, call.id, pairs, policy.record_text)
        for a in answered:
            if a.response.outcome is Outcome.ERROR:
                raise self._failed(a.response.stop_reason, policy.error_message)
            if a.response.outcome is Outcome.REFUSED and _is_formless(a.response):
                raise ApiError(
                    "no answer has the form that was asked for, a valid call of a tool or JSON "
                    "that fits: ask for it in the conversation, too, or raise max_tokens",
                    "invalid_structure",
                )
        return answered

    async def moderated(self, served: Served, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """A policy's verdicts, off the event loop.

        Raises:
            ApiError: too many are being judged already.
        """
        if self._moderating.locked():
            raise self._come_back("the moderator is busy", "full")
        async with self._moderating:
            loop = asyncio.get_running_loop()
            judged = await loop.run_in_executor(self._judges, served.panel.judge, exchanges)
            return [each.verdict for each in judged]

    def _tickets(
        self, call: Call, observe: Observer | None, release: Releaser | None
    ) -> list[Ticket]:
        deadline = time.monotonic() + call.seconds
        return [
            Ticket(
                tenant=call.key.name,
                aligner=call.served.aligners[call.model],
                prompt=prompt,
                sampling=call.sampling,
                seed=seed,
                deadline=deadline,
                generations=call.generations,
                observe=observe,
                release=partial(release, place) if release else None,
            )
            for place, (prompt, seed) in enumerate(zip(call.prompts, call.seeds, strict=True))
        ]

    async def _searched(self, call: Call, tickets: Sequence[Ticket]) -> list[Finished]:
        try:
            self.workers[call.model].submit(tickets)
        except QueueFullError as error:
            raise self._come_back(f"the server is busy: {error}", "full") from None
        except HandedBackError as error:
            raise self._come_back(str(error), "stopping") from None
        futures = [asyncio.wrap_future(ticket.future) for ticket in tickets]
        finished = False
        try:
            _, pending = await asyncio.wait(
                futures, timeout=call.seconds, return_when=asyncio.FIRST_EXCEPTION
            )
            # One that has not begun, or failed, has nothing that its last round could give.
            if pending and all(t.search for t in tickets if not t.future.done()):
                _, pending = await asyncio.wait(
                    futures, timeout=_OVERRUN, return_when=asyncio.FIRST_EXCEPTION
                )
            finished = True
            if any(f.exception() for f in futures if f not in pending):
                raise next(e for f in futures if f not in pending and (e := f.exception()))
            if pending:
                raise HandedBackError("the deadline passed")
            return [future.result() for future in futures]
        except HandedBackError as error:
            reason = "stopping" if "stopping" in str(error) else "deadline"
            raise self._come_back(str(error), reason) from None
        except PromptError as error:
            raise of_ours(error, call.param) from None
        except EngineError:
            # The model could not embed the prompt; what failed is in the log.
            message = call.served.policy.error_message
            raise self._failed(StopReason.ENGINE_ERROR, message) from None
        finally:
            if not finished:
                self.metrics.handed_back.labels("disconnected").inc()
            for ticket in tickets:
                ticket.cancel()
            for future in futures:
                future.cancel()
            if call.key.counts_tokens:  # also where the client has left
                spent = sum(t.search.cost.generated_tokens for t in tickets if t.search)
                await asyncio.shield(asyncio.to_thread(self.limits.spend, call.key, spent))

    async def _keep_cut(self, call: Call, tickets: Sequence[Ticket]) -> None:
        """Record what left of answers whose rest never will."""
        cut = [(t.prompt, t.search.cut()) for t in tickets if t.search and t.search.sent]
        if cut:
            with contextlib.suppress(StoreError):  # counted, and the request has failed already
                text = call.served.policy.record_text
                await self.recorder.keep(call.key.name, call.id, cut, text)

    def _come_back(self, message: str, reason: str) -> ApiError:
        self.metrics.handed_back.labels(reason).inc()
        wait = self.settings.retry_after
        return ApiError(message, f"server_{reason}", retry_after=wait)

    def _failed(self, reason: StopReason, message: str) -> ApiError:
        if reason is StopReason.MODERATOR_ERROR:
            wait = self.settings.retry_after
            return ApiError(message, "moderator_unavailable", retry_after=wait)
        return ApiError(message, "engine_failed")


def _is_formless(response: Response) -> bool:
    """Whether nothing but its form spoke against the model's first answer."""
    first = response.evaluations[0].rejection if response.evaluations else None
    return first in (Rejection.INVALID, Rejection.UNCALLED)


def named(header: str | None, parameter: str | None) -> str | None:
    """The policy that a request names.

    Raises:
        ApiError: header and parameter name different ones.
    """
    if header and parameter and header != parameter:
        raise ApiError(
            "the header X-Rerail-Policy and the parameter policy differ: send one of them",
            "policy_conflict",
            param="policy",
        )
    return header or parameter


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
