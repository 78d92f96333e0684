"""What a request asks for, by plain rules: its kind, its core in the second person, its key words.

The answers of the corpus are written from this alone, so that the model learns one thing: to copy
the right words of the request into an answer of the right shape.

    >>> understand("Please write a poem about my old boat.").core
    'write a poem about your old boat'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CORE_WORDS = 14
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_STOP_TEXT = """
a an the and or but if of to in on at by for with from about into over under as is are was were
be been being am do does did done have has had having it its this that these those there here i
you he she we they me him her us them my your his our their mine yours who whom which what when
where why how can could would should will shall may might must not no nor so too very just only
than then some any all each every more most much many other another such own same out up down
off again once also between through during before after above below because while until please
make give tell write explain describe list get let want need like know use using help show way
ways steps best good things thing someone somebody something anyone people new one two three
four five following provide create find take go come think say said does doesn't don't didn't
isn't won't can't i'm you're it's i've i'd i'll let's that's what's given based example sure per
yourself myself
"""
_STOP = frozenset(_STOP_TEXT.split())
_EMPTY_QUESTION = {"start", "advice", "recommend", "suggest", "idea", "ideas", "help", "begin"}
_POLITE = re.compile(
    r"^(?:please|hey|hi|hello|ok|okay|so|now|well|yo|kindly|just|then|also|and|but)\b[\s,!:.-]*"
    r"|^(?:can|could|would|will) you (?:please )?"
    r"|^(?:i want you to|i would like you to|i'd like you to|i need you to|you should|you must"
    r"|your task is to|you need to|help me to|help me|teach me to|teach me)\s+",
    re.IGNORECASE,
)
_HOWTO = re.compile(
    r"^(?:tell me|show me|explain|describe|explain to me|teach me|i want to know|provide"
    r"(?: detailed)? (?:instructions|directions|steps|a guide) (?:on|for)|write(?: me)? (?:a|an)"
    r"(?: [\w-]+){0,3} (?:guide|tutorial|manual|article|blog post|how-to)s? (?:on|about|explaining)"
    r"|give(?: me)?(?: [\w-]+){0,3} (?:instructions|steps|tips|advice|guide) (?:on|for)"
    r"|(?:can|could) you (?:explain|tell me))?\s*"
    r"(?:i (?:want|need|would like) to(?! know)|i(?: am|'m) (?:trying to|looking for a way to)"
    r"|what do i need (?:in order )?to|how to|how do i|how can i|how do you|how would you"
    r"|how should i|how could i|how do we"
    r"|how can we|how might i|how might one|how can one|how would i|how can you"
    r"|what(?:'s| is| are) (?:the |some )?[\w-]+ ways? (?:to|for)|what(?:'s| is) the best way to"
    r"|(?:instructions|steps|a plan|a way) (?:on how )?to)\s+",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^(?:what|who|whom|whose|which|when|where|why|how|is|are|am|was|were|do|does|did|can|could|"
    r"should|would|will|has|have|may|might)\b",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"^(?:imagine (?:that )?you are|imagine you're|imagine (?:that )?you were"
    r"|pretend (?:that )?you are"
    r"|pretend you're|pretend to be|you are|you're|act as if you are|act as|as|acting as"
    r"|take on the role of|assume the role of|suppose you are|let's pretend you are|roleplay as"
    r"|role-play as|speak as|answer as|you play)\s+([^\s.,;:!?]+(?:\s+[^\s.,;:!?]+){0,8}?)"
    r"(?=\s*[.,;:!?\n]|\s+(?:who|trying|and|in|that|on|with|for|from|at|to|tasked|describe|explain"
    r"|write)\s|\s*$)",
    re.IGNORECASE,
)
_WRITE = re.compile(
    r"^(?:write|compose|create|draft|make up|generate|develop|produce|craft|design|tell(?: me)?"
    r"|come up with|pen|give me|make)\s+(?:me\s+|us\s+)?((?:an?|the|some|\d+)\s.+)$",
    re.IGNORECASE,
)
_VERSE = re.compile(
    r"\b(?:poem|haiku|song|limerick|rap|verse|lyrics|ballad|sonnet|story|tale|fable|novel|chapter"
    r"|scene|plot|script|dialogue|monologue|screenplay|play|diary|joke|riddle|conversation)\b",
    re.I,
)
_LETTER = re.compile(
    r"\b(?:letter|email|e-mail|note|invitation|speech|toast|message|postcard|newsletter"
    r"|announcement|press release|memo|application)\b",
    re.I,
)
_LIST = re.compile(
    r"^(?:list|name|suggest|recommend|brainstorm|enumerate|give(?: me)? (?:\w+ )?(?:ideas|names"
    r"|list|examples|questions|titles|reasons|tips|a list)|generate (?:\w+ )?(?:titles|names|ideas)"
    r"|what are|what can i)\b",
    re.I,
)
_COMPARE = re.compile(
    r"\bdifference between (.+?) and (.+?)[?.!]*$|^compare (.+?) (?:with|to|and) (.+?)[?.!]*$"
    r"|^which is \w+,? (?:the )?(.+?) or (.+?)[?.!]*$|^should i choose (.+?) or (.+?)[?.!]*$"
    r"|^(?:the )?([\w-]+(?: [\w-]+)?) or ([\w-]+(?: [\w-]+)?)\?$|^is (.+?) \w+er than (.+?)\?$",
    re.I,
)
_PREPOSITION = re.compile(
    r"\b(?:about|of|for|with|on|into|from|against|regarding|in|to|at|by|that|who|which)\b", re.I
)
_SWAP = {
    "my": "your", "me": "you", "i": "you", "myself": "yourself", "mine": "yours", "i'm": "you're",
    "i've": "you've", "i'd": "you'd", "i'll": "you'll", "am": "are", "your": "my",
    "yourself": "myself", "yours": "mine", "we": "you", "our": "your", "us": "you", "you": "I",
    "you're": "I'm",
    "you've": "I've",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A request understood. `kind` chooses the shape of the answer, the rest fills it."""

    text: str
    kind: str  # howto, verse, letter, writing, list, compare, question, role, sums, statement, ...
    core: str
    ask: str
    topic: str
    words: tuple[str, ...]
    role: str = ""
    object: str = ""
    pair: tuple[str, str] = ("", "")


