"""Any causal language model of Hugging Face transformers, answering from embeddings."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.nn.functional import normalize
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicCache

from rerail._batches import grouped
from rerail._hf import device_of, loading, pads, source_of
from rerail.engines._common import (
    StopFinder,
    check_points,
    check_sampling,
    decoder,
    end_tokens,
    scored_tokens,
)
from rerail.engines._gguf import complete, gguf_file, options_of, reading
from rerail.engines._kv_cache import Part, Prefixes, is_plain, joined, roomy_cache
from rerail.engines._reasoning import AUTO, Follower
from rerail.engines._tokenizer import TokenizerEngine
from rerail.engines.base import (
    EmbeddedPrompt,
    GenerationRequest,
    Sampling,
    Shift,
    Watch,
    is_due,
)
from rerail.engines.table import CHUNK_ROWS, ChunkedTable
from rerail.errors import EngineError, UnsteerableModelError
from rerail.types import FloatArray, Generation

T = TypeVar("T")

Ends = Callable[[Mapping[int, list[int]]], set[int]]
"""``ends(rows)``: which of a batch's rows, given with the tokens of their answers so far, end."""

_HF: Any = transformers
"""Its own annotations disagree with what it does."""

MIN_SHARED_ROWS = 64
"""Rows that sharing a prefix must save, over a batch, to be worth a pass of its own."""

MIN_PREFIX_ROWS = 64
"""Rows of a prompt's beginning, and of each part of it, that are worth keeping."""

COMPACT_SHARE = 0.75
"""Share of a batch's rows still running at which the others are taken out of its cache: taking
rows out copies the cache."""

