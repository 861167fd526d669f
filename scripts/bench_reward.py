"""Answers per second of the reward for mathematical problems, against math-verify called directly.

    python scripts/bench_reward.py                     a minute and a half on two cores
    python scripts/bench_reward.py --out reward.json

Three streams of responses, each graded by all contenders in one run and in turns, other answers in each round (workers
and libraries keep what they have seen):

- mix: all different, as a policy answers the published sets: mostly integers, decimals and simple fractions, half of
  them wrong; 4 % need algebra.
- repeated: the same in groups of 8 rollouts that agree as much as those of a trained policy, so that the cache counts.
- hard: what needs algebra only (roots, multiples of pi, polynomials, sets and intervals with roots), which all goes to
  math-verify.
"""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from verl_setpo.equivalence.pool import shared_pool
from verl_setpo.tasks.math import compute_score

Pair = tuple[str, str]
Grader = Callable[[Pair], bool]
WORKERS, TIMEOUT_S = 2, 5.0


def easy(rng: random.Random) -> Pair:
    """A ground truth and an answer, right in about half of all cases, in another spelling in about a third."""
    gold = rng.randint(-20, 3000)
    kind = rng.random()
    other = gold if rng.random() < 0.5 else gold + rng.choice([-100, -10, -1, 1, 2, 10, 100])
    if kind < 0.65:
        spelling = rng.choice(["{}", "{}", "{}", "{}.0", "{:,}", r"\text{{{}}}", r"{}\text{{ cm}}"])
        return str(gold), spelling.format(other)
    if kind < 0.8:
        return f"{gold / 100:g}", rng.choice(["{:g}", "{:.3f}"]).format(other / 100)
    if kind < 0.84:
        return f"({gold}, {gold + 1})", f"({other},{gold + 1})"
    bottom = rng.randint(2, 60)
    spelling = rng.choice([r"\frac{{{}}}{{{}}}", r"\dfrac{{{}}}{{{}}}", "{}/{}"])
    return rf"\frac{{{gold}}}{{{bottom}}}", spelling.format(other, bottom)


def hard(rng: random.Random) -> Pair:
    """The same, of what only algebra tells apart."""
    a, b, c = (rng.randint(2, 999) for _ in range(3))
    d = c if rng.random() < 0.5 else c + 1
    return rng.choice(
        [
            (rf"{a}\sqrt{{{c}}}", rf"\sqrt{{{a * a * d}}}"),
            (rf"{a}x^2-{b}x+{c}", rf"{d}+{a}x^2-{b}x"),
            (rf"\left[\frac{{{a}}}{{{b}}},\sqrt{{{c}}}\right)", rf"[\frac{{{2 * a}}}{{{2 * b}}}, \sqrt{{{d}}})"),
            (rf"\{{{a},{b},\sqrt{{{c}}}\}}", rf"\sqrt{{{d}}}, {b}, {a}"),
            (rf"\frac{{{a}\pi}}{{{c}}}", rf"\frac{{{a}}}{{{d}}}\pi"),
        ]
    )


