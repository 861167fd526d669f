"""Time and memory of the set-RL mathematics against enumeration and the naive leave-one-out, and their growth.

    python scripts/bench_set_rl.py                    about a minute on two cores; table, bench_set_rl.png and .json
    python scripts/bench_set_rl.py --device cuda      on a GPU

Every figure is a ratio of medians within this one process, of contenders that take turns, in float64.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from verl_setpo.set_rl import cosine_kernel, marginal_set_advantage, set_loo

Work = Callable[[], Any]
CLUSTERS = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def enumerate_polychromic(rewards_PN: np.ndarray, clusters_PN: np.ndarray, set_size: int) -> np.ndarray:
    """Marginal polychromic advantages, one set after another: what a reader of the paper writes first."""
    advantage_PN = np.zeros_like(rewards_PN)
    for prompt, (rewards_N, clusters_N) in enumerate(zip(rewards_PN, clusters_PN, strict=True)):
        sets = list(itertools.combinations(range(len(rewards_N)), set_size))
        values = []
        for members in sets:
            chosen = list(members)
            distinct = len(set(clusters_N[chosen].tolist()))
            values.append(rewards_N[chosen].mean() * distinct / set_size if distinct >= 2 else 0.0)
        baseline = np.mean(values)
        times_N = np.zeros(len(rewards_N))
        for members, value in zip(sets, values, strict=True):
            chosen = list(members)
            advantage_PN[prompt, chosen] += value - baseline
            times_N[chosen] += 1
        advantage_PN[prompt] /= times_N
    return advantage_PN


def enumerate_polychromic_vectorised(rewards_PN: np.ndarray, clusters_PN: np.ndarray, set_size: int) -> np.ndarray:
    """The same with all sets of all prompts in one array, as far as numpy goes."""
    sets_Kn = np.array(list(itertools.combinations(range(rewards_PN.shape[1]), set_size)))
    sorted_PKn = np.sort(clusters_PN[:, sets_Kn], -1)
    distinct_PK = 1 + (sorted_PKn[..., 1:] != sorted_PKn[..., :-1]).sum(-1)
    value_PK = rewards_PN[:, sets_Kn].mean(-1) * np.where(distinct_PK >= 2, distinct_PK, 0) / set_size
    member_KN = np.zeros((len(sets_Kn), rewards_PN.shape[1]))
    np.put_along_axis(member_KN, sets_Kn, 1.0, axis=1)
    return (value_PK - value_PK.mean(1, keepdims=True)) @ member_KN / member_KN.sum(0)


def naive_set_loo(kernel_PNN: torch.Tensor) -> torch.Tensor:
    """D(S) less D of the group without each rollout in turn, prompt after prompt, straight from SetPO's Eq. 4."""

    def diversity(kernel_NN: torch.Tensor) -> torch.Tensor:
        count = len(kernel_NN)
        return -torch.log1p((kernel_NN.sum(1) - kernel_NN.diagonal()) / (count - 1)).mean()

    credit_PN = kernel_PNN.new_zeros(kernel_PNN.shape[:2])
    for prompt, kernel_NN in enumerate(kernel_PNN):
        whole = diversity(kernel_NN)
        for i in range(len(kernel_NN)):
            rest = [j for j in range(len(kernel_NN)) if j != i]
            credit_PN[prompt, i] = whole - diversity(kernel_NN[rest][:, rest])
    return credit_PN


def batched_set_loo(kernel_PNN: torch.Tensor) -> torch.Tensor:
    """The same for all prompts at once: N re-computations of an N x N sum."""

    def diversity(kernel_PNN: torch.Tensor) -> torch.Tensor:
        others = kernel_PNN.shape[1] - 1
        return -torch.log1p((kernel_PNN.sum(2) - kernel_PNN.diagonal(dim1=1, dim2=2)) / others).mean(1)

    whole_P, count = diversity(kernel_PNN), kernel_PNN.shape[1]
    rests = [[j for j in range(count) if j != i] for i in range(count)]
    return torch.stack([whole_P - diversity(kernel_PNN[:, rest][:, :, rest]) for rest in rests], 1)


