"""Numbers read exactly from text. ASCII digits only: `\\d` and int() take other scripts too."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = "[0-9]{1,400}"
_SLASHED = rf"({_DIGITS}) ?/ ?({_DIGITS})"
_DECIMAL = re.compile(r"([+-]?) ?([0-9]{0,400})(?:\.([0-9]{0,400}))?")
_GROUPED = re.compile(r"[+-]? ?[0-9]{1,3}(?:,[0-9]{3}){1,100}(?:\.[0-9]{0,400})?")
_FRACTION = re.compile(rf"([+-]?) ?(?:\\frac ?\{{ ?(-?{_DIGITS}) ?\}} ?\{{ ?(-?{_DIGITS}) ?\}}|{_SLASHED})")
_MIXED = re.compile(rf"([+-]?) ?({_DIGITS}) ?(?:\\frac ?\{{ ?({_DIGITS}) ?\}} ?\{{ ?({_DIGITS}) ?\}}|(?<= ){_SLASHED})")
_REPEATING = re.compile(r"([+-]?) ?([0-9]{0,99})\.([0-9]{0,99})\\overline ?\{ ?([0-9]{1,99}) ?\}")


def read_number(text: str) -> tuple[Fraction, bool] | None:
    r"""The value of an integer, decimal, fraction of integers, mixed number or repeating decimal (0.1\overline{6}), and
    whether it is a decimal that ends; None for all else. Thousands commas may be there."""
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if found := _DECIMAL.fullmatch(text):
        sign, whole, places = found.groups(default="")
        if not whole and not places:
            return None
        return _signed(sign, int(whole + places), 10 ** len(places), decimal=bool(places))
    if found := _FRACTION.fullmatch(text):
        return _signed(found[1], int(found[2] or found[4]), int(found[3] or found[5]))
    if found := _MIXED.fullmatch(text):
        top, bottom = int(found[3] or found[5]), int(found[4] or found[6])
        return _signed(found[1], int(found[2]) * bottom + top, bottom) if top < bottom else None
    if found := _REPEATING.fullmatch(text):
        sign, whole, places, period = found.groups()
        nines = 10 ** len(period) - 1
        return _signed(sign, int(whole + places or "0") * nines + int(period), nines * 10 ** len(places))
    return None


def _signed(sign: str, top: int, bottom: int, *, decimal: bool = False) -> tuple[Fraction, bool] | None:
    return (Fraction(-top if sign == "-" else top, bottom), decimal) if bottom else None
