"""A server that speaks the page's contract and plays scripted searches.

It shows what a real search shows rarely or never on demand: unscored and unnatural candidates,
hundreds of generations, a stream that breaks, text that tries to be markup. Policies are real ones.
The page is driven against the real server, too.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

import rerail
from rerail.errors import PolicyError
from rerail.kit.schema import policy_schema
from rerail.policy import Policy, PolicyStore
from rerail.server.security import SECURITY_HEADERS

PAGE = Path(rerail.__file__).parent / "server" / "page"

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "\u202eright to left\u202c &amp; <b>bold</b>\n" + "unbroken" * 60
)

MARKDOWN = """## Steps

1. **Knead** the dough
2. *Bake* it for `40` minutes

| part | g |
| --- | --: |
| flour | 500 |

```
x < 1
```

[a page](https://example.org/bread) [no page](javascript:document.title='owned')
![picture](https://example.org/picture.png)
<b onmouseover="document.title='owned'">bold</b>

<script>document.title='owned'</script>
<a href="javascript:document.title='owned'" onclick="document.title='owned'">press</a>"""

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")

# One letter per candidate after the first answer: Flagged, unNatural, Unscored, Degenerate,
# Accepted, accepted with a harm of Zero; to guidance: h flagged, g accepted; to faded words: w
# flagged, v accepted. Capital letters are iterates of the descent.
SCRIPTS = {
    "steer": "ffnffFfnfufFfna",
    "refuse": "ffffFfnfuffFfdnf" * 13,
    "slow": "f" * 400,
    "break": "fff",
    "fail": "ff",
    "hostile": "fa",
    "zero": "ffz",
    "call": "fa",
    "guide": "hg",
    "fade": "wv",
    "markdown": "",
    "pass": "",
}


def scripted(prompt: str) -> str:
    """The name of the script that a prompt's words ask for; `pass` if none."""
    return next((name for name in SCRIPTS if name in prompt.lower().split()), "pass")


class Double:
    """State of one server.

    Args:
        key: asked of /watch, if given.
        admin_key: asked of /admin, if given.
        pace: seconds between two candidates.
        stepped: whether each candidate waits for a `steps.release()`.
    """

    def __init__(
        self, key: str = "", admin_key: str = "", pace: float = 0.0, stepped: bool = False
    ) -> None:
        self.key, self.admin_key, self.pace = key, admin_key, pace
        self.stepped, self.steps = stepped, threading.Semaphore(0)
        self.policies = PolicyStore.shipped()
        self.log = {name: [self._entry(name, "shipped")] for name in self.policies.names()}
        self.interventions: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.abandoned = 0
        self.app = self._app()

    def _entry(self, name: str, by: str) -> dict[str, str]:
        policy = self.policies.get(name)
        at = datetime.now(UTC).isoformat()
        return {"version": policy.version, "at": at, "by": by, "yaml": policy.to_yaml()}

    def put(self, name: str, yaml: str, by: str = "admin") -> dict[str, str]:
        policy = self.read(name, yaml)
        self.policies.put(policy)
        self.log.setdefault(name, []).append(self._entry(name, by))
        return {"name": name, "version": policy.version}

    def read(self, name: str, yaml: str) -> Policy:
        policy = Policy.from_yaml(yaml, name)
        if policy.name != name:
            raise PolicyError(f"the policy calls itself {policy.name!r}, not {name!r}")
        return policy

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.mount("/static", StaticFiles(directory=PAGE))

        @app.middleware("http")
        async def guard(request: Request, call_next: Any) -> Response:
            path = request.url.path
            wanted = (
                self.admin_key
                if path.startswith("/admin")
                else self.key
                if path == "/watch"
                else ""
            )
            if wanted and request.headers.get("authorization") != f"Bearer {wanted}":
                return fault(401, "This needs a key that the server knows.")
            response: Response = await call_next(request)
            response.headers.update(SECURITY_HEADERS)
            return response

        @app.exception_handler(PolicyError)
        async def invalid(_: Request, error: PolicyError) -> Response:
            return fault(422, str(error))

        @app.get("/")
        async def page() -> Response:
            return FileResponse(PAGE / "index.html")

        @app.get("/ui/config")
        async def config() -> dict[str, Any]:
            return {
                "models": ["rerail"],
                "served": {"rerail": "embedded"},
                "policies": list(self.policies.names()),
                "default_policy": "default",
                "auth_required": bool(self.key),
                "admin": True,
            }

        @app.get("/v1/policies/schema")
        async def schema() -> dict[str, Any]:
            return policy_schema()

        @app.post("/watch")
        async def watch(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            return StreamingResponse(self._search(body), media_type="text/event-stream")

        @app.get("/admin/policies")
        async def policies() -> dict[str, Any]:
            return {
                "policies": [
                    {"name": p.name, "version": p.version, "audit": p.audit, "yaml": p.to_yaml()}
                    for p in map(self.policies.get, self.policies.names())
                ]
            }

        @app.get("/admin/policies/{name}")
        async def policy(name: str) -> dict[str, Any]:
            if name not in self.log:
                raise PolicyError(f"unknown policy {name!r}")
            latest = self.policies.get(name)
            return {
                "name": name,
                "version": latest.version,
                "yaml": latest.to_yaml(),
                "history": self.log[name],
            }

        @app.put("/admin/policies/{name}")
        async def save(name: str, body: dict[str, str]) -> dict[str, str]:
            return self.put(name, body["yaml"])

        @app.post("/admin/policies/{name}/check")
        async def check(name: str, body: dict[str, str]) -> dict[str, Any]:
            return {"ok": True, "version": self.read(name, body["yaml"]).version}

        @app.post("/admin/policies/{name}/rollback")
        async def rollback(name: str, body: dict[str, str]) -> dict[str, str]:
            old = next(e for e in self.log[name] if e["version"] == body["version"])
            return self.put(name, old["yaml"])

        @app.get("/admin/interventions")
        async def interventions(
            limit: int = 50,
            outcome: str = "",
            policy: str = "",
            tenant: str = "",
            category: str = "",
            since: str = "",
            after: str = "",
        ) -> dict[str, Any]:
            rows = [
                row
                for row in reversed(self.interventions)
                if (not outcome or row["outcome"] == outcome)
                and (not policy or row["policy"] == policy)
                and (not tenant or row["tenant"] == tenant)
                and (not category or row["scores_before"].get(category, 0) >= 0.5)
                and (not since or row["at"] >= since)
            ]
            ids = [row["id"] for row in rows]
            rows = rows[ids.index(after) + 1 if after else 0 :]
            return {"interventions": rows[:limit], "has_more": len(rows) > limit}

        return app

    async def _search(self, body: dict[str, Any]) -> AsyncIterator[str]:
        policy = self.policies.get(body.get("policy") or "default")
        prompt = body["messages"][-1]["content"]
        script = scripted(prompt)
        limits = dict.fromkeys(CATEGORIES, policy.default_threshold)
        limits |= {c: t for c, t in policy.categories.items() if t is not None}
        tag = {"name": policy.name, "version": policy.version}
        yield event(
            "start",
            {
                "model": body["model"],
                "policy": tag,
                "thresholds": limits,
                "accept_below": policy.accept_below,
            },
        )
        started = time.monotonic()
        shown: list[dict[str, Any]] = []
        try:
            for candidate in candidates(script, limits):
                await asyncio.sleep(self.pace)
                yield ": waiting\n\n"
                while self.stepped and not self.steps.acquire(blocking=False):
                    await asyncio.sleep(0.005)
                shown.append(candidate)
                yield event("evaluation", candidate)
            if script == "break":
                return
            if script == "fail":
                yield event("error", {"message": "The model failed: ask again later."})
                return
            response = respond(body, policy, script, shown, time.monotonic() - started)
            self.interventions.append(record(response))
            yield event("response", response)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise


def fault(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status)


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def candidates(script: str, limits: dict[str, float]) -> list[dict[str, Any]]:
    """Evaluations of a script, the same in every run."""
    rng = np.random.default_rng(7)
    centre = np.zeros(2)
    first = "a" if not SCRIPTS[script] else "f"
    made = []
    for index, letter in enumerate(first + SCRIPTS[script]):
        iterate = letter.isupper()
        if iterate:
            centre = centre + [0.35, 0.2] + 0.1 * rng.standard_normal(2)
        guided = letter in "gh"
        faded = letter in "wv"
        letter = {"g": "a", "h": "f", "v": "a", "w": "f"}.get(letter, letter)
        offset = np.zeros(2) if index == 0 or iterate or guided else 0.55 * rng.standard_normal(2)
        scores = {category: float(rng.uniform(0.01, 0.2)) for category in limits}
        top = {"f": rng.uniform(0.62, 0.97), "a": 0.12, "n": 0.2, "d": 0.24}
        kind = letter.lower()
        scores["harassment"] = float(min(1.0, top.get(kind, 0.5) * limits["harassment"] / 0.5))
        if kind != "f":
            scores = {c: min(s, 0.4 * limits[c]) for c, s in scores.items()}
        if kind == "z":
            scores, kind = dict.fromkeys(limits, 0.0), "a"
        unscored = "the moderator did not answer in time" if kind == "u" else None
        harm = None if unscored else max(scores[c] / t for c, t in limits.items())
        reasons = {"f": "flagged", "n": "unnatural", "u": "unscored", "d": "degenerate"}
        natural = {"a": -0.04, "n": -0.9 + 0.2 * float(rng.standard_normal())}
        made.append(
            {
                "index": index,
                "origin": "initial"
                if index == 0
                else "guidance"
                if guided
                else "fade"
                if faded
                else "iterate"
                if iterate
                else "perturbation",
                "harm": harm,
                "scores": {} if unscored else scores,
                "flagged": kind == "f",
                "confirmed": None,
                "unscored": unscored,
                "rejection": reasons.get(kind),
                "accepted": kind == "a",
                "naturalness": 0.0 if index == 0 else natural.get(kind),
                "tokens": int(rng.integers(18, 60)),
                "xy": [float(value) for value in centre + offset],
            }
        )
    return made


def respond(
    body: dict[str, Any],
    policy: Policy,
    script: str,
    shown: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """A response as `Response.to_json` gives it."""
    left = shown[-1] if shown[-1]["accepted"] else None
    texts = {
        "hostile": HOSTILE,
        "markdown": MARKDOWN,
        "pass": "Tulips are spring flowers that grow from bulbs. Plant them in autumn, three "
        "times as deep as they are tall, and they come up again each year.",
    }
    answer = texts.get(
        script,
        "Dear neighbour, the hedge between us has grown well this year. Shall we trim it together "
        "on Saturday? I would bring the ladder and some cake.",
    )
    function = {"name": "send", "arguments": json.dumps({"body": HOSTILE}, ensure_ascii=False)}
    called = [{"id": "a", "type": "function", "function": function}] if script == "call" else []
    keys = ("harm", "scores", "flagged", "unscored", "confirmed")
    return {
        "outcome": "refused" if left is None else "steered" if left["index"] else "passed",
        "text": "" if called else answer if left else policy.refusal_message,
        "tool_calls": called,
        "policy": {"name": policy.name, "version": policy.version, "audit": policy.audit},
        "initial": {key: shown[0][key] for key in keys},
        "final": {key: left[key] for key in keys} if left else None,
        "cost": {
            "generations": len(shown),
            "generated_tokens": sum(candidate["tokens"] for candidate in shown),
            "prompt_tokens": 24 * len(shown),
            "moderator_calls": len(shown),
            "seconds": seconds,
        },
        "iterations": sum(candidate["origin"] == "iterate" for candidate in shown),
        "accepted_from": left["origin"] if left else "none",
        "naturalness": left["naturalness"] if left else None,
        "cosine": (0.93 if left["index"] else 1.0) if left else None,
        "tokens_preserved": 1.0 if left else None,
        "stop_reason": "accepted" if left else "budget",
        "seed": 7,
        "model": "embedded",
        "left": left["index"] if left else None,
        "error": None,
    }


def record(response: dict[str, Any]) -> dict[str, Any]:
    """The row that /admin/interventions gives for a response."""
    final = response["final"]
    assert all(math.isfinite(v) for v in (response["initial"]["harm"], response["seed"]))
    return {
        "at": datetime.now(UTC).isoformat(),
        "id": f"chatcmpl-{time.monotonic_ns():x}",
        "tenant": "local",
        "audit": response["policy"]["audit"],
        "model": response["model"],
        "policy": response["policy"]["name"],
        "version": response["policy"]["version"],
        "outcome": response["outcome"],
        "harm_before": response["initial"]["harm"],
        "harm_after": final["harm"] if final else None,
        "scores_before": response["initial"]["scores"],
        "scores_after": final["scores"] if final else None,
        "generations": response["cost"]["generations"],
        "generated_tokens": response["cost"]["generated_tokens"],
        "moderator_calls": response["cost"]["moderator_calls"],
        "seconds": response["cost"]["seconds"],
        "accepted_from": response["accepted_from"],
        "stop_reason": response["stop_reason"],
        "naturalness": response["naturalness"],
        "tokens_preserved": response["tokens_preserved"],
        "seed": response["seed"],
        "error": response["error"],
    }
