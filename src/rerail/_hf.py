"""Loading from Hugging Face transformers: what engines and moderators have in common.

Neither torch nor transformers is imported here: who loads a model passes them in.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rerail.errors import RerailError

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def source_of(model: str | Path, error: type[RerailError]) -> tuple[str, str]:
    """What transformers is to load, and the model's name: the hub id, or the folder's name.

    Raises:
        RerailError: of the class ``error``, for what is neither a folder with a model nor a hub
            id.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise error(
                f"{path} holds no model: a model's folder has config.json, tokenizer.json and "
                "model.safetensors (save_pretrained writes them)"
            )
        return str(path), path.resolve().name
    if path.is_file():
        raise error(f"{path} is a file: name a folder with safetensors weights, or a hub id")
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise error(f"no such folder: {model}. Name a model's folder or its hub id")
    return model, model


def device_of(torch: Any, device: str, error: type[RerailError]) -> str:
    """The device; ``auto`` is the first of cuda, mps and cpu that is there.

    Raises:
        RerailError: of the class ``error``, for what is no device or is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next((kind for kind, found in there.items() if found), "cpu")
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise error(f"unknown device {device!r}: use auto, cpu, cuda, cuda:0 or mps") from None
    if not there.get(kind, True):
        raise error(f"no {kind} is there: use the device auto or cpu")
    return device


@contextlib.contextmanager
def loading(
    transformers: Any, model: str | Path, error: type[RerailError]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Quietly load a model; gives what checks transformers' report of its weights.

    Raises:
        RerailError: of the class ``error``, with the remedy: loading failed, or the files lack
            weights.
    """

    def check(report: Mapping[str, Any]) -> None:
        if report["missing_keys"]:
            missing = ", ".join(sorted(report["missing_keys"])[:3])
            raise error(
                f"cannot load {model}: its files lack weights ({missing}, ...). "
                "Name a complete model"
            )

    try:
        with quiet(transformers):
            yield check
    except error:
        raise
    except Exception as fault:
        raise error(f"cannot load {model}: {remedy(fault)}") from fault


def pads(model: Any) -> bool:
    """Whether masked tokens before a text leave its logits alone, as its config says."""
    config = model.config.get_text_config(decoder=True)
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return layers <= _ATTENTION and not getattr(model, "_is_stateful", False)


def remedy(error: Exception) -> str:
    """What went wrong when a model was loaded, and what helps."""
    text = str(error).strip().split("\n")[0]
    if "trust_remote_code" in str(error):
        return "it comes with code of its own; read it, then set trust_remote_code"
    if "out of memory" in text.lower():
        return f"{text} (choose a smaller model or dtype, or another device)"
    if "safetensors" in str(error):
        return f"{text} (only safetensors weights are loaded: convert it with save_pretrained)"
    return f"{text} (name a local folder or a hub id that can be reached)"


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' warnings and progress bars."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
