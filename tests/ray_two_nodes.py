"""Five hundred prompts over two nodes of a Ray cluster, one of which is killed half-way.

Writes what was seen as JSON. A program of its own, because Ray keeps state of its own.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from rerail import Aligner, Policy, Prompt, Sampling
from rerail.cli._batch import Run, run_items
from rerail.cli._lines import Item, OutputFile
from rerail.cluster import AlignerPool, Settings
from rerail.panel import Panel
from rerail.store import Store

PROMPTS, BATCH = 500, 32
POLICY = Policy(name="faked", moderators=("fake",))


def main(folder: Path) -> dict[str, Any]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    opened = folder / "opened"

    def make() -> Aligner:
        from rerail.engines import FakeEngine
        from rerail.moderators import FakeModerator

        node = ray.get_runtime_context().get_node_id()

        class Engine(FakeEngine):
            """Takes its time, says on which node it ran, and notes what it was asked."""

            def embed(self, prompt: Prompt) -> Any:
                with opened.open("a") as file:
                    file.write("x")
                return super().embed(prompt)

            def generate(self, requests: Sequence[Any], sampling: Sampling) -> Any:
                time.sleep(0.01 * len(requests))
                return super().generate(requests, sampling)

        moderator = FakeModerator(words=("sure",))
        return Aligner(Engine(refuse=f"No. {node}"), Panel(POLICY, moderator), max_open=BATCH)

    items = [Item(i + 1, f"p{i}", Prompt.of(f"how is {i} done")) for i in range(PROMPTS)]
    output = folder / "out.jsonl"
    killed_after: list[int] = []

    def kill() -> None:
        while not output.exists() or (seen := output.read_bytes().count(b"\n")) < PROMPTS // 2:
            time.sleep(0.02)
        cluster.remove_node(second, allow_graceful=False)
        killed_after.append(seen)

    threading.Thread(target=kill, daemon=True).start()
    started = time.monotonic()
    with (
        OutputFile(output) as lines,
        Store.open(folder / "out.sqlite") as store,
        AlignerPool(make, POLICY, Settings(batch=BATCH)) as pool,
    ):
        run = Run("run", {"model": pool.engine.name}, store, lines)
        run.resume()
        summary = run_items(run, pool, items, [])
        records = sorted(record.item for record in store.records("run"))
    seconds = time.monotonic() - started
    nodes = [line["text"] for line in map(json.loads, output.read_text().splitlines())]
    ray.shutdown()
    cluster.shutdown()
    return {
        "ids": [json.loads(line)["id"] for line in output.read_text().splitlines()],
        "records": records,
        "outcomes": summary["outcomes"],
        "failed": summary["failed"],
        "killed_after": killed_after,
        "nodes_before": len(set(nodes[: PROMPTS // 4])),
        "nodes_at_the_end": len(set(nodes[-PROMPTS // 8 :])),
        "opened": opened.stat().st_size,
        "seconds": seconds,
    }


if __name__ == "__main__":
    Path(sys.argv[1], "seen.json").write_text(json.dumps(main(Path(sys.argv[1]))))
    os._exit(0)  # Ray's threads need not end in order
