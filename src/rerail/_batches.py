"""Cutting what is to be done into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], fits: Callable[[list[T], T], bool]) -> list[list[T]]:
    """The items in their order, each in one batch with those before it if it fits there."""
    batches: list[list[T]] = []
    for item in items:
        if batches and fits(batches[-1], item):
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches
