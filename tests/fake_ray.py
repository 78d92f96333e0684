"""A stand-in for Ray in this process, whose workers and results can be lost at will."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a trace\n{type(cause).__name__}: {cause}")
        self.cause = cause


class RayActorError(RayError):
    pass


class ObjectLostError(RayError):
    pass


@dataclass(eq=False)
class Ref:
    value: Callable[[], Any]
    ready: Callable[[], bool]


class Results:
    """Ray's generator of references."""

    def __init__(self, actor: Handle, values: Iterator[Any]) -> None:
        self.actor, self.values, self.over = actor, values, False
        self.life = actor.life

    def ready(self) -> bool:
        return True

    def __next__(self) -> Ref:
        if self.over:
            raise StopIteration
        if self.actor.life != self.life or self.actor.ray.loses(self.actor):
            self.over = True
            return failing(RayActorError("the actor died"))
        try:
            value = next(self.values)
        except StopIteration:
            self.over = True
            raise
        except Exception as error:
            self.over = True
            return failing(RayTaskError(error))
        if self.actor.ray.loses_object():
            return failing(ObjectLostError("gone"))
        return Ref(lambda: value, lambda: True)


def failing(error: Exception) -> Ref:
    def fail() -> Any:
        raise error

    return Ref(fail, lambda: True)


@dataclass(eq=False)
class Handle:
    """An actor: lost, it comes back after some looks, or never."""

    ray: FakeRay
    make: Callable[[], Any]
    life: int = 0
    back_at: float = 0
    actor: Any = None

    @property
    def up(self) -> bool:
        return self.ray.looks >= self.back_at

    @property
    def ready(self) -> Any:
        def remote() -> Ref:
            def value() -> Any:
                self.actor = self.actor or self.make()
                return self.actor.ready()

            return Ref(value, lambda: self.up)

        return SimpleNamespace(remote=remote)

    @property
    def work(self) -> Any:
        def options(**given: Any) -> Any:
            assert given == {"num_returns": "streaming", "max_task_retries": 0}
            return SimpleNamespace(remote=remote)

        def remote(batch: Any) -> Results:
            self.ray.batches.append(len(batch))
            if not self.up:
                lost = Results(self, iter(()))
                lost.life -= 1
                return lost
            return Results(self, self.actor.work(batch))

        return SimpleNamespace(options=options)


@dataclass
class FakeRay:
    """Ray's calls that the pool uses.

    Attributes:
        nodes_alive: of the cluster.
        losses: numbers of results before which their worker is lost.
        comes_back: looks after which a lost worker is back.
        lost_objects: numbers of results that are lost on their way.
    """

    nodes_alive: int = 2
    gpus: float = 0
    losses: set[int] = field(default_factory=set)
    comes_back: float = 5
    lost_objects: set[int] = field(default_factory=set)
    looks: int = 0
    results: int = 0
    sent: int = 0
    killed: int = 0
    shut: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    class exceptions:  # noqa: N801
        """The module ``ray.exceptions``."""

        RayError, RayTaskError, ObjectLostError = RayError, RayTaskError, ObjectLostError

    def is_initialized(self) -> bool:
        return False

    def init(self, **options: Any) -> None:
        if options.get("address") == "nowhere":
            raise ConnectionError

    def shutdown(self) -> None:
        self.shut += 1

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": self.gpus} if self.gpus else {"CPU": 2.0}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}] * self.nodes_alive + [{"Alive": False}]

    def remote(self, **options: Any) -> Any:
        self.options = options

        def decorate(kind: Any) -> Any:
            def start(*given: Any) -> Handle:
                handle = Handle(self, lambda: kind(*given))
                self.handles.append(handle)
                return handle

            return SimpleNamespace(remote=start)

        return decorate

    def kill(self, _: Handle) -> None:
        self.killed += 1

    def get(self, ref: Ref) -> Any:
        return ref.value()

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> Any:
        assert num_returns == 1
        self.looks += 1
        ready = [ref for ref in refs if ref.ready()]
        return ([self.chance.choice(ready)] if ready else []), []

    def loses(self, handle: Handle) -> bool:
        self.results += 1
        if self.results not in self.losses:
            return False
        self.lose(handle)
        return True

    def lose(self, handle: Handle) -> None:
        handle.life += 1
        handle.actor = None
        handle.back_at = self.looks + self.comes_back

    def loses_object(self) -> bool:
        self.sent += 1
        return self.sent in self.lost_objects
