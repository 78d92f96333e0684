"""The demo's prompts through vLLM in its own environment: writes what became of them as JSON.

Run by the Python of that environment; the guard is needed because vLLM imports the main program
anew in its own process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rerail import Aligner, PolicyStore, Sampling, load_engine
from rerail.demo import demo_prompts
from rerail.panel import Panel

SAMPLING = Sampling(max_new_tokens=96)


def align(engine: Any) -> list[dict[str, Any]]:
    """Responses to the demo's prompts under the policy for the toy model."""
    policy = PolicyStore.shipped().get("quick")
    aligner = Aligner(engine, Panel.load(policy), sampling=SAMPLING)
    return [r.to_json() for r in aligner.align_many(p.prompt for p in demo_prompts(toy=True))]


if __name__ == "__main__":
    name, output = sys.argv[1:]
    Path(output).write_text(json.dumps(align(load_engine(name))), encoding="utf-8")
