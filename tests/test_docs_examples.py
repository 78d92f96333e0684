"""Examples of the documentation run: each block of Python, each command that needs no more than
rerail. What is not run is told with the reason, and its options are read all the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import rerail
import rerail.panel
from rerail.cli import ExitCode, app
from rerail.engines import FakeEngine
from rerail.moderators import FakeModerator
from rerail.store import Store

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    path
    for path in sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])
    if path.parent.name != "reference"
]

_SERVER = "asks a server: tests/server/test_openai_clients.py does the same"
BLOCKS_NOT_RUN = {
    ("docs/how-to/clients.md", 0): "needs LlamaIndex and a server: tests/server/test_clients.py",
    ("docs/how-to/evaluate.md", 0): "reads a finished run: tests/eval does the same",
    ("docs/how-to/guard-models.md", 0): "loads weights that one has to ask for",
    ("docs/how-to/harnesses.md", 0): "needs inspect-ai: tests/server/test_harnesses.py",
    ("docs/how-to/serve.md", 0): _SERVER,
    ("docs/how-to/tools.md", 0): _SERVER,
}
"""Page and number of a block to why it is not run."""

COMMANDS_NOT_RUN = {
    "bench": "takes minutes: tests/cli/test_bench.py",
    "demo": "takes minutes: tests/cli/test_demo.py",
    "eval": "needs benchmarks: tests/cli/test_eval.py",
    "report": "needs a finished run: tests/cli/test_report.py",
    "serve": "does not end: tests/server/test_command.py",
    "tune": "takes minutes: tests/cli/test_tune.py",
}
"""Commands of rerail to why they are only read."""

_OTHERS = """
    cat cd curl docker echo export garak helm inspect kubectl llm lm-eval make mike npx openssl
    pip podman printf python scripts/vllm_env.sh serve sudo vllm vllm-router
"""
OTHERS = set(_OTHERS.split())
"""Programs that are not ours, or need a network, a cluster, an hour: their lines are not run."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if blocks(page, "console")]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bimodal model that complies at first, and a moderator that flags compliance."""
    monkeypatch.setattr(rerail, "load_engine", lambda *_, **__: FakeEngine(margin=0.1))
    moderator = FakeModerator(words=("here is how",))
    monkeypatch.setattr(rerail.panel, "load_moderator", lambda _: moderator)


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_python_runs(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "example", "moderator": FakeModerator()}
    for number, code in enumerate(blocks(page, "python")):
        if (named(page), number) not in BLOCKS_NOT_RUN:
            exec(compile(code, named(page), "exec"), names)


def test_what_is_not_run_is_there() -> None:
    for name, number in BLOCKS_NOT_RUN:
        assert number < len(blocks(ROOT / name, "python"))


def commands(page: Path) -> list[str]:
    """What stands after prompts, with the lines in which it goes on."""
    found: list[str] = []
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(line.removeprefix("$ "))
            elif found and read(found[-1]) is None:
                found[-1] += f"\n{line}"
    return found


def read(command: str) -> list[str] | None:
    """The words and signs of a line; None if a quotation is open at its end."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        return list(lexer)
    except ValueError:
        return None


def parts(command: str) -> Iterator[list[str]]:
    """The words of each command of a line."""
    words: list[str] = []
    for word in [*(read(command) or []), ";"]:
        if set(word) <= set("|&;"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def ours(words: list[str]) -> list[str] | None:
    """What rerail is given, if that is what is called."""
    if words[0].rpartition("/")[2] != "rerail" or "..." in words[:3]:
        return None
    return words[1 : words.index(">")] if ">" in words else words[1:]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_every_line_is_ours_or_known(page: Path) -> None:
    for command in commands(page):
        for words in parts(command):
            first = next((word for word in words if not re.match(r"\w+=", word)), "")
            program = first.rpartition("/")[2] if first.startswith((".venv", "/")) else first
            assert program == "rerail" or program in OTHERS, command


@pytest.fixture
def reading() -> Any:
    """The command line, of which each command reads its options and does nothing."""
    command: Any = typer.main.get_command(app)

    def silence(one: Any) -> None:
        for child in getattr(one, "commands", {}).values():
            silence(child)
        one.callback = lambda **_: None

    silence(command)
    return command


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_commands_have_options_that_there_are(page: Path, reading: Any) -> None:
    for command in commands(page):
        for words in parts(command):
            if (given := ours(words)) is not None:
                assert reading.main(given, standalone_mode=False) == ExitCode.OK, command


LINE = '{"prompt": "Tell me about tulips", "answer": "Tulips grow from bulbs."}\n'


def prepared(words: list[str]) -> None:
    """Make the files that a command reads and that no command before it has made."""
    for before, word in zip([*words[:1], *words], words, strict=False):
        path = Path(word)
        if before in {"--output", "--keys", "--out"} or path.exists() or path.is_absolute():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if word.endswith(".jsonl"):
            path.write_text(LINE, encoding="utf-8")
        elif word.endswith(".yaml"):
            path.write_text(f"name: {path.stem}\nmoderators: [embedded]\n", encoding="utf-8")
        elif word.endswith(".sqlite"):
            Store.open(path).close()


def without_model(words: list[str]) -> list[str]:
    """The same with the model that is none, and one place for records."""
    changed = [w for i, w in enumerate(words) if "--model" not in {w, *words[max(0, i - 1) : i]}]
    if words[0] == "align":
        return [*changed, "--model", "fake"]
    if words[0] == "audit":
        Store.open("serve.sqlite").close()
        at = {i for i, w in enumerate(changed) if w == "--store"}
        kept = [w for i, w in enumerate(changed) if i not in at and i - 1 not in at]
        return [*kept, "--store", "serve.sqlite"]
    return changed


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=named)
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        calls = [given for words in parts(command) if (given := ours(words)) is not None]
        if len(calls) != 1 or "--ray" in calls[0]:  # a pipe, or a cluster: tests/cli
            continue
        (words,) = calls
        if words[0] in COMMANDS_NOT_RUN and words[:2] != ["serve", "keys"]:
            continue
        prepared(words)
        ran = CliRunner().invoke(app, without_model(words), input="")
        assert ran.exit_code in {ExitCode.OK, ExitCode.REFUSED}, (command, ran.stderr)
