"""A small BERT encoder with heads, as plain functions over a dictionary of tensors.

The tensors have the names of the published checkpoint. Training and scoring run the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

LAYERS = 6
WIDTH = 384
_ATTENDING = 12
_EPSILON = 1e-12

Inputs = tuple[Sequence[int], Sequence[int]]
"""Tokens of an answer, and of what was asked (none where nothing was)."""


def logits(weights: Mapping[str, Tensor], inputs: Sequence[Inputs]) -> Tensor:
    """``(n, n_heads)``: the heads read the first token and the mean over the answer's tokens."""
    ids, segments, there = _padded(inputs)
    device = weights["heads.weight"].device
    ids, segments, there = ids.to(device), segments.to(device), there.to(device)
    states = _states(weights, ids, segments, there)
    answer = (there & (segments == 0)).unsqueeze(-1)
    mean = (states * answer).sum(1) / answer.sum(1)
    pooled = torch.cat((states[:, 0], mean), 1)
    return F.linear(pooled, weights["heads.weight"], weights["heads.bias"])


def _padded(inputs: Sequence[Inputs]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, segments (0 the answer, 1 what was asked), and which of them are there."""
    longest = max(len(answer) + len(asked) for answer, asked in inputs)
    ids = torch.zeros((len(inputs), longest), dtype=torch.long)
    segments, there = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (answer, asked) in enumerate(inputs):
        length = len(answer) + len(asked)
        ids[row, :length] = torch.tensor([*answer, *asked])
        segments[row, len(answer) : length] = 1
        there[row, :length] = True
    return ids, segments, there


def _states(weights: Mapping[str, Tensor], ids: Tensor, segments: Tensor, there: Tensor) -> Tensor:
    """``(n, length, WIDTH)`` of the last layer."""

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return F.layer_norm(x, (WIDTH,), scale, shift, _EPSILON)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    n, length = ids.shape
    x = F.embedding(ids, weights["embeddings.word_embeddings.weight"])
    x = x + weights["embeddings.position_embeddings.weight"][:length]
    x = x + F.embedding(segments, weights["embeddings.token_type_embeddings.weight"])
    x = norm(x, "embeddings")
    mask = there[:, None, None, :]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{at}.attention.self.{name}")
            .view(n, length, _ATTENDING, WIDTH // _ATTENDING)
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        seen = linear(
            seen.transpose(1, 2).reshape(n, length, WIDTH), f"{at}.attention.output.dense"
        )
        x = norm(x + seen, f"{at}.attention.output")
        inner = F.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output")
    return x


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 with a float32 scale per row (``<name>.scale``), vectors as they are."""
    tensors = {}
    for name, tensor in weights.items():
        tensors[name] = tensor.detach().float().contiguous()
        if tensor.ndim == 2:
            scale = tensors[name].abs().amax(1).clamp_min(1e-8) / 127
            tensors[f"{name}.scale"] = scale
            tensors[name] = (tensors[name] / scale[:, None]).round().to(torch.int8)
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights of `packed`.

    Raises:
        KeyError: a scale is missing.
    """
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(".scale"):
            continue
        weights[name] = tensor.float()
        if tensor.dtype == torch.int8:
            weights[name] = weights[name] * tensors[f"{name}.scale"][:, None]
    return weights


def load(file: Path, device: str, heads: int) -> dict[str, Tensor]:
    """The weights that a file of `packed` tensors holds, on a device.

    Raises:
        SafetensorError: the file is none.
        KeyError: a tensor is missing.
        RuntimeError: a tensor has another shape.
        ValueError: a number is not finite, or there is another number of heads.
    """
    weights = unpacked(load_file(file))
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise ValueError("not finite")
    if len(logits(weights, [([0], [])])[0]) != heads:
        raise ValueError("heads")
    return {name: tensor.to(device) for name, tensor in weights.items()}
