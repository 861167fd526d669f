"""Hydra's callback that checks the composed config in the launching process, before Ray starts."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class StartCheck(Callback):
    """Every config group of `set_rl` adds this under `hydra.callbacks`."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raise SystemExit with one sentence; Hydra turns any other exception of a callback into a warning."""
        from verl_setpo.trainer.settings import check_config

        try:
            check_config(config)
        except ValueError as error:
            raise SystemExit(f"verl_setpo: {error}") from None
