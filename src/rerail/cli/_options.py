"""Options that commands share, and what is made of them."""

from __future__ import annotations

import gc
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerail.cli._frame import notes
from rerail.cli._lines import stdin
from rerail.engines import EMBEDDED, SMOLLM2, SMOLLM2_SAFE
from rerail.errors import PolicyError, PromptError, StoreError
from rerail.policy import Policy, PolicyStore
from rerail.settings import OptimizerSettings

if TYPE_CHECKING:
    from rerail.align import Aligner
    from rerail.cluster import EngineFacts
    from rerail.engines import Engine
    from rerail.store import Store

FAKE, FAKE_REASONING = "fake", "fake-reasoning"
"""Names of the engine without a model, and of the same with reasoning before its answers."""

_THOUGHTS = "They ask how it is done. I say it in one sentence."


class Method(StrEnum):
    """How answers are searched for; replaces the policy's optimiser."""

    FAST = "fast"
    TSA = "tsa"
    TIDE = "tide"
    RANDOM = "random"
    RESAMPLE = "resample"


class Dtype(StrEnum):
    """Of the weights; by default float32 on the cpu, else the checkpoint's own."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _device(value: str | None) -> str | None:
    if value is None or re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        return value
    raise typer.BadParameter(f"unknown device {value!r}: use auto, cpu, cuda, cuda:N or mps")


def policy_names(context: typer.Context, begun: str) -> list[str]:
    """Names of policies, for a shell to complete; of files it knows more."""
    folder = context.params.get("policies")
    try:
        names = policies(Path(folder) if isinstance(folder, str | Path) else None).names()
    except PolicyError:
        names = PolicyStore.shipped().names()
    return [name for name in names if name.startswith(begun)]


def model_names(begun: str) -> list[str]:
    """Names of models that come along, for a shell to complete."""
    names = (SMOLLM2_SAFE, SMOLLM2, EMBEDDED, FAKE, FAKE_REASONING)
    return [name for name in names if name.startswith(begun)]


_MODEL, _SEARCH, _OUTPUT = "Model", "Search", "Output"

MODELS = (
    f"'{SMOLLM2_SAFE}', '{SMOLLM2}', '{EMBEDDED}' (a toy), a Hugging Face id, a folder, a .gguf "
    "file"
)
"""What a model may be, for help."""

_model_option = typer.Option(
    "--model",
    help=f"{MODELS}, vllm:MODEL, vllm-server:URL?model=MODEL, chat:URL?model=NAME (a text API), "
    f"'{FAKE}' or '{FAKE_REASONING}' (no model: to try things out). Options of the engine follow "
    "a ?, as in MODEL?max_batch=16&prefix_tokens=0.",
    rich_help_panel=_MODEL,
    autocompletion=model_names,
)
ModelOption = Annotated[str, _model_option]
ModelOrNoneOption = Annotated[str | None, _model_option]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:N or mps.", callback=_device, rich_help_panel=_MODEL
    ),
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Of the weights.", rich_help_panel=_MODEL)
]
MaxNewTokensOption = Annotated[
    int,
    typer.Option("--max-new-tokens", min=1, help="Tokens per answer.", rich_help_panel=_MODEL),
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0, help="0 is greedy.", rich_help_panel=_MODEL)
]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        help="Name of a policy, or path of its YAML file.",
        autocompletion=policy_names,
    ),
]
NameOrPath = Annotated[
    str,
    typer.Argument(
        help="Name of a policy, or path of its YAML file; - reads standard input.",
        autocompletion=policy_names,
    ),
]
PoliciesOption = Annotated[
    Path | None,
    typer.Option("--policies", help="Folder of YAML files, beside the policies that come along."),
]
MethodOption = Annotated[
    Method | None,
    typer.Option(
        "--method", help="Replaces the policy's optimiser by a preset.", rich_help_panel=_SEARCH
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**63 - 1, help="Of every search.", rich_help_panel=_SEARCH),
]
MaxOpenOption = Annotated[
    int,
    typer.Option(
        "--max-open", min=1, help="Prompts steered in lock-step.", rich_help_panel=_SEARCH
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Path or SQLAlchemy URL of the records.", rich_help_panel=_OUTPUT),
]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", help="ISO 8601 time (UTC if it says nothing), or 90m, 24h, 7d."),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output.", rich_help_panel=_OUTPUT),
]


def is_toy(model: str) -> bool:
    """Whether it is the toy model, which has prompts and a policy of its own."""
    return model.partition("?")[0] == EMBEDDED


@dataclass(frozen=True)
class Setup:
    """Which model, under which policy, searched how."""

    model: str
    policy: Policy
    device: str | None = None
    dtype: Dtype | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    max_open: int = 64

    def engine(self) -> Engine:
        """Load the model."""
        if self.model in (FAKE, FAKE_REASONING):
            from rerail.engines import FakeEngine

            if self.model == FAKE:
                return FakeEngine()
            return FakeEngine(name=FAKE_REASONING, reasoning=_THOUGHTS)
        from rerail.engines import load_engine

        given = {"device": self.device, "dtype": self.dtype and self.dtype.value}
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        with working(f"loading {self.model}"), _uncollected():
            return load_engine(self.model, **options)

    def aligner(self) -> Aligner:
        """Load model and moderator."""
        from rerail.align import Aligner
        from rerail.engines import Sampling
        from rerail.panel import Panel

        with _uncollected():
            panel = Panel.load(self.policy)  # first: it is quick to fail
        return Aligner(
            self.engine(),
            panel,
            sampling=Sampling(self.max_new_tokens, self.temperature),
            seed=self.seed,
            max_open=self.max_open,
        )

    def settings(self, engine: Engine | EngineFacts) -> dict[str, Any]:
        """What answers depend on: a run goes on only if none of it has changed."""
        return {
            "model": engine.name,
            "weights_sha256": engine.weights_sha256(),
            "dtype": self.dtype and self.dtype.value,
            "policy": self.policy.name,
            "policy_version": self.policy.version,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
        }


def policies(folder: Path | None = None) -> PolicyStore:
    """The policies that come with rerail, and those of a folder.

    Raises:
        PolicyError: there is no such folder, a file in it is not a valid policy, or two have one
            name.
    """
    store = PolicyStore.shipped()
    if folder is None:
        return store
    if not folder.is_dir():
        raise PolicyError(f"--policies {folder}: there is no such folder")
    files: dict[str, Path] = {}
    for file in sorted([*folder.glob("[!.]*.yaml"), *folder.glob("[!.]*.yml")]):
        policy = Policy.from_file(file)
        if policy.name in files:
            raise PolicyError(f"{files[policy.name]} and {file} both name {policy.name!r}")
        files[policy.name] = file
        store.put(policy)
    return store


def read_policy(
    name_or_path: str, folder: Path | None = None, method: Method | None = None
) -> Policy:
    """A policy by name or file, its optimiser replaced by the preset ``method`` if given.

    ``-`` reads the policy from standard input.

    Raises:
        PolicyError: it is unknown or not valid.
    """
    path = Path(name_or_path)
    if name_or_path == "-":
        policy = Policy.from_yaml(read_text("-"), "standard input")
    elif path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        policy = Policy.from_file(path)
    else:
        policy = policies(folder).get(name_or_path)
    if method is None or method.value == policy.optimizer.preset:
        return policy
    return policy.model_copy(update={"optimizer": OptimizerSettings.model_validate(method.value)})


def read_text(value: str) -> str:
    """The text of an option; ``-`` reads standard input.

    Raises:
        PromptError: it is not UTF-8.
    """
    if value == "-":
        try:
            return stdin().read().decode("utf-8-sig").removesuffix("\n")
        except UnicodeDecodeError:
            raise PromptError("standard input is not UTF-8 text: convert it first") from None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PromptError("the text is not valid UTF-8: convert it first") from None
    return value


def attended() -> bool:
    """Whether standard input is a terminal, at which somebody may be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def piped_text(what: str) -> str:
    """What stands on standard input, where a command is given nothing else.

    Raises:
        BadParameter: a person sits there, or nothing stands there.
    """
    piped = sys.stdin is not None and not attended()
    text = read_text("-") if piped else ""
    if not text.strip():
        raise typer.BadParameter(f"give {what}, or a text on standard input")
    return text


