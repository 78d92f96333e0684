"""Models in GGUF files, read by transformers; and what of such a file it leaves aside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from rerail.engines._common import end_tokens
from rerail.errors import EngineError, MissingDependencyError

_HF: Any = transformers
_EXTRA = "gguf"
_PACKAGES = ("accelerate", "gguf")
_SAFETENSORS = "name the model's folder or hub id, with safetensors weights"


def gguf_file(name_or_path: str | Path) -> Path | None:
    """The GGUF file of that name; None if it is the name of something else.

    Raises:
        MissingDependencyError: a package that reads such files is not installed.
        EngineError: there is no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() != ".gguf" or path.is_dir():
        return None
    if not path.is_file():
        raise EngineError(f"no such file: {name_or_path}")
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingDependencyError(package, _EXTRA)
    return path


def options_of(file: Path) -> dict[str, Any]:
    """What `from_pretrained` of a model wants to be told, so that it unpacks all weights."""
    options: dict[str, Any] = {"gguf_file": file.name}
    if hasattr(_HF, "GgufConfig"):
        options["quantization_config"] = _HF.GgufConfig(dequantize=True)
    return options


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Without transformers' progress bar, and with a remedy where it cannot read the file.

    Raises:
        EngineError: it cannot.
    """
    module: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = module.tqdm
    module.tqdm = lambda rows, **_: rows
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise EngineError(
            f"cannot load {file}: transformers does not read this GGUF file ({text}): "
            f"{_SAFETENSORS}"
        ) from error
    finally:
        module.tqdm = bar


def complete(model: Any, file: Path) -> None:
    """Make a model that transformers has read an ordinary one, and add what it left aside.

    That is the token that ends a turn, where it is another than the one that ends a text, and the
    factors of Llama 3's rotary frequencies.

    Raises:
        EngineError: the file scales positions in a way that transformers left aside.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    ends = [_content(reader, f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot")]
    known = end_tokens(model.generation_config, model.config)
    model.generation_config.eos_token_id = sorted({*known, *(e for e in ends if e is not None)})

    factors = {t.name: t.data for t in reader.tensors if t.name.startswith("rope_")}
    scaling = _content(reader, f"{_content(reader, 'general.architecture')}.rope.scaling.type")
    parameters = getattr(model.config, "rope_parameters", None) or {}
    plain = parameters.get("rope_type", "default") == "default"
    if plain and (scaling not in (None, "none") or factors.keys() - {"rope_freqs.weight"}):
        raise EngineError(
            f"cannot load {file}: it scales positions ({scaling or ', '.join(sorted(factors))}), "
            f"which transformers does not read from a GGUF file: {_SAFETENSORS}"
        )
    if plain and factors:
        divisor = torch.from_numpy(factors["rope_freqs.weight"].copy())
        for module in model.modules():
            for name in ("inv_freq", "original_inv_freq"):
                if hasattr(module, name):
                    getattr(module, name).div_(divisor)

    for owner, names in (
        (model, ("hf_quantizer", "quantization_method", "is_quantized")),
        (model.config, ("quantization_config",)),
    ):
        for name in names:
            owner.__dict__.pop(name, None)


def _content(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()
