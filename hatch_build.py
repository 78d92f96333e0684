"""The project's addresses in a built package: those below RERAIL_URL, the repository's.

Where the variable is not set, the package names none.
"""

from __future__ import annotations

import os
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PLACES = {
    "Repository": "",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Documentation": "/blob/main/docs/index.md",
    "Issues": "/issues",
    "Security": "/blob/main/SECURITY.md",
}


class AddressesHook(MetadataHookInterface):
    """Fills ``project.urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the addresses to the project's metadata."""
        url = os.environ.get("RERAIL_URL", "").rstrip("/")
        metadata["urls"] = {name: url + place for name, place in PLACES.items()} if url else {}
