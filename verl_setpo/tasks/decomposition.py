r"""Which decomposition of a product a response worked with: the strategy of the multiplication task.

A policy that is paid for strategies will invent some, so `find_strategy` takes little on trust:
- one response has one strategy, the first decomposition in it, however many more follow;
- the two factors must be the two numbers of the problem, or (22980+1)*1 would be one for 343*67;
- parts that cancel are dropped, as in (343+0)*67, (343+1-1)*67 and (343+5-2-3)*67, and so are factors of 1;
- the decomposition must be worked: after it, and before the product is first named, the response must state its partial
  products, each right. So a decomposition in front of or behind a product known by heart does not count, and a slip in
  a partial product costs the strategy; a slip in adding them up does not.

What can still be faked: splits that save no work, such as (171+172) for 343, each of which is a strategy of its own;
a last partial product that is got by subtraction from a product known by heart; and partial products that are stated,
but not added up.
"""

import re
from itertools import combinations

from verl_setpo.tasks import expression
from verl_setpo.tasks.answers import final_answer

# All subsets of a factor's parts are looked at, for those that cancel.
MAX_PARTS = 8
# Longer numbers are nobody's product.
MAX_ANSWER_DIGITS = 18

_SIGNS = str.maketrans({"×": "*", "·": "*", "⋅": "*", "∗": "*", "−": "-", "–": "-", "$": " ", "&": " "})
_MARKUP = {
    "\\\\": "\n",
    "\\left": "",
    "\\right": "",
    "\\times": "*",
    "\\cdot": "*",
    "\\,": "",
    "\\;": " ",
    "\\!": "",
    "\\(": " ",
    "\\)": " ",
    "\\[": " ",
    "\\]": " ",
    "{,}": ",",
    "**": " ",
}
_MARK = re.compile(r"\\(?:left|right|times|cdot)(?![A-Za-z])|\\[\\,;!()\[\]]|\{,\}|\*\*")
_LIST_ITEM = re.compile(r"(?m)^[ \t]*(?:[-*+]|[0-9]{1,2}[.)])[ \t]")
_TIMES_LETTER = re.compile(r"(?<=[0-9)])[ \t]?[xX][ \t]?(?=[0-9(])")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NO_SIGN = re.compile(r"(?<=[0-9)])[ \t]?(?=\()|(?<=\))[ \t]?(?=[0-9])")
# An equals sign, a word or a line ends an expression. Decimals, powers and the like are in it, and make it none.
_EXPRESSION = re.compile(r"(?:[-0-9+*/() \t^!%]|\.(?=[0-9]))+")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)*")

Parts = tuple[int, ...]


def _plain(text: str) -> str:
    """The text with arithmetic in ASCII, one sign for each operation, and no markup, separators or list markers."""
    text = _MARK.sub(lambda match: _MARKUP[match[0]], text.translate(_SIGNS))
    text = _TIMES_LETTER.sub("*", _LIST_ITEM.sub("", text))
    return _NO_SIGN.sub("*", _THOUSANDS.sub("", text))


def _number(text: str) -> int | None:
    """The value of a match of _NUMBER; None for decimals and endless digits."""
    return int(text) if len(text) <= MAX_ANSWER_DIGITS and "." not in text else None


def parse_answer(text: str) -> int | None:
    r"""The product that a response gives, or None.

    The last `\boxed{...}` or `<answer>...</answer>` counts if there is one, else the whole text; in it the last number,
    which may have thousands commas and a minus sign. Linear in the length of the text, and never raises.
    """
    answer = final_answer(text)
    found = _NUMBER.findall(_plain(text if answer is None else answer))
    return _number(found[-1]) if found else None


def find_strategy(a: int, b: int, text: str, product: int | None) -> str:
    """The canonical text (`expression.canonical`) of the decomposition that a response worked with, "" for none.

    See the top of this file. Two decompositions have the same text if and only if each number has the same parts.

    Args:
        product: what the response gives as its answer: its first mention ends the working.
    """
    text = _plain(text)
    for match in _EXPRESSION.finditer(text):
        parts = _read_split(a, b, match[0])
        if parts is None:
            continue
        left, right = parts
        stated = _stated(text, match.end(), product)
        worked = _is_worked(left, right, stated) or _is_worked(right, left, stated)
        return expression.canonical(("*", _node(left), _node(right))) if worked else ""
    return ""


def _stated(text: str, start: int, product: int | None) -> set[int]:
    """The numbers without sign from `start` to the first mention of the product; none where that is before `start`."""
    stated = set()
    for match in re.finditer("[0-9]+", text):
        value = _number(match[0])
        if value is None:
            continue
        if value == product:
            break
        if match.start() >= start:
            stated.add(value)
    return stated


def _read_split(a: int, b: int, text: str) -> tuple[Parts, Parts] | None:
    """The parts of a and of b in an expression that is their product, and has one of them in two parts or more."""
    text = text.lstrip(")+*/ \t").rstrip("(+-*/ \t")
    if len(text) > expression.MAX_CHARS or "(" not in text or "*" not in text:
        return None
    while text.endswith(")") and text.count(")") > text.count("("):  # the end of a remark that began with words
        text = text[:-1]
    try:
        factors = [_addends(factor) for factor in _factors(expression.parse(text))]
    except (ValueError, ZeroDivisionError):
        return None
    negative = sum(sum(factor) < 0 for factor in factors)
    factors = [[-part for part in factor] if sum(factor) < 0 else factor for factor in factors]
    factors = sorted((factor for factor in factors if sum(factor) != 1), key=lambda factor: sum(factor) != a)
    if negative % 2 or [sum(factor) for factor in factors] != [a, b]:
        return None
    if max(map(len, factors)) > MAX_PARTS:
        return None
    left, right = (_without_cancelling(tuple(sorted(factor))) for factor in factors)
    return (left, right) if len(left) > 1 or len(right) > 1 else None


def _factors(node: expression.Node) -> list[expression.Node]:
    """The factors of a product, of which a minus sign is one."""
    if isinstance(node, tuple) and node[0] == "*":
        return _factors(node[1]) + _factors(node[2])
    if isinstance(node, tuple) and len(node) == 2:
        return [-1, *_factors(node[1])]
    return [node]


def _addends(node: expression.Node) -> list[int]:
    """The values of the signed terms of a sum. Raises ValueError for a term that is no whole number."""
    if isinstance(node, tuple) and node[0] in "+-":
        right = _addends(node[-1])
        signed = right if node[0] == "+" else [-part for part in right]
        return signed if len(node) == 2 else _addends(node[1]) + signed
    value = expression.evaluate(node)
    if value.denominator != 1:
        raise ValueError("not a whole number")
    return [int(value)]


def _without_cancelling(parts: Parts) -> Parts:
    """The parts, less the smallest of their subsets with the sum 0, again and again until there is none."""
    for size in range(1, len(parts)):
        for chosen in combinations(range(len(parts)), size):
            if sum(parts[i] for i in chosen) == 0:
                return _without_cancelling(tuple(part for i, part in enumerate(parts) if i not in chosen))
    return parts


def _is_worked(rows: Parts, columns: Parts, stated: set[int]) -> bool:
    """Whether for each of two or more rows its product with the other number is stated, whole or in all its parts."""
    return len(rows) > 1 and all(
        abs(row * sum(columns)) in stated or all(abs(row * column) in stated for column in columns) for row in rows
    )


def _node(parts: Parts) -> expression.Node:
    node: expression.Node = 0
    for part in parts:
        term: expression.Node = part if part > 0 else ("-", -part)
        node = term if node == 0 else ("+", node, term)
    return node
