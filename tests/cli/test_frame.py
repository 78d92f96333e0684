"""One document on standard output, one clear line per error, documented exit codes."""

import gc
import io
import json
import logging
import os
import subprocess
import sys

import pytest
from rich.console import Console

from rerail import __version__
from rerail._json import dumps
from rerail.cli import ExitCode, _options
from rerail.cli._text import one_line, printable
from rerail.errors import EngineError
from rerail.policy import PolicyStore
from tests.cli.conftest import Cli

COMMANDS = [
    *("demo", "align", "moderate", "policy", "serve", "audit"),
    *("eval", "report", "tune", "bench", "version"),
]
"""In the order of their use."""
ERRORS = [
    ["align"],
    ["align", "--prompt", "x", "--input", "y"],
    ["align", "--prompt", ""],
    ["align", "--prompt", "x", "--policy", "defualt"],
    ["align", "--prompt", "x", "--policy", "nowhere.yaml"],
    ["align", "--prompt", "x", "--policies", "nowhere"],
    ["align", "--prompt", "x", "--seed", "-1"],
    ["align", "--prompt", "x", "--method", "gradient"],
    ["align", "--input", "nowhere.jsonl", "--output", "out.jsonl"],
    ["align", "--input", "nowhere.jsonl"],
    ["align", "--prompt", "x", "--device", "warp"],
    ["align", "--prompt", "x", "--dtype", "int4"],
    ["align", "--no-such-option"],
    ["moderate"],
    ["moderate", "--prompt", "x"],
    ["policy", "show", "defualt"],
    ["policy", "diff", "default"],
    ["nonsense"],
]


def test_help_names_every_command_and_every_exit_code(cli: Cli) -> None:
    ran = cli("--help")
    assert ran.code == ExitCode.OK
    said = " ".join(ran.out.split())
    listed = [line.split()[1] for line in ran.out.splitlines() if line.startswith("│ ")]
    assert [word for word in listed if word in COMMANDS] == COMMANDS
    assert all(f"{int(code)} {code.meaning}" in said for code in ExitCode)


def test_help_groups_the_commands_by_what_they_are_for(cli: Cli) -> None:
    said = cli("--help").out
    groups = ["Answer and judge", "Policies and servers", "Evaluate and tune", "About"]
    assert [said.index(group) for group in groups] == sorted(map(said.index, groups))


def test_rows_that_go_to_a_pipe_are_blocks(cli: Cli) -> None:
    assert "name: default\nversion: " in cli("policy", "list").out
    judged = cli("moderate", "--moderator", "embedded", "hello").out
    assert "category: harassment\nscore: 0." in judged


@pytest.mark.parametrize("args", [[], ["policy"]], ids=str)
def test_without_arguments_comes_the_help(cli: Cli, args: list[str]) -> None:
    ran = cli(*args)
    assert ran.code == ExitCode.BAD_INPUT
    assert "Usage" in ran.out
    assert "error" not in ran.err


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_the_help_of_a_command_refers_to_the_exit_codes(cli: Cli, command: str) -> None:
    said = cli(command, "--help").out
    assert "see rerail --help" in said
    assert ExitCode.PARTLY.meaning not in " ".join(said.split())


def test_version(cli: Cli) -> None:
    assert cli("version").out == cli("--version").out == f"rerail {__version__}\n"
    assert cli("version", "--json").document["version"] == __version__


@pytest.mark.parametrize("args", ERRORS, ids=" ".join)
def test_an_error_is_one_line_on_stderr(cli: Cli, args: list[str]) -> None:
    ran = cli(*args)
    assert ran.code == ExitCode.BAD_INPUT
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ")


@pytest.mark.parametrize("args", ERRORS, ids=" ".join)
def test_with_json_the_error_is_also_a_document(cli: Cli, args: list[str]) -> None:
    ran = cli(*args, "--json")
    assert ran.code == ExitCode.BAD_INPUT
    error = ran.document["error"]
    assert error["exit_code"] == ExitCode.BAD_INPUT
    assert f"error: {error['message']}" in ran.err


def test_the_nearest_name_is_offered(cli: Cli) -> None:
    assert "did you mean 'default'" in cli("policy", "show", "defualt").err
    assert "did you mean 'align'" in cli("aling").err.lower()


