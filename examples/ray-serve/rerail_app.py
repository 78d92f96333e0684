"""rerail's server as a deployment of Ray Serve.

    serve run rerail_app:app

Each replica loads the model and answers what Ray sends it; requests that meet in one are searched
for together. Keys, policies and limits are files and services that all replicas reach.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from ray import serve


def build() -> FastAPI:
    """The server, built in the replica: a loaded model does not travel."""
    from rerail import load_engine
    from rerail.server.app import create_app
    from rerail.server.keys import KeyRing
    from rerail.server.limits import MEMORY, RateLimits
    from rerail.store import Store

    policies, store = os.environ.get("RERAIL_POLICIES"), os.environ.get("RERAIL_STORE")
    return create_app(
        {"rerail": load_engine(os.environ.get("RERAIL_MODEL", "smollm2-safe"))},
        folder=Path(policies) if policies else None,
        keys=KeyRing.read(Path(os.environ["RERAIL_KEYS"])),
        store=Store.open(store) if store else None,
        limits=RateLimits(os.environ.get("RERAIL_LIMITS", MEMORY)),
    )


@serve.deployment(
    # What a replica searches for at once. Ray's own default of 5 would leave the model idle.
    max_ongoing_requests=64,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32},
    ray_actor_options={"num_cpus": 1, "num_gpus": float(os.environ.get("RERAIL_GPUS", "0"))},
    # Until a request under way has had its answer.
    graceful_shutdown_timeout_s=120,
)
@serve.ingress(build)
class Rerail:
    """One replica."""


app = Rerail.bind()
