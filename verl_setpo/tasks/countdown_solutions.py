"""The solutions of a Countdown problem: all of them for few numbers, some for more."""

import itertools
import random
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from verl_setpo.tasks import expression

# The number of expressions grows from 108 for three numbers to 0.2 million for five and 21 million for six.
MAX_SOLVE_COUNT = 5
# Of more numbers, random parts are joined until so many parts are left, of which all expressions are looked at ...
_PARTS = 4
# ... so many times, 4,000 expressions each. A problem in which they find too few solutions is not used.
_ROUNDS = 50

Valued = tuple[Fraction, expression.Node]


def _combinations(left: Valued, right: Valued) -> list[Valued]:
    """The results of the four operations on two expressions, in either order."""
    (a, x), (b, y) = left, right
    results: list[Valued] = [
        (a + b, ("+", x, y)),
        (a - b, ("-", x, y)),
        (b - a, ("-", y, x)),
        (a * b, ("*", x, y)),
    ]
    if b:
        results.append((a / b, ("/", x, y)))
    if a:
        results.append((b / a, ("/", y, x)))
    return results


@lru_cache(maxsize=1 << 16)
def solutions(numbers: tuple[int, ...], target: int) -> tuple[str, ...]:
    """Every solution, as sorted canonical texts (`expression.canonical`), by enumeration.

    Raises ValueError for more than MAX_SOLVE_COUNT numbers.
    """
    if len(numbers) > MAX_SOLVE_COUNT:
        raise ValueError(
            f"solutions are enumerated for up to {MAX_SOLVE_COUNT} numbers, this problem has {len(numbers)}: "
            "make the data with a smaller --count"
        )
    parts: list[Valued] = [(Fraction(number), number) for number in numbers]
    return tuple(sorted(set(search(parts, target))))


def search(parts: list[Valued], target: int) -> Iterator[str]:
    """The canonical text of every expression of all parts that equals the target, some more than once."""
    if len(parts) == 1:
        if parts[0][0] == target:
            yield expression.canonical(parts[0][1])
        return
    for i, j in itertools.combinations(range(len(parts)), 2):
        rest = parts[:i] + parts[i + 1 : j] + parts[j + 1 :]
        for result in _combinations(parts[i], parts[j]):
            yield from search([*rest, result], target)


def has_solutions(numbers: tuple[int, ...], target: int, known: str, least: int) -> bool:
    """Whether a problem has at least `least` different solutions, of which `known` is one.

    Up to MAX_SOLVE_COUNT numbers all are counted. Of more numbers it looks for so many among random ones, the same
    each time: True is certain, False means that they were not found.
    """
    if len(numbers) <= MAX_SOLVE_COUNT:
        return len(solutions(numbers, target)) >= least
    rng = random.Random(repr((numbers, target)))
    found = {known}
    for _ in range(_ROUNDS):
        for solution in search(random_parts(numbers, rng, _PARTS), target):
            found.add(solution)
            if len(found) >= least:
                return True
    return len(found) >= least


def random_expression(numbers: tuple[int, ...], rng: random.Random) -> Valued:
    """Join two random parts by a random operation until one is left."""
    return random_parts(numbers, rng, 1)[0]


def random_parts(numbers: tuple[int, ...], rng: random.Random, count: int) -> list[Valued]:
    """Join two random parts by a random operation until `count` are left."""
    parts: list[Valued] = [(Fraction(number), number) for number in numbers]
    while len(parts) > count:
        rng.shuffle(parts)
        parts.append(rng.choice(_combinations(parts.pop(), parts.pop())))
    return parts
