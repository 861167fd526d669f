"""Pay an amount with at most eight coins: a task of one's own, for `verl-setpo data own` and `task: coins.py`.

137 is paid by 100+20+10+5+2, and in 23 other ways; all that add up are right. The reward function is verl's
reward.custom_reward_function, and `pred`, by which the signal `answer` tells rollouts apart, has no order of the coins.
"""

import json
import random
import re
from dataclasses import dataclass
from functools import cache

DATA_SOURCE = "coins"
COINS = (100, 50, 20, 10, 5, 2, 1)
MOST = 8


@cache
def ways(amount: int, coins: tuple[int, ...] = COINS, most: int = MOST) -> list[tuple[int, ...]]:
    """All payments, the largest coin first."""
    if amount == 0:
        return [()]
    if most == 0 or not coins:
        return []
    first = [(coins[0], *rest) for rest in ways(amount - coins[0], coins, most - 1)] if coins[0] <= amount else []
    return first + ways(amount, coins[1:], most)


@dataclass(frozen=True)
class Problem:
    amount: int

    def prompt(self, style: str) -> str:
        return f"{self.amount}="

    def ground_truth(self, style: str) -> str:
        return json.dumps(self.amount)

    @classmethod
    def from_ground_truth(cls, ground_truth: str) -> "Problem":
        return cls(json.loads(ground_truth))

    def sample_answer(self, rng: random.Random, wrong_share: float) -> str:
        """What the starting model learns from: any payment, or on purpose that of an amount nearby."""
        off = rng.choice((-2, -1, 1, 2)) if rng.random() < wrong_share else 0
        return "+".join(map(str, rng.choice(ways(self.amount + off) or ways(self.amount))))


def generate(count: int, seed: int) -> list[Problem]:
    """Different amounts that can be paid in three ways or more, in random order."""
    amounts = [amount for amount in range(3, 100 * MOST) if len(ways(amount)) >= 3]
    if count > len(amounts):
        raise ValueError(f"--train-size and --test-size ask for {count} amounts, and there are {len(amounts)}")
    return [Problem(amount) for amount in random.Random(seed).sample(amounts, count)]


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    amount = json.loads(ground_truth)
    if not re.fullmatch(r"[0-9]{1,3}(\+[0-9]{1,3}){0,9}", solution_str, re.ASCII):
        return {"score": 0.0, "acc": 0.0, "pred": ""}
    coins = sorted(map(int, solution_str.split("+")), reverse=True)
    right = float(sum(coins) == amount and len(coins) <= MOST and set(coins) <= set(COINS))
    return {"score": right, "acc": right, "pred": "+".join(map(str, coins))}
