"""Poly-EPO (arXiv 2604.17654): from the value of sets to the advantage of a rollout."""

import torch
from torch import Tensor

from verl_setpo.set_rl.checks import (
    all_finite,
    check_clusters,
    check_count,
    check_kernel,
    check_kernel_shape,
    check_rewards,
    check_set_size,
    output_dtype,
)
from verl_setpo.set_rl.clusters import label_clusters
from verl_setpo.set_rl.objectives import POLYCHROMIC_PAYING_SINGLES, Objective, ObjectiveFunction, get_objective
from verl_setpo.set_rl.set_average import Groups, average_over_all_sets, average_over_sets
from verl_setpo.set_rl.sets import has_more_sets, sample_sets


def marginal_set_advantage(
    rewards_PN: Tensor,
    clusters_PN: Tensor | None = None,
    *,
    set_size: int,
    objective: str | ObjectiveFunction | Objective = "polychromic",
    num_sets: int | None = None,
    mask_PN: Tensor | None = None,
    degenerate_cluster: int = -1,
    zero_single_cluster: bool = True,
    reduction: str = "mean",
    generator: torch.Generator | None = None,
    kernel_PNN: Tensor | None = None,
) -> Tensor:
    """Poly-EPO's marginal advantage A_i = mean over the sets G with i of [f(G) - mean of f], arXiv 2604.17654, Eq. 8.

    With all sets it is an unbiased gradient of the expected f over n i.i.d. rollouts, times (N - n)/n (Prop. 3.1);
    it sums to 0 over a prompt, and is 0 at n = N, where there is one set only. All sets cost O(N log N) per prompt for
    the objectives with a closed form (`polychromic`, `coverage`, `pass_at_n`, `mean`), and O(N) for those of clusters
    if ids lie within 0..N-1; other objectives have the sets listed. What is below 1e-12 of the largest reward or value
    of a prompt is rounding noise and reads as 0.

    Args:
        rewards_PN: (P, N) real, integer or bool.
        clusters_PN: (P, N) integer ids; needed by `polychromic`, `coverage` and `smooth_polychromic`. The
            numbers mean nothing by themselves.
        set_size: n, rollouts in a set.
        objective: a registered name, an import path "package.module:function", or a function; see `register_objective`.
        num_sets: K distinct sets drawn per prompt, with the mean over these K as baseline; a rollout in none of them
            gets 0 (see `sample_sets` and `count_left_out`). A prompt that has no more than K sets uses them all.
            None: all C(N, n) sets.
        mask_PN: (P, N), true where there is a rollout; None: everywhere.
        degenerate_cluster: the id of degenerate rollouts, which add no cluster to a set but count in n and in mean
            rewards.
        zero_single_cluster: whether a set with fewer than two clusters is worth 0. It concerns `polychromic` only.
        reduction: "mean" over the sets that contain i; or "sum", as one version of the paper has it: with all sets
            C(N-1, n-1) times as large, which can be huge, and with drawn sets a different weighting.
        generator: CPU generator of the draw; None: torch's global one. Not used with all sets.
        kernel_PNN: (P, N, N) similarities as in `set_loo`; needed by `vendi`.

    Returns:
        advantage_PN: (P, N) in units of f, float64 for float64 rewards, else float32; 0 at masked places.

    Raises:
        ValueError: wrong shape; NaN or infinity in an unmasked reward; unknown objective or reduction; an objective
            that needs clusters or a kernel without any; set_size or num_sets out of range; more than
            `ENUMERATION_LIMIT` sets to list; a sum beyond the range of the result's dtype.
    """
    chosen, groups = _prepare(
        rewards_PN, clusters_PN, kernel_PNN, objective, mask_PN, degenerate_cluster, zero_single_cluster, reduction
    )
    set_size = check_set_size(set_size, groups.mask_PN)
    if num_sets is None:
        advantage_PN = average_over_all_sets(groups, set_size, chosen, reduction)
    else:
        drawn_P = has_more_sets(groups.mask_PN, set_size, check_count(num_sets, "num_sets"))
        advantage_PN = torch.empty_like(groups.rewards_PN)
        if drawn_P.any():
            drawn = groups.rows(drawn_P)
            sets_PKn = sample_sets(drawn.mask_PN, set_size, num_sets, generator)
            advantage_PN[drawn_P] = average_over_sets(drawn, sets_PKn, chosen, reduction)
        advantage_PN[~drawn_P] = average_over_all_sets(groups.rows(~drawn_P), set_size, chosen, reduction)
    return _finish(advantage_PN, output_dtype(rewards_PN), reduction)


