"""The table that a client reads gives, bit for bit, what the model's own module gives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerail._hf import remedy
from rerail.engines._checkpoint import Checkpoint
from rerail.errors import EngineError, UnsteerableModelError
from tests.engines import tiny

TOKENIZER = tiny.byte_level()


def saved(folder: Path, model: Any, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_rows_equal_those_of_the_models_module(architecture: str, tmp_path: Path) -> None:
    model = tiny.tiny_model(architecture, len(TOKENIZER))
    checkpoint = Checkpoint.open(saved(tmp_path, model))
    ids = torch.arange(len(TOKENIZER))
    for dtype in (torch.float32, torch.bfloat16):
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        with torch.no_grad():
            expected = loaded.get_input_embeddings()(ids)
            rows = checkpoint.embedding(dtype)(ids)
        assert rows.dtype == dtype
        assert torch.equal(rows, expected)


def test_of_many_files_only_the_one_with_the_table_is_read(tmp_path: Path) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    saved(tmp_path, model, max_shard_size="60KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    home = index["model.embed_tokens.weight"]
    others = set(index.values()) - {home}
    assert others
    for name in others:
        (tmp_path / name).write_bytes(b"not a tensor file")
    rows = Checkpoint.open(tmp_path).embedding(torch.float32)(torch.arange(len(TOKENIZER)))
    assert torch.equal(rows, model.get_input_embeddings().weight)


@pytest.mark.parametrize("kept", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_table_is_found_under_either_name(kept: str, tmp_path: Path) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    saved(tmp_path, model)
    rename(tmp_path, {"model.embed_tokens.weight": kept, "lm_head.weight": None})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    rows = Checkpoint.open(tmp_path).embedding(torch.float32)(torch.arange(len(TOKENIZER)))
    assert torch.equal(rows, model.get_input_embeddings().weight)


def test_a_table_is_found_behind_a_prefix(tmp_path: Path) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    saved(tmp_path, model)
    name = "model.embed_tokens.weight"
    rename(tmp_path, {name: f"language_model.{name}"})
    rows = Checkpoint.open(tmp_path).embedding(torch.float32)(torch.arange(len(TOKENIZER)))
    assert torch.equal(rows, model.get_input_embeddings().weight)


def test_memory_that_does_not_suffice_has_a_remedy_of_its_own() -> None:
    assert "smaller model" in remedy(RuntimeError("CUDA out of memory. Tried to allocate ..."))


def test_a_checkpoint_without_a_usable_table_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, tiny.tiny_model("llama", len(TOKENIZER)))
    name = "model.embed_tokens.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    for table in (tensors[name][:-1], tensors[name].to(torch.int8), None):
        changed = {**tensors, name: table} if table is not None else dict(tensors)
        if table is None:
            del changed[name]
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(EngineError, match="no embedding table"):
            Checkpoint.open(tmp_path).embedding(torch.float32)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EngineError, match="safetensors"):
        Checkpoint.open(tmp_path).embedding(torch.float32)
    with pytest.raises(EngineError, match="safetensors"):
        Checkpoint.open(tmp_path).sha256()


class Offset(torch.nn.Embedding):
    """Adds something of its own to its rows."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self.register_buffer("offset", torch.ones(width))


@pytest.mark.parametrize("kind", [Offset, torch.nn.Linear])
def test_an_embedding_that_is_more_than_a_table_is_refused(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, tiny.tiny_model("llama", len(TOKENIZER)))
    checkpoint = Checkpoint.open(tmp_path)
    model = tiny.tiny_model("llama", len(TOKENIZER))
    model.set_input_embeddings(kind(len(TOKENIZER), 32))
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_config", lambda *_, **__: model, raising=True
    )
    with pytest.raises(UnsteerableModelError, match="more than a table"):
        checkpoint.embedding(torch.float32)


def test_models_that_embed_elsewhere_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("gemma3n_text")
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsteerableModelError, match="every layer"):
        Checkpoint.open(tmp_path)


def test_the_hash_is_that_of_the_files(tmp_path: Path) -> None:
    saved(tmp_path, tiny.tiny_model("llama", len(TOKENIZER)))
    weights = tmp_path / "model.safetensors"
    checkpoint = Checkpoint.open(tmp_path)
    before = checkpoint.sha256()
    line = f"model.safetensors {hashlib.sha256(weights.read_bytes()).hexdigest()}\n"
    assert before == hashlib.sha256(line.encode()).hexdigest()
    (tmp_path / "README.md").write_text("not a weight")
    assert checkpoint.sha256() == before
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert checkpoint.sha256() != before


def test_of_a_model_on_the_hub_the_hubs_hashes_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = saved(tmp_path, tiny.tiny_model("llama", len(TOKENIZER))) / "model.safetensors"
    local = Checkpoint.open(tmp_path)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    asked = []

    def model_info(_: Any, name: str, *, revision: str | None, files_metadata: bool) -> Any:
        asked.append((name, revision, files_metadata))
        files = [
            SimpleNamespace(rfilename="README.md", lfs=None),
            SimpleNamespace(rfilename="onnx/model.safetensors", lfs=SimpleNamespace(sha256="0")),
            SimpleNamespace(rfilename="model.safetensors", lfs=SimpleNamespace(sha256=digest)),
        ]
        return SimpleNamespace(siblings=files)

    remote = Checkpoint("org/model", "org/model", local.config, local.tokenizer, {"revision": "v1"})
    with pytest.raises(EngineError, match="hashes of org/model"):
        remote.sha256()  # there is no network in a test
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert remote.sha256() == local.sha256()
    assert asked == [("org/model", "v1", True)]


def test_answers_end_where_config_defaults_and_tokenizer_say(tmp_path: Path) -> None:
    model = tiny.tiny_model("llama", len(TOKENIZER))
    model.generation_config.eos_token_id = [7, 9]
    saved(tmp_path, model)
    assert Checkpoint.open(tmp_path).ends() == sorted({1, 7, 9, TOKENIZER.eos_token_id})
    (tmp_path / "generation_config.json").unlink()
    assert Checkpoint.open(tmp_path).ends() == sorted({1, TOKENIZER.eos_token_id})


def rename(folder: Path, names: dict[str, str | None]) -> None:
    """Rename tensors of a checkpoint, or leave them out."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    moved = {names.get(name, name): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in moved.items() if name}, file)
