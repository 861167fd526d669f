"""A set objective of a user's own module, as `algorithm.set_rl.objective=tests.trainer.objectives:worst` names it."""

import torch


def worst(rewards_n: torch.Tensor, clusters_n: torch.Tensor) -> torch.Tensor:
    """f(G) = smallest reward."""
    return rewards_n.amin(-1)
