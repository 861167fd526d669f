"""The figures under `set_rl/` of one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from verl_setpo.set_rl import group_diversity, polychromic_decomposition, set_diversity, set_loo_decomposition
from verl_setpo.set_rl.clusters import count_distinct
from verl_setpo.trainer.estimators import Step
from verl_setpo.trainer.settings import WITH_COEF


@dataclass(frozen=True)
class StepReport:
    """What the metrics and the rollout log are made of.

    advantage_PN: as trained on. clusters_PN: the method's clusters or, for a method with a kernel, clusters of equal
    answers; all -1 when no answer is known. failed_P: prompts whose signal failed. too_small: prompts with too few
    rollouts. out_of_range: odd rewards.
    """

    estimator: str
    step: Step
    advantage_PN: torch.Tensor
    clusters_PN: torch.Tensor
    failed_P: torch.Tensor
    too_small: int
    out_of_range: int


def step_metrics(report: StepReport) -> dict[str, float]:
    """Figures of one step; README.md says how to read each."""
    step, settings = report.step, report.step.settings
    mask_PN = step.groups.mask_PN
    prompts = max(len(step.groups.uids), 1)
    correct_PN = mask_PN & (step.rewards_PN > settings.correct_threshold)
    zero_P = (torch.where(mask_PN, report.advantage_PN, 0.0) == 0).all(-1)
    metrics = {
        "set_rl/prompts_with_correct": correct_PN.any(-1).float().mean().item() if prompts else 0.0,
        "set_rl/zero_advantage_prompts": zero_P.float().mean().item(),
        "set_rl/signal_failed_groups": float(report.failed_P.sum()),
        "set_rl/groups_too_small": float(report.too_small),
        "set_rl/rewards_out_of_range": float(report.out_of_range),
        **_in_force(report),
        **_cluster_metrics(report, correct_PN),
        **_credit_metrics(report),
        **_credit_parts(report),
    }
    diversity_P = _set_diversity(report)
    if len(diversity_P):
        metrics["set_rl/set_diversity/mean"] = diversity_P.mean().item()
    return metrics


def _in_force(report: StepReport) -> dict[str, float]:
    """What scaled the diversity term in this step."""
    if report.estimator not in WITH_COEF:
        left_out = report.step.left_out
        drawn = {} if left_out is None else {"set_rl/rollouts_in_no_set": float(left_out)}
        return {"set_rl/set_size": float(report.step.set_size), **drawn}
    metrics = {"set_rl/coef": report.step.coef}
    if report.step.auto_coef is not None:
        means = report.step.auto_coef.means
        metrics |= {"set_rl/coef_auto/credit": means.credit, "set_rl/coef_auto/rest": means.rest}
    return metrics


def _cluster_metrics(report: StepReport, correct_PN: torch.Tensor) -> dict[str, float]:
    mask_PN, clusters_PN = report.step.groups.mask_PN, report.clusters_PN
    from_signal = report.step.signal.clusters_PN is not None
    if from_signal:
        # A judge that said nothing about a group did not call its rollouts degenerate.
        mask_PN, clusters_PN, correct_PN = (x[~report.failed_P] for x in (mask_PN, clusters_PN, correct_PN))
    # Under a kernel the clusters are of answers, and a task may have none.
    if not mask_PN.any() or not (from_signal or (clusters_PN[mask_PN] >= 0).any()):
        return {}
    return {
        "set_rl/clusters_per_prompt/mean": _distinct(clusters_PN, mask_PN).mean().item(),
        "set_rl/correct_clusters_per_prompt/mean": _distinct(clusters_PN, correct_PN).mean().item(),
        "set_rl/degenerate_fraction": (clusters_PN[mask_PN] < 0).float().mean().item(),
    }


def _credit_metrics(report: StepReport) -> dict[str, float]:
    step = report.step
    assert step.credit_PN is not None
    credit = step.credit_PN[step.counted_PN].float()
    if not len(credit):
        return {}
    rest = report.advantage_PN[step.counted_PN].float() - credit
    size, rest_size = credit.abs().mean().item(), rest.abs().mean().item()
    return {
        "set_rl/credit/mean": credit.mean().item(),
        "set_rl/credit/std": credit.std(unbiased=False).item(),
        "set_rl/credit/min": credit.min().item(),
        "set_rl/credit/max": credit.max().item(),
        # Of the advantage's size, the part that diversity brought.
        "set_rl/credit_share": size / (size + rest_size) if size + rest_size > 0 else 0.0,
    }


def _credit_parts(report: StepReport) -> dict[str, float]:
    """Mean size of the terms that a credit is the sum of (SetPO's Theorem 4.3, Poly-EPO's Eq. 15)."""
    step, settings = report.step, report.step.settings
    if not step.counted_PN.any():
        return {}
    if report.estimator == "set_loo":
        terms = set_loo_decomposition(step.kernel_PNN, step.usable_PN, settings.shaping)._asdict()
        parts = {name.removesuffix("_PN"): step.coef * term_PN for name, term_PN in terms.items()}
    elif report.estimator == "poly_epo" and settings.num_sets is None and settings.reduction == "mean":
        product_PN, covariance_PN = polychromic_decomposition(
            step.rewards_PN,
            report.clusters_PN,
            set_size=step.set_size,
            mask_PN=step.usable_PN,
            zero_single_cluster=settings.zero_single_cluster,
        )
        parts = {"product": product_PN, "covariance": covariance_PN}
    else:
        return {}
    return {f"set_rl/credit_parts/{name}": part[step.counted_PN].abs().mean().item() for name, part in parts.items()}


def _set_diversity(report: StepReport) -> torch.Tensor:
    """(usable prompts,) the method's own diversity of a set: SetPO's D(S), or Poly-EPO's mean of |U(G)|/n."""
    step, usable_P = report.step, report.step.usable_P
    mask_PN = step.usable_PN[usable_P]
    if report.estimator != "set_loo":
        size = step.set_size if report.estimator != "grpo_div" else 2
        return set_diversity(report.clusters_PN[usable_P], set_size=size, mask_PN=mask_PN)
    return group_diversity(step.kernel_PNN[usable_P], mask_PN, step.settings.shaping)


def _distinct(clusters_PN: torch.Tensor, mask_PN: torch.Tensor) -> torch.Tensor:
    """(P,) distinct clusters, degenerates apart, among the masked rollouts of each prompt."""
    return count_distinct(torch.where(mask_PN, clusters_PN, -1)).float()
