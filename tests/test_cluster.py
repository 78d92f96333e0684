"""Work over a cluster that loses its nodes: every result once, whatever happens.

The loop is tried on a stand-in for Ray, in this process; ``test_cluster_ray.py`` has Ray itself.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from rerail import Policy, cluster
from rerail.align import Aligner
from rerail.cluster import AlignerPool, Pool, Settings
from rerail.engines import FakeEngine
from rerail.errors import EngineError, MissingDependencyError
from rerail.moderators import FakeModerator
from rerail.panel import Panel
from tests.fake_ray import FakeRay


class Doubling:
    """Doubles numbers, in an order of its own."""

    def __init__(self, identity: tuple[str, ...] = ("same",)) -> None:
        self._identity = identity

    def identity(self) -> tuple[str, ...]:
        return self._identity

    def work(self, items: Sequence[int]) -> Iterator[tuple[int, int]]:
        for position in reversed(range(len(items))):
            if items[position] < 0:
                raise ValueError("a negative number")
            yield position, 2 * items[position]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(cluster, "_ray", lambda: fake)
    return fake


def doubled(numbers: Sequence[int], **settings: Any) -> list[tuple[int, int]]:
    with Pool(Doubling, Settings(**settings)) as pool:
        return list(pool.map(numbers))


EXPECTED = [(i, 2 * i) for i in range(100)]


def test_every_item_gets_its_result_once(ray: FakeRay) -> None:
    found = doubled(range(100), batch=8)
    assert sorted(found) == EXPECTED
    assert found != sorted(found)
    assert max(ray.batches) == 8
    assert ray.batches[-1] < 8  # the last ones are shared out
    assert (ray.killed, ray.shut) == (2, 1)
    assert ray.options["max_restarts"] == ray.options["max_task_retries"] == -1
    assert doubled([]) == []


@pytest.mark.parametrize("comes_back", [0, 5, float("inf")])
@pytest.mark.parametrize("lost_at", [1, 2, 17, 50, 99, 100, 101])
def test_a_lost_worker_costs_what_it_had_not_finished(
    lost_at: int, comes_back: float, ray: FakeRay
) -> None:
    ray.losses, ray.comes_back = {lost_at}, comes_back
    assert sorted(doubled(range(100), batch=8)) == EXPECTED
    # What was finished is not done again.
    assert ray.sent == 100
    assert sum(ray.batches) <= 100 + 8


def test_workers_are_lost_again_and_again(ray: FakeRay) -> None:
    ray.losses, ray.nodes_alive = set(range(5, 200, 9)), 4
    assert sorted(doubled(range(100), batch=4, losses=50)) == EXPECTED


def test_idle_workers_of_a_lost_node_are_not_trusted(ray: FakeRay) -> None:
    """More of them than losses are allowed, all on the node of the one that is lost at work."""
    ray.nodes_alive, ray.comes_back = 8, float("inf")
    with Pool(Doubling, Settings(batch=1)) as pool:
        results = pool.map([1])
        while len(pool._idle) < 8:
            (ref,), _ = ray.wait([*pool._starting], 1, 0)
            pool._welcome(ref)
        for handle in ray.handles[:7]:
            ray.lose(handle)
        pool._idle.sort(key=ray.handles.index, reverse=True)
        assert list(results) == [(0, 2)]


def test_a_result_that_is_lost_on_its_way_is_made_again(ray: FakeRay) -> None:
    ray.lost_objects = {3, 40}
    assert sorted(doubled(range(100), batch=8)) == EXPECTED


def test_a_worker_that_says_a_thing_twice_is_heard_once(ray: FakeRay) -> None:
    class Stuttering(Doubling):
        def work(self, items: Sequence[int]) -> Iterator[tuple[int, int]]:
            for result in super().work(items):
                yield from (result, result)

    with Pool(Stuttering, Settings(batch=8)) as pool:
        assert sorted(pool.map(range(100))) == EXPECTED


def test_an_item_that_kills_its_workers_ends_the_run(ray: FakeRay) -> None:
    ray.losses, ray.comes_back = set(range(1, 1000)), 0
    with pytest.raises(EngineError, match="4 workers were lost on the same item"):
        doubled(range(3))
    assert ray.shut == 1


def test_a_worker_that_fails_ends_the_run(ray: FakeRay) -> None:
    with pytest.raises(EngineError, match=r"a worker failed: ValueError$") as caught:
        doubled([1, -1])
    assert "negative" not in str(caught.value)  # what it says may quote a text


def test_a_worker_that_cannot_be_built_says_why(ray: FakeRay) -> None:
    def make() -> Doubling:
        raise EngineError("no such folder: x")

    with pytest.raises(EngineError, match="cannot be built: no such folder: x"):
        Pool(make)
    assert (ray.killed, ray.shut) == (2, 1)


def test_nodes_without_rerail_are_named(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ray.exceptions.RayError("a trace\n  ModuleNotFoundError: No module named 'rerail'")
    monkeypatch.setattr(ray, "get", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(EngineError, match=r"cannot be built: ModuleNotFoundError.*rerail"):
        Pool(Doubling)


def test_nodes_with_other_files_are_refused(ray: FakeRay) -> None:
    identities = iter(["one", "other"])
    with (
        Pool(lambda: Doubling((next(identities),)), Settings(batch=1)) as pool,
        pytest.raises(EngineError, match="nodes differ"),
    ):
        list(pool.map(range(50)))


def test_a_cluster_without_workers_is_given_up(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.losses, ray.comes_back, ray.nodes_alive = {10}, float("inf"), 1
    clock = iter(range(10_000))
    monkeypatch.setattr(cluster.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(EngineError, match="no worker for 60 s: add nodes"):
        doubled(range(50), patience=60.0)


@pytest.mark.parametrize(
    ("gpus", "settings", "workers", "asked"),
    [(0, {}, 2, 0), (4, {}, 4, 1), (4, {"gpus": 2.0}, 2, 2), (0, {"workers": 3}, 3, 0)],
)
def test_as_many_workers_as_the_cluster_has_room_for(
    gpus: float, settings: dict[str, Any], workers: int, asked: float, ray: FakeRay
) -> None:
    ray.gpus = gpus
    with Pool(Doubling, Settings(**settings)):
        assert len(ray.handles) == workers
    assert ray.options["num_gpus"] == asked


def test_a_cluster_that_is_not_there(ray: FakeRay) -> None:
    with pytest.raises(EngineError, match=r"no Ray cluster at 'nowhere'.*ray start --head"):
        Pool(Doubling, Settings(address="nowhere"))
    with pytest.raises(EngineError, match="no room"):
        Pool(Doubling, Settings(gpus=1.0))


def test_aligners_elsewhere_answer_as_one_here_does(ray: FakeRay) -> None:
    policy = Policy(name="p", moderators=("fake",))

    def make() -> Aligner:
        return Aligner(FakeEngine(), Panel(policy, FakeModerator(words=("sure",))))

    prompts = [f"how is {i} done" for i in range(20)] + [""]
    ray.losses = {4}
    with AlignerPool(make, policy, Settings(batch=6)) as pool:
        assert pool.engine.name == "fake"
        assert pool.engine.weights_sha256() == FakeEngine().weights_sha256()
        found = dict(pool.align_iter(prompts))
    here = make().align_many(prompts)
    assert [found[i].text for i in range(21)] == [r.text for r in here]
    assert Counter(r.outcome for r in found.values()) == {"steered": 20, "error": 1}


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray is not installed.*rerail\[ray\]"):
        Pool(Doubling)


def test_importing_it_does_not_import_ray() -> None:
    code = "import sys, rerail.cluster; print({'ray', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
