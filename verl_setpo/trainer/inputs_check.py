"""Files, models and GPUs that a run names, looked for before Ray starts.

verl finds a missing one minutes later, inside a Ray actor, under a traceback of that actor. What cannot be seen from
here (hdfs and s3 paths, the GPUs of a Ray cluster that runs already) is left to verl.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig


def check_inputs(config: DictConfig) -> None:
    """Raise ValueError with one sentence for the first input that is not there."""
    for key in ("train_files", "val_files"):
        _check_files(f"data.{key}", config.data.get(key))
    for key, name in _models(config):
        _check_model(key, name)
    if config.trainer.get("device") == "cuda":
        _check_gpus(config)


def _is_remote(path: str) -> bool:
    return "://" in path


def _check_files(key: str, value: Any) -> None:
    names = value if isinstance(value, list | ListConfig) else [] if value is None else [value]
    for name in map(str, names):
        if not _is_remote(name) and not Path(name).expanduser().is_file():
            raise ValueError(
                f"{key}: there is no file {name}: write it with `verl-setpo data NAME --out FOLDER` "
                "(`verl-setpo data --help` lists the names), or name another."
            )


def _models(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Each key that names a model to load, and its value."""
    yield "actor_rollout_ref.model.path", config.actor_rollout_ref.model.path
    if config.reward.reward_model.enable and config.reward.reward_model.model_path:
        yield "reward.reward_model.model_path", config.reward.reward_model.model_path
    signal = (config.algorithm.get("set_rl") or {}).get("signal") or {}
    if signal.get("kind") == "local" and signal.get("model"):
        yield "algorithm.set_rl.signal.model", signal["model"]
    if signal.get("tokenizer"):
        yield "algorithm.set_rl.signal.tokenizer", signal["tokenizer"]


def _check_model(key: str, name: str) -> None:
    folder = Path(name).expanduser()
    # Every tokenizer has the first, every model the second; a model's folder has both.
    file = "tokenizer_config.json" if key.endswith("tokenizer") else "config.json"
    if _is_remote(name) or (folder / file).is_file():
        return
    if folder.exists():
        raise ValueError(f"{key}: the folder {name} has no {file}: name a model's folder, or one on the hub.")
    if name.startswith(("/", "~", ".")) or name.count("/") > 1:
        raise ValueError(f"{key}: there is no folder {name}: name a model's folder, or one on the hub (OWNER/NAME).")
    if os.environ.get("VERL_USE_MODELSCOPE", "").lower() not in ("true", "1"):
        _check_hub(key, name, file)


def _check_hub(key: str, name: str, file: str) -> None:
    """A small file of the model is fetched, as verl will fetch it; from the cache where it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        hf_hub_download(name, file)
    except GatedRepoError:
        cause = "asks for a login: accept its terms on its page and set HF_TOKEN"
    except RepositoryNotFoundError:
        cause = "is not on the hub, and there is no such folder here: check the name, or set HF_TOKEN if it is private"
    except Exception as error:
        cause = (
            f"cannot be had from the hub ({type(error).__name__}), and is not in the cache here: fetch it where there "
            f"is internet (hf download {name}), or name its folder"
        )
    else:
        return
    raise ValueError(f"{key}: {name} {cause}.") from None


def _check_gpus(config: DictConfig) -> None:
    if _ray_runs(config):
        return
    if config.trainer.nnodes > 1:
        raise ValueError(
            f"trainer.nnodes={config.trainer.nnodes} needs a Ray cluster, and none runs here: `ray start --head` on "
            "this node, `ray start --address=THIS_NODE:6379` on the others, then launch again (recipes/README.md)."
        )
    import torch

    needed, text = _gpus_needed(config)
    found = torch.cuda.device_count()
    if found < needed:
        raise ValueError(
            f"{text}, and this machine shows {found}: lower it, set CUDA_VISIBLE_DEVICES, or, for a tiny model without "
            "a GPU, add +platform=cpu."
        )


def _gpus_needed(config: DictConfig) -> tuple[int, str]:
    """GPUs of a run on one node, and the keys that ask for them."""
    asked = {"trainer.n_gpus_per_node": config.trainer.n_gpus_per_node}
    reward_model = config.reward.reward_model
    if reward_model.enable and reward_model.enable_resource_pool:
        asked["reward.reward_model.n_gpus_per_node"] = reward_model.n_gpus_per_node * reward_model.nnodes
    rollout = config.actor_rollout_ref.rollout
    if rollout.get("nnodes", 0) > 0:
        asked["actor_rollout_ref.rollout.n_gpus_per_node"] = rollout.n_gpus_per_node * rollout.nnodes
    needed = sum(asked.values())
    keys = " and ".join(f"{key}={count}" for key, count in asked.items())
    return needed, f"{keys} {'ask' if len(asked) > 1 else 'asks'} for {needed} GPU{'s' if needed != 1 else ''}"


def _ray_runs(config: DictConfig) -> bool:
    """Whether `ray.init` will join a cluster instead of starting one."""
    address = (config.get("ray_kwargs") or {}).get("ray_init", {}).get("address") or os.environ.get("RAY_ADDRESS")
    if address:
        return address != "local"
    return (Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster").is_file()
