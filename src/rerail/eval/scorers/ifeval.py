"""IFEval (Zhou et al. 2023, arXiv 2311.07911): are verifiable instructions followed?

Twenty-five kinds of instruction, each with a check. *Strict* checks the answer as it is; *loose*
takes the best of eight versions of it: with and without asterisks, its first line, its last line.
An empty answer follows nothing.

Written from the published definitions. Two things differ from the authors' script. Sentences are
split by NLTK's Punkt with the abbreviations listed here, not with its trained model, which must be
fetched apart. A letter that is none (two of the 541 prompts ask to count ``#`` and ``!``) is
counted as it stands, where the script counts a letter drawn at random.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from rerail.errors import InputFileError, MissingDependencyError

_ABBREVIATIONS = """
    a.d a.m adj apr assn assoc aug ave b.c bros c.e capt co col corp d.c dec dept dr e.g ed est etc
    feb fig ft gen gov hon i.e inc jan jr lt ltd maj messrs mr mrs ms mt nov oct p.a p.m p.s ph.d
    prof rep rev sen sept sgt sr st u.k u.n u.s u.s.a v vol vs
"""
_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_LANGUAGE_SEED = 0


class Followed(NamedTuple):
    """Which instructions of a prompt an answer follows, in order."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def check(ids: Sequence[str], arguments: Sequence[Mapping[str, Any]], answer: str) -> Followed:
    """Check an answer against a prompt's instructions.

    Args:
        ids: names of the instructions, such as ``punctuation:no_comma``.
        arguments: the arguments of each; those that are None are left out.
        answer: the answer.

    Raises:
        InputFileError: an instruction is unknown, or its arguments are not those it takes.
        MissingDependencyError: langdetect or nltk is not installed.
    """
    if len(ids) != len(arguments):
        raise InputFileError(f"IFEval: {len(ids)} instructions and {len(arguments)} arguments")
    versions = _versions(answer)
    strict, loose = [], []
    for name, given in zip(ids, arguments, strict=True):
        follows = _bound(name, given)
        strict.append(bool(answer.strip()) and follows(answer))
        loose.append(any(follows(version) for version in versions if version.strip()))
    return Followed(tuple(strict), tuple(loose))


def score(meta: Mapping[str, Any], text: str) -> dict[str, float]:
    """Scores of an answer: whether it follows all instructions, and how many of how many.

    Accuracy at prompt level is the mean of ``ifeval_prompt_*``; at instruction level it is the sum
    of ``ifeval_followed_*`` over that of ``ifeval_instructions``.

    Raises:
        InputFileError: the case has no instructions.
    """
    if "instruction_id_list" not in meta or "kwargs" not in meta:
        raise InputFileError("a case of IFEval needs the keys 'instruction_id_list' and 'kwargs'")
    strict, loose = check(meta["instruction_id_list"], meta["kwargs"], text)
    return {
        "ifeval_prompt_strict": float(all(strict)),
        "ifeval_prompt_loose": float(all(loose)),
        "ifeval_followed_strict": float(sum(strict)),
        "ifeval_followed_loose": float(sum(loose)),
        "ifeval_instructions": float(len(strict)),
    }


def _versions(answer: str) -> list[str]:
    lines = answer.split("\n")
    cuts = [answer]
    cuts += ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return [text.replace("*", "") if bare else text for text, bare in product(cuts, (False, True))]


def _bound(name: str, given: Mapping[str, Any]) -> Callable[[str], bool]:
    if name not in CHECKS:
        raise InputFileError(f"IFEval: unknown instruction {name!r}")
    arguments = {key: value for key, value in given.items() if value is not None}

    def follows(answer: str) -> bool:
        try:
            return CHECKS[name](answer, **arguments)
        except (TypeError, re.error) as error:
            raise InputFileError(f"IFEval: arguments of {name!r}: {error}") from None

    return follows


def _compare(count: int, relation: str, threshold: int) -> bool:
    if relation == "at least":
        return count >= threshold
    if relation == "less than":
        return count < threshold
    raise InputFileError(f"IFEval: unknown relation {relation!r}: 'at least' or 'less than'")


