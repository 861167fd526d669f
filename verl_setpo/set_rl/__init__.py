"""The mathematics of SetPO and Poly-EPO: pure functions of torch tensors, without verl, ray, config or I/O.

- SetPO (arXiv 2602.01062): `set_loo` turns a similarity kernel into each rollout's leave-one-out credit.
- Poly-EPO (arXiv 2604.17654): `marginal_set_advantage` turns rewards and clusters into marginal set advantages,
  for the polychromic objective (arXiv 2509.25424), pass@n, the mean, and any objective that you register.
- GRPO+DIV, the papers' baseline: `grpo_div`.

A tensor's name ends in its shape, here and in the whole project:

    P  prompts: one row per group of rollouts
    N  rollouts of a prompt; a prompt with fewer than the widest has masked places, and its own N_p
    D  embedding dimension
    K  sets of a prompt
    n  rollouts in a set (`set_size`)
    C  cluster slots of a prompt, never more than N

A mask is true where there is a rollout. What stands at a masked place, NaN included, never reaches a result, and a
masked place gets 0. A row may be masked as a whole. Results keep the input's dtype; half precision and integers
become float32. The work in between is in float64, since credits are small differences of large sums.
"""

from verl_setpo.set_rl.decomposition import CreditTerms, polychromic_decomposition, set_diversity, set_loo_decomposition
from verl_setpo.set_rl.diversity_bonus import grpo_div
from verl_setpo.set_rl.kernels import cosine_kernel, equality_kernel, rbf_kernel
from verl_setpo.set_rl.leave_one_out import SHAPINGS, group_diversity, set_loo
from verl_setpo.set_rl.marginal import advantage_from_sets, marginal_set_advantage
from verl_setpo.set_rl.objectives import Objective, get_objective, objective_names, register_objective
from verl_setpo.set_rl.sets import ENUMERATION_LIMIT, count_left_out, has_more_sets, sample_sets

__all__ = [
    "ENUMERATION_LIMIT",
    "SHAPINGS",
    "CreditTerms",
    "Objective",
    "advantage_from_sets",
    "cosine_kernel",
    "count_left_out",
    "equality_kernel",
    "get_objective",
    "group_diversity",
    "grpo_div",
    "has_more_sets",
    "marginal_set_advantage",
    "objective_names",
    "polychromic_decomposition",
    "rbf_kernel",
    "register_objective",
    "sample_sets",
    "set_diversity",
    "set_loo",
    "set_loo_decomposition",
]