def understand(text: str) -> Request:
    """Reads one request (without a wrapper around it)."""
    head, _, pasted = text.strip().partition("\n\n")
    role, rest = _split_role(head if content_words(head) else text.strip())
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n+", rest) if _WORD.search(part)]
    main = _main_sentence(sentences) if sentences else rest
    main = _strip_polite(main.strip(" \"'-*"))
    howto = _HOWTO.match(main)
    body = main[howto.end() :] if howto else main
    core = _clip(_second_person(body))
    pair = _pair(main)
    if len(sentences) > 2 and main.endswith("?") and re.search(r"\d", rest):
        kind = "sums"
    elif pair:
        kind = "compare"
    elif howto:
        kind = "howto"
    elif written := _WRITE.match(main):
        thing = written.group(1)
        head = " ".join(thing.split()[:6])
        kind = "verse" if _VERSE.search(head) else "letter" if _LETTER.search(head) else "writing"
    elif _LIST.match(main):
        kind = "list"
    elif _QUESTION.match(main):
        kind = "question"
    elif main.endswith("?") or re.match(r"^(?:i|my|we|our|the|there)\b", main, re.IGNORECASE):
        kind = "statement"
    else:
        kind = "imperative"
    thing = ""
    if kind in ("verse", "letter", "writing"):
        thing = _clip(_second_person(_WRITE.match(main).group(1)))
    if role and kind not in ("sums", "compare"):
        kind = "role"
    words = content_words(core) or content_words(text) or ("that",)
    topic = _topic(core, words)
    # A text that an instruction came with is spoken of, too.
    words += content_words(pasted[:120])[:2] if content_words(head) else ()
    return Request(text, kind, core, _ask(main), topic, words, role, thing, pair or ("", ""))


