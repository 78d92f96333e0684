"""What the documentation's site does to a page of the repository: see mkdocs.yml.

Formulas become MathML, which browsers draw by themselves. A link to a file that is no part of the
site becomes its name. A paragraph that is nothing but a link to a part of a page becomes that part.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s:#]+)(?:#[^)\s]*)?\)")
_PART = re.compile(r"^\[[^\]]+\]\((?P<name>before-after\.md)\)$", re.MULTILINE)


def on_config(config: Any) -> None:
    """Offer the other versions where mike makes one; a site alone would look for them in vain."""
    if "MIKE_DOCS_VERSION" in os.environ:
        config["extra"]["version"] = {"provider": "mike"}


def on_page_markdown(text: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's Markdown with its parts put in, and without links that leave the site."""
    if page.file.src_uri == "reference/glossary.md":
        page.meta["search"] = {"boost": 4}  # who looks for a term finds what it means
    docs = Path(config["docs_dir"])
    place = docs / page.file.src_uri

    def part(link: re.Match[str]) -> str:
        return (place.parent / link["name"]).read_text(encoding="utf-8")

    def named(link: re.Match[str]) -> str:
        target = (place.parent / link["target"]).resolve()
        if target.is_relative_to(docs) or not target.is_relative_to(docs.parent):
            return link[0]
        name = f"`{target.relative_to(docs.parent).as_posix()}`"
        return name if link["text"] == name else f"{link['text']} ({name})"

    return _LINK.sub(named, _PART.sub(part, text))


def on_page_content(text: str, **_: Any) -> str:
    """The page's HTML with each formula drawn that was marked as one."""
    return _FORMULA.sub(_drawn, text)


def on_post_page(output: str, **_: Any) -> str:
    """The page with a name for the dialogue that the theme leaves without one."""
    dialogue = 'data-md-component="search" role="dialog"'
    return output.replace(dialogue, f'{dialogue} aria-label="Search"')


def _drawn(formula: re.Match[str]) -> str:
    latex = html.unescape(formula["latex"])
    if formula["tag"] == "span":
        return str(convert(latex))
    beneath = re.sub(r"(\\max|\\min)_", r"\1\\limits_", latex)
    # Wide ones are scrolled by themselves, by keyboard too.
    return f'<div class="formula" tabindex="0">{convert(beneath, display="block")}</div>'
