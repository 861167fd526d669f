"""Set objectives f(G) and their one registry.

An objective is a symmetric function of the rewards and clusters of the n rollouts of a set, written for the last axis
and any leading ones:

    @register_objective("two_ways")
    def two_ways(rewards_n, clusters_n):
        return (count_distinct(clusters_n) >= 2).double()

It is at once usable by name in `marginal_set_advantage` and in the estimator `set_rl`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from verl_setpo.set_rl.closed_forms import (
    CORRECT_ABOVE,
    coverage_over_all_sets,
    mean_over_all_sets,
    pass_at_n_over_all_sets,
    polychromic_over_all_sets,
)
from verl_setpo.set_rl.clusters import count_distinct

ObjectiveFunction = Callable[..., Tensor]
ClosedForm = Callable[[Tensor, Tensor | None, Tensor, int], Tensor]
Function = TypeVar("Function", bound=ObjectiveFunction)


@dataclass(frozen=True)
class Objective:
    """A set objective: its name, the function of a set, and, if known, its mean over all sets with a rollout."""

    name: str
    function: ObjectiveFunction
    closed_form: ClosedForm | None = None
    needs_clusters: bool = False
    needs_kernel: bool = False


_OBJECTIVES: dict[str, Objective] = {}


def register_objective(
    name: str, closed_form: ClosedForm | None = None, *, needs_clusters: bool = False, needs_kernel: bool = False
) -> Callable[[Function], Function]:
    """Decorator that makes a set objective usable by `name`.

    The function gets `rewards_...n` (float64) and `clusters_...n` (int64 labels below N, in place of the
    caller's ids; -1 for degenerate rollouts; None when the caller gave no clusters), and returns `value_...`. It
    must not depend on the order within a set, nor on which number a cluster has. Without a closed form all sets are
    listed, up to `ENUMERATION_LIMIT` a prompt, or `num_sets` of them are drawn.

    Args:
        name: any word without a colon.
        closed_form: `closed_form(rewards_PN, labels_PN, mask_PN, set_size) -> value_PN`, the mean of f over all sets
            that contain a rollout; see `verl_setpo.set_rl.closed_forms`.
        needs_clusters: whether a call without clusters is refused.
        needs_kernel: whether a call without a kernel is refused. Such a function gets `kernel_...nn` (float64) as its
            third argument.

    Raises:
        ValueError: the name is taken by another function, or has a colon.
    """
    if ":" in name:
        raise ValueError(f"objective name {name!r} has a colon, which marks an import path: choose a name without.")

    def register(function: Function) -> Function:
        taken = _OBJECTIVES.get(name)
        # The same function again, as when its module is reloaded, takes the place of the old one.
        if taken is not None and _where(taken.function) != _where(function):
            raise ValueError(f"objective {name!r} is already {_where(taken.function)}: choose another name.")
        _OBJECTIVES[name] = Objective(name, function, closed_form, needs_clusters, needs_kernel)
        return function

    return register


def get_objective(objective: str | ObjectiveFunction | Objective) -> Objective:
    """The objective for a registered name, an import path "package.module:function", or a function itself.

    A function that is registered comes back with its closed form, however it was named.

    Raises:
        ValueError: unknown name, or an import path that does not import or does not lead to a function.
    """
    if isinstance(objective, Objective):
        return objective
    if callable(objective):
        for known in _OBJECTIVES.values():
            if known.function is objective:
                return known
        return Objective(getattr(objective, "__name__", repr(objective)), objective)
    if isinstance(objective, str) and ":" in objective:
        return get_objective(_import_objective(objective))
    if not isinstance(objective, str) or objective not in _OBJECTIVES:
        raise ValueError(
            f"objective {objective!r} is not known: use one of {', '.join(objective_names())}, register it with "
            'register_objective, or give its import path "package.module:function".'
        )
    return _OBJECTIVES[objective]


def objective_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_OBJECTIVES)


def _import_objective(path: str) -> ObjectiveFunction:
    module_name, _, attribute = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ValueError(
            f"objective {path!r} cannot be imported ({type(error).__name__}: {error}): "
            'give "package.module:function" of a module on the Python path of every worker.'
        ) from error
    if not callable(function):
        raise ValueError(f"objective {path!r} is a {type(function).__name__}: give the path of a function.")
    return function


def _where(function: ObjectiveFunction) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


@register_objective("polychromic", polychromic_over_all_sets, needs_clusters=True)
def polychromic(rewards_n: Tensor, clusters_n: Tensor, zero_single_cluster: bool = True) -> Tensor:
    """Poly-EPO's f(G) = mean reward x distinct clusters / n, arXiv 2604.17654, Eq. 10 and 11.

    Degenerate rollouts add no cluster, but count in the mean and in n. With `zero_single_cluster`, the paper's
    algorithm, a set with fewer than two clusters is worth 0; so every set is at n = 1.
    """
    distinct = count_distinct(clusters_n)
    if zero_single_cluster:
        distinct = torch.where(distinct >= 2, distinct, 0)
    return rewards_n.mean(-1) * distinct / rewards_n.shape[-1]


@register_objective("pass_at_n", pass_at_n_over_all_sets)
def pass_at_n(rewards_n: Tensor, clusters_n: Tensor | None) -> Tensor:
    """f(G) = largest reward, pass@n for rewards 0 and 1 (PKPO, arXiv 2505.15201)."""
    return rewards_n.amax(-1)


@register_objective("mean", mean_over_all_sets)
def mean(rewards_n: Tensor, clusters_n: Tensor | None) -> Tensor:
    """f(G) = mean reward. With n = 1 the marginal advantage is GRPO's without the standard deviation."""
    return rewards_n.mean(-1)


@register_objective("coverage", coverage_over_all_sets, needs_clusters=True)
def coverage(rewards_n: Tensor, clusters_n: Tensor) -> Tensor:
    """f(G) = distinct clusters with a correct rollout (reward above 0.5) / n, in [0, 1]. Degenerates do not count.

    Unlike the polychromic objective it pays nothing for a wrong rollout in a rare cluster. Not from the papers.
    """
    return (
        count_distinct(torch.where(rewards_n > CORRECT_ABOVE, clusters_n, -1)).to(rewards_n.dtype) / rewards_n.shape[-1]
    )


@register_objective("smooth_polychromic", needs_clusters=True)
def smooth_polychromic(rewards_n: Tensor, clusters_n: Tensor) -> Tensor:
    """f(G) = mean reward x effective number of clusters / n, with the exponential of the entropy of the cluster shares.

    A set of 3 + 1 counts as less diverse than one of 2 + 2, where the polychromic objective sees two clusters in both.
    Degenerates have no share, but count in the mean and in n. Not from the papers.
    """
    labelled_n = clusters_n >= 0
    same_nn = (clusters_n[..., :, None] == clusters_n[..., None, :]) & labelled_n[..., None, :]
    size_n, total = (counted.sum(-1).to(rewards_n.dtype) for counted in (same_nn, labelled_n))
    share_n = size_n / total.clamp(min=1)[..., None]
    # The sum over clusters of p log p is the mean over their rollouts of log p.
    entropy = -torch.where(labelled_n, share_n.log(), 0.0).sum(-1) / total.clamp(min=1)
    effective = torch.where(total > 0, entropy.exp(), 0.0)
    return rewards_n.mean(-1) * effective / rewards_n.shape[-1]


@register_objective("vendi", needs_kernel=True)
def vendi(rewards_n: Tensor, clusters_n: Tensor | None, kernel_nn: Tensor) -> Tensor:
    """f(G) = mean reward x Vendi score / n: the effective number of rollouts by a similarity kernel (arXiv 2210.02410).

    The Vendi score is the exponential of the entropy of the eigenvalues of the kernel / n; with a kernel of equal
    clusters it is their effective number, as in `smooth_polychromic`. Costs an eigenvalue problem per set.
    """
    eigenvalue_n = torch.linalg.eigvalsh(kernel_nn / kernel_nn.shape[-1]).clamp(min=0)
    # A kernel of clamped cosines can have eigenvalues below 0; those that are left are shares all the same.
    eigenvalue_n = eigenvalue_n / eigenvalue_n.sum(-1, keepdim=True)
    entropy = -torch.xlogy(eigenvalue_n, eigenvalue_n).sum(-1)
    return rewards_n.mean(-1) * entropy.exp() / rewards_n.shape[-1]


# What `zero_single_cluster=False` stands for.
POLYCHROMIC_PAYING_SINGLES = Objective(
    "polychromic",
    partial(polychromic, zero_single_cluster=False),
    partial(polychromic_over_all_sets, zero_single_cluster=False),
    needs_clusters=True,
)
