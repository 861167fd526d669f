"""What a trainer of ours sets up before verl's own starts: its config as the rest of verl must see it, and its log."""

from __future__ import annotations

import logging

import ray
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_setpo.signals import Run
from verl_setpo.trainer.config_check import TRAINER_MODES, Method


def keep_warnings() -> None:
    """Log where verl's trainer process does: a library that vLLM imports there raises the root's level to ERROR."""
    ours, verls = logging.getLogger("verl_setpo"), logging.getLogger("verl")
    if verls.handlers:
        ours.handlers, ours.propagate = list(verls.handlers), False
        ours.setLevel(logging.WARNING)


def count_nodes() -> int:
    """Nodes of the cluster that run actors; 1 where Ray has not started."""
    return max(sum(node["Alive"] for node in ray.nodes()), 1) if ray.is_initialized() else 1


def prepare_config(config: DictConfig, method: Method, run: Run) -> None:
    """Write into verl's config what the rest of verl must see under our method."""
    with open_dict(config):
        config.algorithm.set_rl.run = {"name": run.name, "nodes": run.nodes}
        # verl compares the mode's name and looks up keys by it, so the parent class must see its own.
        config.trainer.v1.trainer_mode = TRAINER_MODES[config.trainer.v1.trainer_mode]
        config.algorithm.adv_estimator = method.estimator
        config.algorithm.set_rl.base_estimator = method.base_estimator
        if method.base_estimator == "gae" and config.critic.enable is None:
            config.critic.enable = True  # verl would decide by adv_estimator, which is ours
        manager = config.reward.reward_manager
        if manager.name != "set_rl":
            # A recipe's own reward manager keeps giving the reward, inside ours.
            config.algorithm.set_rl.reward_manager = OmegaConf.create(OmegaConf.to_container(manager))
            manager.source, manager.name = "register", "set_rl"
