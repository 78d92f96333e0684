"""Google's Perspective API, which ends on 31 December 2026.

Source: https://developers.perspectiveapi.com/s/about-the-api-methods and -attributes-and-languages:
one comment per request, one query per second by default, 20 480 bytes at most; for each requested
attribute a ``summaryScore`` that is a probability. It is the score of TIDE (arXiv 2602.02498).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from rerail._keys import read_key
from rerail.errors import ModeratorError
from rerail.moderators._http import Options, Settings, warn
from rerail.moderators.http import JsonService
from rerail.moderators.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    {
        "TOXICITY": "harassment",
        "SEVERE_TOXICITY": "harassment",
        "INSULT": "harassment",
        "IDENTITY_ATTACK": "hate",
        "THREAT": "harassment/threatening",
    },
    left_out={"PROFANITY": "rude words are no harm by themselves: map it to custom/profanity"},
)


class PerspectiveModerator(JsonService):
    """Perspective's ``comments:analyze``; only attributes that are mapped are requested.

    Args:
        languages: ISO 639 codes of the texts' languages.
        base_url: the API's address, with its version.
        api_key_env: the environment variable that holds the key.
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: there is no key, or an option is not usable.
    """

    name = "perspective"
    defaults = Settings(concurrency=1, max_chars=5_000)
    """5,000 characters are at most 20,000 bytes."""

    def __init__(
        self,
        languages: Sequence[str] = ("en",),
        base_url: str = "https://commentanalyzer.googleapis.com/v1alpha1",
        api_key_env: str = "PERSPECTIVE_API_KEY",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            f"{base_url.rstrip('/')}/comments:analyze",
            # As a header: the documented ``?key=`` would write the key into every log of URLs.
            {"X-Goog-Api-Key": read_key(api_key_env, ModeratorError)},
            TAXONOMY,
            {
                "comment": {"text": "{text}", "type": "PLAIN_TEXT"},
                "languages": list(languages),
                "requestedAttributes": {n: {} for n in TAXONOMY.changed(options.get("map")).mapped},
                "doNotStore": True,
            },
            "attributeScores.{name}.summaryScore.value",
            **options,
        )
        warn("Google ends Perspective on 31 December 2026: choose another moderator")
