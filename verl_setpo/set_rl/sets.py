"""The sets of a prompt: all of them, or K distinct ones drawn uniformly without replacement (Poly-EPO, section 4)."""

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_count, check_mask, check_set_size

ENUMERATION_LIMIT = 200_000
"""The most sets of one prompt that are listed; an objective without a closed form needs `num_sets` beyond it."""

# Random numbers of one batch of draws.
_DRAW_BATCH = 2**20


def sample_sets(mask_PN: Tensor, set_size: int, num_sets: int, generator: torch.Generator | None = None) -> Tensor:
    """K distinct sets per prompt, uniform among all choices of K sets of rollouts of that prompt.

    The draw is on the CPU, prompt after prompt, and does not depend on where a prompt's masked places are: one seed
    gives one result, on any device. K = C(N, n) gives every set once.

    Args:
        mask_PN: (P, N), true where there is a rollout.
        set_size: n, rollouts in a set.
        num_sets: K, sets per prompt.
        generator: a CPU generator; None: torch's global one.

    Returns:
        sets_PKn: (P, K, n) int64 on the CPU, columns of the rollouts in a set, rising. -1 throughout for a prompt that
        is masked as a whole.

    Raises:
        ValueError: set_size or num_sets below 1, set_size above a prompt's number of rollouts, num_sets above the
            number of sets of the smallest prompt, or a generator that is not on the CPU.
    """
    if mask_PN.ndim != 2:
        raise ValueError(
            f"mask_PN must have shape (prompts, rollouts), got {tuple(mask_PN.shape)}: give one row per prompt."
        )
    mask_PN = check_mask(mask_PN, mask_PN, "mask_PN").cpu()
    set_size = check_set_size(set_size, mask_PN)
    num_sets = check_count(num_sets, "num_sets")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError("generator must be on the CPU, so that all devices draw the same sets: use torch.Generator().")
    counts = mask_PN.sum(1).tolist()
    fewest = min((count for count in counts if count), default=0)
    if fewest and num_sets > math.comb(fewest, set_size):
        raise ValueError(
            f"num_sets is {num_sets} but a prompt with {fewest} rollouts has only {math.comb(fewest, set_size)} sets "
            f"of size {set_size}: lower num_sets, or leave it out to use all sets."
        )
    order_PN = rollouts_first(mask_PN)
    sets_PKn = torch.full((len(counts), num_sets, set_size), -1)
    for prompt, count in enumerate(counts):
        if count:
            sets_PKn[prompt] = order_PN[prompt, _draw(count, set_size, num_sets, generator)]
    return sets_PKn


def count_left_out(sets_PKn: Tensor, mask_PN: Tensor) -> Tensor:
    """count_P: how many rollouts of a prompt are in none of its sets, and so get no advantage from them.

    Args:
        sets_PKn: (P, K, n) from `sample_sets`.
        mask_PN: (P, N), true where there is a rollout.
    """
    missing_PN = check_mask(mask_PN, mask_PN, "mask_PN").clone()
    if missing_PN.numel():
        missing_PN.scatter_(1, sets_PKn.flatten(1).clamp(min=0).to(mask_PN.device), False)
    return missing_PN.sum(1)


def rollouts_first(mask_PN: Tensor) -> Tensor:
    """order_PN: the columns with the rollouts ahead, both kinds in their order."""
    return torch.argsort((~mask_PN).to(torch.int8), dim=1, stable=True)


@lru_cache(maxsize=16)
def all_sets(num_rollouts: int, set_size: int) -> Tensor:
    """sets_Kn of 0..num_rollouts-1, all C(N, n) of them, at most `ENUMERATION_LIMIT`. Cached: do not write to it."""
    return torch.tensor(list(itertools.combinations(range(num_rollouts), set_size)))


def _draw(num_rollouts: int, set_size: int, num_sets: int, generator: torch.Generator | None) -> Tensor:
    """sets_Kn of 0..num_rollouts-1."""
    total = math.comb(num_rollouts, set_size)
    if total <= ENUMERATION_LIMIT:
        return all_sets(num_rollouts, set_size)[torch.randperm(total, generator=generator)[:num_sets]]
    # Too many to list: draw with replacement and drop what was there before. The first K distinct ones of such a
    # stream are uniform among the choices of K sets.
    sets_Kn = torch.empty(0, set_size, dtype=torch.int64)
    while len(sets_Kn) < num_sets:
        batch = min(2 * (num_sets - len(sets_Kn)), max(1, _DRAW_BATCH // num_rollouts))
        keys = torch.rand(batch, num_rollouts, generator=generator, dtype=torch.float64)
        drawn = keys.argsort(1)[:, :set_size].sort(1).values
        sets_Kn = _drop_repeats(torch.cat([sets_Kn, drawn]))
    return sets_Kn[:num_sets]


def _drop_repeats(sets_Kn: Tensor) -> Tensor:
    """The distinct rows, in the order in which they first came."""
    rows, row_K = torch.unique(sets_Kn, dim=0, return_inverse=True)
    first = torch.full((len(rows),), len(sets_Kn)).scatter_reduce(0, row_K, torch.arange(len(sets_Kn)), "amin")
    return sets_Kn[first.sort().values]
