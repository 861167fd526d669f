r"""Polynomial solving, the synthetic task of Poly-EPO (arXiv 2604.17654).

Given y = ax^2 + bx + c, any integer point (x, y) on it is correct, so every prompt has as many correct answers as
there are integers x. The clusters of the paper are the distinct answers: `pred` of `compute_score`.
"""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from verl_setpo.tasks.answers import final_answer
from verl_setpo.tasks.ground_truth import GroundTruth, read_fields, read_int

DATA_SOURCE = "polynomial"
ABILITY = "math"
DEFAULT_SIZES = (195, 48)
# Past this a coefficient would not fit the digits that an answer may have.
MAX_COEFFICIENT = 999_999

# x has at most 12 digits, so y has at most 31. ASCII digits only: `\d` and int() take other scripts too.
_INTEGERS = r"([+-]?[0-9]{1,12})[ \t\r\n]*,[ \t\r\n]*([+-]?[0-9]{1,32})"
_PAIR = re.compile(rf"\([ \t\r\n]*{_INTEGERS}[ \t\r\n]*\)")
_BARE_PAIR = re.compile(rf"[ \t\r\n]*{_INTEGERS}[ \t\r\n]*")

_EXAMPLE = '{"a": 1, "b": 3, "c": 7}'
_INSTRUCT = (
    "Find one integer point on the curve {equation}. There are many correct answers and any one of them will do. "
    "Please reason step by step, and put your final answer within \\boxed{{(x, y)}}, "
    "with your two integers in place of x and y."
)


@dataclass(frozen=True)
class Problem:
    """y = a x^2 + b x + c, with integer coefficients."""

    a: int
    b: int
    c: int

    def value(self, x: int) -> int:
        """y at x."""
        return self.a * x * x + self.b * x + self.c

    def equation(self) -> str:
        """Such as y=x^2+3x+7."""
        text = ""
        for coefficient, power in ((self.a, "x^2"), (self.b, "x"), (self.c, "")):
            if coefficient:
                size = "" if power and abs(coefficient) == 1 else str(abs(coefficient))
                text += ("-" if coefficient < 0 else "+" if text else "") + size + power
        return f"y={text or '0'}"

    def prompt(self, style: str) -> str:
        """The user message: the equation alone ("tiny"), or an instruction in English ("instruct")."""
        return self.equation() if style == "tiny" else _INSTRUCT.format(equation=self.equation())

    def ground_truth(self, style: str) -> str:
        """A JSON string, because verl's parquet columns keep one type for all tasks."""
        return json.dumps(asdict(self))

    @classmethod
    def from_ground_truth(cls, ground_truth: GroundTruth) -> "Problem":
        """Read a JSON string or a mapping. Raises ValueError when it has no integer a, b and c."""
        fields = read_fields(ground_truth, _EXAMPLE)
        return cls(*(read_int(fields, name, _EXAMPLE) for name in "abc"))

    def sample_answer(self, rng: random.Random, wrong_share: float, max_x: int = 12) -> str:
        """A point with x uniform in 0..max_x; with probability `wrong_share` its y is off in a plausible way."""
        x = rng.randint(0, max_x)
        y = self.value(x)
        if rng.random() < wrong_share:
            y = _plausible_mistake(self, x, rng)
        return f"({x},{y})"


def _plausible_mistake(problem: Problem, x: int, rng: random.Random) -> int:
    """A wrong y: a slip in a digit or a carry, a neighbour's y, or a term left out."""
    y = problem.value(x)
    candidates = [
        y + rng.choice([-10, -2, -1, 1, 2, 10]),
        problem.value(x + rng.choice([-1, 1])),
        y - rng.choice([problem.a * x * x, problem.b * x, problem.c]),
    ]
    wrong = [candidate for candidate in candidates if candidate != y]
    return rng.choice(wrong)


def generate(
    count: int,
    seed: int,
    a: tuple[int, int] = (1, 3),
    b: tuple[int, int] = (1, 9),
    c: tuple[int, int] = (1, 9),
) -> list[Problem]:
    """`count` different problems in random order; a, b and c are inclusive ranges.

    Raises ValueError when a range is empty or too wide, or holds fewer than `count` problems.
    """
    for name, (low, high) in (("a", a), ("b", b), ("c", c)):
        if low > high or max(abs(low), abs(high)) > MAX_COEFFICIENT:
            raise ValueError(
                f"--{name} is {low} {high}: give LOW HIGH with LOW <= HIGH, both within +-{MAX_COEFFICIENT}"
            )
    sizes = [high - low + 1 for low, high in (a, b, c)]
    total = sizes[0] * sizes[1] * sizes[2]
    if count > total:
        raise ValueError(
            f"--train-size and --test-size ask for {count} different problems, but the ranges of --a, --b and --c "
            f"hold {total}: ask for fewer, or widen a range"
        )
    problems = []
    for index in random.Random(seed).sample(range(total), count):
        index, third = divmod(index, sizes[2])
        first, second = divmod(index, sizes[1])
        problems.append(Problem(a[0] + first, b[0] + second, c[0] + third))
    return problems


def parse_answer(text: str) -> tuple[int, int] | None:
    r"""The point that a response gives, or None.

    The last `\boxed{...}` or `<answer>...</answer>` counts if there is one, else the whole text; in it the last
    pair such as (1, 11). A box may leave out the brackets of the pair. A pair whose numbers have more than 12 and
    32 digits is none. Linear in the length of the text, and never raises.
    """
    answer = final_answer(text)
    scope = (text if answer is None else answer).replace("\\left", "").replace("\\right", "")
    match = None
    for match in _PAIR.finditer(scope):  # noqa: B007 - the last one counts
        pass
    if match is None and answer is not None:
        match = _BARE_PAIR.fullmatch(scope)
    return None if match is None else (int(match[1]), int(match[2]))


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: GroundTruth,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """verl's reward function for this task.

    Returns `score` and `acc`, both 1.0 for a point on the curve and else 0.0, and `pred`, the answer in its one
    canonical form such as "(1,11)", whether right or wrong; "" when the response holds no answer.
    Raises ValueError for a broken `ground_truth`, never for a response.
    """
    problem = Problem.from_ground_truth(ground_truth)
    point = parse_answer(solution_str)
    if point is None:
        return {"score": 0.0, "acc": 0.0, "pred": ""}
    correct = float(problem.value(point[0]) == point[1])
    return {"score": correct, "acc": correct, "pred": f"({point[0]},{point[1]})"}
