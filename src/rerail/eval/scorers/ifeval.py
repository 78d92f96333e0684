"""IFEval (Zhou et al. 2023, arXiv 2311.07911): are verifiable instructions followed?

Twenty-five kinds of instruction, each with a check. *Strict* checks the answer as it is; *loose*
takes the best of eight versions of it: with and without asterisks, its first line, its last line.
An empty answer follows nothing.

Written from the published definitions, and scored as by the authors' script but for two things. Of
the trained English Punkt model that splits sentences there, and must be fetched apart, the tables
of abbreviations, collocations and words that begin sentences are here, and that of 20,000 words'
cases is not: of 8,813 texts (answers of six models, prompts and solutions) 26 have fewer sentences
than there, 22 of them by one. A letter that is none (two of the 541 prompts ask to count ``#``
and ``!``) is counted as it stands, where the script counts a letter drawn at random.
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
    a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v
    calif chg cie co col colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb
    fla fri ft g g.d g.f g.k ga gen h h.c h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan
    ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j maj messrs mg mich minn mr mrs ms n n.c n.d n.h n.j
    n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a r.h r.i r.j r.k r.t rep reps
    s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a u.s.s.r v
    va vs vt w w.c w.r w.va w.w wash wed wis yr
"""
_COLLOCATIONS = """
    ##number##:abreast ##number##:aes ##number##:business ##number##:cbot ##number##:colgate
    ##number##:commodities ##number##:cooper ##number##:corrections ##number##:credit
    ##number##:dividend ##number##:financing ##number##:genentech ##number##:henley
    ##number##:insider ##number##:international ##number##:leisure ##number##:letters
    ##number##:notable ##number##:pay-fone ##number##:pegasus ##number##:pepper ##number##:review
    ##number##:rj ##number##:wedgestone ##number##:who ##number##:zimmer b:edelman b:levine b:smith
    b:stewart b:wigton i:magnin i:toussie j:aron j:fialka j:walter o:ludcke
"""
_STARTERS = """
    according although among both but despite even he however i if in indeed instead it many
    meanwhile moreover most nevertheless nonetheless nor sales separately similarly since so some
    the there these they this though thus under when while yet
"""
"""After the English Punkt model of Kiss and Strunk 2006, as NLTK distributes it (Apache-2.0)."""
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


def _paragraphs(answer: str, *, num_paragraphs: int) -> bool:
    """Divided by ``***``; an empty one counts as none at either end, and fails in the middle."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", answer)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def _first_word(answer: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Divided by two line breaks; empty ones are not counted, but have their place."""
    parts = answer.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if count != num_paragraphs or nth_paragraph > count:
        return False
    words = parts[nth_paragraph - 1].split()
    word = words[0].lstrip("'").lstrip('"') if words else ""
    return bool(words) and re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _postscript(answer: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, marker.lower()), answer.lower()))


def _bullets(answer: str, *, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def _highlights(answer: str, *, num_highlights: int) -> bool:
    """``*once*`` and ``**twice**``; what is highlighted twice may also count as once."""
    once = re.findall(r"\*[^\n\*]*\*", answer)
    twice = re.findall(r"\*\*[^\n\*]*\*\*", answer)
    return sum(bool(part.strip("*").strip()) for part in [*once, *twice]) >= num_highlights


def _json(answer: str) -> bool:
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        # Numbers stay text: one of 5,000 digits is JSON, too.
        json.loads(text.removesuffix("```").strip(), parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def _title(answer: str) -> bool:
    titles = re.findall(r"<<[^\n]+>>", answer)
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


def _two_responses(answer: str) -> bool:
    parts = [part.strip() for part in answer.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def _quotation(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _language(answer: str, *, language: str) -> bool:
    return _detected(answer) in {language, None}


CHECKS: dict[str, Callable[..., bool]] = {
    "keywords:existence": lambda answer, *, keywords: all(
        re.search(word, answer, re.IGNORECASE) for word in keywords
    ),
    "keywords:frequency": lambda answer, *, keyword, frequency, relation: _compare(
        len(re.findall(keyword.strip(), answer, re.IGNORECASE)), relation, frequency
    ),
    "keywords:forbidden_words": lambda answer, *, forbidden_words: (
        not any(re.search(rf"\b{word}\b", answer, re.IGNORECASE) for word in forbidden_words)
    ),
    "keywords:letter_frequency": lambda answer, *, letter, let_frequency, let_relation: _compare(
        answer.lower().count(letter.strip().lower()), let_relation, let_frequency
    ),
    "language:response_language": _language,
    "length_constraints:number_sentences": lambda answer, *, num_sentences, relation: _compare(
        len(_split(answer)), relation, num_sentences
    ),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda answer, *, num_words, relation: _compare(
        len(re.findall(r"\w+", answer)), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda answer, *, num_placeholders: (
        len(re.findall(r"\[.*?\]", answer)) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda answer: any(o in answer for o in _OPTIONS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": lambda answer, *, section_spliter, num_sections: (
        len(re.findall(rf"\s?{section_spliter.strip()}\s?\d+\s?", answer)) >= num_sections
    ),
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda answer, *, prompt_to_repeat: (
        answer.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda answer, *, end_phrase: (
        answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "change_case:capital_word_frequency": lambda answer, *, capital_frequency, capital_relation: (
        _compare(sum(w.isupper() for w in _tokens(answer)), capital_relation, capital_frequency)
    ),
    "change_case:english_capital": lambda answer: (
        answer.isupper() and _language(answer, language="en")
    ),
    "change_case:english_lowercase": lambda answer: (
        answer.islower() and _language(answer, language="en")
    ),
    "punctuation:no_comma": lambda answer: "," not in answer,
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
    parameters.collocations = {tuple(pair.split(":")) for pair in _COLLOCATIONS.split()}
    parameters.sent_starters = set(_STARTERS.split())
    return PunktSentenceTokenizer(parameters)


def _split(text: str) -> list[str]:
    return list(_punkt().tokenize(text))


def _tokens(text: str) -> list[str]:
    """Words and marks after the Penn Treebank; hyphenated words are one."""
    sentences = _split(text)
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return [token for sentence in sentences for token in NLTKWordTokenizer().tokenize(sentence)]
