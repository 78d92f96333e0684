"""Many items over the nodes of a Ray cluster.

Each worker is an actor that builds what it works with once, and then takes batch after batch. A
result comes back as soon as it is there, and each exactly once: this process alone hands them on.
Where a worker or its node is lost, only the items without a result go to another; the worker is
started anew as soon as the cluster has room for it, and the others do not wait for that.

Ray's own retries of a call would repeat the whole batch, and wait for the lost node to be
replaced. So they are left to what may wait, building a worker; a batch is never repeated by Ray.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from rerail.align import Aligner
from rerail.errors import EngineError, MissingDependencyError, RerailError
from rerail.policy import Policy
from rerail.types import PromptLike, Response

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

AUTO, LOCAL = "auto", "local"
"""Addresses: the cluster that this machine belongs to, and one that is started here."""

_LOOK_EVERY = 5.0


class Worker(Protocol[T_contra, R_co]):
    """What works on a node."""

    def identity(self) -> tuple[str, ...]:
        """What results depend on, such as a model's hash: the same for all workers."""
        ...

    def work(self, items: Sequence[T_contra]) -> Iterable[tuple[int, R_co]]:
        """Results with the position of their item, as soon as they are there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a cluster is used.

    Attributes:
        address: `AUTO`, `LOCAL`, ``host:port``, or ``ray://host:port``.
        workers: how many; by default one per GPU, or, in a cluster without GPUs, per node.
        cpus: CPU cores that a worker asks Ray for.
        gpus: GPUs that a worker asks Ray for; by default 1 where the cluster has any.
        batch: items that a worker takes at once, at most.
        losses: workers that may be lost on the same item before the run is given up.
        patience: seconds without any worker after which the run is given up.
    """

    address: str = AUTO
    workers: int | None = None
    cpus: float = 1.0
    gpus: float | None = None
    batch: int = 64
    losses: int = 3
    patience: float = 600.0