_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class TransformersEngine(TokenizerEngine):
    """Answers from embeddings with a transformers model in this process.

    The model is put into evaluation mode and its parameters are frozen. Calls from several
    threads take turns.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, backed by the ``tokenizers`` library.
        name: name of the model in responses; the model's own by default.
        prefix_reuse: whether leading rows that all points of a batch have in common are computed
            once, and beginnings of prompts kept.
        prefix_tokens: tokens of which keys and values are kept from one call to the next, for
            prompts that begin alike: a system prompt, the earlier turns of a conversation. What
            it takes is layers · 2 · heads · d_head numbers per token. 0: nothing is kept, so that
            nobody's waiting time tells what others have asked.
        max_batch: answers generated together at most.
        batch_tokens: tokens of prompts, padding and answers in one batch at most. Halved
            whenever memory does not suffice.
        static_cache: whether answers are generated into a key-value cache of fixed size, for which
            transformers compiles the model and, on CUDA, captures its graphs. Worth its minute of
            compilation on a GPU with large batches of alike prompts; prefixes are not shared.
        template_options: given to the chat template, for example ``{"enable_thinking": False}``.
        reasoning: the format of the model's reasoning: ``qwen3``, ``deepseek-r1``, ``smollm3``,
            ``gpt-oss``, ``mistral``, ``granite``, ``granite-3.2``, ``command``, ``gemma-4`` or
            ``apertus``; ``none``; ``auto``: the chat template tells.
        tools: the format of the model's tool calls: ``hermes``, ``llama``, ``mistral`` or
            ``gpt-oss``; ``none``; ``auto``: the chat template tells.

    Raises:
        EngineError: the tokenizer cannot be used, or not with those formats.
        UnsteerableModelError: the model's answers do not depend on the input embeddings alone.
    """

    watches_unseen = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str | None = None,
        prefix_reuse: bool = True,
        prefix_tokens: int = 16384,
        max_batch: int = 64,
        batch_tokens: int = 32768,
        static_cache: bool = False,
        template_options: Mapping[str, Any] | None = None,
        reasoning: str = AUTO,
        tools: str = AUTO,
    ) -> None:
        _check_config(model.config)
        self._config = model.config.get_text_config(decoder=True)
        ends = end_tokens(model.generation_config, model.config, self._config, tokenizer)
        named = name or _name_of(model.config)
        super().__init__(tokenizer, named, ends, template_options, reasoning, tools)
        self._model = model.eval().requires_grad_(False)
        self._lock = threading.RLock()
        self._max_batch = max(1, max_batch)
        self._batch_tokens = batch_tokens
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        # Transformers 5.24 gave it another name.
        self._cache = "cache" if "cache" in self._accepts else "past_key_values"
        self._pads = pads(model)
        self._static_cache = static_cache
        shares = prefix_reuse and not static_cache and self._pads
        self._prefix_reuse = shares and model._supports_default_dynamic_cache()
        self._probe()
        keeps = prefix_tokens > 0 and self._bridges and is_plain(self._config)
        self._prefixes = Prefixes(self._config, prefix_tokens) if keeps else None

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        attention: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> Self:
        """Load model and tokenizer from a local folder or the hub: safetensors, or a GGUF file.

        Args:
            name_or_path: a folder, a hub id, or a local ``.gguf`` file of an architecture that
                transformers reads.
            device: a torch device; ``auto`` is the first of cuda, mps and cpu that is there.
            dtype: of the weights; ``auto`` is float32 on the cpu and for a GGUF file, else the
                checkpoint's own.
            revision: branch, tag or commit on the hub.
            trust_remote_code: whether code that comes with the model may run. Read it before.
            attention: transformers' name of an implementation of attention (``sdpa``, ``eager``,
                ``flash_attention_2``, ...); its own choice by default.
            name: name of the model in responses; the hub id, or the name of the folder or file, by
                default.
            options: of `TransformersEngine`.

        Raises:
            MissingDependencyError: a package that reads GGUF files is not installed.
            EngineError: the model cannot be loaded.
            UnsteerableModelError: its answers do not depend on the input embeddings alone.
        """
        file = gguf_file(name_or_path)
        if file is None:
            source, default_name = source_of(name_or_path, EngineError)
        else:
            source, default_name = str(file.parent), file.stem
        packed = {} if file is None else {"gguf_file": file.name}
        device = device_of(torch, device, EngineError)
        if dtype == "auto" and (file or torch.device(device).type == "cpu"):
            dtype = torch.float32
        remote = {"revision": revision, "trust_remote_code": trust_remote_code}
        unpacked = reading(file) if file else contextlib.nullcontext()
        with loading(_HF, name_or_path, EngineError) as check, unpacked:
            config = _HF.AutoConfig.from_pretrained(source, **remote, **packed)
            _check_config(config)
            tokenizer = _HF.AutoTokenizer.from_pretrained(source, **remote, **packed)
            model, report = _HF.AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                use_safetensors=True,
                output_loading_info=True,
                **remote,
                **(options_of(file) if file else {}),
            )
            if file:
                complete(model, file)
            model.to(device)
            check(report)
        return cls(model, tokenizer, name=name or default_name, **options)

    @cached_property
    def context_length(self) -> int | None:
        """Tokens of prompt and answer together at most; None if the model sets no limit."""
        length = getattr(self._config, "max_position_embeddings", None)
        if isinstance(length, int) and length > 0:
            return length
        length = self._tokenizer.model_max_length
        return int(length) if length < 10**9 else None

    @cached_property
    def table(self) -> ChunkedTable:
        """The embeddings of the tokenizer's tokens, as the model's module gives them."""
        return _ModelTable(self._table_rows)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> list[Generation]:
        """Answer every request, in order.

        But for rounding, an answer does not depend on the other requests. Where memory does not
        suffice for a batch, it is halved.

        Raises:
            EngineError: a point is not finite, in the model's dtype too, or has another shape
                than its prompt's, nothing can be drawn by the sampling, memory does not suffice
                for one answer, or the model failed.
        """
        return self._answers(requests, sampling, None)

    def generate_watched(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch
    ) -> list[Generation]:
        """As `generate`; answers that ``watch`` stops are left as they are, ``cut``.

        Raises:
            EngineError: as `generate`.
        """
        return self._answers(requests, sampling, watch)

    def _answers(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, watch: Watch | None
    ) -> list[Generation]:
        check_sampling(sampling)
        check_points(requests, torch.finfo(self._embedding.weight.dtype).max)
        lengths = [len(r.point) + len(r.beginning) for r in requests]
        limits = [self._room(len(r.point), sampling) for r in requests]

        def run(batch: list[int]) -> list[Generation]:
            chosen = [requests[i] for i in batch]
            limit = limits[batch[0]]
            at_once = [self._at_once(request.embedded) for request in chosen]

            def read(row: int, tokens: list[int]) -> Generation:
                return self._generation(sampling, tokens, at_once[row])

            watcher = _Watcher(batch, chosen, limit, watch, read) if watch else None
            rows = self._generate(chosen, sampling, limit, self._ends(sampling, at_once, watcher))
            stopped = watcher.stopped if watcher else {}
            return [stopped.get(i) or read(i, row) for i, row in enumerate(rows)]

        return self._in_batches(lengths, limits, run)

    def read(
        self, request: GenerationRequest, tokens: Sequence[int], sampling: Sampling
    ) -> Generation:
        """What the first tokens of an answer say by themselves; also while the engine is busy."""
        return self._generation(sampling, list(tokens), self._at_once(request.embedded))

    def generate_from_tokens(
        self, token_ids: NDArray[np.int64], sampling: Sampling, seed: int = 0
    ) -> Generation:
        """Answer one rendered prompt from its tokens: plain generation, embeddings untouched.

        What `generate` gives for an unmoved point can be compared with it.

        Raises:
            EngineError: nothing can be drawn by the sampling, memory does not suffice, or the
                model failed.
        """
        check_sampling(sampling)
        limit = self._room(len(token_ids), sampling)
        at_once = self._reader is None or self._reader.at_once(token_ids.tolist())

        def run(_: list[int]) -> list[Generation]:
            ids = torch.from_numpy(token_ids).to(self._device)[None]
            options: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if sampling.temperature > 0:
                draw = _Draw(sampling, [seed], limit)
                options["logits_processor"] = LogitsProcessorList([draw])
            rows = self._continue(limit, self._ends(sampling, [at_once]), **options)
            return [self._generation(sampling, row, at_once) for row in rows]

        return self._in_batches([len(token_ids)], [limit], run)[0]

    def log_likelihood(
        self,
        requests: Sequence[tuple[EmbeddedPrompt, tuple[int, ...]]],
        given: Sequence[int] = (),
    ) -> list[float]:
        """Mean log-likelihood per token, in nats, of answers under their unmoved prompts.

        Raises:
            EngineError: an answer has no tokens, memory does not suffice for one answer, or the
                model failed.
        """
        scored = scored_tokens(requests, given)
        texts = [
            np.concatenate([prompt.token_ids, np.array(tokens, dtype=np.int64)])
            for prompt, tokens in requests
        ]

        def run(batch: list[int]) -> list[float]:
            return self._log_likelihood(
                [(requests[i][0], texts[i]) for i in batch], [scored[i] for i in batch]
            )

        return self._in_batches([len(text) for text in texts], [0] * len(texts), run)

    def layer_count(self) -> int:
        """How many layers it has.

        Raises:
            EngineError: the model has no list of them, or was loaded with ``static_cache``.
        """
        return len(self._layers)

    def activations(self, prompts: Sequence[EmbeddedPrompt]) -> FloatArray:
        """``(n, layers, d_model)``: what each layer gives at the last row of a prompt.

        Raises:
            EngineError: memory does not suffice for one prompt, or the model failed.
        """
        layers = range(self.layer_count())

        def run(batch: list[int]) -> list[FloatArray]:
            embeds, mask = self._whole([prompts[i].point for i in batch])
            kept: dict[int, torch.Tensor] = {}

            def keep(layer: int, hidden: torch.Tensor) -> torch.Tensor:
                kept[layer] = hidden[:, -1].float().cpu()
                return hidden

            with self._hooked(layers, keep):
                self._forward(mask, None, 1, inputs_embeds=embeds)
            stacked = torch.stack([kept[layer] for layer in layers], dim=1)
            return list(stacked.numpy())

        found = self._in_batches([len(p.point) for p in prompts], [0] * len(prompts), run)
        return np.stack(found)

    def generate_shifted(
        self, requests: Sequence[GenerationRequest], sampling: Sampling, shifts: Sequence[Shift]
    ) -> list[Generation]:
        """As `generate`; each request's vectors are added to what those layers give, at each row.

        Raises:
            EngineError: as `generate`, or there is no such layer.
        """
        check_sampling(sampling)
        check_points(requests, torch.finfo(self._embedding.weight.dtype).max)
        last = self.layer_count() - 1
        if unknown := {layer for shift in shifts for layer in shift if not 0 <= layer <= last}:
            raise EngineError(f"{self._name} has layers 0 to {last}, not {min(unknown)}")
        limits = [self._room(len(r.point), sampling) for r in requests]

        def run(batch: list[int]) -> list[Generation]:
            limit = limits[batch[0]]
            embeds, mask = self._whole([requests[i].point for i in batch])
            added = _by_layer([shifts[i] for i in batch])
            at_once = [self._at_once(requests[i].embedded) for i in batch]

            def add(layer: int, hidden: torch.Tensor) -> torch.Tensor:
                added[layer] = added[layer].to(hidden)
                return hidden + added[layer][:, None]

            options: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": mask}
            if sampling.temperature > 0:
                draw = _Draw(sampling, [requests[i].seed for i in batch], limit)
                options["logits_processor"] = LogitsProcessorList([draw])
            with self._hooked(list(added), add):
                rows = self._continue(limit, self._ends(sampling, at_once), **options)
            return [
                self._generation(sampling, row, own) for row, own in zip(rows, at_once, strict=True)
            ]

        return self._in_batches([len(r.point) for r in requests], limits, run)

    def generate_contrasted(
        self,
        requests: Sequence[GenerationRequest],
        sampling: Sampling,
        against: Sequence[EmbeddedPrompt],
        weight: float,
    ) -> list[Generation]:
        """As `generate`; ``weight`` times the logits under another prompt is taken from each's.

        Raises:
            EngineError: as `generate`, or the model takes no padding.
        """
        check_sampling(sampling)
        check_points(requests, torch.finfo(self._embedding.weight.dtype).max)
        if not self._pads:
            raise EngineError(
                f"{self._name} takes no padding, which prompts beside each other need: choose "
                "another model"
            )
        pairs = zip(requests, against, strict=True)
        lengths = [max(len(r.point), len(other.point)) for r, other in pairs]
        limits = [self._room(length, sampling) for length in lengths]

        def run(batch: list[int]) -> list[Generation]:
            limit, chosen = limits[batch[0]], [requests[i] for i in batch]
            points = [*(r.point for r in chosen), *(against[i].point for i in batch)]
            embeds, mask = self._whole(points)
            at_once = [self._at_once(request.embedded) for request in chosen]
            processors: list[Any] = [_Contrast(weight)]
            if sampling.temperature > 0:
                processors.append(_Draw(sampling, [r.seed for r in chosen] * 2, limit))
            rows = self._continue(
                limit,
                self._ends(sampling, at_once * 2),
                inputs_embeds=embeds,
                attention_mask=mask,
                logits_processor=LogitsProcessorList(processors),
            )
            return [
                self._generation(sampling, row, own)
                for row, own in zip(rows[: len(batch)], at_once, strict=True)
            ]

        return self._in_batches(lengths, limits, run)

    def forget_prefixes(self) -> None:
        """Drop what is kept of prompts: after the model was changed, say by another adapter."""
        with self._lock:
            if self._prefixes is not None:
                self._prefixes.clear()

    def weights_sha256(self) -> str:
        """SHA-256 over name, dtype, shape and bytes of every parameter and persistent buffer."""
        digest = hashlib.sha256()
        with self._lock:
            for name, tensor in sorted(self._model.state_dict().items()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def _embedding(self) -> Any:
        return self._model.get_input_embeddings()

    @property
    def _vocabulary(self) -> int:
        """Tokens that have both a name and an embedding."""
        return min(len(self._tokenizer), int(self._embedding.weight.shape[0]))

    @property
    def _device(self) -> torch.device:
        device = self._embedding.weight.device
        assert isinstance(device, torch.device)
        return device

    def _embed_tokens(self, tokens: NDArray[np.int64]) -> FloatArray:
        with self._lock, torch.no_grad():
            rows = self._embedding(torch.from_numpy(tokens).to(self._device)[None])[0]
        array: FloatArray = rows.float().cpu().numpy()
        return array

    def _table_rows(self) -> Iterator[torch.Tensor]:
        for start in range(0, self._vocabulary, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, self._vocabulary)
            with self._lock, torch.no_grad():
                ids = torch.arange(start, stop, device=self._device)
                rows = self._embedding(ids[None])[0].float()
            yield rows

    def _in_batches(
        self, lengths: list[int], limits: list[int], run: Callable[[list[int]], list[T]]
    ) -> list[T]:
        """Run over batches of alike requests; results in the order of the requests.

        A batch holds requests of one limit, and of one length where the model cannot be padded.
        """
        order = sorted(range(len(lengths)), key=lambda i: (limits[i], lengths[i]))

        def fits(batch: list[int], i: int) -> bool:
            return (
                len(batch) < self._max_batch
                and limits[batch[0]] == limits[i]
                and (self._pads or lengths[batch[0]] == lengths[i])
                and (len(batch) + 1) * (lengths[i] + limits[i]) <= self._batch_tokens
            )

        batches = deque(grouped(order, fits))
        results: dict[int, T] = {}
        with self._lock, torch.no_grad():
            while batches:
                batch = batches.popleft()
                outcome = self._attempt(run, batch)
                if outcome is not None:
                    results.update(zip(batch, outcome, strict=True))
                    continue
                if len(batch) == 1:
                    raise EngineError(
                        "memory does not suffice for one answer: shorten the prompt or "
                        "max_new_tokens, or load the model in a smaller dtype"
                    )
                used = len(batch) * (lengths[batch[-1]] + limits[batch[-1]])
                self._batch_tokens = min(self._batch_tokens, used // 2)
                half = len(batch) // 2
                batches.extendleft([batch[half:], batch[:half]])
        return [results[i] for i in range(len(lengths))]

    def _attempt(self, run: Callable[[list[int]], list[T]], batch: list[int]) -> list[T] | None:
        """What ``run`` gives, or None if memory did not suffice."""
        try:
            return run(batch)
        except Exception as error:
            text = str(error).lower()
            out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
            if not out_of_memory and not any(sign in text for sign in _OUT_OF_MEMORY):
                raise EngineError(f"the model failed: {error!r}") from error
        self.forget_prefixes()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _generate(
        self,
        requests: list[GenerationRequest],
        sampling: Sampling,
        limit: int,
        ends: Ends | None,
    ) -> list[list[int]]:
        """Tokens of each answer, as `_continue` gives them, behind those that it begins with.

        Args:
            requests: of a batch.
            sampling: how tokens are drawn.
            limit: tokens of an answer at most, those that it begins with among them.
            ends: ends answers.
        """
        beginnings = [list(request.beginning) for request in requests]
        if any(beginnings):
            ends = _behind(beginnings, limit, ends)
        new = self._new(requests, sampling, max(1, limit - min(map(len, beginnings))), ends)
        return [
            [*begun, *row[: max(0, limit - len(begun))]]
            for begun, row in zip(beginnings, new, strict=True)
        ]

    def _new(
        self,
        requests: list[GenerationRequest],
        sampling: Sampling,
        limit: int,
        ends: Ends | None,
    ) -> list[list[int]]:
        """New tokens of each request, as `_continue` gives them."""
        points = [self._rows(request) for request in requests]
        counts, cache = self._begun(
            [(request.embedded, _unmoved_rows(request)) for request in requests],
            points,
            limit,
        )
        rows, mask = self._padded(points, counts)
        embeds = rows.to(self._embedding.weight.dtype)
        draw = None
        if sampling.temperature > 0:
            begun = [len(request.beginning) for request in requests]
            draw = _Draw(sampling, [request.seed for request in requests], limit, begun)
        if self._bridges:
            return self._decode(embeds[:, max(counts) :], mask, cache, limit, draw, ends)
        options: dict[str, Any] = {"inputs_embeds": embeds, "attention_mask": mask}
        if cache is not None:
            options[self._cache] = cache
        if draw:
            options["logits_processor"] = LogitsProcessorList([draw])
        return self._continue(limit, ends, **options)

    def _rows(self, request: GenerationRequest) -> FloatArray:
        """``(n, d_model)``: the point, and the embeddings of what the answer begins with."""
        if not request.beginning:
            return request.point
        begun = self._embed_tokens(np.array(request.beginning, dtype=np.int64))
        return np.concatenate([request.point, begun])

    def _ends(
        self, sampling: Sampling, at_once: Sequence[bool], watcher: _Watcher | None = None
    ) -> Ends | None:
        """What says after each token which answers of a batch end, the model's ends aside.

        Args:
            sampling: with the stops, and the limits of reasoning and answer.
            at_once: of each row, as `_at_once`.
            watcher: ends rows, too.
        """
        if not (sampling.stop or watcher or self._reader):
            return None
        spelt = self._reader.spelt if self._reader else decoder(self._tokenizer)
        finder = StopFinder(spelt, sampling) if sampling.stop else None
        follower = Follower(self._reader, sampling, at_once) if self._reader else None

        def ends(rows: Mapping[int, list[int]]) -> set[int]:
            begun: dict[int, int] = {}
            ended: set[int] = set()
            for row, tokens in rows.items():
                begin, over = follower.follow(row, tokens) if follower else (0, False)
                if begin is not None and not over and finder:
                    over = finder.found((row, begin), tokens[begin:])
                if over:
                    ended.add(row)
                elif begin is not None:
                    begun[row] = begin
            return ended | (watcher.ends(rows, begun) if watcher else set())

        return ends

    def _decode(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        cache: DynamicCache | None,
        limit: int,
        draw: _Draw | None,
        ends: Ends | None,
    ) -> list[list[int]]:
        """New tokens of each row, as `_continue` gives them; rows that ended leave the batch.

        Args:
            embeds: ``(batch, n, d_model)`` rows that are not in the cache.
            mask: ``(batch, cached + n)``.
            cache: of what precedes them.
            limit: new tokens at most.
            draw: leaves one token per row; the likeliest if None.
            ends: ends rows.
        """
        rows: list[list[int]] = [[] for _ in range(len(embeds))]
        places = list(range(len(rows)))  # of the batch's rows, ended ones included
        running = set(places)
        cache = roomy_cache(self._config) if cache is None else cache
        logits = self._forward(mask, cache, 1, inputs_embeds=embeds)[:, -1]
        while True:
            chosen = (draw(None, logits) if draw else logits).argmax(-1)
            for place, token in zip(places, chosen.tolist(), strict=True):
                if place in running:
                    rows[place].append(token)
            running -= {place for place in running if rows[place][-1] in self._stops}
            if ends:
                running -= ends({place: rows[place] for place in sorted(running)})
            if not running or len(rows[min(running)]) == limit:
                return rows
            if len(running) <= COMPACT_SHARE * len(places):
                kept = [i for i, place in enumerate(places) if place in running]
                places = [places[i] for i in kept]
                index = torch.tensor(kept, device=mask.device)
                cache.batch_select_indices(index)
                mask, chosen = mask[index], chosen[index]
                if draw:
                    draw.keep(kept)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._forward(mask, cache, 1, input_ids=chosen[:, None])[:, -1]

    def _continue(self, limit: int, ends: Ends | None = None, **options: Any) -> list[list[int]]:
        """New tokens of each row, greedy but for the logits processors among the options.

        Behind the end of a row there may be more tokens, as long as others go on.
        """
        # From tokens, transformers gives the prompt back before the answer; from embeddings not.
        given = options["input_ids"].shape[1] if "input_ids" in options else 0
        if ends:
            options["stopping_criteria"] = StoppingCriteriaList([_Stopping(ends, given)])
        config = _HF.GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            use_cache=True,
            cache_implementation="static" if self._static_cache else None,
            eos_token_id=self._stops or None,
            pad_token_id=self._stops[0] if self._stops else 0,
        )
        with self._no_defaults():
            rows = self._model.generate(generation_config=config, **options)
        new: list[list[int]] = rows[:, given:].tolist()
        return new

    @contextlib.contextmanager
    def _no_defaults(self) -> Iterator[None]:
        """Without the checkpoint's generation defaults, which would fill what a config omits."""
        defaults = self._model.generation_config
        self._model.generation_config = _HF.GenerationConfig()
        try:
            yield
        finally:
            self._model.generation_config = defaults

    def _begun(
        self,
        prompts: Sequence[tuple[EmbeddedPrompt, int]],
        rows: Sequence[NDArray[Any]],
        limit: int,
    ) -> tuple[list[int], DynamicCache | None]:
        """How many rows of each request of a batch are in the cache, and the cache.

        Args:
            prompts: for each request its prompt, and how many of its leading rows are the
                prompt's own and may be cached.
            rows: all of its rows, or their tokens.
            limit: tokens that follow.
        """
        prefixes = self._known(prompts, rows, limit)
        if any(prefixes):
            counts = [sum(part.tokens for part in parts) for parts in prefixes]
            return counts, joined(self._config, prefixes)
        leading = [
            row[: len(embedded.token_ids)] for row, (embedded, _) in zip(rows, prompts, strict=True)
        ]
        shared = self._shared_rows(leading, rows, limit)
        if not shared:
            return [0] * len(rows), None
        cache = self._prefix(self._embeds(rows[0][:shared]))
        cache.batch_repeat_interleave(len(rows))
        return [shared] * len(rows), cache

    @cached_property
    def _layers(self) -> list[torch.nn.Module]:
        """The decoder's layers: the outermost list of modules with as many as there are.

        Raises:
            EngineError: there is no such list, or hooks on them may be without effect.
        """
        if self._static_cache:
            raise EngineError(
                f"{self._name} was loaded with static_cache, and is compiled: load it without"
            )
        for module in self._model.modules():
            listed = isinstance(module, torch.nn.ModuleList)
            if listed and len(module) == self._config.num_hidden_layers:
                return list(module)
        raise EngineError(f"{self._name} has no list of layers: choose another model")

    @contextlib.contextmanager
    def _hooked(
        self, layers: Sequence[int], changed: Callable[[int, torch.Tensor], torch.Tensor]
    ) -> Iterator[None]:
        """What these layers give is what ``changed(layer, hidden)`` makes of it."""

        def hook(layer: int, module: Any, given: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (changed(layer, output[0]), *output[1:])
            return changed(layer, output)

        with contextlib.ExitStack() as stack:
            for layer in layers:
                hooked = self._layers[layer].register_forward_hook(partial(hook, layer))
                stack.callback(hooked.remove)
            yield

    def _whole(self, points: Sequence[FloatArray]) -> tuple[torch.Tensor, torch.Tensor]:
        """``(batch, n, d_model)`` embeddings and ``(batch, n)`` mask, with nothing cached."""
        rows, mask = self._padded(points, [0] * len(points))
        return rows.to(self._embedding.weight.dtype), mask

    def _known(
        self,
        prompts: Sequence[tuple[EmbeddedPrompt, int]],
        rows: Sequence[NDArray[Any]],
        limit: int,
    ) -> list[list[Part]]:
        """The parts of each prompt's beginning that are kept from call to call."""
        ends = [_part_ends(embedded, own) for embedded, own in prompts]
        cached = max((end[-1] for end in ends if end), default=0)
        rest = max(len(row) - (end[-1] if end else 0) for row, end in zip(rows, ends, strict=True))
        length = cached + rest + limit
        # Rows of different beginnings stand further apart than any of them is long.
        fits = self.context_length is None or length <= self.context_length
        if self._prefixes is None or not cached or not fits or not self._bridgeable(length):
            return [[] for _ in prompts]

        def compute(tokens: NDArray[np.int64], cache: DynamicCache | None) -> DynamicCache:
            return self._prefix(self._embeds(tokens), cache)

        return [
            self._prefixes.get(embedded.token_ids[: end[-1]], end, compute) if end else []
            for (embedded, _), end in zip(prompts, ends, strict=True)
        ]

    def _embeds(self, rows: NDArray[Any]) -> torch.Tensor:
        """``(1, n, d_model)`` embeddings of rows, or of tokens."""
        given = torch.from_numpy(rows).to(self._device)[None]
        if given.dim() == 2:
            embeds: torch.Tensor = self._embedding(given)
            return embeds
        return given.to(self._embedding.weight.dtype)

    def _shared_rows(
        self, leading: Sequence[NDArray[Any]], rows: Sequence[NDArray[Any]], limit: int
    ) -> int:
        """Rows that all of a batch have in common, if it pays to share them.

        Args:
            leading: for each request its rows that may be shared but for the last.
            rows: all of its rows.
            limit: tokens that follow.
        """
        if not self._prefix_reuse or len(rows) < 2:
            return 0
        lengths = [len(row) for row in rows]
        if min(lengths) < max(lengths) and not self._bridgeable(max(lengths) + limit):
            return 0
        shared = min(len(row) for row in leading) - 1
        for row in leading[1:]:
            same = (row[:shared] == leading[0][:shared]).reshape(shared, row[0].size).all(axis=1)
            shared = shared if same.all() else int(same.argmin())
        return shared if shared * (len(rows) - 1) >= MIN_SHARED_ROWS else 0

    def _bridgeable(self, length: int) -> bool:
        """Whether masked rows may stand between a shared prefix and what follows it.

        They may where positions are given by number and no window counts them.
        """
        windows = [getattr(self._config, name, None) for name in _WINDOWS]
        narrow = any(isinstance(window, int) and 0 < window < length for window in windows)
        return self._bridges and not narrow

    def _padded(
        self, rows: Sequence[NDArray[Any]], counts: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``(batch, n, ...)`` rows and ``(batch, n)`` mask.

        Each is as many rows as are cached, masked zeros, and the rest.
        """
        longest = max(counts) + max(
            len(row) - count for row, count in zip(rows, counts, strict=True)
        )
        padded = np.zeros((len(rows), longest, *rows[0].shape[1:]), dtype=rows[0].dtype)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            rest = longest - (len(row) - count)
            padded[i, :count], mask[i, :count] = row[:count], 1
            padded[i, rest:], mask[i, rest:] = row[count:], 1
        return (
            torch.from_numpy(padded).to(self._device),
            torch.from_numpy(mask).to(self._device),
        )

    def _prefix(self, embeds: torch.Tensor, cache: DynamicCache | None = None) -> DynamicCache:
        """Key-value cache of ``(1, n, d_model)`` embeddings, after what one holds already."""
        cache = roomy_cache(self._config) if cache is None else cache
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in self._accepts else {}
        self._model(inputs_embeds=embeds, use_cache=True, **{self._cache: cache}, **last_only)
        return cache

    def _log_likelihood(
        self, texts: list[tuple[EmbeddedPrompt, NDArray[np.int64]]], scored: list[int]
    ) -> list[float]:
        """Of ``(prompt, tokens)``: mean log-likelihood of the last so many tokens."""
        rows = [tokens for _, tokens in texts]
        own = [len(prompt.token_ids) for prompt, _ in texts]
        # The logits of a prompt's last row are those of the answer's first token.
        counts, cache = self._begun(
            [(prompt, n - 1) for (prompt, _), n in zip(texts, own, strict=True)], rows, 0
        )
        ids, mask = self._padded(rows, counts)
        kept = max(scored) + 1
        logits = self._forward(mask, cache, kept, input_ids=ids[:, max(counts) :])[:, -kept:]
        means = []
        for i, count in enumerate(scored):
            chances = logits[i, -count - 1 : -1].float().log_softmax(-1)
            means.append(float(chances.gather(1, ids[i, -count:, None].to(chances.device)).mean()))
        return means

    def _forward(
        self, mask: torch.Tensor, cache: DynamicCache | None, kept: int, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Logits of the inputs' positions, the last ``kept`` at least.

        The mask covers what is cached too.
        """
        options: dict[str, Any] = {"use_cache": cache is not None, **inputs}
        if cache is not None:
            options[self._cache] = cache
        if "position_ids" in self._accepts:
            (given,) = inputs.values()
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -given.shape[1] :]
        if "logits_to_keep" in self._accepts:
            options["logits_to_keep"] = kept
        logits: torch.Tensor = self._model(attention_mask=mask, **options).logits
        return logits

    def _probe(self) -> None:
        """Try on eight tokens what the engine relies on; what is only for speed is given up.

        Raises:
            UnsteerableModelError: embeddings and their tokens give different answers, moved
                embeddings are refused, or earlier tokens depend on later ones.
        """
        n = 8
        words = np.setdiff1d(np.arange(self._vocabulary), self._tokenizer.all_special_ids)
        chosen = words[np.linspace(0, len(words) - 1, n).astype(np.int64)]
        ids = torch.from_numpy(chosen).to(self._device)[None]
        other = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
        mask = torch.ones_like(ids).repeat(2, 1)
        with torch.no_grad():
            embeds = self._embedding(ids)
            moved = torch.cat([embeds, embeds * 1.01])
            try:
                logits = self._forward(mask, None, n, input_ids=torch.cat([ids, other]))
                expected, ahead = logits[:1], logits[1:]
                from_embeds = self._forward(mask, None, n, inputs_embeds=moved)
                keeps = partial(self._keeps, embeds, expected)
                self._pads = self._pads and keeps(shared=0, pads=3)
                self._bridges = (
                    "position_ids" in self._accepts
                    and self._prefix_reuse
                    and keeps(shared=4, pads=3)
                )
                alike = self._bridges or self._continues_alike(ids, embeds)
            except Exception as error:
                raise UnsteerableModelError(
                    f"{self._name} does not answer from input embeddings ({error}): "
                    "choose another model"
                ) from error
            fault = None
            finite = torch.isfinite(from_embeds).all()
            if not (alike and finite and _close(from_embeds[:1], expected)):
                fault = "answers differently from tokens and from their embeddings"
            elif not _close(ahead[:, :-1], expected[:, :-1]):
                fault = "reads ahead, so it is no causal language model"
            if fault:
                raise UnsteerableModelError(f"{self._name} {fault}: choose another model")
            if not self._bridges:
                self._prefix_reuse = self._prefix_reuse and keeps(shared=4, pads=0)

    def _continues_alike(self, ids: torch.Tensor, embeds: torch.Tensor) -> bool:
        """Whether transformers' own generation, where answers are left to it, takes embeddings."""
        mask = torch.ones_like(ids)
        answer = self._continue(3, input_ids=ids, attention_mask=mask)
        steered = self._continue(3, inputs_embeds=embeds, attention_mask=mask)
        return answer[0][-len(steered[0]) :] == steered[0]

    def _keeps(
        self, embeds: torch.Tensor, expected: torch.Tensor, *, shared: int, pads: int
    ) -> bool:
        """Whether a cached prefix, and masked rows after it, keep the logits of a pair."""
        pair = embeds.expand(2, -1, -1)
        mask = torch.ones(2, embeds.shape[1] + pads, dtype=torch.long, device=embeds.device)
        mask[:, shared : shared + pads] = 0
        rest = torch.cat([torch.zeros_like(pair[:, :pads]), pair[:, shared:]], dim=1)
        kept = embeds.shape[1] - shared
        try:
            cache = None
            if shared:
                cache = self._prefix(embeds[:, :shared])
                cache.batch_repeat_interleave(2)
            logits = self._forward(mask, cache, kept, inputs_embeds=rest)
        except Exception:
            return False
        return _close(logits[:, -kept:], expected[:, -kept:])


class _ModelTable(ChunkedTable):
    """A table whose rows stay on the model's device where all of them are compared."""

    def __init__(self, rows: Callable[[], Iterator[torch.Tensor]]) -> None:
        super().__init__(lambda: (chunk.cpu().numpy() for chunk in rows()))
        self._rows = rows

    def nearest_tokens(self, rows: FloatArray) -> NDArray[np.int64]:
        """``(n,)`` token of the nearest table row by cosine, for ``(n, d_model)`` rows."""
        values, tokens, start = [], [], 0
        for chunk in self._rows():
            asked = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).to(chunk.device)
            cosines = normalize(asked, dim=1) @ normalize(chunk, dim=1).T
            nearest = cosines.max(dim=1)
            values.append(nearest.values)
            tokens.append(nearest.indices + start)
            start += len(chunk)
        best = torch.stack(values).argmax(dim=0, keepdim=True)
        found: NDArray[np.int64] = torch.stack(tokens).gather(0, best)[0].cpu().numpy()
        return found


class _Watcher:
    """Shows unfinished answers when they are due, and ends those that are to be stopped.

    Args:
        places: of the batch's requests among all.
        requests: of the batch.
        limit: tokens of a complete answer, which is not shown.
        watch: says which answers to stop.
        generation: reads the tokens of a row.

    Attributes:
        stopped: the answers that were stopped, by their rows.
    """

    def __init__(
        self,
        places: list[int],
        requests: list[GenerationRequest],
        limit: int,
        watch: Watch,
        generation: Callable[[int, list[int]], Generation],
    ) -> None:
        self._places = places
        self._requests = requests
        self._limit = limit
        self._watch = watch
        self._generation = generation
        self.stopped: dict[int, Generation] = {}

    def ends(self, rows: Mapping[int, list[int]], begun: Mapping[int, int]) -> set[int]:
        """Which of the rows are to end.

        Args:
            rows: with their tokens so far.
            begun: where the answers begin, of those that have begun and go on.
        """
        due = [
            row
            for row, begin in begun.items()
            if len(rows[row]) < self._limit and self._is_due(row, len(rows[row]), begin)
        ]
        shown = {row: self._generation(row, rows[row]) for row in due if row not in self.stopped}
        shown = {row: answer for row, answer in shown.items() if answer.finish_reason != "stop"}
        if shown:
            places = [self._places[row] for row in shown]
            stops = self._watch(places, list(shown.values()))
            for (row, answer), stop in zip(shown.items(), stops, strict=True):
                if stop:
                    self.stopped[row] = replace(answer, finish_reason="cut")
        return self.stopped.keys() & rows.keys()

    def _is_due(self, row: int, tokens: int, begin: int) -> bool:
        request = self._requests[row]
        return is_due(tokens - max(begin, len(request.beginning)), request)


class _Stopping(StoppingCriteria):
    """What ends rows, as transformers' own loop asks for it.

    Args:
        ends: says which.
        given: tokens before an answer.
    """

    def __init__(self, ends: Ends, given: int) -> None:
        self._ends = ends
        self._given = given
        self._ended: set[int] = set()

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        rows = enumerate(input_ids[:, self._given :].tolist())
        self._ended |= self._ends({row: tokens for row, tokens in rows if row not in self._ended})
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        ended[list(self._ended)] = True
        return ended


class _Draw(LogitsProcessor):
    """Leaves one token per row, drawn by the row's own seed: the batch has no part in it.

    Args:
        sampling: how tokens are drawn.
        seeds: of the rows.
        limit: new tokens at most.
        begun: tokens of each row that were drawn before; none by default.
    """

    def __init__(
        self, sampling: Sampling, seeds: list[int], limit: int, begun: Sequence[int] = ()
    ) -> None:
        self._sampling = sampling
        self._uniforms = torch.stack(
            [
                torch.rand(
                    before + limit,
                    generator=torch.Generator().manual_seed(seed % 2**63),
                    dtype=torch.float64,
                )[before:]
                for seed, before in zip(seeds, begun or [0] * len(seeds), strict=True)
            ]
        )
        self._step = 0

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows of the batch only."""
        self._uniforms = self._uniforms[rows]

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        chances = (scores.to(wide) / self._sampling.temperature).softmax(-1)
        if self._sampling.top_p < 1:
            ordered, tokens = chances.sort(descending=True, stable=True)
            beyond = ordered.cumsum(-1) - ordered >= self._sampling.top_p
            beyond[:, 0] = False
            chances = chances.scatter(-1, tokens, ordered.masked_fill(beyond, 0.0))
        reached = chances.cumsum(-1)
        uniform = self._uniforms[:, self._step, None].to(scores.device, wide)
        self._step += 1
        drawn = torch.searchsorted(reached, uniform * reached[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


class _Contrast(LogitsProcessor):
    """Both halves of a batch get the first half's logits less some of the second's."""

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        own, other = scores.chunk(2)
        return (own - self._weight * other).repeat(2, 1)


def _by_layer(shifts: Sequence[Shift]) -> dict[int, torch.Tensor]:
    """Layer to the ``(batch, d_model)`` vectors of a batch, zeros for requests that have none."""
    found = {}
    for layer in sorted({layer for shift in shifts for layer in shift}):
        nothing = np.zeros_like(next(shift[layer] for shift in shifts if layer in shift))
        stacked = np.stack([shift.get(layer, nothing) for shift in shifts])
        found[layer] = torch.from_numpy(stacked)
    return found


def _behind(beginnings: Sequence[list[int]], limit: int, ends: Ends | None) -> Ends:
    """What ends answers that have begun: at so many tokens, and where ``ends`` says so of them."""

    def over(rows: Mapping[int, list[int]]) -> set[int]:
        whole = {row: beginnings[row] + tokens for row, tokens in rows.items()}
        full = {row for row, tokens in whole.items() if len(tokens) >= limit}
        return full | (ends(whole) if ends else set())

    return over


def _unmoved_rows(request: GenerationRequest) -> int:
    """Leading rows of a point that are the prompt's own, but for its last."""
    most = len(request.point) - 1
    if request.point is request.embedded.point:
        return most
    same = (request.point[:most] == request.embedded.point[:most]).all(axis=1)
    return most if same.all() else int(same.argmin())


def _part_ends(embedded: EmbeddedPrompt, own: int) -> list[int]:
    """Where the parts of a prompt's beginning end: before messages, far enough from each other.

    Args:
        embedded: the prompt.
        own: leading rows that may belong to it.
    """
    index = embedded.message_index
    begins = np.flatnonzero((index[1:] != index[:-1]) & (index[1:] >= 0)) + 1
    ends: list[int] = []
    for end in begins[begins <= own].tolist():
        if end - (ends[-1] if ends else 0) >= MIN_PREFIX_ROWS:
            ends.append(end)
    return ends


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether logits are equal but for rounding."""
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    difference = (one - other).abs().max()
    return bool(difference <= tolerance * other.abs().max())


def _check_config(config: Any) -> None:
    """Refuse architectures that are known to read more than the input embeddings.

    Raises:
        UnsteerableModelError: the model is one of them.
    """
    reason = None
    text = config.get_text_config(decoder=True)
    kinds = {config.model_type, text.model_type}
    per_layer = getattr(text, "hidden_size_per_layer_input", None)
    if config.is_encoder_decoder:
        reason = "is an encoder-decoder, whose input is no conversation"
    elif kinds & {"gemma3n", "gemma3n_text"} or per_layer:
        reason = "embeds its tokens anew in every layer"
    elif kinds & {"deepseek_v4"}:
        reason = "chooses experts by token"
    if reason:
        raise UnsteerableModelError(
            f"{_name_of(config)} ({config.model_type}) {reason}: moving "
            "the input embeddings does not steer it. Choose another model"
        )


def _name_of(config: Any) -> str:
    """The hub id, or the last part of the folder, or else the kind of model."""
    given = str(config.name_or_path or config.model_type)
    return Path(given).name if Path(given).exists() else given
