"""Engines turn prompts into points, and points into answers.

Nothing heavy is imported here: `load_engine` imports torch and transformers when it is called.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsalign.engines.base import (
    TEMPLATE_ROW,
    EmbeddedPrompt,
    EmbeddingTable,
    Engine,
    GenerationRequest,
    Sampling,
    SteerableRows,
)
from tsalign.engines.fake import FakeEngine
from tsalign.engines.table import ChunkedTable
from tsalign.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    from tsalign.engines.transformers import TransformersEngine

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
"""Name of the small chat model that comes with tsalign."""


def load_engine(name_or_path: str | Path = EMBEDDED, **options: Any) -> TransformersEngine:
    """Load a causal language model to steer.

    Args:
        name_or_path: `EMBEDDED`, a local folder, or a hub id.
        options: of `TransformersEngine.load`: ``device``, ``dtype``, ``revision``, ...

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        EngineError: the model cannot be loaded.
        UnsteerableModelError: its answers do not depend on the input embeddings alone.
    """
    engine_class = _transformers_engine()
    if str(name_or_path) != EMBEDDED:
        return engine_class.load(name_or_path, **options)
    folder = Path(str(resources.files("tsalign") / "assets" / "chat"))
    if not (folder / "config.json").is_file():
        raise EngineError(
            "this installation of tsalign lacks the embedded chat model: install a released "
            "package, or name a model by its hub id or folder"
        )
    return engine_class.load(folder, **{"name": EMBEDDED, **options})


def _transformers_engine() -> type[TransformersEngine]:
    try:
        from tsalign.engines.transformers import TransformersEngine
    except ModuleNotFoundError as error:
        package = (error.name or "transformers").partition(".")[0]
        if package == "tsalign":
            raise
        raise MissingDependencyError(package, "hf") from error
    return TransformersEngine
