"""Rules of an operator: word lists, regular expressions and personal data, each a category.

A rule holds or it does not: its score is 1 or 0, so it decides what may leave, and gives a search
no slope to follow. Combine it with a moderator that does.

Regular expressions run in the ``regex`` package, whose matcher can be given a time limit: unlike
Python's own it cannot be made to hang by an answer, and unlike RE2 it knows look-around and
back-references. An answer on which a rule exceeds its limit is unscored. What is invisible, a mark
or a hyphen is told by the Unicode properties that come with it.
"""

from __future__ import annotations

import ipaddress
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args

import regex
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators.taxonomy import Taxonomy
from rerail.policy import CUSTOM, faults
from rerail.types import EMPTY_ANSWER, Exchange, Score

PersonalData = Literal["email", "phone", "card", "iban", "ip", "us-ssn"]

TIMED_OUT = "time limit"
"""Last words of the cause of a verdict that took too long."""

Finder = Callable[[str, float], bool]
"""Text and seconds left to whether something was found; may raise TimeoutError."""


class Rule(BaseModel):
    """What an answer must not hold. Any one of the lists suffices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = ()
    """Words and phrases, compared whole and without regard to case, accents, width, kinds of
    hyphens, invisible characters and Markdown's signs."""
    parts: tuple[str, ...] = ()
    """The same, also inside of other words."""
    patterns: tuple[str, ...] = ()
    """Regular expressions, searched in each of the answer's `views`."""
    case_sensitive: bool = False
    """Of patterns."""
    personal_data: tuple[PersonalData, ...] = ()
    """Kinds of personal data."""
    regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = ("US",)
    """Countries whose national telephone numbers are looked for, beside all that begin with +."""
    score: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Score of an answer that breaks the rule."""

    @model_validator(mode="after")
    def _not_empty(self) -> Rule:
        if not (self.words or self.parts or self.patterns or self.personal_data):
            raise ValueError("forbids nothing: give words, parts, patterns or personal_data")
        return self


@dataclass(frozen=True, slots=True)
class _Compiled:
    score: float
    finders: tuple[Finder, ...]


class RulesModerator:
    """Scores an answer by an operator's rules: 0, or the rule's score where it is broken.

    Args:
        rules: category (``custom/...``) to `Rule`, or its fields.
        timeout: seconds that the rules may take over one answer; beyond, it is unscored.
        name: what the moderator is called in policies and records.

    Raises:
        MissingDependencyError: a package that a rule needs is not installed.
        ModeratorError: a rule is not valid, or its category is not one's own.
    """

    quick = True

    def __init__(
        self,
        rules: Mapping[str, Rule | Mapping[str, Any]],
        *,
        timeout: float = 1.0,
        name: str = "rules",
    ) -> None:
        if not timeout > 0:
            raise ModeratorError(f"timeout is {timeout}: it must be above 0 seconds")
        for category in rules:
            if not category.startswith(CUSTOM):
                raise ModeratorError(f"rule {category!r}: its name must start with {CUSTOM!r}")
        self.name = name
        self.taxonomy = Taxonomy.identity(rules)
        self.categories = self.taxonomy.categories
        self._timeout = timeout
        self._rules = {c: _compile(c, _rule(c, rule)) for c, rule in rules.items()}

    def __repr__(self) -> str:
        return f"RulesModerator({', '.join(self.categories)})"

    def score(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One verdict per exchange; an answer without text is unscored."""
        return [self._one(exchange.answer) for exchange in exchanges]

    def _one(self, answer: str) -> Score:
        if not answer.strip():
            return Score.unscored(EMPTY_ANSWER)
        end = time.monotonic() + self._timeout
        seen = views(answer)
        scores = {}
        for category, rule in self._rules.items():
            try:
                broken = any(find(view, _left(end)) for find in rule.finders for view in seen)
            except TimeoutError:
                return Score.unscored(f"{category}: {TIMED_OUT}")
            scores[category] = rule.score if broken else 0.0
        return Score.of(scores)


