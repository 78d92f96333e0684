"""The name that belongs to another package is nowhere but in the changelog's line about it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLD = "TSA".lower() + "lign"
NOT_OURS = {".git", ".venv", ".venv-harnesses", "build", "dist", "node_modules", "__pycache__"}


def files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.endswith(("_cache", ".egg-info", ".sqlite")):
            continue
        found += files(path) if path.is_dir() else [path]
    return found


def test_the_old_name_is_in_the_changelogs_line_only() -> None:
    old = OLD.encode()
    places = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(ROOT)
        for number, line in enumerate(path.read_bytes().lower().splitlines(), 1)
        if old in line or old in path.name.lower().encode()
    ]
    assert [place.split(":")[0] for place in places] == ["CHANGELOG.md"]