def advantage_from_sets(
    rewards_PN: Tensor,
    clusters_PN: Tensor | None,
    sets_PKn: Tensor,
    *,
    objective: str | ObjectiveFunction | Objective = "polychromic",
    mask_PN: Tensor | None = None,
    degenerate_cluster: int = -1,
    zero_single_cluster: bool = True,
    reduction: str = "mean",
    kernel_PNN: Tensor | None = None,
) -> Tensor:
    """The marginal advantage over given sets; for a caller who also wants to count or log the sets.

    `marginal_set_advantage(..., num_sets=K)` is this function on `sample_sets(...)`, whose output is `sets_PKn`. For
    the other arguments, the result and the errors see there.

    Raises:
        ValueError: also if a set names a rollout that is masked or not there.
    """
    chosen, groups = _prepare(
        rewards_PN, clusters_PN, kernel_PNN, objective, mask_PN, degenerate_cluster, zero_single_cluster, reduction
    )
    _check_sets(sets_PKn, groups.mask_PN)
    advantage_PN = average_over_sets(groups, sets_PKn.long(), chosen, reduction)
    return _finish(advantage_PN, output_dtype(rewards_PN), reduction)


def _prepare(
    rewards_PN: Tensor,
    clusters_PN: Tensor | None,
    kernel_PNN: Tensor | None,
    objective: str | ObjectiveFunction | Objective,
    mask_PN: Tensor | None,
    degenerate_cluster: int,
    zero_single_cluster: bool,
    reduction: str,
) -> tuple[Objective, Groups]:
    """The objective and its arguments, all checked."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction {reduction!r} is not known: use mean or sum.")
    chosen = get_objective(objective)
    if chosen is get_objective("polychromic") and not zero_single_cluster:
        chosen = POLYCHROMIC_PAYING_SINGLES
    rewards_PN, mask_PN = check_rewards(rewards_PN, mask_PN)
    for name, values, needed in (
        ("clusters_PN", clusters_PN, chosen.needs_clusters),
        ("kernel_PNN", kernel_PNN, chosen.needs_kernel),
    ):
        if needed and values is None:
            what = "a cluster id per rollout" if name == "clusters_PN" else "the similarities of a prompt's rollouts"
            raise ValueError(
                f"{name} is missing and objective {chosen.name!r} needs it: give {what}, "
                "or use an objective of rewards only, such as pass_at_n."
            )
    labels_PN = None
    if clusters_PN is not None:
        clusters_PN = check_clusters(clusters_PN, rewards_PN.shape)
        labels_PN = label_clusters(clusters_PN, mask_PN, degenerate_cluster)
    if kernel_PNN is not None:
        check_kernel_shape(kernel_PNN, rewards_PN.shape)
        pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
        kernel_PNN = check_kernel(torch.where(pair_PNN, kernel_PNN.to(torch.float64), 0.0), mask_PN)
    return chosen, Groups(rewards_PN, labels_PN, kernel_PNN, mask_PN)


def _check_sets(sets_PKn: Tensor, mask_PN: Tensor) -> None:
    if sets_PKn.ndim != 3 or len(sets_PKn) != len(mask_PN) or 0 in sets_PKn.shape[1:]:
        raise ValueError(
            f"sets_PKn has shape {tuple(sets_PKn.shape)} for {len(mask_PN)} prompts: give (prompts, sets, set size)."
        )
    if mask_PN.numel() == 0:
        return
    member_PKn = sets_PKn.to(mask_PN.device).long().sort(-1).values
    member_PM = member_PKn.flatten(1)
    there_PM = (member_PM >= 0) & (member_PM < mask_PN.shape[1])
    there_PM &= mask_PN.gather(1, member_PM.clamp(0, mask_PN.shape[1] - 1))
    once_PK = (member_PKn[..., 1:] != member_PKn[..., :-1]).all(-1)
    unused_P1 = ~mask_PN.any(1, keepdim=True)
    if not ((there_PM | unused_P1).all() and (once_PK | unused_P1).all()):
        raise ValueError(
            "sets_PKn has a set that names a rollout twice, or one that is masked or not there: "
            "draw the sets with sample_sets."
        )


def _finish(advantage_PN: Tensor, dtype: torch.dtype, reduction: str) -> Tensor:
    advantage_PN = advantage_PN.to(dtype)
    if not all_finite(advantage_PN):
        raise ValueError(f"reduction {reduction!r} leads beyond the range of {dtype}: use 'mean', or smaller rewards.")
    return advantage_PN
