"""Models of Hugging Face transformers for moderators: loading, and from logits to scores."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

from rerail._hf import device_of, loading, source_of
from rerail.errors import MissingDependencyError, ModeratorError

LLAMA4_CHUNK = 8192
"""Attention chunk of Llama 4 models, which the configuration of Llama Guard 4 leaves out."""


class Loaded(NamedTuple):
    """A model with its tokenizer, for those who load them on their own."""

    model: Any
    tokenizer: Any


class Where(TypedDict, total=False):
    """How a model is loaded.

    Keys:
        device: a torch device; ``auto`` is the first of cuda, mps and cpu that is there.
        dtype: of the weights; ``auto`` is float32 on the cpu, else the checkpoint's own.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether code that comes with the model may run. Read it before.
    """

    device: str
    dtype: str
    revision: str | None
    trust_remote_code: bool


class LocalOptions(Where, total=False):
    """Options of a model that runs in this process.

    Keys:
        temperature: T of the score, see `tempered`.
        max_batch: texts judged together at most.
        max_tokens: tokens of one text at most; the model's own limit, if that is less.
    """

    temperature: float
    max_batch: int
    max_tokens: int


def libraries() -> tuple[Any, Any]:
    """``torch`` and ``transformers``.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependencyError(error.name or "transformers", "hf") from None
    return torch, transformers


def load(
    model: str | Path | Loaded,
    kind: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Loaded, str]:
    """A model in evaluation mode, its tokenizer, and its name. Weights: safetensors only.

    Args:
        model: a folder, a hub id, or what was loaded before.
        kind: ``causal`` or ``classifier``.
        device: see `Where`, as for the others.
        dtype: of the weights.
        revision: on the hub.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        ModeratorError: the model cannot be loaded, or is not complete.
    """
    torch, transformers = libraries()
    if isinstance(model, Loaded):
        name = str(model.model.config.name_or_path or model.model.config.model_type)
        return Loaded(model.model.eval().requires_grad_(False), _fast(model.tokenizer, name)), name
    source, name = source_of(model, ModeratorError)
    device = device_of(torch, device, ModeratorError)
    if dtype == "auto" and torch.device(device).type == "cpu":
        dtype = "float32"
    remote = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading(transformers, model, ModeratorError) as check:
        config = transformers.AutoConfig.from_pretrained(source, **remote)
        _complete(config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **remote)
        weights, report = _auto(transformers, config, kind).from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **remote,
        )
        weights.to(device)
        check(report)
    return Loaded(weights.eval().requires_grad_(False), _fast(tokenizer, source)), name


def context_length(config: Any, tokenizer: Any) -> int | None:
    """Tokens that a model takes at most; None if nothing sets a limit."""
    text = config.get_text_config(decoder=True)
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from the one after the padding token's.
        shifted = "roberta" in text.model_type or text.model_type in {"camembert", "longformer"}
        limits.append(positions - (int(text.pad_token_id or 0) + 1 if shifted else 0))
    return min(limits, default=None)


def tempered(log_odds: float, temperature: float = 1.0) -> float:
    """``1 / (1 + exp(-log_odds / temperature))``: order and the point 0.5 do not depend on T.

    At T = 1 this is the probability. A larger T keeps apart what a sure model puts at 0.9999 and
    0.999999; a threshold t other than 0.5 then stands for another probability, the one whose
    score is t: see `tempered_threshold`.
    """
    z = log_odds / temperature
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


def tempered_threshold(probability: float, temperature: float) -> float:
    """The threshold at a temperature that flags what ``probability`` flags without one.

    Raises:
        ValueError: the probability is not strictly between 0 and 1.
    """
    if not 0.0 < probability < 1.0:
        raise ValueError(f"a probability of {probability} has no log-odds")
    return tempered(math.log(probability) - math.log1p(-probability), temperature)


class LocalModel:
    """What moderators have in common whose model runs in this process.

    Args:
        model: see `load`.
        kind: see `load`.
        name: what the moderator is called in policies and records.
        temperature: see `LocalOptions`, as for the others.
        max_batch: texts at most.
        max_tokens: of one text.
        where: see `Where`.

    Raises:
        MissingDependencyError: torch or transformers is not installed.
        ModeratorError: the model cannot be loaded, or an option is not valid.
    """

    def __init__(
        self,
        model: str | Path | Loaded,
        kind: str,
        *,
        name: str,
        temperature: float = 1.0,
        max_batch: int = 8,
        max_tokens: int = 4096,
        **where: Unpack[Where],
    ) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ModeratorError(f"temperature is {temperature}: it must be a positive number")
        if max_batch < 1:
            raise ModeratorError(f"max_batch is {max_batch}: it must be at least 1")
        self.name = name
        self.temperature = float(temperature)
        (self._model, self._tokenizer), self.model_name = load(model, kind, **where)
        self._torch, _ = libraries()
        self._max_batch = max_batch
        limit = context_length(self._model.config, self._tokenizer)
        self._limit = min(max_tokens, limit or max_tokens)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r})"


def _auto(transformers: Any, config: Any, kind: str) -> Any:
    if kind == "classifier":
        return transformers.AutoModelForSequenceClassification
    if any("ForConditionalGeneration" in name for name in config.architectures or ()):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def _complete(config: Any) -> None:
    text = config.get_text_config(decoder=True)
    if text.model_type == "llama4_text" and getattr(text, "attention_chunk_size", None) is None:
        text.attention_chunk_size = LLAMA4_CHUNK


def _fast(tokenizer: Any, name: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise ModeratorError(f"{name}: its tokenizer has no tokenizer.json, which is needed")
    return tokenizer