# Letters that are blanks, in form NFKC: U+3164 and U+FFA0 become the second.
_FILLERS = r"\u115f\u1160"
_IGNORED = r"\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Noncharacter_Code_Point}"
_INVISIBLE = regex.compile(rf"[[{_IGNORED}]--[\s{_FILLERS}]]", regex.V1)
_FILLER = regex.compile(rf"[{_FILLERS}]")
_HYPHEN = regex.compile(r"[\p{Pd}\u2212]")
# What may part words and may not: Markdown's signs, and blanks that are no white space.
_GAPS = rf"*_~`\\{_FILLERS}"
_GAP = regex.compile(rf"[{_GAPS}]+")
_CLOSED = regex.compile(rf"(?<![\s{_GAPS}])[{_GAPS}]++(?!\s)(?<!\d[{_GAPS}]+(?=\d))")
_MARKED = regex.compile(r"(.)(\p{M}+)", regex.DOTALL)
_ACCENT = regex.compile(r"[\u0300-\u036f]")
# Scripts whose marks are accents or points that a reader does without; and what is of no script.
_POINTED = regex.compile(
    r"[\p{Latin}\p{Greek}\p{Cyrillic}\p{Armenian}\p{Hebrew}\p{Arabic}\p{Syriac}\p{Common}]"
)
_LETTER = r"\p{L}\p{M}\p{N}"


def plain(text: str) -> str:
    """Unicode form NFKC without invisible characters; U+2800, a blank of braille, is a space.

    Invisible are control and format characters, default-ignorable and non-characters.
    """
    return unicodedata.normalize("NFKC", _FILLER.sub("", _visible(text)))


def views(text: str) -> tuple[str, ...]:
    """What a reader may take a text for: `plain`, and twice more with one kind of hyphen.

    Of these two, the one has spaces for Markdown's signs and for letters that are blanks; in the
    other they are gone unless they stand beside a space or between digits. Views that are alike
    are one.
    """
    shown = _HYPHEN.sub("-", _visible(text))
    seen = [text, _GAP.sub(" ", shown), _GAP.sub(" ", _CLOSED.sub("", shown))]
    return tuple(dict.fromkeys(map(plain, seen)))


def folded(text: str) -> str:
    """`plain`, without case, accents and points; hyphens and apostrophes are one, as are spaces.

    Marks that are letters or vowels, as in the scripts of India, stay.
    """
    bare = _bare(_HYPHEN.sub("-", plain(text)).casefold()).translate(_ALIKE)
    return " ".join(unicodedata.normalize("NFKC", bare).split())


_ALIKE = dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'") | {0x0640: None}
"""Apostrophes, and the letter that only makes an Arabic word longer."""


def _bare(text: str) -> str:
    """Unicode form NFKD without accents and points."""

    def without(match: Any) -> str:
        letter: str = match[1]
        return letter if _POINTED.match(letter) else letter + str(_ACCENT.sub("", match[2]))

    return str(_MARKED.sub(without, unicodedata.normalize("NFKD", text)))


def _visible(text: str) -> str:
    shown: str = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return shown.replace("\u2800", " ")


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _rule(category: str, rule: Rule | Mapping[str, Any]) -> Rule:
    if isinstance(rule, Rule):
        return rule
    try:
        return Rule.model_validate(rule)
    except ValidationError as error:
        raise ModeratorError(f"rule {category!r} is not valid:{faults(error, 'rule')}") from None


def _compile(category: str, rule: Rule) -> _Compiled:
    finders: list[Finder] = []
    if rule.words or rule.parts:
        finders.append(_words(category, rule))
    finders += [_pattern(category, source, rule.case_sensitive) for source in rule.patterns]
    finders += [_PERSONAL[kind](rule) for kind in rule.personal_data]
    return _Compiled(rule.score, tuple(finders))


# Scripts that put no spaces between words, or join particles to them: there, any place will do.
_JOINED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_STANDS_ALONE = regex.compile(rf"[[{_LETTER}]--[{_JOINED}]]", regex.V1)


def _words(category: str, rule: Rule) -> Finder:
    whole = [_whole(word) for word in _literals(category, rule.words)]
    sources = whole + [re.escape(part) for part in _literals(category, rule.parts)]
    # The longest first, so that no alternative hides another that begins alike.
    pattern = regex.compile("|".join(sorted(sources, key=len, reverse=True)))
    return lambda text, seconds: pattern.search(folded(text), timeout=seconds) is not None


