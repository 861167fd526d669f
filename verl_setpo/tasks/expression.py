"""Arithmetic on whole numbers: parse, evaluate exactly, and bring to one canonical text. No `eval`.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = "-" factor | "(" sum ")" | number            number: 1 to 9 ASCII digits

Two expressions have the same canonical text if and only if one becomes the other by commutativity and
associativity of + and *, by reading a-b as a+(-b) and a/b as a*(1/b), and by moving minus signs through sums,
products and quotients. Nothing else is simplified: 2*1, 2/1 and 2+0 stay three different expressions. These are the
"inequivalent expressions" that OEIS A140606 counts: 6 with two numbers, 68 with three, 1,170 with four.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction

MAX_CHARS = 256
MAX_NUMBERS = 32
MAX_DEPTH = 32
MAX_DIGITS = 9

# A parsed expression: an int, ("-", x), or (operator, left, right).
Node = int | tuple

_TOKEN = re.compile(r"[ \t\r\n]*([0-9]+|[-+*/()])")


class _Parser:
    def __init__(self, text: str):
        self.tokens = _tokens(text)
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self, depth: int) -> Node:
        node = self.product(depth)
        while self.peek() in ("+", "-"):
            node = (self.take(), node, self.product(depth))
        return node

    def product(self, depth: int) -> Node:
        node = self.factor(depth)
        while self.peek() in ("*", "/"):
            node = (self.take(), node, self.factor(depth))
        return node

    def factor(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            raise ValueError("nested too deeply")
        token = self.take()
        if token == "-":
            return "-", self.factor(depth + 1)
        if token == "(":
            node = self.sum(depth + 1)
            if self.take() != ")":
                raise ValueError("a bracket is not closed")
            return node
        if not token.isdigit() or len(token) > MAX_DIGITS:
            raise ValueError(f"expected a number, found {token[:20]!r}")
        return int(token)


def _tokens(text: str) -> list[str]:
    text = text.strip(" \t\r\n")
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"unexpected character {text[position]!r}")
        tokens.append(match[1])
        position = match.end()
    if sum(token.isdigit() for token in tokens) > MAX_NUMBERS:
        raise ValueError(f"more than {MAX_NUMBERS} numbers")
    return tokens


def parse(text: str) -> Node:
    """Parse one expression. Raises ValueError on anything else, and beyond MAX_CHARS, MAX_NUMBERS, MAX_DEPTH
    or MAX_DIGITS."""
    parser = _Parser(text)
    node = parser.sum(0)
    if parser.position < len(parser.tokens):
        raise ValueError(f"unexpected {parser.peek()!r} after the expression")
    return node


def numbers(node: Node) -> list[int]:
    """The numbers in the expression, from left to right."""
    if isinstance(node, int):
        return [node]
    return [number for part in node[1:] for number in numbers(part)]


def evaluate(node: Node) -> Fraction:
    """The exact value. Raises ZeroDivisionError."""
    if isinstance(node, int):
        return Fraction(node)
    values = [evaluate(part) for part in node[1:]]
    if len(values) == 1:
        return -values[0]
    left, right = values
    if node[0] == "+":
        return left + right
    if node[0] == "-":
        return left - right
    return left * right if node[0] == "*" else left / right


@dataclass(frozen=True, order=True)
class _Atom:
    """A number, product or sum without its sign. Numbers sort before the rest, by value."""

    compound: bool
    number: int
    text: str
    # None after a division by zero.
    value: Fraction | None = field(compare=False)
    # Equal to its own negative by moving signs alone, as 3-3 is. Its sign carries no meaning and stays +1.
    self_negative: bool = field(default=False, compare=False)


_Signed = tuple[_Atom, int]


def canonical(node: Node) -> str:
    """The canonical text (see the top of this file). `parse` reads it back, and it is its own canonical text."""
    return _sum_text(_terms(node))


def _order(signed: _Signed) -> tuple[_Atom, int]:
    return signed[0], -signed[1]


def _negate(terms: list[_Signed]) -> list[_Signed]:
    return sorted(((atom, sign if atom.self_negative else -sign) for atom, sign in terms), key=_order)


def _terms(node: Node) -> list[_Signed]:
    """The signed terms of a sum, sorted."""
    if isinstance(node, tuple) and node[0] in "+-":
        if len(node) == 2:
            return _negate(_terms(node[1]))
        right = _terms(node[2])
        return sorted(_terms(node[1]) + (_negate(right) if node[0] == "-" else right), key=_order)
    sign, factors = _factors(node)
    if len(factors) == 1:
        return [(factors[0][0], sign)]
    product = _product(factors)
    return [(product, 1 if product.self_negative else sign)]


def _factors(node: Node) -> tuple[int, list[_Signed]]:
    """The sign of a product, and its factors with exponent +1 or -1."""
    if isinstance(node, int):
        return 1, [(_Atom(False, node, str(node), Fraction(node)), 1)]
    if node[0] in "*/":
        left_sign, left = _factors(node[1])
        right_sign, right = _factors(node[2])
        if node[0] == "/":
            right = [(atom, -exponent) for atom, exponent in right]
        return left_sign * right_sign, left + right
    if len(node) == 2:
        sign, factors = _factors(node[1])
        return -sign, factors
    return _sum_as_factor(_terms(node))


def _sum_as_factor(terms: list[_Signed]) -> tuple[int, list[_Signed]]:
    """A sum inside a product: of the two ways to sign it, the one that is positive, as in (5-2)."""
    value: Fraction | None = Fraction(0)
    for atom, sign in terms:
        value = None if value is None or atom.value is None else value + sign * atom.value
    negated = _negate(terms)
    # Where the value is zero or none at all, the last term is positive.
    flip = value < 0 if value else [sign for _, sign in terms[::-1]] < [sign for _, sign in negated[::-1]]
    if flip:
        terms, negated, value = negated, terms, None if value is None else -value
    return -1 if flip else 1, [(_Atom(True, 0, f"({_sum_text(terms)})", value, terms == negated), 1)]


def _product(factors: list[_Signed]) -> _Atom:
    factors = sorted(factors, key=_order)
    value: Fraction | None = Fraction(1)
    for atom, exponent in factors:
        if value is None or atom.value is None or (exponent < 0 and not atom.value):
            value = None
        else:
            value *= atom.value**exponent
    times = "*".join(atom.text for atom, exponent in factors if exponent > 0)
    over = "".join(f"/{atom.text}" for atom, exponent in factors if exponent < 0)
    return _Atom(True, 0, times + over, value, any(atom.self_negative for atom, _ in factors))


def _sum_text(terms: list[_Signed]) -> str:
    plus = "+".join(atom.text for atom, sign in terms if sign > 0)
    return plus + "".join(f"-{atom.text}" for atom, sign in terms if sign < 0)
