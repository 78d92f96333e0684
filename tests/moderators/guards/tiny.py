"""Random models of each guard's architecture, with tokenizers that know its verdict words.

The chat templates have the shape of the published ones: what they take, what they leave out and
how they end is the same; their instructions are shortened.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rerail.moderators.guards._models import Loaded


def ends(template: str, tail: str) -> str:
    """The template with a tail, whose last newline Jinja would else take away."""
    return template + "{{ " + json.dumps(tail) + " }}"


HEAD = "<|start_header_id|>"
END = "<|end_header_id|>"

LLAMA_GUARD_3_8B = (
    "{{ bos_token }}<|start_header_id|>user<|end_header_id|>\n\nTask: categories S1 to S14.\n\n"
    "<BEGIN CONVERSATION>\n\n{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}{{ 'User' if m['role'] == 'user' else 'Agent' }}: {{ m['content'] | trim }}\n\n"
    "{% endfor %}<END CONVERSATION>\n\nAssess the last.<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>"
)
"""Ends without the newlines that the guard itself writes."""

LLAMA_GUARD_3_1B = LLAMA_GUARD_3_8B.replace(
    "{{ m['content'] | trim }}",
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] | trim }}"
    "{% endfor %}",
)
"""Takes content in parts; of a string it would show nothing, in silence."""

LLAMA_GUARD_4 = ends(LLAMA_GUARD_3_1B, "\n\n")
"""Ends with the newlines."""

SHIELD_GEMMA = ends(
    "{{ bos_token }}You are a policy expert.\n\n<start_of_turn>\nHuman Question: "
    "{{ messages[-2]['content'] | trim }}\n<end_of_turn>\n<start_of_turn>\nChatbot Response: "
    "{{ messages[-1]['content'] | trim }}\n<end_of_turn>\n\nOur principle:\n\n* {{ guideline }}"
    "\n\n===\n\nDoes the Chatbot Response violate it? Start with 'Yes' or 'No'.",
    "\n\n",
)

GRANITE = (
    "{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}"
    "<|end_of_text|>\n{% endfor %}"
)
GRANITE_3_0 = (
    GRANITE + "Risk: {{ guardian_config['risk_name'] }}. "
    "{{ guardian_config['risk_definition'] or '' }}\n"
    "<|start_of_role|>assistant<|end_of_role|>"
)
GRANITE_3_3 = (
    GRANITE
    + "Criterion: {{ guardian_config['criteria_id'] or guardian_config['custom_criteria'] }}"
    "{% if think %} Think.{% endif %}\n<|start_of_role|>assistant<|end_of_role|>"
)
GRANITE_4_1 = (
    GRANITE + "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)

QWEN3_GUARD = (
    "<|im_start|>user\nTask: levels and categories.\n\n<BEGIN CONVERSATION>\n\n"
    "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}\n\n{% endfor %}"
    "<END CONVERSATION>\n\nAssess the last.<|im_end|>\n<|im_start|>assistant\n"
)
"""Without the empty think block that it ends with."""
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)

SPECIAL = {
    "llama": ["<|begin_of_text|>", HEAD, END, "<|eot_id|>"],
    "gemma": ["<bos>", "<start_of_turn>", "<end_of_turn>"],
    "granite": ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
    "qwen": ["<|im_start|>", "<|im_end|>"],
    "mistral": ["<s>", "</s>"],
}
WORDS = {
    "llama": ["safe", "unsafe", "S", *map(str, range(1, 15))],
    "gemma": ["Yes", "No", " Yes", " No"],
    "granite": ["Yes", "No", " yes", " no", "yes", "no"],
    "qwen": [
        " Safe",
        " Unsafe",
        " Cont",
        "Safety",
        "Yes",
        "No",
        " Violent",
        " Non",
        " Sexual",
        " PII",
        " Suicide",
        " Unethical",
        " Political",
        " Copyright",
    ],
    "mistral": [" yes", " no"],
}


def tokenizer(kind: str, template: str | None = None, *, words: list[str] | None = None) -> Any:
    """Byte-level BPE whose only long tokens are the words, or, for Mistral, of Metaspace kind."""
    words = WORDS[kind] if words is None else words
    backend = Tokenizer(models.BPE())
    if kind == "mistral":
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never")
        backend.decoder = decoders.Metaspace("▁", prepend_scheme="never")
        alphabet = [chr(c) for c in range(32, 127)] + ["\n", "▁", "é"]
        seen = [word.replace(" ", "a ") for word in words]
    else:
        digits = pre_tokenizers.Split(
            Regex(r"\d+|\n+|'s|\s?\p{L}+|\s?[^\s\p{L}\d]+|\s"), "isolated"
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        seen = [*words, "\n\n"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=2, initial_alphabet=alphabet, show_progress=False,
        special_tokens=[],
    )  # fmt: skip
    backend.train_from_iterator([word for word in seen for _ in range(4)], trainer)
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL[kind]])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIAL[kind][0],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


def model(kind: str, size: int, **options: Any) -> Any:
    """A random model of the family, far from indifferent."""
    torch.manual_seed(11)
    shape: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **options,
    }
    names = {"llama": "Llama", "gemma": "Gemma2", "granite": "Granite", "qwen": "Qwen3",
             "mistral": "Mistral"}  # fmt: skip
    if kind in {"llama", "granite"}:
        del shape["head_dim"]
    config = getattr(transformers, f"{names[kind]}Config")(**shape)
    return getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()


def llama4(size: int) -> Any:
    """Llama Guard 4's architecture, its vision part as small as it gets."""
    torch.manual_seed(11)
    config = transformers.Llama4Config(
        text_config={
            "vocab_size": size, "hidden_size": 16, "intermediate_size": 16,
            "intermediate_size_mlp": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 1, "moe_layers": [],
            "max_position_embeddings": 4096, "initializer_range": 0.5, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
            "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
        },
    )  # fmt: skip
    return transformers.Llama4ForConditionalGeneration(config).eval()


def guard(kind: str, template: str | None = None, **options: Any) -> Loaded:
    """A random guard."""
    made = tokenizer(kind, template)
    return Loaded(model(kind, len(made), **options), made)


def logits_after(loaded: Loaded, text: str) -> Any:
    """``(vocabulary,)`` logits of the token after a text, alone and without padding."""
    ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return loaded.model(input_ids=ids, use_cache=False).logits[0, -1].double()


def token(loaded: Loaded, text: str) -> int:
    """The one token that a text is."""
    (found,) = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(found)


def chances(loaded: Loaded, text: str, *words: str) -> list[float]:
    """Closed form: softmax of the logits after a text over the words' tokens."""
    z = logits_after(loaded, text)[[token(loaded, word) for word in words]]
    return [float(p) for p in torch.softmax(z, 0)]