def _literals(category: str, words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if not (literal := folded(word)):
            raise ModeratorError(f"rule {category!r}: {word!r} is no word")
        yield literal


def _whole(word: str) -> str:
    before = rf"(?<![{_LETTER}])" if _STANDS_ALONE.match(word[0]) else ""
    after = rf"(?![{_LETTER}])" if _STANDS_ALONE.match(word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"


def _pattern(category: str, source: str, case_sensitive: bool) -> Finder:
    try:
        pattern = regex.compile(source, 0 if case_sensitive else regex.IGNORECASE)
    except regex.error as error:
        raise ModeratorError(
            f"rule {category!r}: {source!r} is no regular expression: {error}"
        ) from None
    # No sensible pattern is about this sign: what matches here matches everywhere.
    if (match := pattern.search("§", timeout=1.0)) and not match[0]:
        raise ModeratorError(f"rule {category!r}: {source!r} matches nothing, so every text")
    return lambda text, seconds: pattern.search(text, timeout=seconds) is not None


def _needed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingDependencyError(package, "rules") from None


# Personal data: candidates by patterns without nested repetition, checked by kept libraries
# (python-stdnum for check digits, phonenumbers for numbering plans). Neither needs a model.


_DIGIT = regex.compile(r"\p{Nd}")
_SEPARATOR = r"[ \t.-]{0,3}"


def _figures(text: str) -> str:
    """With hyphens, spaces and digits of ASCII only, and without accents."""
    bare = _HYPHEN.sub("-", _bare(text))
    return str(_DIGIT.sub(lambda match: str(unicodedata.digit(match[0], match[0])), bare))


def _characters(found: str) -> str:
    """Without what stands between."""
    return re.sub(r"[\s./-]", "", found)


def _candidates(source: str, holds: Callable[[str], bool] = lambda found: True) -> Finder:
    pattern = regex.compile(source)

    def find(text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        # Overlapped: what a candidate begins with may hide the number inside of it.
        for match in pattern.finditer(_figures(text), overlapped=True, timeout=seconds):
            if holds(match[0]):
                return True
            _left(end)
        return False

    return find


def _email(rule: Rule) -> Finder:
    return _candidates(r"(?<![\w.+-])[\w.+-]{1,64}+@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")


def _phone(rule: Rule) -> Finder:
    phonenumbers = _needed("phonenumbers", "phonenumbers")

    def find(text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        text = _figures(text)
        for region in rule.regions or (None,):
            for _ in phonenumbers.PhoneNumberMatcher(text, region):
                return True
            _left(end)
        return False

    return find


def _card(rule: Rule) -> Finder:
    luhn = _needed("stdnum.luhn", "python-stdnum")

    def holds(found: str) -> bool:
        digits = ""
        for group in re.split(r"[ \t./-]+", found):
            digits += group
            if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
                return True
        return False

    groups = r"[2-6][0-9]{3}(?:[./][0-9]{4}){3}"
    return _candidates(rf"(?<!\d)(?:[2-6](?:[ \t-]{{0,3}}[0-9]){{12,22}}|{groups})(?!\d)", holds)


def _iban(rule: Rule) -> Finder:
    iban = _needed("stdnum.iban", "python-stdnum")

    def holds(found: str) -> bool:
        compact = _characters(found).upper()
        ends = range(15, len(compact) + 1)
        return any(iban.is_valid(compact[:end], check_country=False) for end in ends)

    between = rf"{_SEPARATOR}[A-Za-z0-9]"
    return _candidates(rf"(?<![{_LETTER}])[A-Za-z]{{2}}[0-9]{{2}}(?:{between}){{11,30}}", holds)


def _ip(rule: Rule) -> Finder:
    def holds(found: str) -> bool:
        found = found.rstrip(".:")
        return _is_global(found) or ("." in found and _is_global(found.split(":")[0]))

    return _candidates(rf"(?<![{_LETTER}.:])[0-9A-Fa-f:.]{{7,45}}+(?![{_LETTER}])", holds)


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _us_ssn(rule: Rule) -> Finder:
    ssn = _needed("stdnum.us.ssn", "python-stdnum")
    between = r"[ \t.-]{1,3}"
    return _candidates(
        rf"(?<![{_LETTER}]|\d-)[0-9]{{3}}{between}[0-9]{{2}}{between}[0-9]{{4}}(?![{_LETTER}]|-\d)",
        lambda found: bool(ssn.is_valid(_characters(found))),
    )


_PERSONAL: Mapping[str, Callable[[Rule], Finder]] = {
    "email": _email,
    "phone": _phone,
    "card": _card,
    "iban": _iban,
    "ip": _ip,
    "us-ssn": _us_ssn,
}
assert set(_PERSONAL) == set(get_args(PersonalData))
