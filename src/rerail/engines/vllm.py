"""vLLM in this machine's own processes, answering from embeddings."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from rerail.engines._checkpoint import Checkpoint
from rerail.engines._client_side import FINISHED, Answer, Ask, ClientSide
from rerail.engines._reasoning import AUTO
from rerail.engines.base import Sampling
from rerail.errors import EngineError, MissingDependencyError


class VllmEngine(ClientSide):
    """Answers from embeddings with a vLLM ``LLM``. Make one with `load`.

    vLLM runs the model in a process of its own, which it starts by importing the main program
    anew: keep a script's calls behind ``if __name__ == "__main__":``. Calls from several threads
    take turns.

    Greedy answers equal those of transformers but for rounding. At a temperature above 0 vLLM
    draws with generators of its own: the same seed gives the same answer, but not transformers'.

    Args:
        llm: a ``vllm.LLM`` made with ``enable_prompt_embeds=True``.
        checkpoint: of the model that it runs.
        options: of `ClientSide`: ``name``, ``template_options``, ``reasoning``.
    """

    def __init__(self, llm: Any, checkpoint: Checkpoint, **options: Any) -> None:
        self._llm = llm
        self._lock = threading.Lock()
        config = llm.model_config
        super().__init__(
            checkpoint, dtype=config.dtype, context_length=int(config.max_model_len), **options
        )

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        name: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        reasoning: str = AUTO,
        tools: str = AUTO,
        **options: Any,
    ) -> Self:
        """Start vLLM.

        Args:
            model: a folder, or a hub id.
            dtype: that vLLM computes in; ``auto`` is vLLM's choice.
            revision: branch, tag or commit on the hub.
            trust_remote_code: whether code that comes with the model may run. Read it before.
            name: name of the model in responses; the hub id or the folder's name by default.
            template_options: given to the chat template.
            reasoning: the format of the model's reasoning, as `TransformersEngine` names it.
            tools: the format of its tool calls, as `TransformersEngine` names it.
            options: of ``vllm.LLM``, such as ``max_model_len``, ``tensor_parallel_size``,
                ``gpu_memory_utilization``, ``enforce_eager``.

        Raises:
            MissingDependencyError: vLLM is not installed.
            EngineError: the model cannot be loaded.
            UnsteerableModelError: its answers do not depend on the input embeddings alone.
        """
        try:
            from vllm import LLM
        except ModuleNotFoundError as error:
            raise MissingDependencyError(error.name or "vllm") from error
        checkpoint = Checkpoint.open(model, revision=revision, trust_remote_code=trust_remote_code)
        try:
            llm = LLM(
                model=checkpoint.source,
                dtype=dtype,
                revision=revision,
                trust_remote_code=trust_remote_code,
                enable_prompt_embeds=True,
                **{"generation_config": "vllm", "disable_log_stats": True, **options},
            )
        except Exception as error:
            raise EngineError(f"vLLM cannot load {model}: {error}") from error
        return cls(
            llm,
            checkpoint,
            name=name,
            template_options=template_options,
            reasoning=reasoning,
            tools=tools,
        )

    def _answer(
        self, asks: Sequence[Ask], sampling: Mapping[str, Any], *, log_probability: bool = False
    ) -> list[Answer]:
        own = {"logprobs": 0} if log_probability else {}
        prompts = [
            {"prompt_embeds": ask.prompt}
            if isinstance(ask.prompt, torch.Tensor)
            else {"prompt_token_ids": ask.prompt}
            for ask in asks
        ]
        given = [{**sampling, **own, "max_tokens": ask.limit, "seed": ask.seed} for ask in asks]
        answers = []
        for output in self._run(prompts, given):
            tokens = [int(token) for token in output.outputs[0].token_ids]
            if not tokens or output.outputs[0].finish_reason not in FINISHED:
                raise EngineError("vLLM broke an answer off: look at its log")
            first = None
            if log_probability:
                first = float(output.outputs[0].logprobs[0][tokens[0]].logprob)
            answers.append(Answer(tokens, first))
        return answers

    def _log_probabilities(self, texts: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        sampling = {**self._sampling(Sampling()), "max_tokens": 1, "prompt_logprobs": 0}
        prompts = [{"prompt_token_ids": tokens} for tokens, _ in texts]
        outputs = self._run(prompts, [sampling] * len(texts))
        return [
            [
                float(at[token].logprob)
                for at, token in zip(output.prompt_logprobs[-count:], tokens[-count:], strict=True)
            ]
            for output, (tokens, count) in zip(outputs, texts, strict=True)
        ]

    def _run(
        self, prompts: Sequence[Mapping[str, Any]], sampling: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        from vllm import SamplingParams

        # vLLM finds stops only in what it spells.
        parameters = [SamplingParams(**given, detokenize=bool(given["stop"])) for given in sampling]
        try:
            with self._lock:
                outputs: list[Any] = self._llm.generate(list(prompts), parameters, use_tqdm=False)
        except Exception as error:
            raise EngineError(f"the model failed in vLLM: {error!r}") from error
        return outputs
