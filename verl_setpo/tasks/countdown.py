"""Countdown, SetPO's task for diversity (arXiv 2602.01062).

Given some numbers and a target, any expression with + - * / and brackets is correct that uses each number exactly
once and equals the target. The reward, in [0, 1]: 1.0 for a correct answer; in the "instruct" style 0.1 for an
answer that is in the asked format but wrong (the paper's 0.1 for the format); else 0.0.
"""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verl_setpo.tasks import expression
from verl_setpo.tasks.answers import last_tagged
from verl_setpo.tasks.countdown_solutions import has_solutions, random_expression, solutions
from verl_setpo.tasks.ground_truth import GroundTruth, is_int, read_fields, read_int

DATA_SOURCE = "countdown"
ABILITY = "math"
DEFAULT_SIZES = (1920, 128)
FORMAT_REWARD = 0.1
# One random expression in a hundred of 12 numbers up to 20 makes an integer from 1 to 99, and fewer of more.
MAX_COUNT = 12
_MAX_NUMBER = 10**expression.MAX_DIGITS - 1

_EXAMPLE = '{"numbers": [3, 5, 7], "target": 22}'
_INSTRUCT = (
    "Use the numbers {numbers} to make {target}. You may add, subtract, multiply and divide (+ - * /) and use "
    "brackets, and you must use each number exactly once. Any correct equation will do. Work it out inside "
    "<think> </think> tags, then give only the equation inside <answer> </answer> tags, "
    "for example <answer> (1 + 2) / 3 </answer>."
)


@dataclass(frozen=True)
class Problem:
    """Numbers, each of which must be used exactly once, and the integer target."""

    numbers: tuple[int, ...]
    target: int

    def prompt(self, style: str) -> str:
        """The user message: such as 3,5,7=22 ("tiny"), or an instruction in English ("instruct")."""
        if style == "tiny":
            return ",".join(map(str, self.numbers)) + f"={self.target}"
        return _INSTRUCT.format(numbers=", ".join(map(str, self.numbers)), target=self.target)

    def ground_truth(self, style: str) -> str:
        """A JSON string, because verl's parquet columns keep one type for all tasks. It names the style, on which
        the asked format depends."""
        return json.dumps({"numbers": self.numbers, "target": self.target, "style": style})

    @classmethod
    def from_ground_truth(cls, ground_truth: GroundTruth) -> "Problem":
        """Read a JSON string or a mapping. Raises ValueError when it has no integer numbers and target."""
        fields = read_fields(ground_truth, _EXAMPLE)
        numbers = fields.get("numbers")
        if not isinstance(numbers, Iterable) or not all(is_int(number) for number in numbers):
            raise ValueError(f"ground truth has numbers={numbers!r:.200}, which must be integers as in {_EXAMPLE}")
        return cls(tuple(int(number) for number in numbers), read_int(fields, "target", _EXAMPLE))

    def is_solved_by(self, node: expression.Node) -> bool:
        """Whether the expression uses each number exactly once and equals the target."""
        if sorted(expression.numbers(node)) != sorted(self.numbers):
            return False
        try:
            return expression.evaluate(node) == self.target
        except ZeroDivisionError:
            return False

    def sample_answer(self, rng: random.Random, wrong_share: float) -> str:
        """One of the solutions, each equally likely; with probability `wrong_share` a random expression of the
        numbers instead."""
        if rng.random() < wrong_share:
            return expression.canonical(random_expression(self.numbers, rng)[1])
        return rng.choice(solutions(self.numbers, self.target))


def generate(
    count: int,
    seed: int,
    num_numbers: int = 3,
    numbers: tuple[int, int] = (1, 20),
    target: tuple[int, int] = (1, 99),
    min_solutions: int = 2,
) -> list[Problem]:
    """`count` different solvable problems; `numbers` and `target` are inclusive ranges.

    Each comes from a random expression, so it is solvable by construction. Two problems are the same when the
    target and the numbers agree in any order, so a test problem is never a training problem in another order.
    With `min_solutions` above 1 only problems with that many different solutions are kept; of more than
    countdown_solutions.MAX_SOLVE_COUNT numbers those in which that many were found.

    Raises ValueError for a bad range, or when too few such problems were found.
    """
    _check_ranges(num_numbers, numbers, target)
    rng = random.Random(seed)
    problems: dict[tuple, Problem] = {}
    rejected: set[tuple] = set()
    tries_left = 2000 * count + 20_000
    while len(problems) < count and tries_left > 0:
        tries_left -= 1
        drawn = tuple(rng.randint(*numbers) for _ in range(num_numbers))
        value, node = random_expression(drawn, rng)
        if value.denominator != 1 or not target[0] <= value <= target[1]:
            continue
        problem = Problem(drawn, int(value))
        key = (*sorted(drawn), problem.target)
        if key in problems or key in rejected:
            continue
        if min_solutions > 1 and not has_solutions(drawn, problem.target, expression.canonical(node), min_solutions):
            rejected.add(key)
            continue
        problems[key] = problem
    if len(problems) < count:
        raise ValueError(
            f"--train-size and --test-size ask for {count} different problems, but only {len(problems)} were found: "
            "ask for fewer, widen --numbers or --target, or lower --min-solutions"
        )
    return list(problems.values())


def _check_ranges(num_numbers: int, numbers: tuple[int, int], target: tuple[int, int]) -> None:
    if not 2 <= num_numbers <= MAX_COUNT:
        raise ValueError(f"--count is {num_numbers}: give 2 to {MAX_COUNT}")
    for name, (low, high) in (("numbers", numbers), ("target", target)):
        if not 1 <= low <= high <= _MAX_NUMBER:
            raise ValueError(f"--{name} is {low} {high}: give LOW HIGH with 1 <= LOW <= HIGH <= {_MAX_NUMBER}")


def _parse_equation(text: str) -> tuple[expression.Node, int | None] | None:
    """An expression, or an expression = integer; None for anything else."""
    left, equals, right = text.partition("=")
    try:
        stated = expression.parse(right) if equals else None
        if isinstance(stated, tuple):
            return None
        return expression.parse(left), stated
    except ValueError:
        return None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: GroundTruth,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """verl's reward function for this task.

    In the "instruct" style (the default when the ground truth names none) the answer is the last complete
    `<answer>...</answer>`; in the "tiny" style it is the whole response. It must be one expression, or one
    expression followed by "= target".

    Returns `score` (see the top of this file), `acc`, 1.0 if correct and else 0.0, and `pred`, the canonical form
    of the expression (`expression.canonical`), whether right or wrong; "" when there is no parseable answer.
    Raises ValueError for a broken `ground_truth`, never for a response.
    """
    problem = Problem.from_ground_truth(ground_truth)
    instruct = read_fields(ground_truth, _EXAMPLE).get("style", "instruct") == "instruct"
    answer = solution_str
    if instruct:
        tagged = last_tagged(solution_str)
        answer = "" if tagged is None else tagged[1]
    equation = _parse_equation(answer)
    if equation is None:
        return {"score": 0.0, "acc": 0.0, "pred": ""}
    node, stated = equation
    correct = stated in (None, problem.target) and problem.is_solved_by(node)
    score = 1.0 if correct else FORMAT_REWARD if instruct else 0.0
    return {"score": score, "acc": float(correct), "pred": expression.canonical(node)}