def since(value: str | None) -> datetime | None:
    """The time of ``--since``: ISO 8601, or so many minutes, hours or days ago.

    Raises:
        BadParameter: it is neither.
    """
    if value is None:
        return None
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if value[-1:] in units:
            span = timedelta(**{units[value[-1]]: float(value[:-1])})
            return datetime.now(UTC) - span
        time = datetime.fromisoformat(value)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"--since {value}: write a time such as 2026-09-21T10:00, or 90m, 24h, 7d"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def recorded(location: str, option: str) -> Store:
    """A store that is there; nothing is made.

    What was given is not repeated: mistyped, a URL with its password passes for a path.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    from rerail.store import Store

    if "://" not in location and not Path(location).expanduser().is_file():
        raise StoreError(
            f"there is no store at the path of {option}; it takes a path, or a URL with ://"
        )
    return Store.open(location)


def not_a_file(text: str | None) -> str | None:
    """A text given without an option, if it does not look like a mistaken file.

    Raises:
        BadParameter: it is the path of a file.
    """
    try:
        mistaken = text is not None and Path(text).is_file()
    except (OSError, ValueError):  # longer than a path can be, or the like
        mistaken = False
    if mistaken:
        raise typer.BadParameter(f"{text} is a file: give it as --input {text}")
    return text


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection, which importing torch and transformers sets off again and again.

    What they make stays as long as the process: it is not looked at afterwards, either.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.freeze()
            gc.enable()


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Say which of many steps has begun: at a terminal in one place, else each on a line."""
    console = notes()
    if not console.is_terminal:
        yield lambda step: console.print(step, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda step: status.update(step)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what takes long, while it does, where somebody watches; what is logged meanwhile, too."""
    console = notes()
    if not console.is_terminal:
        yield
        return
    log = logging.getLogger("rerail.engines")
    level = log.level
    with console.status(what) as status:
        handler = _Told(status.update)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)


class _Told(logging.Handler):
    """Tells each message."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())
