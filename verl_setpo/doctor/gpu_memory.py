"""Is there room on the GPUs for what works beside training: vLLM's share, and a local embedder or a judge?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from verl_setpo.doctor.check import Check

CONTEXT_GB = 0.5
"""CUDA's own memory in each process, as commonly seen; not of our measuring."""
_GB = 2**30


def memory_checks(config: DictConfig) -> Iterator[Check]:
    """Each GPU that this process sees, against what a run takes of it."""
    name = "GPU memory"
    if config.trainer.get("device") != "cuda" or not torch.cuda.is_available():
        yield Check(name, "not done", f"trainer.device={config.trainer.get('device')}, and torch sees no GPU here")
        return
    share = served_share(config)
    needed, what = embedder_needs(config)
    for index in range(torch.cuda.device_count()):
        free, total = (number / _GB for number in torch.cuda.mem_get_info(index))
        yield judged(f"{name} {index}", free, total, share, needed, what)


def served_share(config: DictConfig) -> float:
    """Of each GPU's memory, what vLLM is given: for rollouts or, where it serves a reward model, a judge or an embedder
    on the same GPUs, for that, whichever is more. They take turns."""
    shares = [float(config.actor_rollout_ref.rollout.gpu_memory_utilization)]
    server = config.reward.reward_model
    if server.enable and not server.enable_resource_pool:
        shares.append(float(server.rollout.gpu_memory_utilization))
    return max(shares)


def judged(name: str, free: float, total: float, share: float, needed: float, what: str) -> Check:
    """One GPU. free, total, needed: GB. share: of the total, for vLLM."""
    rest = free - share * total
    found = f"{free:.1f} of {total:.1f} GB free, vLLM takes {share * total:.1f}, {max(rest, 0):.1f} left"
    if rest < 0:
        cure = "End what else is on this GPU, or lower actor_rollout_ref.rollout.gpu_memory_utilization."
        return Check(name, "fail", found, cure)
    if not what:
        return Check(name, "ok", found)
    found = f"{found}; {what} needs about {needed:.1f}"
    if needed > rest:
        cure = (
            "Lower actor_rollout_ref.rollout.gpu_memory_utilization or algorithm.set_rl.signal.batch_tokens, or set "
            "signal.device=cpu, signal.num_gpus=0."
        )
        return Check(name, "fail", found, cure)
    return Check(name, "ok", found)


def embedder_needs(config: DictConfig) -> tuple[float, str]:
    """GB of a local embedder on a GPU and its name; (0, "") where none is there. Not of the trainer's own model."""
    signal = (config.algorithm.get("set_rl") or {}).get("signal") or {}
    if signal.get("kind") != "local" or not str(signal.get("device", "cpu")).startswith("cuda"):
        return 0.0, ""
    folder = _folder(str(signal["model"]))
    if folder is None:
        return CONTEXT_GB, f"{signal['model']}, not here to be weighed,"
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / _GB
    shape: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return weights + CONTEXT_GB + activations_gb(shape, int(signal.get("batch_tokens", 0))), str(signal["model"])


def activations_gb(shape: dict[str, Any], tokens: int) -> float:
    """What one layer holds at its widest, in 4 bytes a number, when nothing is kept for a backward pass: about the
    input, its norm, queries, keys, values and output (6 widths), and three times the width of the MLP."""
    hidden = int(shape.get("hidden_size", 0))
    return tokens * (6 * hidden + 3 * int(shape.get("intermediate_size", 4 * hidden))) * 4 / _GB


def _folder(model: str) -> Path | None:
    """A model's folder, here or in the hub's cache."""
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return path
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no name of the hub's
        return None
    return Path(cached).parent if isinstance(cached, str) else None
