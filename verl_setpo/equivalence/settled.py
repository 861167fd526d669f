"""Verdicts that need no algebra: exact, and where math-verify is exact too, the same as its.

For numbers, lists of numbers, intervals and points with numbers, equal texts, words and letters of a choice. All else
is a question for math-verify.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from verl_setpo.equivalence.normal_form import TEXT, Answer, compact
from verl_setpo.equivalence.numbers import read_number

_BRACES = r"\{\}"
# math-verify rounds a decimal to 6 places. Nearer than this it is asked.
_NEAR = Fraction(2, 10**6)
# "A", "(A)", "A. 12", "(A) 12"
_CHOICE = re.compile(r"\(?([A-Z])[).:](?: |$)|\(([A-Z])\)|([A-Z])$")
_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")


def settle(gold: Answer, answer: Answer) -> bool | None:
    """Whether the answer is the gold one, as far as that shows without algebra; None is a question for math-verify."""
    if contradict(gold.unit, answer.unit) or contradict(gold.name, answer.name):
        return False
    if gold.text == answer.text:
        return True
    if gold.number is not None and answer.number is not None:
        return _same_number((gold.number, gold.decimal), (answer.number, answer.decimal))
    if compact(gold.text) == compact(answer.text):
        return True
    if len(gold.text) == 1 and gold.text.isalpha() and gold.text.isupper():
        choice = _CHOICE.match(TEXT.sub(r"\1", answer.text))
        if choice:
            return gold.text in choice.groups()
    if gold.words or answer.words:
        # math-verify takes words for products of letters, for which "evil" is "live".
        return gold.text.casefold() == answer.text.casefold()
    return _same_list(gold.text, answer.text)


def question(gold: Answer, answer: Answer) -> tuple[str, str]:
    """What to ask math-verify where `settle` does not know. Of equations that are more than a name, all of it."""
    if gold.whole and answer.whole and ("=" in gold.text or "=" in answer.text):
        return gold.whole, answer.whole
    return gold.text, answer.text


def contradict(one: str, other: str) -> bool:
    """Whether both are there and differ; an answer without a unit or a name is taken to have the right one."""
    return bool(one) and bool(other) and one != other


_Number = tuple[Fraction, bool]


def _same_number(one: _Number, other: _Number) -> bool | None:
    (value, decimal), (other_value, other_decimal) = one, other
    if value == other_value:
        return True
    return None if (decimal or other_decimal) and abs(value - other_value) <= _NEAR else False


def _same_list(gold: str, answer: str) -> bool | None:
    one, other = _bracketed(gold), _bracketed(answer)
    if one is None or other is None:
        return None
    brackets = {one, other}
    if brackets == {_BRACES, "()"} or brackets == {_BRACES, "[]"}:
        return False  # math-verify takes the set of 1 and 2 for the point (1, 2)
    values, other_values = _numbers(gold, one), _numbers(answer, other)
    if values is None or other_values is None:
        return None
    if brackets <= {_BRACES, ""}:
        if {value for value, _ in values} == {value for value, _ in other_values}:
            return True
        return None if any(decimal for _, decimal in (*values, *other_values)) else False
    if one != other and brackets != {"()", ""}:
        return None if "" in brackets else False
    if len(values) != len(other_values):
        return False
    same = [_same_number(a, b) for a, b in zip(values, other_values, strict=True)]
    return False if False in same else None if None in same else True


def _bracketed(text: str) -> str | None:
    """The brackets around a flat list, such as "()" or "[)", "" where it has none, None for all else."""
    brackets = "".join(sign for sign in text if sign in "()[]")
    if not brackets:
        return _BRACES if text.startswith(r"\{") and text.endswith(r"\}") else "" if "," in text else None
    return brackets if len(brackets) == 2 and text[0] == brackets[0] and text[-1] == brackets[1] else None


@lru_cache(maxsize=4096)
def _numbers(text: str, brackets: str) -> tuple[_Number, ...] | None:
    """The numbers of a list of two and more, None where one is none or where a comma may be that of thousands."""
    inner = text[2:-2] if brackets == _BRACES else text[1:-1] if brackets else text
    parts = inner.split(",")
    if len(parts) < 2 or _THOUSANDS.search(inner):
        return None
    numbers = [read_number(part.strip(" ")) for part in parts]
    known = tuple(number for number in numbers if number is not None)
    return known if len(known) == len(numbers) else None