class Pool(Generic[T, R]):
    """Workers on the nodes of a Ray cluster; a context manager.

    Args:
        make: builds a worker, on its node; pickled by Ray.
        settings: how the cluster is used.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: there is no such cluster, or no worker can be built.
    """

    def __init__(self, make: Callable[[], Worker[T, R]], settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._ray = _ray()
        self._ours = _connect(self._ray, self._settings.address)
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._identity: tuple[str, ...] | None = None
        try:
            self._start(make)
            self._wait_for_one()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def identity(self) -> tuple[str, ...]:
        """What the results of all workers depend on."""
        assert self._identity is not None
        return self._identity

    def close(self) -> None:
        """End the workers, and the cluster if it was started here."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._idle, self._starting = [], [], {}
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def map(self, items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """The result of every item, exactly once, with the item's position, as it is finished.

        Raises:
            EngineError: a worker failed, workers were lost again and again on the same item, or
                none is left.
        """
        waiting = deque(range(len(items)))
        losses: Counter[int] = Counter()
        tasks: dict[Any, _Task] = {}
        alive = time.monotonic()
        while waiting or tasks:
            while waiting and self._idle:
                task = self._hand_out(waiting, items)
                tasks[task.results] = task
            if tasks:
                alive = time.monotonic()
            elif time.monotonic() - alive > self._settings.patience:
                raise EngineError(
                    f"no worker for {self._settings.patience:g} s: add nodes to the cluster"
                )
            ready, _ = self._ray.wait([*tasks, *self._starting], num_returns=1, timeout=_LOOK_EVERY)
            for ref in ready:
                if ref in self._starting:
                    self._welcome(ref)
                    continue
                task = tasks[ref]
                result = self._next(task)
                if result is not None and result[0] in task.open:
                    task.open.discard(result[0])
                    yield result
                if not task.ended:
                    continue
                del tasks[ref]
                self._put_back(task, waiting, losses)

    def _start(self, make: Callable[[], Worker[T, R]]) -> None:
        settings = self._settings
        total = self._ray.cluster_resources()
        gpus = settings.gpus if settings.gpus is not None else float(total.get("GPU", 0) >= 1)
        if settings.workers is not None:
            count = settings.workers
        elif gpus:
            count = math.floor(total.get("GPU", 0) / gpus)
        else:
            count = sum(node["Alive"] for node in self._ray.nodes())
        if count < 1:
            raise EngineError("the cluster has no room for a worker: add nodes, or ask for less")
        kind = self._ray.remote(
            num_cpus=settings.cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )(_Actor)
        self._actors = [kind.remote(make) for _ in range(count)]
        self._ask_whether_ready(self._actors)

    def _ask_whether_ready(self, actors: Iterable[Any]) -> None:
        """An actor that is lost answers once it was started anew."""
        for actor in actors:
            self._starting[actor.ready.remote()] = actor

    def _wait_for_one(self) -> None:
        end = time.monotonic() + self._settings.patience
        while not self._idle:
            left = end - time.monotonic()
            if left <= 0 or not self._starting:
                raise EngineError(
                    f"no worker could be started within {self._settings.patience:g} s: look at "
                    "'ray status'"
                )
            ready, _ = self._ray.wait([*self._starting], num_returns=1, timeout=left)
            for ref in ready:
                self._welcome(ref)

    def _welcome(self, ref: Any) -> None:
        """A worker that was being built is there."""
        actor = self._starting.pop(ref)
        try:
            identity, fault = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            *_, last = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineError(f"a worker cannot be built: {last.strip()}") from error
        if fault is not None:
            raise EngineError(f"a worker cannot be built: {fault}")
        if self._identity is None:
            self._identity = identity
        elif identity != self._identity:
            raise EngineError(
                f"the nodes differ: {identity} on one, {self._identity} on another. Give all of "
                "them the same files"
            )
        self._idle.append(actor)

    def _hand_out(self, waiting: deque[int], items: Sequence[T]) -> _Task:
        share = math.ceil(len(waiting) / len(self._actors))
        count = max(1, min(self._settings.batch, share))
        batch = [waiting.popleft() for _ in range(count)]
        actor = self._idle.pop()
        call = actor.work.options(num_returns="streaming", max_task_retries=0)
        results = call.remote([(i, items[i]) for i in batch])
        return _Task(actor, results, set(batch))

    def _next(self, task: _Task) -> tuple[int, R] | None:
        """The next result of a task; None at its end, or if it is lost."""
        lost = self._ray.exceptions
        try:
            result: tuple[int, R] = self._ray.get(next(task.results))
        except StopIteration:
            task.ended = True
            return None
        except lost.RayTaskError as error:
            raise EngineError(f"a worker failed: {_cause(error)}") from error
        except lost.ObjectLostError:
            return None  # the result went with its node: the item is still open
        except lost.RayError:
            task.ended = task.lost = True
            return None
        return result

    def _put_back(self, task: _Task, waiting: deque[int], losses: Counter[int]) -> None:
        """A task is over: its worker is free, and what it left undone waits for another."""
        self._idle.append(task.actor)
        if task.lost:
            # Who had nothing to do may have been on the same node.
            self._ask_whether_ready(self._idle)
            self._idle = []
        losses.update(task.open)
        worn = [i for i in task.open if losses[i] > self._settings.losses]
        if worn:
            raise EngineError(
                f"{losses[worn[0]]} workers were lost on the same item: does memory suffice?"
            )
        waiting.extendleft(sorted(task.open, reverse=True))


@dataclass(eq=False)
class _Task:
    """A batch that a worker has.

    Attributes:
        actor: the worker.
        results: Ray's generator of references to results.
        open: positions of the items without a result.
        ended: whether no more results come.
        lost: whether the worker was lost.
    """

    actor: Any
    results: Any
    open: set[int]
    ended: bool = field(default=False)
    lost: bool = field(default=False)


class _Actor:
    """Lives on a node; built anew there, or elsewhere, when it is lost."""

    def __init__(self, make: Callable[[], Worker[Any, Any]]) -> None:
        self._make = make
        self._worker: Worker[Any, Any] | None = None

    def ready(self) -> tuple[tuple[str, ...], str | None]:
        """The worker's identity, once it is built, and why it cannot be."""
        try:
            self._worker = self._worker or self._make()
            return self._worker.identity(), None
        except RerailError as error:
            return (), str(error)

    def work(self, batch: Sequence[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        self._worker = self._worker or self._make()
        for position, result in self._worker.work([item for _, item in batch]):
            yield batch[position][0], result


class EngineFacts(NamedTuple):
    """What is known here of an engine that is elsewhere."""

    name: str
    sha256: str

    def weights_sha256(self) -> str:
        return self.sha256


class AlignerPool:
    """Aligners on the nodes of a Ray cluster, in the place of one here.

    Args:
        make: builds an aligner, on its node: that loads the model there.
        policy: of those aligners.
        settings: how the cluster is used.

    Raises:
        MissingDependencyError: Ray is not installed.
        EngineError: there is no such cluster, or no aligner can be built.
    """

    def __init__(
        self, make: Callable[[], Aligner], policy: Policy, settings: Settings | None = None
    ) -> None:
        self.policy = policy
        self._pool: Pool[PromptLike, Response] = Pool(lambda: _AlignerWorker(make()), settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @property
    def engine(self) -> EngineFacts:
        """Name and weights of the model, the same on all nodes."""
        return EngineFacts(*self._pool.identity)

    def align_iter(self, prompts: Iterable[PromptLike]) -> Iterator[tuple[int, Response]]:
        """Answer many prompts, each with its index as soon as it is finished, exactly once.

        The responses are those of `Aligner.align_iter`, wherever they were made.
        """
        return self._pool.map(list(prompts))


class _AlignerWorker:
    def __init__(self, aligner: Aligner) -> None:
        self._aligner = aligner

    def identity(self) -> tuple[str, ...]:
        return self._aligner.engine.name, self._aligner.engine.weights_sha256()

    def work(self, items: Sequence[PromptLike]) -> Iterator[tuple[int, Response]]:
        return self._aligner.align_iter(items)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise MissingDependencyError("ray", "ray") from error
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Join the cluster, or start one; whether it is ours to leave."""
    if ray.is_initialized():
        return False
    where = {} if address == LOCAL else {"address": address}
    try:
        ray.init(**where, logging_level="ERROR", log_to_driver=False)
    except Exception as error:
        raise EngineError(
            f"no Ray cluster at {address!r} ({type(error).__name__}): start one with "
            "'ray start --head', name its address, or use 'local'"
        ) from error
    return True


def _cause(error: Any) -> str:
    """What failed elsewhere; of an unforeseen error its kind alone, for it may quote a text."""
    cause = getattr(error, "cause", None) or error
    return str(cause) if isinstance(cause, RerailError) else type(cause).__name__
