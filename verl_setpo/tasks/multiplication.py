r"""Multi-digit multiplication, the second synthetic task of Poly-EPO (arXiv 2604.17654).

Given 343*67, the policy multiplies by decomposition, such as (340+3)*(70-3) = 23800-1020+210-9 = 22981. A response is
correct when its final product is right; there is no reward for a format. The clusters of the paper are the
decompositions: `strategy` of `compute_score`, which the signal takes by `+algorithm.set_rl.signal.field=strategy`.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from typing import Any

from verl_setpo.tasks import expression
from verl_setpo.tasks.decomposition import Parts, find_strategy, parse_answer
from verl_setpo.tasks.ground_truth import GroundTruth, read_fields, read_int

DATA_SOURCE = "multiplication"
ABILITY = "math"
DEFAULT_SIZES = (4096, 128)
# The product, and so each partial product, must fit the digits that an expression's number may have.
MAX_PRODUCT = 10**expression.MAX_DIGITS - 1

_EXAMPLE = '{"a": 343, "b": 67}'
# The example has a factor of one digit, which no generated problem has.
_INSTRUCT = (
    "Multiply {a} by {b} by writing one or both of them as a sum or difference of easier numbers, as in "
    "27 * 8 = (30 - 3) * 8, then multiply out, state each partial product, add them up, and put the final product "
    "within \\boxed{{}}."
)


@dataclass(frozen=True)
class Problem:
    """What is a times b? Both are whole numbers, at least 2."""

    a: int
    b: int

    def prompt(self, style: str) -> str:
        """The user message: such as 343*67= ("tiny"), or an instruction in English ("instruct")."""
        return f"{self.a}*{self.b}=" if style == "tiny" else _INSTRUCT.format(a=self.a, b=self.b)

    def ground_truth(self, style: str) -> str:
        """A JSON string, because verl's parquet columns keep one type for all tasks."""
        return json.dumps(asdict(self))

    @classmethod
    def from_ground_truth(cls, ground_truth: GroundTruth) -> "Problem":
        """Read a JSON string or a mapping. Raises ValueError when it has no integers a and b, or has them too small
        or with a product above MAX_PRODUCT."""
        fields = read_fields(ground_truth, _EXAMPLE)
        a, b = (read_int(fields, name, _EXAMPLE) for name in "ab")
        if min(a, b) < 2 or a * b > MAX_PRODUCT:
            raise ValueError(
                f"ground truth {ground_truth!r:.200} must have a and b of at least 2 and a product of at most "
                f"{MAX_PRODUCT}, as in {_EXAMPLE}"
            )
        return cls(a, b)

    def sample_answer(self, rng: random.Random, wrong_share: float) -> str:
        """A decomposition, worked step by step: (340+3)*(60+7)=20400+2380+180+21=22780+201=22981.

        Both numbers are split, in each way of `splits` equally likely. The partial products are added up row by row, so
        that no step needs more than a few digits in mind. With probability `wrong_share` one digit of the product is
        off by one, or one of a row's sum and so of the product.
        """
        # A number that ends in 0, as no generated one does, may have nothing to split.
        left, right = (rng.choice(splits(number)[1:] or [(number,)]) for number in (self.a, self.b))
        rows = [[part * other for other in right] for part in left]
        sums, product = [sum(row) for row in rows], self.a * self.b
        if rng.random() < wrong_share:
            slip = rng.randrange(len(sums) + 1)
            size = product if slip == len(sums) else abs(sums[slip])
            off = rng.choice((-1, 1)) * 10 ** rng.randrange(len(str(size)))
            product += off
            if slip < len(sums):
                sums[slip] += off
        steps = [[partial for row in rows for partial in row], sums] if len(sums) > 1 else rows
        return "=".join([f"{_factor(left)}*{_factor(right)}", *map(_sum, steps), str(product)])


def splits(number: int) -> list[Parts]:
    """The number whole, then split at each digit, downwards and upwards, and into all its digits.

    343: (343), (340, 3), (350, -7), (300, 43), (400, -57), (300, 40, 3).
    """
    found: list[Parts] = [(number,)]
    digits = len(str(number))
    for place in range(1, digits):
        rest = number % 10**place
        if rest:
            found += [(number - rest, rest), (number - rest + 10**place, rest - 10**place)]
    each = tuple(int(digit) * 10**place for place, digit in enumerate(str(number)[::-1]) if digit != "0")[::-1]
    return list(dict.fromkeys(found if len(each) < 3 else [*found, each]))  # 303 is 300+3 at two digits


def _sum(parts: list[int] | Parts) -> str:
    return "".join(f"{part:+d}" for part in parts).removeprefix("+")


def _factor(parts: Parts) -> str:
    return str(parts[0]) if len(parts) == 1 else f"({_sum(parts)})"


def generate(count: int, seed: int, digits: tuple[int, int] = (3, 2)) -> list[Problem]:
    """`count` different problems in random order; `digits` has how many digits the two numbers have.

    No number ends in 0, which would leave nothing to split. Of two numbers of as many digits the larger comes first,
    so that a test problem is never a training problem in the other order.

    Raises ValueError for a bad `digits`, or when there are fewer than `count` problems.
    """
    first, second = digits
    if min(digits) < 2 or sum(digits) > expression.MAX_DIGITS:
        raise ValueError(
            f"--digits is {first} {second}: give two numbers of at least 2, at most {expression.MAX_DIGITS} together"
        )
    sizes = [81 * 10 ** (size - 2) for size in digits]
    total = sizes[0] * sizes[1] if first != second else sizes[0] * (sizes[0] + 1) // 2
    if count > total:
        raise ValueError(
            f"--train-size and --test-size ask for {count} different problems, but --digits {first} {second} has "
            f"{total}: ask for fewer, or give more digits"
        )
    problems = []
    for index in random.Random(seed).sample(range(total), count):
        if first != second:
            i, j = divmod(index, sizes[1])
        else:  # the index of a pair with j <= i, counted in a triangle
            i = (isqrt(8 * index + 1) - 1) // 2
            j = index - i * (i + 1) // 2
        problems.append(Problem(_nth(i, first), _nth(j, second)))
    return problems


def _nth(index: int, digits: int) -> int:
    """The number at `index` among those of so many digits that do not end in 0."""
    return 10 ** (digits - 1) + index // 9 * 10 + index % 9 + 1


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: GroundTruth,
    extra_info: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """verl's reward function for this task.

    Returns `score` and `acc`, both 1.0 for the right product and else 0.0; `pred`, the product that the response
    gives, such as "22981", whether right or wrong, "" for none; and `strategy` (`find_strategy`), such as
    "(3+340)*(70-3)", whether the product is right or wrong, "" for none.
    Raises ValueError for a broken `ground_truth`, never for a response.
    """
    problem = Problem.from_ground_truth(ground_truth)
    product = parse_answer(solution_str)
    correct = float(product == problem.a * problem.b)
    return {
        "score": correct,
        "acc": correct,
        "pred": "" if product is None else str(product),
        "strategy": find_strategy(problem.a, problem.b, solution_str, product),
    }
