"""Key-value caches: written in place, and kept for prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Tokens for which a key-value cache is given room at a time."""


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer's cache that is written in place; the base class copies all of it for each token."""

    _rooms: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append ``(batch, heads, n, d_head)`` keys and values; all of them so far."""
        held = self.keys, self.values
        if held[0] is None or held[1] is None or not held[0].numel():
            keys, values = super().update(key_states, value_states, *args, **options)
            return keys, values
        self.keys, keys_room = _appended(held[0], self._rooms[0], key_states)
        self.values, values_room = _appended(held[1], self._rooms[1], value_states)
        self._rooms = keys_room, values_room
        return self.keys, self.values


def _appended(
    held: torch.Tensor, room: torch.Tensor | None, new: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``held`` with ``new`` after it, and the tensor that both lie in."""
    start, stop = held.shape[-2], held.shape[-2] + new.shape[-2]
    # What takes rows out of the batch puts another tensor in the place of ``held``.
    holds = room is not None and room.data_ptr() == held.data_ptr() and len(room) == len(held)
    if room is None or not holds or room.shape[-2] < stop:
        room = held.new_empty(*held.shape[:-2], stop + ROOM, held.shape[-1])
        room[..., :start, :] = held
    room[..., start:stop, :] = new
    return room[..., :stop, :], room


def roomy_cache(config: Any) -> DynamicCache:
    """The cache that transformers would make, its plain layers with room."""
    cache: Any = DynamicCache(config=config)
    roomy: Callable[[], Any] = RoomyLayer
    cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cast("DynamicCache", cache)


def is_plain(config: Any) -> bool:
    """Whether all layers of the model's cache keep every token."""
    layers = cast("Any", roomy_cache(config)).layers
    return bool(layers) and all(type(layer) is RoomyLayer for layer in layers)


class Part(NamedTuple):
    """Some consecutive tokens of a prefix, and where each layer keeps them.

    Attributes:
        tokens: how many.
        layers: ``(1, heads, tokens, d_head)`` keys and values of each layer.
    """

    tokens: int
    layers: list[tuple[torch.Tensor, torch.Tensor]]


Compute = Callable[[NDArray[np.int64], "DynamicCache | None"], DynamicCache]
"""``compute(tokens, cache)``: the cache of what it held, if given, and of tokens after that."""


class Prefixes:
    """Caches of the beginnings of prompts; those not used for longest are dropped first.

    A prefix is computed part by part, each by itself: what is kept for some tokens depends on
    them and on where the parts end alone, never on what was kept before.

    Args:
        config: of the model.
        tokens: kept in all at most.
    """

    def __init__(self, config: Any, tokens: int) -> None:
        self._config = config
        self._limit = tokens
        self._parts: OrderedDict[tuple[int, bytes], Part] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Tokens that are kept."""
        return self._count

    def clear(self) -> None:
        """Keep nothing."""
        self._parts.clear()
        self._count = 0

    def get(self, tokens: NDArray[np.int64], ends: Sequence[int], compute: Compute) -> list[Part]:
        """The parts of a prefix, computed where they are not kept.

        Args:
            tokens: ``(n,)`` of the prefix.
            ends: where its parts end, in order; n is the last.
            compute: asked for what is missing.
        """
        spans = list(pairwise([0, *ends]))
        keys = [(start, tokens[:end].tobytes()) for start, end in spans]
        parts = []
        for key in keys:
            if (known := self._parts.get(key)) is None:
                break
            parts.append(known)
        cache = None
        for start, end in spans[len(parts) :]:
            if cache is None and parts:
                cache = joined(self._config, [parts])
            cache = compute(tokens[start:end], cache)
            layers = [
                (layer.keys[:, :, start:end].clone(), layer.values[:, :, start:end].clone())
                for layer in cast("Any", cache).layers
            ]
            parts.append(Part(end - start, layers))
        # The beginning last, so that it is not dropped before what continues it.
        for key, part in zip(reversed(keys), reversed(parts), strict=True):
            self._keep(key, part)
        return parts

    def _keep(self, key: tuple[int, bytes], part: Part) -> None:
        if key not in self._parts:
            self._count += part.tokens
        self._parts[key] = part
        self._parts.move_to_end(key)
        while self._count > self._limit:
            _, dropped = self._parts.popitem(last=False)
            self._count -= dropped.tokens


def joined(config: Any, prefixes: Sequence[Sequence[Part]]) -> DynamicCache:
    """The cache of a batch, in each row the parts of its prefix, then zeros up to the longest."""
    cache = roomy_cache(config)
    lengths = [sum(part.tokens for part in parts) for parts in prefixes]
    longest = max(lengths)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, parts in enumerate(prefixes):
        groups.setdefault(tuple(id(part) for part in parts), []).append(row)
    like = next(parts[0] for parts in prefixes if parts)
    for index, pair in enumerate(like.layers):
        filled = []
        for which, tensor in enumerate(pair):
            _, heads, _, width = tensor.shape
            room = tensor.new_zeros(len(prefixes), heads, longest, width)
            for rows in groups.values():
                start = 0
                for part in prefixes[rows[0]]:
                    room[rows, :, start : start + part.tokens] = part.layers[index][which]
                    start += part.tokens
            filled.append(room)
        cache.update(filled[0], filled[1], index)
    return cache
