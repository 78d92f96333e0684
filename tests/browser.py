"""Chromium, where it is installed, and what axe finds in a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("RERAIL_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
_ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the test is skipped, and says so."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pages are NOT tested"
    )
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip(f"no Chromium at {CHROMIUM}: pages are NOT tested (set RERAIL_CHROMIUM)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS.split())
        try:
            yield chromium
        finally:
            chromium.close()


AXE = Path(__file__).parent / "server" / "vendor" / "axe.min.js"


def hindrances(page: Any) -> list[tuple[str, list[str]]]:
    """What axe calls serious or critical: each rule, and the elements that break it.

    The page's own rules must let a script in: `bypass_csp`.
    """
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then((found) => found.violations)")
    serious = [rule for rule in found if rule["impact"] in {"serious", "critical"}]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in serious]
