r"""The unit at the end of an answer: 5 cm, 5\text{ cm}^2, 90^\circ, 3{:}00 p.m., 1011_2.

A unit that one of two answers leaves out is no difference, and one of the two in metres and the other in feet is. Words
that are no unit of the table (5 apples) are taken off and not compared.
"""

from __future__ import annotations

import re

_SPELLED = {
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inche",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gram",
    "kg": "kg kilogram",
    "lb": "lb pound",
    "oz": "oz ounce",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "s": "s sec second",
    "min": "min minute",
    "h": "h hr hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr year",
    "deg": "deg degree",
    "rad": "rad radian",
    "cent": "cent",
    "dollar": "dollar usd",
    "am": "am",
    "pm": "pm",
    "mph": "mph",
    "kmh": "kmh km/h",
    "m/s": "m/s",
}
_CANONICAL = {name: unit for unit, names in _SPELLED.items() for name in names.split()}
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASES |= {"ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"}
_POWERS = {"square": "^2", "sq": "^2", "squared": "^2", "cubic": "^3", "cu": "^3", "cubed": "^3"}
_CONNECTIVES = "and or if for where with when is are not"
_OPERATORS = "mod gcd lcm det max pi sqrt exp log ln sin cos tan cot sec csc"
_NO_UNIT = frozenset(f"{_CONNECTIVES} {_OPERATORS}".split())

_NUMBER_END = r"(?<=[0-9)}\]%])"
_CIRCLE = re.compile(r" ?\^\\circ ?(?:\\text\{ ?[CFK]? ?\}|[CFK])?$")
_BASE = re.compile(
    r"^([0-9A-F]{1,200}) ?_ ?(?:([0-9])|\{ ?(?:\\text\{)? ?([a-z]{3,9}|[0-9]{1,2}) ?\}?\}|\\text\{([a-z]{3,9})\})$"
)
_MARKED = re.compile(r"(?<=[^ ]) ?\\text\{([^{}]{1,80})\} ?(?:\^ ?\{? ?([23]) ?\}?)?$")
# 2abc is algebra, 2 cm is not: without a mark there must be a space, but for a few that no formula ends in.
_PLAIN = re.compile(_NUMBER_END + r"(?: ([A-Za-z][A-Za-z. /-]{1,80})|(cm|mm|km|kg|ft|mph)) ?(?:\^ ?\{? ?([23]) ?\}?)?$")


def split_unit(text: str) -> tuple[str, str]:
    """(what is measured, its unit in one spelling; "" where there is none or it is not of the table)."""
    circle = _CIRCLE.search(text)
    if circle:
        return text[: circle.start()], "deg"
    base = _BASE.fullmatch(text)
    if base:
        name = base[2] or base[3] or base[4]
        return base[1], f"base {_BASES.get(name, name)}"
    marked = _MARKED.search(text)
    if marked:
        unit = _unit(marked[1], marked[2], single_letters=True)
        return (text, "") if unit is None else (text[: marked.start()], unit)
    plain = _PLAIN.search(text)
    if plain:
        unit = _unit(plain[1] or plain[2], plain[3], single_letters=False)
        return (text, "") if unit is None else (text[: plain.start()], unit)
    return text, ""


def _unit(words: str, power: str | None, *, single_letters: bool) -> str | None:
    """The unit that these words are, "" for words that are none of the table, None for algebra."""
    found, exponent = "", f"^{power}" if power else ""
    compact = words.replace(".", "").strip().lower()
    known = _singular(compact.replace(" ", ""))
    if known and (single_letters or len(compact) > 1):
        return known + exponent
    several = compact.replace("-", " ").split()
    if not single_letters and max(map(len, several), default=0) < 4 and not any(map(_singular, several)):
        return None
    for word in several:
        if word in _NO_UNIT:
            return None
        if word in _POWERS:
            exponent = _POWERS[word]
        else:
            found = found or _singular(word) or ""
    return found + exponent if found else ""


def _singular(word: str) -> str | None:
    return _CANONICAL.get(word) or _CANONICAL.get(word.removesuffix("s"))
