"""The sets of a prompt: all of them, or K distinct ones drawn uniformly without replacement (Poly-EPO, section 4)."""

import itertools
import math
from functools import lru_cache

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import check_count, check_mask, check_set_size

ENUMERATION_LIMIT = 200_000
"""The most sets of one prompt that are listed; an objective without a closed form needs `num_sets` beyond it."""

# Random numbers held at once: 32 MiB in float64.
_CHUNK = 2**22


def sample_sets(mask_PN: Tensor, set_size: int, num_sets: int, generator: torch.Generator | None = None) -> Tensor:
    """K distinct sets per prompt, uniform among all choices of K sets of rollouts of that prompt.

    The draw is on the CPU and does not depend on where a prompt's masked places are: one seed gives one result, on
    any device. K = C(N, n) gives every set once.

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
    count_P = mask_PN.sum(1)
    order_PN = rollouts_first(mask_PN)
    counts = count_P[count_P > 0].unique().tolist()
    for count in counts:
        if num_sets > math.comb(count, set_size):
            raise ValueError(
                f"num_sets is {num_sets} but a prompt with {count} rollouts has only {math.comb(count, set_size)} sets "
                f"of size {set_size}: lower num_sets, or leave it out to use all sets."
            )
    sets_PKn = torch.full((len(mask_PN), num_sets, set_size), -1)
    for count in counts:
        rows = (count_P == count).nonzero()[:, 0]
        place_RKn = _draw(len(rows), count, set_size, num_sets, generator)
        sets_PKn[rows] = order_PN[rows].gather(1, place_RKn.flatten(1)).view(place_RKn.shape)
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


def has_more_sets(mask_PN: Tensor, set_size: int, num_sets: int) -> Tensor:
    """more_P: whether a prompt has more sets than `num_sets`, so that they are drawn.

    Args:
        mask_PN: (P, N), true where there is a rollout.
        set_size: n, rollouts in a set.
        num_sets: K.
    """
    count_P = mask_PN.sum(1)
    most = int(count_P.max()) if len(count_P) else 0
    # Binomials rise with the number of rollouts, and may be beyond any integer type.
    enough = next((count for count in range(most + 1) if math.comb(count, set_size) > num_sets), most + 1)
    return count_P >= enough


def rollouts_first(mask_PN: Tensor) -> Tensor:
    """order_PN: the columns with the rollouts ahead, both kinds in their order."""
    return torch.argsort((~mask_PN).to(torch.int8), dim=1, stable=True)


@lru_cache(maxsize=16)
def all_sets(num_rollouts: int, set_size: int) -> Tensor:
    """sets_Kn of 0..num_rollouts-1, all C(N, n) of them, at most `ENUMERATION_LIMIT`. Cached: do not write to it."""
    return torch.tensor(list(itertools.combinations(range(num_rollouts), set_size)))


def _draw(prompts: int, num_rollouts: int, set_size: int, num_sets: int, generator: torch.Generator | None) -> Tensor:
    """sets_PKn of 0..num_rollouts-1 for prompts of one size."""
    total = math.comb(num_rollouts, set_size)
    # To shuffle the list of all sets pays unless few of very many are wanted.
    listed = total <= min(ENUMERATION_LIMIT, max(4 * num_sets, 1000))
    # A few more than K, so that a second round is rare.
    batch = total if listed else num_sets + num_sets // 8 + 8
    rows = max(1, _CHUNK // (batch if listed else batch * num_rollouts))
    parts = []
    for first in range(0, prompts, rows):
        some = min(rows, prompts - first)
        if listed:
            keys_PK = torch.rand(some, total, generator=generator, dtype=torch.float64)
            parts.append(all_sets(num_rollouts, set_size)[keys_PK.argsort(1)[:, :num_sets]])
        else:
            parts.append(_draw_distinct(some, num_rollouts, set_size, num_sets, batch, generator))
    return torch.cat(parts)


def _draw_distinct(
    prompts: int, num_rollouts: int, set_size: int, num_sets: int, batch: int, generator: torch.Generator | None
) -> Tensor:
    """Draw with replacement and drop what was there before: the first K distinct sets of such a stream are uniform
    among the choices of K sets."""
    sets_PMn = torch.empty(prompts, 0, set_size, dtype=torch.int64)
    while True:
        keys_PMN = torch.rand(prompts, batch, num_rollouts, generator=generator, dtype=torch.float64)
        sets_PMn = torch.cat([sets_PMn, keys_PMN.argsort(-1)[..., :set_size].sort(-1).values], 1)
        new_PM = _first_time(sets_PMn, num_rollouts)
        if (new_PM.sum(1) >= num_sets).all():
            chosen_PK1 = torch.argsort((~new_PM).to(torch.int8), dim=1, stable=True)[:, :num_sets, None]
            return sets_PMn.gather(1, chosen_PK1.expand(-1, -1, set_size))


def _first_time(sets_PMn: Tensor, num_rollouts: int) -> Tensor:
    """new_PM: whether a set comes for the first time among its prompt's."""
    # Sets are told apart by sums of random 64-bit codes. Two that agree by chance, one in 2^64, cost one more draw.
    code_N = torch.randint(-(2**63), 2**63 - 1, (num_rollouts,), generator=torch.Generator().manual_seed(0))
    code_PM, order_PM = code_N[sets_PMn].sum(-1).sort(dim=1, stable=True)
    new_PM = torch.ones_like(code_PM, dtype=torch.bool)
    new_PM[:, 1:] = code_PM[:, 1:] != code_PM[:, :-1]
    return torch.empty_like(new_PM).scatter(1, order_PM, new_PM)
