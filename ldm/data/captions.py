"""Grammatical English for the embedded scenes: object names to noun phrases, noun phrases to captions."""

import re
from collections.abc import Sequence

NOUN_ENDS = re.compile(
    r" (with|without|of|in|on|over|for|at|pointing|facing|holding|lifting|and|getting|riding|raising) "
)
SINGULAR_IN_S = re.compile(r"(ss|us|is|christmas|americas|rhinoceros)$")
PLURAL_STARTS = re.compile(r"(two|multiple|women|men|people) ")
POSSESSIVES = re.compile(r"\b(wo)?(man|men)s\b")
NEEDS_SIGN = re.compile(r"(squared|negative squared|circled|no) (?!.*\b(sign|symbol|mark)$)")
VOWEL_SOUND = re.compile(r"(?!uni|eu|one\b|one-|ut)[aeiou]|hour|x-")
# fmt: off
NO_ARTICLE = frozenset(
    {
        "mount fuji", "father christmas", "mother christmas", "mx claus", "fog", "bread", "cooked rice",
        "popcorn", "sushi", "oden", "spaghetti", "garlic", "butter", "wood", "bacon", "broccoli", "fire",
        "canned food", "coral", "camping", "cooking", "bowling", "juggling", "handball", "water polo",
        "horse racing", "passport control", "baggage claim", "left luggage", "falafel", "nail polish",
        "curry and rice", "pouring liquid", "custard", "sleeping accommodation", "ginger root",
        "palms up together", "infinity", "yin yang", "kiwifruit", "shaved ice",
    }
)
# fmt: on
REWRITTEN = {
    "foggy": "a foggy city",
    "milky way": "the milky way",
    "statue of liberty": "the statue of liberty",
    "tokyo tower": "the tokyo tower",
    "rolling on the floor laughing": "a face rolling on the floor laughing",
    "radioactive": "a radioactive sign",
    "biohazard": "a biohazard sign",
    "wireless": "a wireless sign",
    "om": "an om sign",
    "night with stars": "a night with stars",
    "money with wings": "money with wings",
    "earth globe americas": "an earth globe with the americas",
    "earth globe europe-africa": "an earth globe with europe and africa",
    "earth globe asia-australia": "an earth globe with asia and australia",
}
COUNTRY_WITH_THE = re.compile(
    r"united|.*(islands|territories|republic)\b|netherlands|philippines|bahamas|gambia|maldives|comoros|isle|european"
)
PLURALS = {"man": "men", "woman": "women", "boy": "boys", "girl": "girls"}


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return ("an " if VOWEL_SOUND.match(phrase) else "a ") + phrase


def listed(phrases: Sequence[str]) -> str:
    """The phrases as "x", "x and y", "x, y and z"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _people(text: str) -> str:
    members = text.split(", ")
    counted = [(member, members.count(member)) for member in dict.fromkeys(members)]
    return listed([f"two {PLURALS[who]}" if count == 2 else with_article(who) for who, count in counted])


def _with_detail(head: str, detail: str) -> str:
    if head in ("family", "kiss", "couple with heart"):
        return f"a {'loving couple' if head.startswith('couple') else head} of {_people(detail)}"
    if head == "keycap":
        return f"a keycap {detail}"
    if detail == "bald":
        return f"a bald {head}"
    return f"{with_article(head)} with {detail if detail.endswith('hair') else with_article(detail)}"


def noun_phrase(name: str, subcategory: str) -> str:
    """An object's name as a noun phrase with the article it needs: "red apple" -> "a red apple", "jeans" -> "jeans"."""
    if name in REWRITTEN:
        return REWRITTEN[name]
    if subcategory == "country-flag":
        country = name.removesuffix(" flag")
        return f"the flag of {'the ' if COUNTRY_WITH_THE.match(country) else ''}{country}"
    if ": " in name:
        return _with_detail(*name.split(": ", 1))
    phrase = POSSESSIVES.sub(lambda match: f"{match[1] or ''}{match[2]}'s", name)
    if subcategory == "zodiac" or NEEDS_SIGN.match(phrase):
        return with_article(f"{phrase} sign")
    head = NOUN_ENDS.split(phrase)[0]
    plural = PLURAL_STARTS.match(phrase) or (head.endswith("s") and not SINGULAR_IN_S.search(head))
    return phrase if plural or name in NO_ARTICLE else with_article(phrase)


def place(x: float, y: float, margin: float = 0.1) -> str:
    """Where a point of the unit square lies: "", "left", "top right", ...; y grows downwards."""
    vertical = "top" if y < 0.5 - margin else "bottom" if y > 0.5 + margin else ""
    horizontal = "left" if x < 0.5 - margin else "right" if x > 0.5 + margin else ""
    return f"{vertical} {horizontal}".strip()


def relation(dx: float, dy: float) -> str:
    """How a thing at distance (dx, dy) from another stands to it; y grows downwards."""
    if abs(dx) >= abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def scene_caption(objects: Sequence[str], centres: Sequence[tuple[float, float]], background: str) -> str:
    """One sentence part for a scene: one object with its place, two with their relation, or a list.

    `objects` are noun phrases, largest first; `centres` their places in the unit square.
    """
    if not objects:
        return background
    if len(objects) == 1:
        where = place(*centres[0])
        return f"{objects[0]} at the {where} of {background}" if where else f"{objects[0]} on {background}"
    if len(objects) == 2:
        (x0, y0), (x1, y1) = centres
        return f"{objects[0]} {relation(x0 - x1, y0 - y1)} {objects[1]} on {background}"
    return f"{listed(objects)} on {background}"
