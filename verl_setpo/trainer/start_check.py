"""Hydra's callback that checks the composed config in the launching process, before Ray starts."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class StartCheck(Callback):
    """Every config group of `set_rl` adds this under `hydra.callbacks`."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raise SystemExit with one sentence; Hydra turns any other exception of a callback into a warning."""
        from verl_setpo.trainer.config_check import TRAINER_MODES, check_config
        from verl_setpo.trainer.inputs_check import check_inputs

        try:
            if config.algorithm.get("set_rl") is not None or config.trainer.v1.trainer_mode in TRAINER_MODES:
                check_config(config)
            check_inputs(config)
        except ValueError as error:
            raise SystemExit(f"verl_setpo: {error}") from None
