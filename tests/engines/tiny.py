"""Tokenizers and models that are made in a moment, without files or network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rerail.engines.base import EmbeddedPrompt, GenerationRequest, SteerableRows

CORPUS = [
    "How do I bake a loaf of bread? Tell me, please, step by step.",
    "system user assistant You are a helpful assistant. Sure, here is how.",
    "The quick brown fox jumps over the lazy dog; 0123456789 <|>/[]{}()!",
    "Hello world. I cannot help with that request.\nNew lines\n\nand  spaces.",
] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
LABELS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level(
    template: str | None = CHATML,
    *,
    add_prefix_space: bool = False,
    trim_offsets: bool = False,
    greedy_ends: bool = False,
) -> Any:
    """Byte-level BPE, as of GPT-2, Llama 3 and Qwen.

    With ``greedy_ends`` its control tokens swallow the white space around them, as of Phi-3.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(t, lstrip=True, rstrip=True) for t in SPECIAL]
        if greedy_ends
        else SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return _wrap(tokenizer, template)


def metaspace(template: str | None = PLAIN, *, scheme: str = "first") -> Any:
    """BPE with spaces as letters and a beginning-of-text token, as of Llama 2 and Mistral.

    The scheme ``legacy`` writes the letters in the normaliser, as the first of them did.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if scheme == "legacy":
        spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(spaces)
        scheme = "first"
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Metaspace(prepend_scheme=scheme), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", *SPECIAL, *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
        max_token_length=6,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = [t for t in parts["added_tokens"] if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return _wrap(tokenizer, template, unk_token="<unk>")


def unigram(template: str | None = CHATML) -> Any:
    """Unigram whose own vocabulary holds the control tokens with the best scores, as of T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _wrap(tokenizer, template, unk_token="<unk>")


def word_piece(template: str | None = LABELS) -> Any:
    """Lower-casing WordPiece, as of BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", *SPECIAL], show_progress=False
    )
    tokenizer.train_from_iterator([line.lower() for line in CORPUS], trainer)
    return _wrap(tokenizer, template, unk_token="[UNK]")


def _wrap(tokenizer: Tokenizer, template: str | None, **special: str) -> Any:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", **special
    )
    fast.chat_template = template
    return fast


_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.5,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "phi3": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "olmo2": {},
    "olmo3": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": {},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "falcon": {"alibi": False, "new_decoder_architecture": False},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256, "expansion_ratio": 2},
    "cohere": {},
    "granite": {},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 8,
    },
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
    "mamba": {"state_size": 4},
    "lfm2": {
        "layer_types": ["conv", "full_attention"],
        "block_ff_dim": 64,
        "initializer_range": 0.3,
    },
}


def tiny_model(architecture: str = "llama", vocabulary: int = 400, **options: Any) -> Any:
    """A model with random weights, wide enough apart that greedy answers differ."""
    sizes = {**_SIZES, "vocab_size": vocabulary, **ARCHITECTURES[architecture], **options}
    if architecture == "falcon":
        del sizes["head_dim"]
    config = AutoConfig.for_model(
        architecture,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return AutoModelForCausalLM.from_config(config).eval()


def moved(
    embedded: EmbeddedPrompt, seed: int, rows: SteerableRows = "last_user"
) -> GenerationRequest:
    """A request whose steerable rows are moved."""
    noise = np.random.default_rng(seed).standard_normal(embedded.point.shape).astype(np.float32)
    step = 0.5 * embedded.steerable(rows)[:, None] * noise
    return GenerationRequest(embedded, embedded.point + step, seed)
