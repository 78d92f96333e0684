"""Take the documentation's pictures of the page and of a report anew: `make pictures`.

Needs Chromium (or RERAIL_CHROMIUM) and the extra `dev`. Everything runs here: the model,
the prompts that come along, a server on a free port of loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "docs" / "assets"
PROMPTS = ROOT / "src" / "rerail" / "assets" / "demo_prompts.jsonl"

RERAIL = [sys.executable, "-c", "from rerail.cli import main; main()"]

METHODS = ("none", "refuse", "self-reminder", "best-of-n:draws=3", "fast")

POLICY = """\
# House style: no filler, no stock phrases.
name: house-style
description: The embedded moderator, and a list of stock phrases.

default_threshold: 0.5
moderators:
  - embedded
  - name: rules
    options:
      rules:
        custom/phrases:
          words: [colleague, keep notes, kind regards]

budget:
  generations: 90
"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `rerail serve` with the policies of a folder; gives its address."""
    command = [*RERAIL, "serve", "--port", "0", "--store", "none", "--policies", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            url = next((m[0] for line in lines if (m := re.search(r"http://[\d.:]+", line))), None)
            if url is None:
                raise SystemExit("the server did not start: see `rerail serve`")
            threading.Thread(target=lambda: list(lines), daemon=True).start()
            yield url
        finally:
            process.terminate()
            process.wait(30)


def watch(page: Page, url: str, picture: Path) -> None:
    """A question of the page's own whose answer is steered."""
    page.goto(url)
    page.locator("#policy option").first.wait_for(state="attached")
    page.locator(".idea").last.click()
    page.keyboard.press("Enter")
    page.locator("#compare .side").last.wait_for(timeout=180_000)
    page.screenshot(path=picture)


def policies(page: Page, url: str, picture: Path) -> None:
    """A policy that is being edited."""
    page.goto(f"{url}/#/policies/house-style")
    page.locator("#history li").first.wait_for()
    page.locator("#yaml").focus()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(f'{POLICY}\nrefusal_message: "Let us speak of something else."\n')
    page.locator("#faults.valid").wait_for()
    page.screenshot(path=picture)


def reported(run: Path) -> Path:
    """The report of an evaluation on the demo's prompts."""
    cases = run.with_suffix(".jsonl")
    with cases.open("w", encoding="utf-8") as file:
        for line in PROMPTS.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kind = "harmful" if row["kind"] in {"plain", "wrapped"} else "benign"
            case = {key: row[key] for key in ("id", "messages", "request")}
            file.write(json.dumps({**case, "kind": kind}) + "\n")
    command = [*RERAIL, "eval", "--benchmark", f"demo={cases}", "--max-new-tokens", "64"]
    command += ["--max-open", "50", "--out", str(run)]
    for method in METHODS:
        command += ["--method", method]
    subprocess.run(command, check=True)
    return run / "report.html"


def of_the_page(browser: Browser, folder: Path) -> None:
    (folder / "policies").mkdir()
    (folder / "policies" / "house-style.yaml").write_text(POLICY, encoding="utf-8")
    with served(folder / "policies") as url:
        for scheme in ("light", "dark"):
            for view, height in ((watch, 1560), (policies, 760)):
                page = browser.new_page(
                    color_scheme=scheme,
                    reduced_motion="reduce",
                    viewport={"width": 1280, "height": height},
                )
                view(page, url, ASSETS / f"{view.__name__}-{scheme}.png")
                page.close()


def of_the_report(browser: Browser, report: Path) -> None:
    for name, width, height in (("report", 1180, 1560), ("report-phone", 390, 844)):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(report.as_uri())
        page.screenshot(path=ASSETS / f"{name}.png")
        page.close()


def main() -> None:
    chromium = os.environ.get("RERAIL_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium: install chromium, or name it in RERAIL_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        of_the_page(browser, Path(folder))
        of_the_report(browser, reported(Path(folder) / "run"))
        browser.close()


if __name__ == "__main__":
    main()
