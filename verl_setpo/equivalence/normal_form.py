r"""Answers in one spelling. Pure text, and linear in its length.

What only changes the look of an answer goes (\left, \dfrac, \,, dollar signs, thousands commas), what names it or
measures it is set apart (x = ..., cm, the base of 1011_2), and a number is read exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from zlib import crc32

from verl_setpo.equivalence.numbers import read_number
from verl_setpo.equivalence.units import split_unit

MAX_CHARS = 1000
"""A longer answer is compared by its text only."""
_MAX_PRED_CHARS = 200

_UNICODE = {
    **dict.fromkeys("\u2212\u2013\u2014\ufe63", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u3000\t\n\r", " "),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "∕": "/", "±": r"\pm ", "√": r"\sqrt"},
    **{"π": r"\pi ", "∞": r"\infty ", "∅": r"\emptyset ", "²": "^2", "³": "^3", "°": r"^\circ"},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "％": "%", "，": ","},
    **dict(zip("０１２３４５６７８９", "0123456789", strict=True)),
}
_TABLE = {ord(sign): text for sign, text in _UNICODE.items()}

# In this order. Each is linear: no two unbounded repeats stand next to each other.
_SPELLINGS = [
    (re.compile(pattern), spelling)
    for pattern, spelling in (
        (r"\\(?:displaystyle|textstyle|limits|[bB]igg?[lrm]?)(?![a-zA-Z])", ""),
        (r"\\(?:left|right)\.", ""),
        (r"\\[m]?(?:left|right)(?![a-zA-Z])", ""),
        (r"(?<=[0-9])(?:\{,\}|,\\!|\\!,|\\,)(?=[0-9]{3})", ""),
        (r"(?<!\\)\\[,;:! >](?![a-zA-Z]*\{)|(?<!\\)~|\\q?quad(?![a-zA-Z])|\\(?:thin|med|thick)?space(?![a-zA-Z])", " "),
        (r"(?<!\\)\\[,;:! >]", " "),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac ?([0-9]) ?([0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac ?([0-9]) ?\{", r"\\frac{\1}{"),
        (r"(\\frac\{[^{}]{0,99}\}) ?([0-9])", r"\1{\2}"),
        (r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|rm|bf)(?![a-zA-Z]) ?", r"\\text"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:degree|deg)(?![a-zA-Z])|\^ ?\{ ?\\circ ?\}|\^ ?\\circ(?![a-zA-Z])", r"^\\circ "),
        (r"\\leqs?l?a?n?t?(?![a-zA-Z])|\\leqslant(?![a-zA-Z])", r"\\le "),
        (r"\\geq(?:slant)?(?![a-zA-Z])", r"\\ge "),
        (r"\\neq(?![a-zA-Z])", r"\\ne "),
        (r"\\(?:dot|bar)\{(?=[0-9])", r"\\overline{"),
        (r"\\pmod ?([0-9])", r"\\pmod{\1}"),
        (r"(?<=[0-9]) ?(?:\\text\{ ?)?million(?: ?\})?(?![a-z])", r" \\times 10^{6}"),
        (r"(?<=[0-9]) ?(?:\\text\{ ?)?billion(?: ?\})?(?![a-z])", r" \\times 10^{9}"),
        (r"(?<=[0-9]) ?(?:\\text\{ ?to ?\}|to) ?(?=[0-9])", ":"),
        (r"^\](?=[^\[\]]*[\[\]]$)", "("),
        (r"(?<=[^\[\]])\[$", ")"),
        (r"(?<=[0-9}]) ?(?:\\text\{ ?)?(?:percent|pct)(?: ?\})?(?![a-z])|\\?%", r"\\%"),
        (r"\\\$|\$|\\[()\[\]]", ""),
    )
]
TEXT = re.compile(r"\\text\{([^{}]*)\}")
_SPACES = re.compile(r" +")
_APPROXIMATELY = re.compile(r"^(?:\\approx|\\sim|~)(?![a-zA-Z]) ?")
_NAME = re.compile(
    r"([a-zA-Z](?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9]{1,9}\}))?(?:\([a-z]\))?) ?(=|\\in(?![a-z])|\\approx(?![a-z])) ?"
)
_SCIENTIFIC = re.compile(r"([+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?)[eE]\+?(-?[0-9]{1,4})")
_LONE_CHOICE = re.compile(r"\(?([A-Z])[).:]?")
_OPERATOR_WORDS = "sin|cos|tan|cot|sec|csc|log|exp|sqrt|frac|max|min|gcd|lcm|mod|arc|inf|lim"
_LETTERS = r"[A-Za-z][A-Za-z ,.'-]*"
_MARKED_WORDS = re.compile(rf"(?=.*[A-Za-z]{{2}}){_LETTERS}")
_WORDS = re.compile(rf"(?!.{{0,99}}(?:{_OPERATOR_WORDS}))(?=.*[A-Za-z]{{4}}){_LETTERS}")
_NOTHING = "no solution", "no solutions", "no real solution", "no real solutions", "empty set"
_SAID_IN_WORDS = {
    **dict.fromkeys(_NOTHING, r"\emptyset"),
    **dict.fromkeys(("all real numbers", "all reals", "all real"), r"\mathbb{R}"),
    "infinity": r"\infty",
}
_ARTICLE = re.compile(r"(?:an?|the) ")
_ANGLE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?\^\\circ ?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_NEEDLESS_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")


@dataclass(frozen=True)
class Answer:
    """An answer as it is compared.

    text: what is left of it. whole: that with its name, if it has one. number: its exact value, where it is a number;
    decimal: written with a decimal point, so that it may stand for another value near by. name: x of "x = 5". unit:
    "cm", "base 2", "am". words: it is a word or several, and no algebra.
    """

    text: str
    number: Fraction | None = None
    decimal: bool = False
    name: str = ""
    unit: str = ""
    words: bool = False
    whole: str = ""

    @property
    def canonical(self) -> str:
        """One text for all spellings that are surely equal; short, printable, and "" for no answer.

        Of a long one the beginning and a fingerprint.
        """
        if self.number is not None:
            return shortened(str(self.number))
        return shortened(self.text if self.words else compact(self.text))


def compact(text: str) -> str:
    """Without the spaces that mean nothing."""
    return _NEEDLESS_SPACE.sub("", text)


def shortened(text: str) -> str:
    """At most 200 characters that any file or terminal takes."""
    head, rest = text[: _MAX_PRED_CHARS + 1], text[_MAX_PRED_CHARS + 1 :]
    text = "".join(sign if sign.isprintable() else "?" for sign in head) + rest
    if len(text) <= _MAX_PRED_CHARS:
        return text
    return f"{text[: _MAX_PRED_CHARS - 11]}...{crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def read_answer(text: str) -> Answer:
    """Read what stands in a box, or a ground truth. Never raises; beyond MAX_CHARS it is only text."""
    return _read(text) if len(text) <= MAX_CHARS else Answer(text.strip())


@lru_cache(maxsize=4096)
def _read(text: str) -> Answer:
    text = text.translate(_TABLE)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    text = _bare(text)
    marked = TEXT.fullmatch(text)
    if marked:
        text = _bare(marked[1])
    choice = _LONE_CHOICE.fullmatch(text)
    if choice:
        return Answer(choice[1])
    if (_MARKED_WORDS if marked else _WORDS).fullmatch(text):
        words = _ARTICLE.sub("", text.casefold(), count=1)
        return Answer(_SAID_IN_WORDS[words]) if words in _SAID_IN_WORDS else Answer(words, words=True)
    if _TRIGONOMETRIC.search(text):
        text = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", text)
    whole = text
    name, text = _split_name(text)
    text, unit = split_unit(text)
    text = _bare(text)
    scientific = _SCIENTIFIC.fullmatch(text)
    if scientific:
        text = rf"{scientific[1]} \times 10^{{{scientific[2]}}}"
    number, decimal = read_number(text) or (None, False)
    return Answer(text, number, decimal, name, unit, whole=whole)


def _bare(text: str) -> str:
    text = _SPACES.sub(" ", text).strip(" ")
    text = _APPROXIMATELY.sub("", text).rstrip(" .;,")
    while len(text) > 2 and text[0] == "{" and text.find("}") == len(text) - 1:
        text = text[1:-1].strip(" ")
    return text


def _split_name(text: str) -> tuple[str, str]:
    found = _NAME.match(text)
    if found is None or "=" in text[found.end() :] or "\\in" in text[found.end() :].replace("\\infty", ""):
        return "", text
    return ("" if "(" in found[1] else found[1]), text[found.end() :]
