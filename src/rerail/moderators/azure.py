"""Azure AI Content Safety, text.

Source: https://learn.microsoft.com/azure/ai-services/content-safety/quickstart-text and
concepts/harm-categories: one text per request, and for each of four categories a severity level of
0 to 7. A score is severity / 7, so there are eight values.
"""

from __future__ import annotations

import os
from typing import Unpack

from rerail._keys import read_key
from rerail.errors import ModeratorError
from rerail.moderators._http import Options, warn
from rerail.moderators.http import JsonService
from rerail.moderators.taxonomy import Taxonomy

TAXONOMY = Taxonomy(
    {"Hate": "hate", "SelfHarm": "self-harm", "Sexual": "sexual", "Violence": "violence"}
)

_ENDPOINT = "AZURE_CONTENT_SAFETY_ENDPOINT"


class AzureModerator(JsonService):
    """Azure AI Content Safety's ``text:analyze``.

    Args:
        endpoint: the resource's address; None reads it from AZURE_CONTENT_SAFETY_ENDPOINT.
        api_key_env: the environment variable that holds the key.
        api_version: the version of the API.
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: there is no endpoint or no key, or an option is not usable.
    """

    name = "azure"

    def __init__(
        self,
        endpoint: str | None = None,
        api_key_env: str = "AZURE_CONTENT_SAFETY_KEY",
        api_version: str = "2024-09-01",
        **options: Unpack[Options],
    ) -> None:
        endpoint = endpoint or os.environ.get(_ENDPOINT)
        if not endpoint:
            raise ModeratorError(f"no endpoint: give the option 'endpoint' or set {_ENDPOINT}")
        super().__init__(
            f"{endpoint.rstrip('/')}/contentsafety/text:analyze?api-version={api_version}",
            {"Ocp-Apim-Subscription-Key": read_key(api_key_env, ModeratorError)},
            TAXONOMY,
            {
                "text": "{text}",
                "categories": list(TAXONOMY.changed(options.get("map")).mapped),
                "outputType": "EightSeverityLevels",  # the default gives four of them
            },
            "categoriesAnalysis[?category={name}].severity",
            divide_by=7,
            **options,
        )
        warn(
            "azure gives severity levels, eight values per category: most finite differences are "
            "zero, so it judges well and steers poorly; let another moderator steer"
        )