def test_a_failing_model_is_reported_without_a_traceback(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EngineError("the folder 'x' holds no model: name one that has a config.json")

    monkeypatch.setattr("rerail.engines.FakeEngine", fail)
    ran = cli("align", *fake, "--prompt", "hello", "--json")
    assert ran.code == ExitCode.FAILED
    assert ran.document["error"]["type"] == "EngineError"
    assert "Traceback" not in ran.err
    assert "Traceback" in cli("--debug", "align", *fake, "--prompt", "hello", "--json").err


def test_an_unforeseen_error_does_not_quote_its_message(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("an answer that nobody should see")

    monkeypatch.setattr("rerail.engines.FakeEngine", fail)
    ran = cli("align", *fake, "--prompt", "hello", "--json")
    assert ran.code == ExitCode.UNEXPECTED
    assert ran.document["error"]["type"] == "ValueError"
    assert "nobody should see" not in ran.out + ran.err


def test_ctrl_c_has_a_code_of_its_own(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rerail.engines.FakeEngine", stop)
    ran = cli("align", *fake, "--prompt", "hello", "--json")
    assert ran.code == ExitCode.INTERRUPTED
    assert ran.document["error"]["type"] == "KeyboardInterrupt"
    assert ran.err == "stopped\n"


def test_ctrl_c_while_the_command_line_is_imported() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from rerail.__main__ import main\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (ExitCode.INTERRUPTED, "stopped\n")


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which RERAIL stands for the command line."""
    rerail = f"{sys.executable} -m rerail"
    return subprocess.run(
        ["bash", "-c", command.replace("RERAIL", rerail)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "command",
    [
        "RERAIL policy list >/dev/full",
        "RERAIL version --json >/dev/full",
        "RERAIL --help >/dev/full",
        "RERAIL --version >/dev/full",
        "RERAIL policy list >&-",
        "RERAIL policy show default >&-",
    ],
)
def test_standard_output_that_takes_nothing_is_one_line(command: str, buffered: str) -> None:
    ran = shell(command, PYTHONUNBUFFERED=buffered)
    assert ran.returncode == ExitCode.FAILED
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert "standard output" in line


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "<&-"])
def test_the_other_streams_are_not_needed(where: str) -> None:
    ran = shell(f"RERAIL align --model fake hello {where}")
    assert (ran.returncode, ran.stdout) == (0, "Sure, here is how it is done.\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_what_an_encoding_lacks_is_escaped(encoding: str) -> None:
    ran = shell("RERAIL policy diff default strict", PYTHONIOENCODING=encoding)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\u2192" in ran.stdout


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("rerail align --policy st", {"strict"}),
        ("rerail audit --policy st", {"strict"}),
        ("rerail policy show st", {"strict"}),
        ("rerail moderate --moderator op", {"openai"}),
        ("rerail eval --benchmark advb", {"advbench"}),
        ("rerail eval --method best", {"best-of-n"}),
        ("rerail eval --scenario ada", {"adaptive"}),
        ("rerail align --model smo", {"smollm2", "smollm2-safe"}),
    ],
)
def test_a_shell_completes_names(words: str, names: set[str]) -> None:
    asked = {"_RERAIL_COMPLETE": "complete_bash", "COMP_WORDS": words}
    ran = shell("RERAIL", **asked, COMP_CWORD=str(len(words.split()) - 1))
    assert set(ran.stdout.split()) == names


def test_what_libraries_print_and_log_is_not_in_the_document(
    cli: Cli, fake: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import rerail.engines as engines

    real = engines.FakeEngine

    def noisy() -> engines.FakeEngine:
        print("a banner")
        logging.getLogger("library").error("a log line")
        return real()

    monkeypatch.setattr(engines, "FakeEngine", noisy)
    ran = cli("align", *fake, "--prompt", "hello", "--json")
    assert ran.document["outcome"] == "steered"
    assert "a banner" in ran.err


@pytest.mark.parametrize(
    "args", [["--help"], ["align", "--help"], ["version"], ["policy", "list"]], ids=" ".join
)
def test_light_commands_load_no_model_library(args: list[str]) -> None:
    code = (
        "import sys\nfrom rerail.cli import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'sklearn', 'sqlalchemy'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_reader_that_has_enough_gets_no_complaint() -> None:
    for command in ("policy show default", "policy list", "serve --help"):
        ran = shell(f"RERAIL {command} | true; exit ${{PIPESTATUS[0]}}")
        assert (ran.returncode, ran.stderr) == (0, "")


def test_a_reader_of_lines_that_has_enough_ends_the_run() -> None:
    lines = 'yes \'{"prompt": "x"}\' | head -2000'
    ran = shell(f"{lines} | RERAIL align --model fake --input - --output - | head -1")
    assert len(ran.stdout.splitlines()) == 1
    assert "error" not in ran.stderr


@pytest.mark.parametrize("collecting", [True, False])
def test_loading_leaves_garbage_collection_as_it_was(collecting: bool) -> None:
    setup = _options.Setup("embedded", PolicyStore.shipped().get("quick"))
    try:
        if not collecting:
            gc.disable()
        setup.aligner()
        assert gc.isenabled() is collecting
    finally:
        gc.enable()
        gc.unfreeze()


class TestText:
    def test_nothing_commands_the_terminal(self) -> None:
        hostile = "a\x1b[2Jb\x07c\u202ed\u200be\x9bf\ud800g"
        assert printable(hostile) == "a\ufffd[2Jb\ufffdc\ufffdd\ufffde\ufffdf\ufffdg"
        assert printable("déjà vu\n\t日本語 🙂") == "déjà vu\n\t日本語 🙂"
        assert one_line(" a\n\n b\tc ") == "a b c"

    def test_json_is_strict_in_every_encoding(self) -> None:
        document = {"a": float("nan"), "b": [float("inf"), 1.5], "c": "é\ud800"}
        for encoding in ("utf-8", "ascii", "latin-1", "no-such-encoding"):
            text = dumps(document, encoding)
            assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": "é\ud800"}
        assert dumps({"a": "é"}) == '{"a": "é"}'
        assert dumps({"a": "é"}, "ascii") == '{"a": "\\u00e9"}'


def test_what_is_logged_while_a_model_is_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(_options, "notes", lambda: Console(file=said, force_terminal=True))
    log = logging.getLogger("rerail.engines")
    before = (log.level, log.handlers[:])
    with _options.working("loading a model"):
        logging.getLogger("rerail.engines._packaged").info("making it, once")
    assert "making it, once" in said.getvalue()
    assert (log.level, log.handlers) == before
