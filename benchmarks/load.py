"""Load a real server with wrk: requests per second and latencies, benign and flagged traffic.

    python -m benchmarks.load --seconds 20 --out load.json
    python -m benchmarks.load --model rerail=fake --clients 1 8 64     # the server alone

Starts ``rerail serve`` on loopback with a store of its own, asks each kind of prompt once so that
nothing is measured cold, and then runs wrk (https://github.com/wg/wrk, Debian package ``wrk``)
for every kind and number of clients. Clients ask the demo's prompts in turn: benign ones, or those
whose first answer the policy flags. Verdicts on texts that were judged before come from the cache,
as they would in service; generation is never cached.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from rerail.demo import demo_prompts

KINDS = ("benign", "flagged")


@contextmanager
def served(model: str, options: Sequence[str]) -> Iterator[str]:
    """A server with records of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-c", "from rerail.cli import main; main()", "serve", "--model", model,
            "--policy", "quick", "--port", str(port), "--store", f"{folder}/records.sqlite",
            "--log-level", "error", "--max-waiting", "1024", *options,
        ]  # fmt: skip
        process = subprocess.Popen(command, env=os.environ.copy())
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 300
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the server did not start")
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(120)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def body(text: str, max_tokens: int) -> str:
    """A chat completion."""
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": "rerail", "messages": messages, "max_tokens": max_tokens})


def sorted_by_first_answer(url: str, max_tokens: int) -> dict[str, list[str]]:
    """The demo's prompts by kind of traffic: benign ones that pass, and those that are flagged."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    with httpx.Client(base_url=url, timeout=600) as client:
        for prompt in demo_prompts(toy=True):
            sent = body(prompt.prompt.messages[-1].content, max_tokens)
            reply = client.post("/v1/chat/completions", content=sent, headers=_JSON).json()
            outcome = reply["rerail"]["outcome"]
            if outcome != "passed":
                found["flagged"].append(sent)
            elif prompt.kind == "benign":
                found["benign"].append(sent)
    return found


_JSON = {"Content-Type": "application/json"}
_LUA = """
local bodies = {{ {bodies} }}
local next_body = 0
local shift = 0
function setup(thread)
  shift = shift + 1
  thread:set("shift", shift)
end
function init(args)
  next_body = shift * 7
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end
function request()
  next_body = next_body + 1
  return wrk.format(nil, nil, nil, bodies[next_body % #bodies + 1])
end
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("figures %d %d %d %d %d %d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


def _quoted(text: str) -> str:
    """A Lua string of any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def wrk(url: str, bodies: Sequence[str], clients: int, seconds: int) -> dict[str, Any]:
    """One run of wrk; latencies in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_LUA.format(bodies=", ".join(_quoted(text) for text in bodies)))
        run = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "600s", "-s", str(script),
             f"{url}/v1/chat/completions"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    figures = re.search(r"^figures (.*)$", run.stdout, re.MULTILINE)
    assert figures is not None, run.stdout
    requests, micros, errors, p50, p95, p99 = map(int, figures[1].split())
    return {
        "clients": clients,
        "requests": requests,
        "requests_per_second": requests / (micros * 1e-6),
        "errors": errors,
        "p50": p50 * 1e-6,
        "p95": p95 * 1e-6,
        "p99": p99 * 1e-6,
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The runs as Markdown."""
    lines = [
        "| traffic | clients | requests/s | p50 | p95 | p99 | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        latencies = " | ".join(f"{run[p]:.3f} s" for p in ("p50", "p95", "p99"))
        lines.append(
            f"| {run['kind']} | {run['clients']} | {run['requests_per_second']:.1f} | {latencies} "
            f"| {run['errors']} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="rerail=embedded")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path)
    arguments, options = parser.parse_known_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: it is the Debian package wrk")
    with served(arguments.model, options) as url:
        bodies = sorted_by_first_answer(url, arguments.max_tokens)
        runs = []
        for kind in KINDS:
            if not bodies[kind]:
                print(f"no {kind} prompt under this model")
                continue
            for clients in arguments.clients:
                run = {"kind": kind, **wrk(url, bodies[kind], clients, arguments.seconds)}
                runs.append(run)
                print(json.dumps(run), flush=True)
        metrics = httpx.get(f"{url}/metrics").text
    sizes = re.findall(r"rerail_round_searches_(sum|count)\{[^}]*\} ([\d.e+]+)", metrics)
    totals = {name: float(value) for name, value in sizes}
    summary = {
        "model": arguments.model,
        "max_tokens": arguments.max_tokens,
        "seconds": arguments.seconds,
        "prompts": {kind: len(bodies[kind]) for kind in KINDS},
        "searches_per_round": totals["sum"] / totals["count"],
        "runs": runs,
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(summary, indent=2) + "\n")
    print(table(runs))
    print(f"searches per round, over all runs: {summary['searches_per_round']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
