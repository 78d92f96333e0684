"""Mistral's moderation service.

Source: https://docs.mistral.ai/studio/safety-moderation, and ``docs/models/moderation*.md`` and
``chatmoderationrequest.md`` of mistralai/client-python: ``/v1/moderations`` takes a list of texts,
``/v1/chat/moderations`` a list of conversations, of which it judges the last turn; both give one
result per input, in the same order, with ``category_scores`` in [0, 1].
"""

from __future__ import annotations

from typing import Unpack

from rerail._keys import read_key
from rerail.errors import ModeratorError
from rerail.moderators._http import Options, Settings
from rerail.moderators.http import JsonService
from rerail.moderators.taxonomy import Taxonomy

_ADVICE = "advice that an expert should give is a policy of the operator's, not a harm"

TAXONOMY = Taxonomy(
    {
        "sexual": "sexual",
        "hate_and_discrimination": "hate",
        "violence_and_threats": "violence",
        "dangerous": "illicit",
        "criminal": "illicit",
        "selfharm": "self-harm",
    },
    left_out={
        "health": _ADVICE,
        "financial": _ADVICE,
        "law": _ADVICE,
        "pii": "personal data is a policy of the operator's: map it to a category of your own",
        "jailbreaking": "it is about what was asked, not about the answer",
    },
)
"""Of ``mistral-moderation-2603``. The alias ``mistral-moderation-latest`` may still mean the
deprecated 2411, whose ``dangerous_and_criminal_content`` is not among these: unscored."""


class MistralModerator(JsonService):
    """``mistral-moderation-2603``; with ``include_prompt`` it judges the answer as a turn.

    Args:
        model: the model's name.
        base_url: the API's address, with its version.
        api_key_env: the environment variable that holds the key; None where no key is needed.
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: there is no key, or an option is not usable.
    """

    name = "mistral"
    defaults = Settings(batch_size=32, max_chars=20_000)

    def __init__(
        self,
        model: str = "mistral-moderation-2603",
        base_url: str = "https://api.mistral.ai/v1",
        api_key_env: str | None = "MISTRAL_API_KEY",
        **options: Unpack[Options],
    ) -> None:
        chat = bool(options.get("include_prompt"))
        key = read_key(api_key_env, ModeratorError)
        super().__init__(
            base_url.rstrip("/") + ("/chat/moderations" if chat else "/moderations"),
            {"Authorization": f"Bearer {key}"} if key else {},
            TAXONOMY,
            {"model": model, "input": "{items}"},
            "category_scores.{name}",
            item="{turns}" if chat else "{text}",
            results="results",
            **options,
        )
        self.model = model
