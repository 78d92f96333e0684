"""The JSON Schema of policy files, for editors; `make docs` writes it from the keys."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def policy_schema() -> dict[str, Any]:
    """The schema, draft 2020-12. What it takes and a policy refuses is told by `Policy.parse`."""
    file = resources.files("rerail") / "assets" / "policies" / "policy.schema.json"
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