def streams(size: int, hard_size: int, seed: int) -> dict[str, list[Pair]]:
    rng = random.Random(seed)
    mix = [hard(rng) if i % 25 == 0 else easy(rng) for i in range(size)]
    repeated = [pair for pair in mix[: size // 8] for pair in _group(pair, rng)]
    rng.shuffle(repeated)
    return {"mix": mix, "repeated": repeated, "hard": [hard(rng) for _ in range(hard_size)]}


def _group(pair: Pair, rng: random.Random) -> list[Pair]:
    """Eight rollouts of one problem: most with the one answer, the others spread over few."""
    gold, answer = pair
    others = [f"{answer}+{i}" if "x" in answer else f"{rng.randint(0, 99)}" for i in range(2)]
    return [(gold, answer if rng.random() < 0.7 else rng.choice(others)) for _ in range(8)]


def response(answer: str) -> str:
    return "We compute step by step. " * 80 + f"So the final answer is $\\boxed{{{answer}}}$."


def ours(pair: Pair) -> bool:
    return bool(compute_score("math500", response(pair[1]), pair[0], workers=WORKERS, timeout_s=TIMEOUT_S)["score"])


def direct(pair: Pair) -> bool:
    """As verl's own wrapper of math-verify has it, but in this process, and without its time limit."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    gold = parse(f"\\boxed{{{pair[0]}}}", [LatexExtractionConfig()], parsing_timeout=None)
    answer = parse(response(pair[1]), [ExprExtractionConfig(), LatexExtractionConfig()], parsing_timeout=None)
    return any(verify(g, a, timeout_seconds=None) for g in gold for a in answer)


def forget() -> None:
    """Start the reward's workers where there are none, and empty its cache."""
    pool = shared_pool(WORKERS, TIMEOUT_S)
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(lambda i: pool.grade(rf"\sqrt{{{i}}}", rf"\sqrt{{{i}}}+1"), range(2 * WORKERS)))
    with pool._lock:
        pool._cache.clear()


def measure(rounds: list[list[Pair]], threads: int) -> dict[str, Any]:
    """Answers per second of both, in turns: verl calls the reward from a pool of threads; math-verify needs the main
    one, as it takes no other."""
    rates: dict[str, list[float]] = {"reward": [], "math-verify": []}
    verdicts: dict[str, list[bool]] = {"reward": [], "math-verify": []}
    for pairs in rounds:
        forget()
        start = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            verdicts["reward"] += pool.map(ours, pairs)
        rates["reward"].append(len(pairs) / (time.perf_counter() - start))
        start = time.perf_counter()
        verdicts["math-verify"] += [direct(pair) for pair in pairs]
        rates["math-verify"].append(len(pairs) / (time.perf_counter() - start))
    agree = statistics.fmean(a == b for a, b in zip(verdicts["reward"], verdicts["math-verify"], strict=True))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "answers": len(rounds[0]),
        "right": statistics.fmean(verdicts["reward"]),
        "agree": agree,
        "per_second": medians,
        "ratio": statistics.median(a / b for a, b in zip(rates["reward"], rates["math-verify"], strict=True)),
        "rounds": rates,
    }


def main(
    out: Annotated[Path | None, typer.Option(help="Write all numbers here, as JSON.")] = None,
    size: Annotated[int, typer.Option(min=50, help="Answers of the streams mix and repeated.")] = 2000,
    hard_size: Annotated[int, typer.Option(min=5, help="Answers of the stream hard.")] = 300,
    threads: Annotated[int, typer.Option(min=1, help="Threads that call the reward.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender; medians are shown.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the answers.")] = 0,
) -> None:
    """Measure, print a table, and write the numbers."""
    logging.disable(logging.WARNING)  # math-verify says each time that its time limit is off
    drawn = [streams(size, hard_size, seed + i) for i in range(rounds)]
    found = {name: measure([streams_of[name] for streams_of in drawn], threads) for name in drawn[0]}
    table = Table(title=f"answers per second, {WORKERS} workers, {threads} threads, {os.cpu_count()} cores")
    for column in ("stream", "answers", "reward", "math-verify", "ratio", "same verdict"):
        table.add_column(column, justify="left" if column == "stream" else "right")
    for name, one in found.items():
        rates = [f"{one['per_second'][contender]:,.0f}" for contender in ("reward", "math-verify")]
        table.add_row(name, str(one["answers"]), *rates, f"{one['ratio']:.2f}", f"{one['agree']:.1%}")
    Console(width=110).print(table)
    if out is not None:
        settings = {"workers": WORKERS, "timeout_s": TIMEOUT_S, "threads": threads, "cores": os.cpu_count()}
        out.write_text(json.dumps({**settings, "seed": seed, "streams": found}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
