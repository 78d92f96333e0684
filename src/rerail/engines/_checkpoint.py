"""The files of a model that runs elsewhere: all that is wanted of them but the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch
import transformers
from safetensors import safe_open
from torch import nn

from rerail._hf import loading, quiet, source_of
from rerail.engines._common import end_tokens
from rerail.engines.transformers import _check_config
from rerail.errors import EngineError, UnsteerableModelError

_HF: Any = transformers
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """Tokenizer, config and, when asked for, the embedding module of a model.

    Of the weights only the embedding table is read, from the one file that holds it.

    Args:
        source: a folder, or a hub id.
        name: the model's name.
        config: its transformers config.
        tokenizer: its tokenizer.
        remote: ``revision`` and ``trust_remote_code``.
    """

    def __init__(
        self, source: str, name: str, config: Any, tokenizer: Any, remote: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.config = config
        self.text_config = config.get_text_config(decoder=True)
        self.tokenizer = tokenizer
        self.source = source
        self._remote = dict(remote)

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Read tokenizer and config.

        Args:
            name_or_path: a folder, or a hub id.
            revision: branch, tag or commit on the hub.
            trust_remote_code: whether code that comes with the model may run. Read it before.

        Raises:
            EngineError: they cannot be read.
            UnsteerableModelError: the model's answers do not depend on the embeddings alone.
        """
        source, name = source_of(name_or_path, EngineError)
        remote = {"revision": revision, "trust_remote_code": trust_remote_code}
        with loading(_HF, name_or_path, EngineError):
            config = _HF.AutoConfig.from_pretrained(source, **remote)
            _check_config(config)
            tokenizer = _HF.AutoTokenizer.from_pretrained(source, **remote)
        return cls(source, name, config, tokenizer, remote)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the checkpoint says it is in; float32 if it says nothing."""
        dtype = getattr(self.text_config, "dtype", None) or getattr(self.config, "dtype", None)
        return dtype if isinstance(dtype, torch.dtype) else torch.float32

    def embedding(self, dtype: torch.dtype) -> nn.Embedding:
        """The model's own embedding module on the cpu: tokens to rows, scale factors included.

        The model is built without memory to learn which class embeds its tokens, and which tensor
        of the checkpoint that needs.

        Raises:
            EngineError: the checkpoint has no such tensor.
            UnsteerableModelError: the module is more than a table with a scale.
        """
        code = self._remote["trust_remote_code"]
        with loading(_HF, self.name, EngineError), torch.device("meta"):
            model = _HF.AutoModelForCausalLM.from_config(self.config, trust_remote_code=code)
        module = model.get_input_embeddings()
        scale = getattr(module, "scalar_embed_scale", None)
        tensors = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
        known = {"weight"} if scale is None else {"weight", "embed_scale"}
        if not isinstance(module, nn.Embedding) or tensors - known:
            raise UnsteerableModelError(
                f"{self.name} embeds its tokens by a {type(module).__name__}, which is more than "
                "a table with a scale: run it with the transformers engine"
            )
        sources = [module]
        if getattr(self.text_config, "tie_word_embeddings", False):
            sources.append(model.get_output_embeddings())
        parts = list(model.named_modules(remove_duplicate=False))
        names = [f"{name}.weight" for source in sources for name, part in parts if part is source]
        rows = self._table(names, tuple(module.weight.shape))
        module.weight = nn.Parameter(rows.to(dtype), requires_grad=False)
        if "embed_scale" in tensors:
            module.register_buffer("embed_scale", torch.tensor(scale), persistent=False)
        return module

    def ends(self) -> list[int]:
        """Tokens that end an answer: the config's, its generation defaults', the tokenizer's."""
        sources = [self.config, self.text_config, self.tokenizer]
        try:
            with quiet(_HF):
                remote = {"revision": self._remote["revision"]}
                sources.append(_HF.GenerationConfig.from_pretrained(self.source, **remote))
        except OSError:
            pass  # a checkpoint without generation defaults
        return end_tokens(*sources)

    def sha256(self) -> str:
        """SHA-256 over the names and the SHA-256 of the checkpoint's safetensors files.

        Says which weights were *meant*; what a server has loaded cannot be seen from here. Of a
        model on the hub the hub's own hashes are taken, so that nothing is downloaded.

        Raises:
            EngineError: there are no such files, or the hub cannot be reached.
        """
        folder = Path(self.source)
        hashes = _hashes_in(folder) if folder.is_dir() else self._hashes_on_hub()
        if not hashes:
            raise EngineError(f"{self.name} has no safetensors files: convert it first")
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _table(self, names: list[str], shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor of one of the names, or the only one whose name ends like them."""
        files = self._tensors()
        ends = tuple("." + ".".join(name.split(".")[-2:]) for name in names)
        alike = [name for name in files if f".{name}".endswith(ends)]
        for name in [name for name in names if name in files] or alike[:1]:
            with safe_open(self._file(files[name]), framework="pt") as file:
                rows: torch.Tensor = file.get_tensor(name)
            if tuple(rows.shape) == shape and rows.is_floating_point() and rows.element_size() > 1:
                return rows
        raise EngineError(
            f"{self.name} has no embedding table of shape {shape} in its safetensors files "
            f"(looked for {', '.join(names)}): name the unquantised checkpoint of what is served"
        )

    def _tensors(self) -> dict[str, str]:
        """Every tensor of the checkpoint, and the file that holds it."""
        index = self._file(_INDEX, required=False)
        if index is not None:
            files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return files
        with safe_open(self._file(_ONE_FILE), framework="pt") as file:
            return dict.fromkeys(file.keys(), _ONE_FILE)

    @overload
    def _file(self, name: str) -> Path: ...

    @overload
    def _file(self, name: str, *, required: Literal[False]) -> Path | None: ...

    def _file(self, name: str, *, required: bool = True) -> Path | None:
        """A file of the checkpoint, downloaded if it is not there; None if it does not exist."""
        with loading(_HF, self.name, EngineError):
            found = _HF.utils.cached_file(
                self.source,
                name,
                revision=self._remote["revision"],
                _raise_exceptions_for_missing_entries=required,
                _raise_exceptions_for_connection_errors=required,
            )
        return None if found is None else Path(found)

    def _hashes_on_hub(self) -> dict[str, str]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        commit = getattr(self.config, "_commit_hash", None) or self._remote["revision"]
        try:
            info = HfApi().model_info(self.source, revision=commit, files_metadata=True)
        except (OSError, HfHubHTTPError) as error:
            raise EngineError(
                f"cannot ask the hub for the hashes of {self.name} ({type(error).__name__}): "
                "name a local folder, or go online"
            ) from error
        files = info.siblings or []
        return {f.rfilename: f.lfs.sha256 for f in files if _is_weights(f.rfilename) and f.lfs}


def _hashes_in(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in folder.iterdir():
        if _is_weights(path.name):
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors") and "/" not in name