class Bench:
    def __init__(self, device: str, repeats: int) -> None:
        self.device, self.repeats = torch.device(device), repeats
        self.rows: list[dict[str, Any]] = []
        self.growth: dict[str, dict[str, Any]] = {}

    def medians(self, works: dict[str, Work], slow: tuple[str, ...] = ()) -> dict[str, float]:
        """Median seconds of each work. They take turns, so that a change of the machine's pace meets all of them, and a
        turn lasts 5 ms at least, so that a short work does not pay for what the one before it left behind. The slow
        ones take part in three rounds only."""
        for work in works.values():
            work()
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for repeat in range(self.repeats):
            for name, work in works.items():
                if name not in slow or repeat < 3:
                    turn = [self._seconds(work)]
                    while sum(turn) < 5e-3:
                        turn.append(self._seconds(work))
                    seconds[name] += turn
        return {name: statistics.median(taken) for name, taken in seconds.items()}

    def _seconds(self, work: Work) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self, work: Work) -> int:
        """The most memory held at once beyond what was there before, result included."""
        work()
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return torch.cuda.max_memory_allocated() - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            kept = work()
        del kept
        changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
        changes.sort(key=lambda event: event.start_ns())
        return max(itertools.accumulate((event.nbytes() for event in changes), initial=0))

    def add(self, work: str, against: str, ratio: float, target: str, note: str = "") -> None:
        self.rows.append({"work": work, "against": against, "ratio": ratio, "target": target, "note": note})

    def group(self, prompts: int, rollouts: int, sparse_ids: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Rewards 0 and 1, and clusters, numbered from 0 as a signal does it or with any numbers."""
        generator = torch.Generator().manual_seed(prompts + rollouts)
        rewards_PN = torch.randint(0, 2, (prompts, rollouts), generator=generator).double()
        clusters_PN = torch.randint(0, CLUSTERS, (prompts, rollouts), generator=generator)
        if sparse_ids:
            clusters_PN = clusters_PN * 1_000_003 - 7
        return rewards_PN.to(self.device), clusters_PN.to(self.device)

    def kernel(self, prompts: int, rollouts: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(prompts + rollouts)
        embeddings = torch.randn(prompts, rollouts, 32, generator=generator, dtype=torch.float64)
        return torch.cat([cosine_kernel(part.to(self.device)) for part in embeddings.split(16)])

    def polychromic_against_enumeration(self, prompts: int, rollouts: int, set_size: int, target: str) -> None:
        rewards_PN, clusters_PN = self.group(prompts, rollouts)
        plain = rewards_PN.cpu().numpy(), clusters_PN.cpu().numpy(), set_size
        ours_PN = marginal_set_advantage(rewards_PN, clusters_PN, set_size=set_size).cpu().numpy()
        for enumeration in (enumerate_polychromic, enumerate_polychromic_vectorised):
            np.testing.assert_allclose(ours_PN, enumeration(*plain), rtol=1e-9, atol=1e-12)
        seconds = self.medians(
            {
                "ours": lambda: marginal_set_advantage(rewards_PN, clusters_PN, set_size=set_size),
                "enumeration": lambda: enumerate_polychromic(*plain),
                "vectorised": lambda: enumerate_polychromic_vectorised(*plain),
            },
            slow=("enumeration",),
        )
        work = f"polychromic, {prompts} prompts, N = {rollouts}, n = {set_size}"
        for name, goal in (("enumeration", target), ("vectorised", "")):
            note = f"{_ms(seconds[name])} / {_ms(seconds['ours'])}"
            what = "enumeration in numpy" if name == "enumeration" else "enumeration, one array"
            self.add(work, what, seconds[name] / seconds["ours"], goal, note)

    def polychromic_large_sets(self, prompts: int, rollouts: int) -> None:
        rewards_PN, clusters_PN = self.group(prompts, rollouts)
        sparse_PN = self.group(prompts, rollouts, sparse_ids=True)[1]
        copied = torch.empty(3, prompts, rollouts, dtype=torch.float64, device=self.device)
        source = torch.empty_like(copied)
        seconds = self.medians(
            {
                "n = 2": lambda: marginal_set_advantage(rewards_PN, clusters_PN, set_size=2),
                "n = 8": lambda: marginal_set_advantage(rewards_PN, clusters_PN, set_size=8),
                "any ids": lambda: marginal_set_advantage(rewards_PN, sparse_PN, set_size=8),
                "copy": lambda: copied.copy_(source),
            }
        )
        work = f"polychromic, {prompts} prompts, N = {rollouts}, n = 8"
        note = f"{_ms(seconds['n = 8'])} / {_ms(seconds['n = 2'])}"
        self.add(work, "n = 2", seconds["n = 8"] / seconds["n = 2"], "at most 1.2", note)
        note = f"{_ms(seconds['any ids'])} / {_ms(seconds['n = 8'])}"
        self.add(f"{work}, ids to be sorted", "ids below N", seconds["any ids"] / seconds["n = 8"], "", note)
        note = f"{_ms(seconds['n = 8'])} / {_ms(seconds['copy'])}, {copied.nbytes / 2**20:.2f} MiB"
        self.add(work, "copy of rewards, clusters, result", seconds["n = 8"] / seconds["copy"], "", note)
        for name, clusters in (("", clusters_PN), (", ids to be sorted", sparse_PN)):
            peak = self.peak_bytes(lambda ids=clusters: marginal_set_advantage(rewards_PN, ids, set_size=8))
            self.add(f"{work}{name}: peak memory", "rewards", peak / rewards_PN.nbytes, "at most 16")

    def set_loo(self, prompts: int, rollouts: int, against_naive: bool = True) -> None:
        kernel_PNN = self.kernel(prompts, rollouts)
        for naive in (naive_set_loo, batched_set_loo):
            torch.testing.assert_close(set_loo(kernel_PNN[:4]), naive(kernel_PNN[:4]), rtol=1e-9, atol=1e-12)
        copied = torch.empty_like(kernel_PNN)
        works: dict[str, Work] = {
            "ours": lambda: set_loo(kernel_PNN, check=False),
            "checked": lambda: set_loo(kernel_PNN),
            "read": lambda: kernel_PNN.sum(),
            "copy": lambda: copied.copy_(kernel_PNN),
        }
        if against_naive:
            works["naive"] = lambda: naive_set_loo(kernel_PNN)
            works["batched"] = lambda: batched_set_loo(kernel_PNN)
        seconds = self.medians(works, slow=("naive", "batched"))
        work = f"set_loo, {prompts} prompts, N = {rollouts}"
        for ours, label in (("ours", work), ("checked", f"{work}, kernel checked")):
            for name, what, goal in (("naive", "naive loop", "at least 30"), ("batched", "naive, batched", "")):
                if name in seconds:
                    note = f"{_ms(seconds[name])} / {_ms(seconds[ours])}"
                    self.add(label, what, seconds[name] / seconds[ours], goal, note)
            for name, goal in (("read", "at most 4"), ("copy", "")):
                note = f"{_ms(seconds[ours])} / {_ms(seconds[name])}, {kernel_PNN.nbytes / 2**20:.0f} MiB"
                self.add(label, f"one {name} of the kernel", seconds[ours] / seconds[name], goal, note)
            peak = self.peak_bytes(lambda check=ours == "checked": set_loo(kernel_PNN, check=check))
            self.add(f"{label}: peak memory", "kernel", peak / kernel_PNN.nbytes, "at most 3")

    def grow(self, name: str, sizes: list[int], make: Callable[[int], Work], target: str) -> None:
        """Time against size, and the exponent: the slope of the logarithms."""
        works = {str(size): make(size) for size in sizes}
        seconds = list(self.medians(works).values())
        exponent = statistics.linear_regression(
            [math.log(size) for size in sizes], [math.log(s) for s in seconds]
        ).slope
        self.growth[name] = {"sizes": sizes, "seconds": seconds, "exponent": exponent}
        note = ", ".join(_ms(s) for s in seconds)
        self.add(name, f"exponent, {sizes[0]} to {sizes[-1]}", exponent, target, note)

    def grow_polychromic(self, prompts: int, rollouts: list[int]) -> None:
        def work(count: int, size: int) -> Work:
            rewards_PN, clusters_PN = self.group(count, size)
            return lambda: marginal_set_advantage(rewards_PN, clusters_PN, set_size=8)

        self.grow(f"polychromic, {prompts} prompts, in N", rollouts, lambda n: work(prompts, n), "at most 1.1")
        several = [prompts * factor for factor in (1, 2, 4, 8)]
        self.grow(
            f"polychromic, N = {rollouts[0]}, in prompts", several, lambda p: work(p, rollouts[0]), "at most 1.05"
        )

    def grow_set_loo(self, prompts: int, rollouts: list[int]) -> None:
        def work(size: int) -> Work:
            kernel_PNN = self.kernel(prompts, size)
            return lambda: set_loo(kernel_PNN, check=False)

        self.grow(f"set_loo, {prompts} prompts, in N", rollouts, work, "at most 2.1")

    def grow_enumeration(self, prompts: int, rollouts: list[int], set_size: int) -> None:
        """For the picture: the same work by enumeration and by the closed form."""

        def plain(size: int) -> Work:
            rewards_PN, clusters_PN = (values.cpu().numpy() for values in self.group(prompts, size))
            return lambda: enumerate_polychromic(rewards_PN, clusters_PN, set_size)

        def ours(size: int) -> Work:
            rewards_PN, clusters_PN = self.group(prompts, size)
            return lambda: marginal_set_advantage(rewards_PN, clusters_PN, set_size=set_size)

        self.grow(f"enumeration, {prompts} prompts, n = {set_size}, in N", rollouts, plain, "")
        self.grow(f"polychromic, {prompts} prompts, n = {set_size}, in N", rollouts, ours, "")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


def plot(growth: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, line in growth.items():
        if name.endswith("in N"):
            label = f"{name.removesuffix(', in N')}: exponent {line['exponent']:.2f}"
            axes.loglog(line["sizes"], [s * 1e3 for s in line["seconds"]], marker="o", label=label)
    axes.set_xlabel("rollouts of a prompt, N")
    axes.set_ylabel("milliseconds, median")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main(
    out: Annotated[Path, typer.Option(help="The plot; the numbers go beside it as .json.")] = Path("bench_set_rl.png"),
    device: Annotated[str, typer.Option(help="cpu or cuda; where there is a GPU, that.")] = DEVICE,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of each comparison.")] = 21,
    small: Annotated[bool, typer.Option(help="Small sizes, to see that it runs; the ratios mean nothing.")] = False,
) -> None:
    """Compare, print a table, draw time against N."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports every start and stop
    bench = Bench(device, repeats)
    if small:
        bench.polychromic_against_enumeration(4, 6, 3, "")
        bench.polychromic_large_sets(4, 16)
        bench.set_loo(4, 6)
        bench.grow_polychromic(2, [8, 16])
        bench.grow_set_loo(2, [8, 16])
        bench.grow_enumeration(2, [6, 8], 3)
    else:
        bench.polychromic_against_enumeration(128, 8, 4, "at least 140")
        bench.polychromic_against_enumeration(128, 16, 4, "at least 3000")
        bench.polychromic_large_sets(512, 64)
        bench.set_loo(1024, 16)
        bench.set_loo(256, 64)
        bench.set_loo(8192, 64, against_naive=False)  # beyond any cache
        bench.grow_polychromic(256, [64, 128, 256, 512, 1024])
        bench.grow_set_loo(16, [64, 128, 256, 512, 1024])
        bench.grow_enumeration(8, [6, 8, 12, 16, 24], 4)

    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    table = Table(title=f"torch {torch.__version__}, {device}, {where}, float64, {repeats} rounds")
    for column in ("work", "against", "ratio", "target", "medians"):
        table.add_column(column, justify="right" if column == "ratio" else "left", overflow="fold")
    for row in bench.rows:
        table.add_row(row["work"], row["against"], f"{row['ratio']:.4g}", row["target"], row["note"])
    Console(width=170).print(table)
    plot(bench.growth, out)
    numbers = {"torch": torch.__version__, "device": device, "where": where, "repeats": repeats}
    out.with_suffix(".json").write_text(json.dumps({**numbers, "rows": bench.rows, "growth": bench.growth}, indent=1))


if __name__ == "__main__":
    typer.run(main)
