"""Engines turn prompts into points, and points into answers.

Nothing heavy is imported here: `load_engine` imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, resources
from inspect import Parameter, signature
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
    "EMBEDDED",
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


VLLM, VLLM_SERVER = "vllm", "vllm-server"
"""What stands before the colon in the name of an engine that vLLM runs."""

_MODULES = {
    EMBEDDED: ("rerail.engines.transformers", "TransformersEngine", "hf"),
    VLLM: ("rerail.engines.vllm", "VllmEngine", "vllm"),
    VLLM_SERVER: ("rerail.engines.vllm_server", "VllmServerEngine", "vllm"),
}
"""Kind of engine to its module, its class and the extra that it needs."""


def load_engine(name_or_path: str | Path = EMBEDDED, **options: Any) -> Engine:
    """Load a causal language model to steer.

    Args:
        name_or_path: one of

            - `EMBEDDED`, a local folder, or a hub id, run by transformers;
            - ``vllm:MODEL``, a folder or hub id run by vLLM in this machine's processes;
            - ``vllm-server:URL[,URL...]?model=MODEL``, vLLM servers that serve MODEL.

            After a ``?`` each takes options, ``key=value`` joined by ``&``, with values as in
            YAML.
        options: of `TransformersEngine.load`, `VllmEngine.load` or `VllmServerEngine.load`:
            ``device``, ``dtype``, ``revision``, ...; they come before those of a ``?``.

    Raises:
        MissingDependencyError: torch, transformers, httpx or vLLM is not installed.
        EngineError: the model cannot be loaded, or an option is unknown.
        UnsteerableModelError: its answers do not depend on the input embeddings alone.
    """
    kind, colon, rest = str(name_or_path).partition(":")
    if colon and kind in {VLLM, VLLM_SERVER}:
        target, _, query = rest.partition("?")
        return _load_vllm(kind, target, {**_query(query), **options})
    engine_class = _engine_class(EMBEDDED)
    if not Path(name_or_path).is_dir():  # a folder's name may hold a ?
        name_or_path, _, query = str(name_or_path).partition("?")
        options = {**_query(query), **options}
    _check_options(options, engine_class.load, engine_class.__init__)
    if str(name_or_path) != EMBEDDED:
        engine: Engine = engine_class.load(name_or_path, **options)
    else:
        engine = engine_class.load(_embedded_folder(), **{"name": EMBEDDED, **options})
    return engine


def _load_vllm(kind: str, target: str, options: dict[str, Any]) -> Engine:
    if options.pop("device", None) is not None:
        raise EngineError("vLLM chooses its device when it is started: leave the device out")
    engine_class = _engine_class(kind)
    if kind == VLLM:
        options = {**options, "model": target}
    else:
        _check_options(options, engine_class.load)
        options = {**options, "urls": target.split(",")}
    if not options.get("model"):
        raise EngineError(
            f"which model? Write {VLLM}:MODEL, or {VLLM_SERVER}:http://host:port?model=MODEL "
            "with the folder or hub id of the checkpoint that is served"
        )
    if options["model"] == EMBEDDED:
        options = {"name": EMBEDDED, **options, "model": _embedded_folder()}
    engine: Engine = engine_class.load(**options)
    return engine


def _check_options(options: Mapping[str, Any], *functions: Callable[..., Any]) -> None:
    """Refuse what is no keyword-only parameter of any of the functions."""
    given = [p for function in functions for p in signature(function).parameters.values()]
    known = [p.name for p in given if p.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise EngineError(f"unknown option {option!r}{nearest(option, known)}")


def _query(text: str) -> dict[str, Any]:
    """Options after a ``?``, their values read as YAML: ``8`` is a number, ``true`` is true."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        return {key: read_yaml(value) for key, value in pairs}
    except (ValueError, NotYamlError):
        raise EngineError(
            "the options after the ? cannot be read: write key=value, joined by &"
        ) from None


def _embedded_folder() -> Path:
    folder = Path(str(resources.files("rerail") / "assets" / "chat"))
    if not (folder / "config.json").is_file():
        raise EngineError(
            "this installation of rerail lacks the embedded chat model: install a released "
            "package, or name a model by its hub id or folder"
        )
    return folder


def _engine_class(kind: str) -> Any:
    module, name, extra = _MODULES[kind]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        package = (error.name or "transformers").partition(".")[0]
        if package == "rerail":
            raise
        raise MissingDependencyError(package, extra) from error
