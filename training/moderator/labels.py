"""Which of the moderator's categories a harmful request belongs to.

Data sets name their categories each in its own way, some not at all: a table where there are names,
and words where there are none. The words label *harmful* requests only; nothing here calls a
request harmful.
"""

from __future__ import annotations

import re

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")

_WORDS = {
    "harassment": r"harass|bully|bullies|cyberbull|stalk|defam|slander|libel|humiliat|insult|blackmail"
    r"|doxx?|intimidat|mock(?:ing|s)?\b|body.?sham|threaten|gaslight|revenge porn|manipulat\w+ (?:a|my|your)",
    "hate": r"racis|racial|ethnic|\bhate|hateful|bigot|antisemit|jewish|\bjews?\b|muslim|islam|homophob"
    r"|transphob|immigrant|supremac|neo.?nazi|xenophob|sexis|misogyn|stereotyp|minorit|discriminat"
    r"|genocide|refugee|(?:against|toward)s? (?:women|gay|black|disabled|religious)",
    "self-harm": r"suicid|self.?harm|self.?injur|kill (?:your|my|one|them)sel[fv]|cut (?:your|my)self"
    r"|cutting (?:your|my)self|anorexi|bulimi|\bpro.?ana\b|eating disorder|overdose|starv\w+ (?:my|your)self"
    r"|end (?:my|your|their) (?:own )?li[fv]e|hang (?:my|your)self",
    "sexual": r"\bsex|porn|nude|naked|erotic|prostitut|\brape|molest|paedo|pedo|fetish|orgasm|genital"
    r"|incest|strip club|escort service|masturbat|bestiality|obscen",
    "violence": r"\bkill|murder|assassin|bomb|explosi|weapon|shoot|shooting|stab|tortur|attack|assault"
    r"|poison|kidnap|terror|massacre|violen|abuse|rape|genocide|\bgun|firearm|grenade|arson|hitman"
    r"|bioweapon|nerve agent|sarin|anthrax|ricin|molotov|behead|lynch|fight\b|beat up",
}
_PATTERNS = {name: re.compile(words, re.IGNORECASE) for name, words in _WORDS.items()}
_CRIME = re.compile(
    r"steal|theft|fraud|scam|hack|malware|virus|phish|forge|counterfeit|launder|drug|meth|cocaine"
    r"|weapon|bomb|explosi|traffick|smuggl|bribe|evade|illegal|launder|identity|blackmail|kill|murder"
    r"|poison|kidnap|terror|launder|piracy|pirat|password|tax|insider|spy|stalk|blackmail|extort",
    re.IGNORECASE,
)
_NAMED = {
    "Hate/Harass/Violence": {},
    "Adult Content": {"sexual": 1.0, "illicit": 0.2},
    "Political Campaigning": {"illicit": 0.8},
    "Tailored Financial Advice": {"illicit": 0.8},
    "Sexual content": {"sexual": 1.0, "illicit": 0.3},
    "Hate, harassment and discrimination": {"illicit": 0.4},
    "Suicide, Self-Harm, and Eating Disorders": {"self-harm": 1.0, "illicit": 0.3},
}


def categories_of(text: str, named: str = "") -> dict[str, float]:
    """Soft labels, one per category, of a request known to be harmful.

    What no table and no word speaks for is 0, except ``illicit``: 1 unless the request is plainly
    of another kind and names no crime.
    """
    found = {name: 0.95 for name, pattern in _PATTERNS.items() if pattern.search(text)}
    labels = dict.fromkeys(CATEGORIES, 0.03) | found
    other = any(name in found for name in ("hate", "harassment", "self-harm", "sexual"))
    labels["illicit"] = 0.5 if other and not _CRIME.search(text) else 0.97
    return labels | _NAMED.get(named, {})
