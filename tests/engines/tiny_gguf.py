"""Writes tiny models as GGUF files, as llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tests.engines import tiny

OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
    "gemma2": {"query_pre_attn_scalar": 256},
    "starcoder2": {},
}
"""Architectures, called alike in transformers and in llama.cpp, with what a GGUF file cannot say:
transformers' defaults."""

F32, Q8_0 = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0


def tiny_model(architecture: str, vocabulary: int, **options: Any) -> Any:
    """A tiny model that a GGUF file can describe."""
    model = tiny.tiny_model(architecture, vocabulary, **OPTIONS[architecture], **options)
    if architecture == "gemma2":  # always so, in llama.cpp
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return model


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    kind: gguf.GGMLQuantizationType = F32,
    architecture: str | None = None,
    scaling: gguf.RopeScalingType | None = None,
    turn_end: int | None = None,
) -> None:
    """Write a model of one of the architectures, and a byte-level tokenizer.

    Args:
        path: of the file.
        model: its weights, in float32.
        tokenizer: its tokenizer, with a chat template.
        kind: of the matrices.
        architecture: what the file calls it; its own name by default.
        scaling: of positions, as the file says.
        turn_end: token that ends a turn.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture or config.model_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.norm_epsilon)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if scaling is not None:
        writer.add_rope_scaling_type(scaling)
    _add_tokenizer(writer, tokenizer)
    if turn_end is not None:
        writer.add_eot_token_id(turn_end)
    _add_tensors(writer, model, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: gguf.GGUFWriter, model: Any, kind: gguf.GGMLQuantizationType) -> None:
    config = model.config
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[config.model_type], config.num_hidden_layers)
    tensors = model.state_dict()
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    for own, tensor in tensors.items():
        base, _, suffix = own.rpartition(".")
        rows = np.ascontiguousarray(_as_written(own, tensor, config).numpy())
        name = f"{names.get_name(base)}.{suffix}"
        if rows.ndim > 1 and kind is not F32:
            writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, rows)
    if config.rope_parameters["rope_type"] == "llama3":
        even = torch.arange(0, config.head_dim, 2) / config.head_dim
        plain = config.rope_parameters["rope_theta"] ** -even
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())


def _as_written(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """A tensor as llama.cpp has it."""
    if config.model_type == "gemma2" and "norm" in name:
        return tensor + 1
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for part, count in heads.items():
        if config.model_type == "llama" and part in name:
            split = tensor.reshape(count, 2, -1, *tensor.shape[1:])
            return split.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    vocabulary, special = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
