"""Granite Guardian 3.0 to 3.3 and 4.1, of IBM.

3.0 to 3.2 write ``Yes`` or ``No``; 3.3 writes ``<score> yes </score>``; 4.1 does so after a think
block, which is forced empty here. Formats: github.com/ibm-granite/granite-guardian, cookbooks and
``evaluation/models``. Licence: Apache-2.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from rerail.errors import ModeratorError
from rerail.moderators.guards._generative import (
    YES_NO,
    GenerativeGuard,
    Options,
    Question,
    Turn,
)
from rerail.moderators.guards._models import Loaded
from rerail.moderators.taxonomy import Taxonomy

Format = Literal["3.0", "3.3", "4.1"]

RISKS = {
    "harm": (
        "A text is considered harmful if it includes content that promotes violence, hate speech, "
        "discrimination, sexually explicit material, or other forms of harmful or unsafe content."
    ),
    "social_bias": (
        "A text is considered biased if it demeans or discriminates against people for who they "
        "are, such as their race, gender, religion or origin."
    ),
    "violence": "A text is considered violent if it promotes or describes physical harm.",
    "sexual_content": "A text is considered sexual if it is sexually explicit or suggestive.",
    "unethical_behavior": (
        "A text is considered unethical if it helps with or encourages acts that are illegal or "
        "break moral norms."
    ),
    "profanity": "A text is considered profane if it uses offensive language or insults.",
}
"""The guard's risks; the words are those that 4.1 is asked with, the others know them by name."""

MAPPED = {
    "harm": "custom/harm",
    "social_bias": "hate",
    "violence": "violence",
    "sexual_content": "sexual",
    "unethical_behavior": "illicit",
    "profanity": "custom/profanity",
}

BLOCK = """<guardian><no-think>As a judge agent, assess whether the provided text meets the given \
judging criteria using all available information, including conversations, documents, and tools. \
Provide your score immediately without explanation. Output empty <think>\\n</think> tags followed \
by your score in <score></score> tags.

### Criteria: {criterion}

### Scoring Schema: If the last assistant's text meets the criteria, return 'yes'; otherwise, \
return 'no'."""
"""What 4.1 is asked, as a last turn of the user."""


class GraniteGuardian(GenerativeGuard):
    """P(yes) over ``yes`` and ``no``, in any case and with or without a space before them.

    Args:
        model: a folder, a hub id such as ``ibm-granite/granite-guardian-3.3-8b``, or a `Loaded`
            pair.
        risks: which of `RISKS` are asked; each costs one prompt. ``harm``, the umbrella, becomes
            ``custom/harm``.
        criteria: more of them: a category of one's own (``custom/...``) to a criterion that a
            harmful answer meets, in words.
        format: ``3.0`` (to 3.2), ``3.3`` or ``4.1``; by default told from the model's name, or
            else its chat template.
        options: see `GenerativeGuard`.

    Raises:
        ModeratorError: a risk or the format is unknown, or nothing is asked; see also
            `GenerativeGuard`.
    """

    family = "granite-guardian"
    control = ("<guardian>", "<think>", "</think>", "<no-think>", "<score>", "</score>")

    def __init__(
        self,
        model: str | Path | Loaded,
        *,
        risks: Sequence[str] = ("harm",),
        criteria: Mapping[str, str] | None = None,
        format: Format | None = None,
        **options: Unpack[Options],
    ) -> None:
        unknown = [name for name in risks if name not in RISKS]
        if unknown:
            raise ModeratorError(f"unknown risk {unknown[0]!r}: {', '.join(RISKS)}")
        if format is not None and format not in get_args(Format):
            raise ModeratorError(f"unknown format {format!r}: {', '.join(get_args(Format))}")
        self._criteria = {name: text.strip() for name, text in (criteria or {}).items()}
        self._asked = (*risks, *self._criteria)
        self._format = format
        mapped = {name: MAPPED.get(name, name) for name in self._asked}
        super().__init__(model, taxonomy=Taxonomy(mapped), **options)

    def _questions(self) -> Sequence[Question]:
        self._format = self._format or self._told()
        forced = {"3.0": [], "3.3": ["<score>"], "4.1": ["<think>\n</think>\n<score>"]}
        return [Question(name, [*forced[self._format], YES_NO]) for name in self._asked]

    def _told(self) -> Format:
        """The format, from the model's name or its template."""
        version = re.search(r"guardian-(\d)\.(\d)", self.model_name)
        if version:
            major, minor = int(version[1]), int(version[2])
            return "4.1" if major >= 4 else "3.3" if minor >= 3 else "3.0"
        template = str(self._tokenizer.chat_template)
        return "3.3" if "criteria_id" in template else "3.0" if "risk_name" in template else "4.1"

    def _render(self, turns: list[Turn], key: str) -> str:
        if self._format == "4.1":
            criterion = self._criteria.get(key) or RISKS[key]
            block = {"role": "user", "content": BLOCK.format(criterion=criterion)}
            return re.sub(r"<think>\s*(</think>\s*)?$", "", self._template([*turns, block]))
        config: dict[str, Any]
        if self._format == "3.3":
            own = key in self._criteria
            config = {"custom_criteria": self._criteria[key]} if own else {"criteria_id": key}
            return self._template(turns, guardian_config=config, think=False)
        config = {"risk_name": key}
        if key in self._criteria:
            config = {"risk_name": key.split("/")[-1], "risk_definition": self._criteria[key]}
        return self._template(turns, guardian_config=config)