def _keywords_exist(answer: str, *, keywords: Sequence[str]) -> bool:
    return all(re.search(word, answer, re.IGNORECASE) for word in keywords)


def _keyword_frequency(answer: str, *, keyword: str, frequency: int, relation: str) -> bool:
    found = re.findall(keyword.strip(), answer, re.IGNORECASE)
    return _compare(len(found), relation, frequency)


def _forbidden_words(answer: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{w}\b", answer, re.IGNORECASE) for w in forbidden_words)


def _letter_frequency(answer: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(answer.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _language(answer: str, *, language: str) -> bool:
    return _detected(answer) in {language, None}


def _sentences(answer: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(len(_split(answer)), relation, num_sentences)


def _paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Divided by ``***``; an empty one counts as none at either end, and fails in the middle."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _words(answer: str, *, num_words: int, relation: str) -> bool:
    return _compare(len(re.findall(r"\w+", answer)), relation, num_words)


def _first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Divided by two line breaks; empty ones are not counted, but have their place."""
    parts = answer.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or nth_paragraph > count:
        return False
    words = parts[nth_paragraph - 1].split()
    word = words[0].lstrip("'").lstrip('"') if words else ""
    return bool(words) and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _placeholders(answer: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


def _postscript(answer: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, marker.lower()), answer.lower()))


def _bullets(answer: str, *, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def _options(answer: str) -> bool:
    return any(option in answer for option in _OPTIONS)


def _highlights(answer: str, *, num_highlights: int) -> bool:
    """``*once*`` and ``**twice**``; what is highlighted twice may also count as once."""
    once = re.findall(r"\*[^\n\*]*\*", answer)
    twice = re.findall(r"\*\*[^\n\*]*\*\*", answer)
    return sum(bool(part.strip("*").strip()) for part in [*once, *twice]) >= num_highlights


def _sections(answer: str, *, section_spliter: str, num_sections: int) -> bool:
    marks = re.findall(rf"\s?{section_spliter.strip()}\s?\d+\s?", answer)
    return len(marks) >= num_sections


def _json(answer: str) -> bool:
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def _title(answer: str) -> bool:
    titles = re.findall(r"<<[^\n]+>>", answer)
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


def _two_responses(answer: str) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeats_prompt(answer: str, *, prompt_to_repeat: str) -> bool:
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(answer: str, *, end_phrase: str) -> bool:
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(answer: str, *, capital_frequency: int, capital_relation: str) -> bool:
    count = sum(word.isupper() for word in _tokens(answer))
    return _compare(count, capital_relation, capital_frequency)


def _all_capital(answer: str) -> bool:
    return answer.isupper() and _language(answer, language="en")


def _all_lowercase(answer: str) -> bool:
    return answer.islower() and _language(answer, language="en")


def _no_comma(answer: str) -> bool:
    return "," not in answer


def _quotation(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": _keywords_exist,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _options,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capital,
    "change_case:english_lowercase": _all_lowercase,
    "punctuation:no_comma": _no_comma,
    "startend:quotation": _quotation,
}
"""The twenty-five checks by the published names of the instructions."""


def _detected(text: str) -> str | None:
    """ISO 639-1 code of the text's language; None if none can be made out."""
    try:
        from langdetect import DetectorFactory, LangDetectException, detect
    except ImportError:
        raise MissingDependencyError("langdetect", "eval") from None
    DetectorFactory.seed = _LANGUAGE_SEED
    try:
        return str(detect(text))
    except LangDetectException:
        return None


@cache
def _punkt() -> Any:
    try:
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    except ImportError:
        raise MissingDependencyError("nltk", "eval") from None
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(parameters)


def _split(text: str) -> list[str]:
    return list(_punkt().tokenize(text))


def _tokens(text: str) -> list[str]:
    """Words and marks after the Penn Treebank; hyphenated words are one."""
    sentences = _split(text)
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return [token for sentence in sentences for token in NLTKWordTokenizer().tokenize(sentence)]
