"""The parser, exact evaluation, and the canonical form."""

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.hostile import patient
from verl_setpo.tasks import expression
from verl_setpo.tasks.expression import Node, canonical, evaluate, numbers, parse

leaves = st.integers(0, 12)
nodes = st.recursive(
    leaves,
    lambda parts: st.one_of(st.tuples(st.sampled_from("+-*/"), parts, parts), st.tuples(st.just("-"), parts)),
    max_leaves=8,
)


def value(node: Node) -> Fraction | None:
    try:
        return evaluate(node)
    except ZeroDivisionError:
        return None


def to_text(node: Node) -> str:
    """Fully bracketed text of a node."""
    if isinstance(node, int):
        return str(node)
    if len(node) == 2:
        return f"(-{to_text(node[1])})"
    return f"({to_text(node[1])}{node[0]}{to_text(node[2])})"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("7", 7),
        ("007", 7),
        (" 1 + 2 * 3\n", 7),
        ("(1+2)*3", 9),
        ("8-3-2", 3),
        ("8/4/2", 1),
        ("8/(4/2)", 4),
        ("1/3+1/6", Fraction(1, 2)),
        ("-2*3", -6),
        ("2*-3", -6),
        ("--3", 3),
        ("2-(-3)", 5),
    ],
)
def test_arithmetic_is_exact_and_follows_precedence(text: str, result: Fraction | int) -> None:
    assert evaluate(parse(text)) == result


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "1 2",
        "1+",
        "*1",
        "+1",
        "(1",
        "1)",
        "2**3",
        "8//2",
        "1.5",
        "1e3",
        "1_0",
        "x",
        "1,2",
        "2(3)",
        "\u0663",
        "\uff13",
        "3\u00b2",
        "1\0",
        "1\u00a0+2",
        "\ud800",
        "9" * 10,
        "=",
        "1=1",
        "abs(1)",
    ],
)
def test_anything_but_an_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_limits_are_what_they_say() -> None:
    ones = "+".join("1" * expression.MAX_NUMBERS)
    assert len(numbers(parse(ones))) == expression.MAX_NUMBERS
    with pytest.raises(ValueError, match="more than 32 numbers"):
        parse(ones + "+1")
    deepest = expression.MAX_DEPTH - 1
    assert parse("(" * deepest + "1" + ")" * deepest) == 1
    with pytest.raises(ValueError, match="nested too deeply"):
        parse("(" * (deepest + 1) + "1" + ")" * (deepest + 1))
    with pytest.raises(ValueError, match="nested too deeply"):
        parse("-" * (deepest + 1) + "1")
    assert parse("9" * expression.MAX_DIGITS) == 999_999_999
    with pytest.raises(ValueError, match="longer than 256"):
        parse("1" + "+     1" * 40)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1+2*3", "3*2+1"),
        ("(1+2)+3", "3+(1+2)"),
        ("5-2-1", "5-(2+1)"),
        ("5-2-1", "5-1-2"),
        ("8/2/4", "8/(4*2)"),
        ("8/(2/4)", "8*4/2"),
        ("9-(2-5)*3", "9+3*(5-2)"),
        ("(3-5)*(2-7)", "(5-3)*(7-2)"),
        ("(2-8)/(1-4)", "(8-2)/(4-1)"),
        ("-3+5", "5-3"),
        ("5-(3-3)*2", "5+2*(3-3)"),
        ("9+(2-5)*(3-3)", "9+(5-2)*(3-3)"),
        ("007+1", "1+7"),
    ],
)
def test_same_strategy_gives_same_text(one: str, other: str) -> None:
    assert canonical(parse(one)) == canonical(parse(other))


