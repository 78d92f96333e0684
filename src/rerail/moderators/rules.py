"""Rules of an operator: word lists, regular expressions and personal data, each a category.

A rule holds or it does not: its score is 1 or 0, so it decides what may leave, and gives a search
no slope to follow. Combine it with a moderator that does.

Regular expressions run in the ``regex`` package, whose matcher can be given a time limit: unlike
Python's own it cannot be made to hang by an answer, and unlike RE2 it knows look-around and
back-references. An answer on which a rule exceeds its limit is unscored.
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

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators.taxonomy import Taxonomy
from rerail.policy import CUSTOM
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
    """Words and phrases, compared whole and without regard to case, accents, width and invisible
    characters."""
    parts: tuple[str, ...] = ()
    """The same, also inside of other words."""
    patterns: tuple[str, ...] = ()
    """Regular expressions, searched in the answer in Unicode form NFKC without invisible
    characters."""
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
        scores = {}
        for category, rule in self._rules.items():
            try:
                broken = any(find(answer, _left(end)) for find in rule.finders)
            except TimeoutError:
                return Score.unscored(f"{category}: {TIMED_OUT}")
            scores[category] = rule.score if broken else 0.0
        return Score.of(scores)


def plain(text: str) -> str:
    """Unicode form NFKC without invisible format characters (category Cf)."""
    return "".join(
        c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf"
    )


def folded(text: str) -> str:
    """`plain`, without case, accents (U+0300 to U+036F) and variation selectors; spaces are one."""
    apart = unicodedata.normalize("NFKD", plain(text).casefold())
    bare = "".join(c for c in apart if not ("\u0300" <= c <= "\u036f" or "\ufe00" <= c <= "\ufe0f"))
    return " ".join(unicodedata.normalize("NFKC", bare).split())


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
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'rule'}: "
            + fault["msg"].removeprefix("Value error, ")
            for fault in error.errors()
        ]
        raise ModeratorError("\n".join([f"rule {category!r} is not valid:", *faults])) from None


def _compile(category: str, rule: Rule) -> _Compiled:
    finders: list[Finder] = []
    if rule.words or rule.parts:
        finders.append(_words(category, rule))
    finders += [_pattern(category, source, rule.case_sensitive) for source in rule.patterns]
    finders += [_PERSONAL[kind](rule) for kind in rule.personal_data]
    return _Compiled(rule.score, tuple(finders))


# Scripts that put no spaces between words, or join particles to them: there, any place will do.
_JOINED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_STANDS_ALONE = re.compile(rf"[^\W{_JOINED}]")


def _words(category: str, rule: Rule) -> Finder:
    """Literals only: the time that Python's own matcher takes grows with the text's length."""
    whole = [_whole(word) for word in _literals(category, rule.words)]
    sources = whole + [re.escape(part) for part in _literals(category, rule.parts)]
    # The longest first, so that no alternative hides another that begins alike.
    pattern = re.compile("|".join(sorted(sources, key=len, reverse=True)))
    return lambda text, seconds: pattern.search(folded(text)) is not None


def _literals(category: str, words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if not (literal := folded(word)):
            raise ModeratorError(f"rule {category!r}: {word!r} is no word")
        yield literal


def _whole(word: str) -> str:
    before = r"(?<!\w)" if _STANDS_ALONE.match(word[0]) else ""
    after = r"(?!\w)" if _STANDS_ALONE.match(word[-1]) else ""
    return f"{before}{re.escape(word)}{after}"


def _pattern(category: str, source: str, case_sensitive: bool) -> Finder:
    regex = _regex()
    try:
        pattern = regex.compile(source, 0 if case_sensitive else regex.IGNORECASE)
    except regex.error as error:
        raise ModeratorError(
            f"rule {category!r}: {source!r} is no regular expression: {error}"
        ) from None
    # No sensible pattern is about this sign: what matches here matches everywhere.
    if (match := pattern.search("§", timeout=1.0)) and not match[0]:
        raise ModeratorError(f"rule {category!r}: {source!r} matches nothing, so every text")
    return lambda text, seconds: pattern.search(plain(text), timeout=seconds) is not None


def _regex() -> Any:
    return _needed("regex", "regex")


def _needed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise MissingDependencyError(package, "rules") from None


# Personal data: candidates by patterns without nested repetition, checked by kept libraries
# (python-stdnum for check digits, phonenumbers for numbering plans). Neither needs a model.


def _candidates(source: str, holds: Callable[[str], bool] = lambda found: True) -> Finder:
    pattern = _regex().compile(source)

    def find(text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        # Overlapped: what a candidate begins with may hide the number inside of it.
        for match in pattern.finditer(plain(text), overlapped=True, timeout=seconds):
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
        text = plain(text)
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
        for group in re.split("[ -]", found):
            digits += group
            if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn.is_valid(digits):
                return True
        return False

    return _candidates(r"(?<!\d)[2-6](?:[ -]?[0-9]){12,22}(?!\d)", holds)


def _iban(rule: Rule) -> Finder:
    iban = _needed("stdnum.iban", "python-stdnum")

    def holds(found: str) -> bool:
        compact = found.replace(" ", "")
        ends = range(15, len(compact) + 1)
        return any(iban.is_valid(compact[:end], check_country=False) for end in ends)

    return _candidates(r"(?<!\w)[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}", holds)


def _ip(rule: Rule) -> Finder:
    def holds(found: str) -> bool:
        found = found.rstrip(".:")
        return _is_global(found) or ("." in found and _is_global(found.split(":")[0]))

    return _candidates(r"(?<![\w.:])[0-9A-Fa-f:.]{7,45}+(?!\w)", holds)


def _is_global(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _us_ssn(rule: Rule) -> Finder:
    ssn = _needed("stdnum.us.ssn", "python-stdnum")
    return _candidates(
        r"(?<![\w-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![\w-])", lambda found: bool(ssn.is_valid(found))
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