def content_words(text: str) -> tuple[str, ...]:
    """The words that carry the subject, each once, in order, in lower case unless a name."""
    seen: dict[str, str] = {}
    for match in _WORD.finditer(text):
        word = match.group()
        if len(word) > 2 and word.lower() not in _STOP and not word.isdigit():
            seen.setdefault(word.lower(), word if match.start() else word[0].lower() + word[1:])
    return tuple(seen.values())


def _split_role(text: str) -> tuple[str, str]:
    """('the role', 'what is asked of it'); without a role, ('', text)."""
    match = _ROLE.match(_strip_polite(text))
    stripped = _strip_polite(text)
    if not match:
        return "", text
    rest = stripped[match.end() :].lstrip(" ,.;:!?")
    if not _WORD.search(rest):
        return "", text
    return match.group(1).strip(), rest


def _main_sentence(sentences: list[str]) -> str:
    """The sentence that asks: the last question, else the first that begins like an order."""
    asked = [part for part in sentences if part.rstrip().endswith("?")]
    if asked and set(map(str.lower, content_words(asked[-1]))) <= _EMPTY_QUESTION:
        asked = asked[:-1]
        sentences = sentences[:-1] or sentences
    if asked:
        return asked[-1]
    orders = [
        part
        for part in sentences
        if not re.match(
            r"^(?:I|My|The|There|It|You|As|Based|in|on|at|from|for|and|who|with)\b", part
        )
    ]
    return (orders or sentences)[0]


def _strip_polite(text: str) -> str:
    for _ in range(3):
        shorter = _POLITE.sub("", text, count=1)
        if shorter == text or not _WORD.search(shorter):
            break
        text = shorter
    return text


def _second_person(text: str) -> str:
    def swap(match: re.Match[str]) -> str:
        word = match.group()
        return _SWAP.get(word.lower(), word) if word != "US" else word

    swapped = re.sub(r"[^\W\d_]+(?:'[^\W\d_]+)?", swap, text)
    first = swapped.split(" ", 1)[0]
    if first[1:].islower() or len(first) == 1:
        swapped = swapped[:1].lower() + swapped[1:]
    return swapped


def _clip(text: str) -> str:
    text = re.split(r"(?<=\w)[.!?;](?:\s|$)|\n|:\s|\?$", text, maxsplit=1)[0]
    words = text.split()[:MAX_CORE_WORDS]
    while len(words) > 1 and words[-1].lower().strip(",") in _STOP - {"it", "that", "you"}:
        words.pop()
    return " ".join(words).strip(" ,;:.!?\"'()-")


def _ask(main: str) -> str:
    words = main.split()
    clipped = _clip(_second_person(main)) if len(words) > MAX_CORE_WORDS else _second_person(main)
    clipped = clipped.strip(" .?!")
    return clipped + ("?" if _QUESTION.match(main) else ".")


def _topic(core: str, words: tuple[str, ...]) -> str:
    """What follows the last preposition if it is short, else the last one or two content words."""
    pieces = _PREPOSITION.split(core)
    tail = pieces[-1].strip() if len(pieces) > 1 else ""
    if 1 <= len(tail.split()) <= 4 and content_words(tail):
        return tail
    parts = core.split()
    held = [index for index, part in enumerate(parts) if content_words("x " + part)]
    if not held:
        return words[-1]
    start = held[-2] if len(held) > 1 and held[-1] - held[-2] <= 1 else held[-1]
    return " ".join(parts[start : held[-1] + 1]).strip(" ,;:.!?\"'()")


def _pair(main: str) -> tuple[str, str] | None:
    match = _COMPARE.search(main)
    if not match:
        return None
    first, second = (group for group in match.groups() if group is not None)
    if max(len(first.split()), len(second.split())) > 5:
        return None
    return _second_person(first), _second_person(second)