@pytest.mark.parametrize(
    ("text", "canonical_text"),
    [
        ("3*5+7", "7+3*5"),
        ("7-3*5", "7-3*5"),
        ("(2-5)*3+16", "16-3*(5-2)"),
        ("8/(3-8/3)", "8/(3-8/3)"),
        ("8/(2/4)", "4*8/2"),
        ("1/(2-2)", "1/(2-2)"),
        ("1/(3/0-2)", "1/(3/0-2)"),
        ("-3-5", "-3-5"),
    ],
)
def test_canonical_texts_read_well(text: str, canonical_text: str) -> None:
    assert canonical(parse(text)) == canonical_text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1+2)+3", "1*2*3"),
        ("5-3", "3-5"),
        ("8/2", "2/8"),
        ("2*(3+4)", "2*3+4"),
        ("3*1", "3/1"),
        ("4+0", "4-0"),
        ("2*6", "3*4"),
        ("1+11", "11+11"),
        ("12", "1*2"),
    ],
)
def test_other_strategies_give_other_texts(one: str, other: str) -> None:
    assert canonical(parse(one)) != canonical(parse(other))


@patient
@given(nodes)
def test_canonical_text_keeps_value_and_numbers(node: Node) -> None:
    again = parse(canonical(node))
    # Moving factors can heal a division by zero: 1/(2/0) becomes 0*1/2. Scores use the expression as written.
    assert value(node) in (None, value(again))
    assert sorted(numbers(again)) == sorted(numbers(node))


@patient
@given(nodes)
def test_canonical_text_is_its_own_canonical_text(node: Node) -> None:
    assert canonical(parse(canonical(node))) == canonical(node)


@patient
@given(nodes)
def test_brackets_do_not_matter(node: Node) -> None:
    assert parse(to_text(node)) == node


def rewritten(node: Node, rng: random.Random) -> Node:
    """One of the rewrites that keep a strategy the same, at random in every place."""
    if isinstance(node, int):
        return node
    parts = [rewritten(part, rng) for part in node[1:]]
    if len(parts) == 1:
        return _rewritten_minus(parts[0], rng)
    operator, (left, right) = node[0], parts
    choices: list[Node] = [(operator, left, right)]
    if operator in "+*":
        choices.append((operator, right, left))
    if operator == "-":
        choices += [("+", left, ("-", right)), ("-", ("-", right, left)), ("+", ("-", right), left)]
    if operator in "*/":
        choices += [("-", (operator, ("-", left), right)), (operator, ("-", left), ("-", right))]
    for inverse, plain in (("-", "+"), ("/", "*")):
        if operator == plain and isinstance(left, tuple) and len(left) == 3 and left[0] == plain:
            choices.append((plain, left[1], (plain, left[2], right)))
        if operator == inverse and isinstance(right, tuple) and len(right) == 3 and right[0] == inverse:
            choices.append((inverse, (plain, left, right[2]), right[1]))
        if operator == inverse and isinstance(right, tuple) and len(right) == 3 and right[0] == plain:
            choices.append((inverse, (inverse, left, right[1]), right[2]))
    return rng.choice(choices)


def _rewritten_minus(part: Node, rng: random.Random) -> Node:
    choices: list[Node] = [("-", part), ("-", ("-", ("-", part)))]
    if isinstance(part, tuple) and len(part) == 3:
        operator, left, right = part
        moved = {"+": ("-", ("-", left), right), "-": ("-", right, left)}
        choices.append(moved.get(operator, (operator, ("-", left), right)))
    return rng.choice(choices)


@patient
@given(nodes, st.randoms(use_true_random=False))
def test_rewriting_a_strategy_never_changes_its_text(node: Node, rng: random.Random) -> None:
    again = node
    for _ in range(4):
        again = rewritten(again, rng)
    assert canonical(again) == canonical(node)


def all_expressions(items: tuple[Node, ...]) -> set[str]:
    """Canonical texts of all expressions that use each item once, with + - * / in any order and bracketing."""
    if len(items) == 1:
        return {canonical(items[0])}
    found = set()
    for i, j in itertools.permutations(range(len(items)), 2):
        rest = tuple(item for k, item in enumerate(items) if k not in (i, j))
        for operator in "+-*/":
            found |= all_expressions((*rest, (operator, items[i], items[j])))
    return found


def test_the_number_of_strategies_is_that_of_oeis_a140606() -> None:
    """OEIS A140606, "number of inequivalent expressions involving n operands": 1, 6, 68, 1170."""
    operands = (101, 211, 307, 1009)
    assert [len(all_expressions(operands[:count])) for count in (1, 2, 3, 4)] == [1, 6, 68, 1170]
