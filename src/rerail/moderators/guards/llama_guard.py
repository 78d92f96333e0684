"""Llama Guard 3 (8B, 1B) and 4 (12B), of Meta.

The guard writes ``safe``, or ``unsafe`` and on the next line its codes, ``S1,S9``. Both
generations write two newlines first (meta-llama/Llama-Guard-3-8B, discussion 21): the verdict
position is the one after them, not the first. Names, prompt and score: model cards in
github.com/meta-llama/PurpleLlama. Licences: Llama 3.1, 3.2 and 4 Community Licenses, gated.
"""

from __future__ import annotations

from collections.abc import Sequence

from rerail.moderators.guards._generative import (
    FENCES,
    GenerativeGuard,
    Labels,
    Logits,
    Question,
    Turn,
    log_odds,
)
from rerail.moderators.taxonomy import Taxonomy

NAMES = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex-Related Crimes",
    "S4": "Child Sexual Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Suicide & Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}

TAXONOMY = Taxonomy(
    {
        "S1": "illicit/violent",
        "S2": "illicit",
        "S3": "illicit",
        "S4": "sexual/minors",
        "S9": "illicit/violent",
        "S10": "hate",
        "S11": "self-harm",
        "S12": "sexual",
        "S14": "illicit",
    },
    left_out={
        "S5": "defamation has no category of ours; map it to a custom/ one",
        "S6": "advice is a policy of its owner, not a harm; map it to a custom/ one",
        "S7": "privacy has no category of ours; map it to a custom/ one",
        "S8": "copyright is a policy of its owner, not a harm; map it to a custom/ one",
        "S13": "needs facts that a guard does not have; map it to a custom/ one",
    },
)

PROMPT = """{bos}<|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in '{judged}' messages in conversations according our \
safety policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
{categories}
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

{conversation}

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST {judged} message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories.\
<|eot_id|><|start_header_id|>assistant<|end_header_id|>"""
"""For a tokenizer without a chat template."""


class LlamaGuard(GenerativeGuard):
    r"""P(unsafe) over ``unsafe`` and ``safe``, and which code would come first.

    The score of a code is ``P(unsafe) P(code) / max P(code)``, with P(code) read after a forced
    ``unsafe\nS``: the likeliest code has all of P(unsafe), also where it is left out of the map.
    Codes are written in ascending order, so of several violations the lower code is favoured.

    Args:
        model: a folder, a hub id such as ``meta-llama/Llama-Guard-3-8B``, or a `Loaded` pair.
        options: see `GenerativeGuard`.
    """

    family = "llama-guard"
    control = FENCES
    taxonomy = TAXONOMY
    judges_prompts = True

    def _questions(self) -> Sequence[Question]:
        verdict = Labels.of("unsafe", "safe")
        codes = Labels({code: (code.removeprefix("S"),) for code in NAMES})
        return [Question("", ["\n\n", verdict, "unsafe\nS", codes])]

    def _render(self, turns: list[Turn], key: str) -> str:
        if self._tokenizer.chat_template:
            return self._template(turns).rstrip("\n")
        roles = {"user": "User", "assistant": "Agent"}
        return PROMPT.format(
            judged=roles[turns[-1]["role"]],
            bos=self._tokenizer.bos_token or "",
            categories="\n".join(f"{code}: {name}." for code, name in NAMES.items()),
            conversation="\n\n".join(f"{roles[t['role']]}: {t['content'].strip()}" for t in turns),
        )

    def _names(self, readings: Sequence[Sequence[Logits]]) -> dict[str, float]:
        verdict, codes = readings[0]
        return dict(zip(NAMES, self._attributed(log_odds(verdict), codes), strict=True))
