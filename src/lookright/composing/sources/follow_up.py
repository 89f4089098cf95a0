"""Whether a later question of a conversation stands alone, or asks on about what was said before."""

import re

_OPENING = re.compile(
    r"(?:and|but|so|then|also|or|well|ok|okay|yes|no|thanks|great|why|why not|how so|how come|such as|like what"
    r"|(?:what|how) about|(?:what|who|where|anything|anyone|something) else)\b"
)
_WHY_OF_ITS_OWN = re.compile(
    r"why (?:is|are|was|were|does|do|did|might|would|could|can|has|have) (?:the|a|an|there|some)\b"
)
"""Why-questions that name what they are about."""
_TALK = re.compile(
    r"\b(?:previous(?:ly)?|earlier|above|again|mentioned|aforementioned|said|your (?:answer|description|response)"
    r"|you (?:just |have )?(?:said|say|mentioned?|described?|listed|identified|told|gave|described)"
    r"|elaborate|explain more|tell me more|more details?|any (?:other|others|more|additional)|in that case"
    r"|the (?:former|latter)|besides (?:that|this)|other than (?:that|this)"
    r"|(?:this|that|these|those|the other|another|which|the (?:first|second|third|last)) ones?)\b"
)
"""What speaks of the talk itself."""
_PICTURED = r"(?:image|picture|photo|photograph|scene|painting|drawing|shot|book|cover|region|sentence|description)s?"
_POINTS = re.compile(
    rf"\b(?:this|these|that|those) (?:\w+ )?{_PICTURED}\b"
    r"|^(?:is|are|was|were|who|what|where) (?:is |are |was |were )?(?:this|these)\b"
    r"|^(?!why|how\b).*\b(?:is|are|was|were) (?:this|these)$"
)
"""Ways of pointing at the picture itself."""
_DUMMY = re.compile(
    r"\b(?:is|was|does|will|would|could|can|might|may|should) it (?:be )?(?:really |very |currently |a |an )*"
    r"(?:rain|snow|sunny|cloudy|windy|foggy|cold|hot|warm|dark|bright|day|night|winter|summer|spring|autumn|fall|morning"
    r"|evening|afternoon|overcast|likely|possible|safe|look like|seem|appear)\w*"
    r"|\bwhat (?:time|season|month|day)\b[^,;]*\bis it\b"
)
"""An `it` that stands for nothing."""
_PRONOUN = re.compile(
    r"\b(?:he|she|him|her|his|hers|they|them|their|theirs|it|its|itself|himself|herself|themselves)\b"
)
_DEMONSTRATIVE = re.compile(
    r"\b(?:this|these|those)\b|^that\b"
    r"|\b(?:is|was|are|were|does|did|do|like|of|about|for|than|to|with|from|on|in|at|by|after|before|why|how) that\b"
)
"""A `that` after a noun is none of them: it opens a clause about the noun."""
_REFERRING = {"he", "she", "him", "her", "his", "hers", "they", "them", "their", "theirs", "it", "its", "itself"} | {
    "himself", "herself", "themselves", "this", "these", "those", "that"
}  # fmt: skip
"""All words that the three patterns above look for: most questions have none."""
_PERSON = re.compile(
    r"\b(?:the|a|an|each|every|some|two|three|any|these|this)\b (?:\w+ ){0,2}?"
    r"(?:m[ae]n|wom[ae]n|boys?|girls?|persons?|people|child(?:ren)?|kids?|bab(?:y|ies)|players?|lad(?:y|ies)|guys?|riders?"
    r"|skiers?|snowboarders?|skateboarders?|surfers?|batters?|pitchers?|catchers?|workers?|animals?|dogs?|cats?|birds?"
    r"|horses?|elephants?|giraffes?|zebras?|bears?|cows?|sheep)\b"
)
"""Whom a pronoun of the same question may mean."""
_INSTRUCTION = re.compile(r"^(?:answer|respond|reply)\b.*[.:]?$", re.IGNORECASE)
_SHORTENED = re.compile(r"\b(what|who|where|why|how|it|that|he|she)'s\b")
MIN_WORDS = 3
"""A question of fewer words leans on an earlier one."""


def stands_alone(question: str) -> bool:
    """Whether a later question can be asked without the turns before it; no where in doubt.

    It does not if it has fewer than three words, opens as a reply does ("And ...", "What else ..."), speaks of
    the talk itself ("you mentioned", "the latter"), or has a pronoun or a bare "this" or "that" that nothing in it
    explains: no person or animal named before it, no pointing at the picture, no `it` of weather and time. A thing
    under its own name ("the bus") stands alone: the picture shows it.
    """
    text = " ".join(re.findall(r"[\w'-]+|[,;]", _SHORTENED.sub(r"\1 is", question.lower().replace("\u2019", "'"))))
    if len(text.split()) < MIN_WORDS or _TALK.search(text):
        return False
    if _OPENING.match(text) and not _WHY_OF_ITS_OWN.match(text):
        return False
    if _REFERRING.isdisjoint(re.split(r"[\s'-]", text)):
        return True
    rest = _DUMMY.sub(" ", _POINTS.sub(" ", text))
    if _DEMONSTRATIVE.search(rest):
        return False
    pronoun = _PRONOUN.search(rest)
    return pronoun is None or _PERSON.search(rest[: pronoun.start()]) is not None


def standing_instruction(question: str) -> str:
    """The last line of a question where it says how to answer ("Answer the question using a single word or phrase."),
    else nothing: LLaVA says it once for all turns of a row."""
    lines = question.strip().splitlines()
    return lines[-1].strip() if len(lines) > 1 and _INSTRUCTION.match(lines[-1].strip()) else ""
