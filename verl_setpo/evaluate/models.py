"""What is evaluated: a Hugging Face folder, a model of the hub, a checkpoint of verl, or all checkpoints of a run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verl_setpo.evaluate.sets import folder_name, split_name
from verl_setpo.evaluation.text import printable

Backend = Literal["hf", "fsdp", "megatron"]

_STEP = re.compile(r"global_step_([0-9]+)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.distcp")
_BLOCK, _BLOCKS = 1 << 16, 16


@dataclass(frozen=True)
class Model:
    """One model. run: what it is called, a folder's name. step: of training; 0 for what is no checkpoint.

    path: what vLLM loads (backend "hf"), or the folder with the shards to merge.
    """

    run: str
    step: int
    path: Path
    backend: Backend


def find_models(specs: Sequence[str], steps: Collection[int] | None = None) -> list[Model]:
    """The models that each MODEL or NAME=MODEL names.

    Args:
        steps: of a run's folder only these checkpoints; None: all.

    Raises:
        ValueError: one that is no model, or two with one name; the message is one sentence for the user.
    """
    found: dict[tuple[str, int], Model] = {}
    for spec in specs:
        name, text = split_name(spec)
        for model in _find(name, text, steps):
            other = found.setdefault((model.run, model.step), model)
            if other is not model:
                raise ValueError(
                    f"{printable(other.path)} and {printable(model.path)} are both called {model.run!r}: "
                    f"name one of them, {model.run}-2={printable(text)}"
                )
    return list(found.values())


def _find(name: str | None, text: str, steps: Collection[int] | None) -> list[Model]:
    folder = Path(text).expanduser()
    if folder.is_file():
        raise ValueError(f"{printable(folder)} is a file: name the folder that has the model's config.json")
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(text):
            raise ValueError(f"There is no folder {printable(folder)}, and it is no model of the hub (owner/name).")
        return [Model(name or folder_name(text.partition("@")[0].rpartition("/")[2]), 0, from_hub(text), "hf")]
    folder = folder.resolve()
    if (folder / "config.json").is_file():
        return [Model(name or folder_name(folder.name), 0, folder, "hf")]
    if _is_actor(folder):
        return [_checkpoint(name, folder)]
    if (folder / "actor").is_dir():
        return [_checkpoint(name, folder / "actor")]
    return _run(name, folder, steps)


def _run(name: str | None, folder: Path, steps: Collection[int] | None) -> list[Model]:
    for parent in (folder, folder / "checkpoints"):
        known = {
            int(match[1]): path / "actor"
            for path in (parent.iterdir() if parent.is_dir() else ())
            if (match := _STEP.fullmatch(path.name)) and (path / "actor").is_dir()
        }
        if not known:
            continue
        unknown = sorted(set(steps or ()) - set(known))
        if unknown:
            there = ", ".join(map(str, sorted(known)))
            raise ValueError(f"--steps: {printable(parent)} has no global_step_{unknown[0]}; it has {there}.")
        return [_checkpoint(name, known[step]) for step in sorted(known) if steps is None or step in steps]
    raise ValueError(
        f"{printable(folder)} has no config.json, no checkpoint of verl (actor/, fsdp_config.json) and no "
        "global_step_*: name a Hugging Face folder, a checkpoint or a run's folder of checkpoints."
    )


def _is_actor(folder: Path) -> bool:
    return (folder / "fsdp_config.json").is_file() or any(
        (folder / name).is_dir() for name in ("model/dist_ckpt", "model/huggingface", "dist_ckpt")
    )


def _checkpoint(name: str | None, actor: Path) -> Model:
    """The checkpoint in verl's folder `actor`.

    Raises:
        ValueError: it is in no format of verl 0.9.1, or not whole.
    """
    match = _STEP.fullmatch(actor.parent.name) or _STEP.fullmatch(actor.name)
    step = int(match[1]) if match else 0
    holder = actor.parent.parent if actor.name == "actor" else actor.parent
    if holder.name == "checkpoints":
        holder = holder.parent
    run = name or folder_name(holder.name)
    for whole in (actor / "huggingface", actor / "model" / "huggingface"):
        # verl's save_contents had hf_model, or Megatron wrote by a bridge: there is nothing to merge.
        if (whole / "config.json").is_file() and any(whole.glob("*.safetensors")):
            return Model(run, step, whole, "hf")
    if (actor / "fsdp_config.json").is_file():
        _check_fsdp(actor)
        return Model(run, step, actor, "fsdp")
    if (actor / "model" / "dist_ckpt").is_dir():
        return Model(run, step, actor, "megatron")
    if (actor / "dist_ckpt").is_dir():
        raise ValueError(
            f"{printable(actor)} is a Megatron checkpoint in the layout before verl 0.9: "
            "bring it up to date with verl's scripts/migrate_megatron_checkpoint_layout.py."
        )
    raise ValueError(
        f"{printable(actor)} has neither fsdp_config.json nor model/dist_ckpt: it is no checkpoint of verl."
    )


def _check_fsdp(actor: Path) -> None:
    try:
        ranks = int(json.loads((actor / "fsdp_config.json").read_text())["world_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{printable(actor / 'fsdp_config.json')} has no world_size: copy the checkpoint anew."
        ) from None
    for rank in range(ranks):
        shard = actor / f"model_world_size_{ranks}_rank_{rank}.pt"
        if not shard.is_file():
            raise ValueError(f"{printable(shard)} is missing: copy the checkpoint whole, with the shards of all nodes.")


def from_hub(spec: str) -> Path:
    """The folder of a model of the hub, downloaded unless it is in the hub's cache: owner/name, or owner/name@revision.

    Raises:
        ValueError: it cannot be had; the message is one sentence for the user.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = spec.partition("@")
    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the hub's own, requests', httpx', OSError: as many as its versions
        cause = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{printable(spec)} is no folder here and not on the hub: {printable(cause)}") from error


def fingerprint(folder: Path) -> str:
    """A digest of the model's files, in hex, that takes no reading of all its gigabytes.

    Of weights it takes their size and 16 blocks spread over each file, of all else the whole.
    """
    digest = hashlib.sha256()
    weights = {path for pattern in _WEIGHTS for path in folder.rglob(pattern)}
    others = {path for pattern in ("*.json", "*.jinja", "*.txt", "*.model") for path in folder.rglob(pattern)}
    for path in sorted(weights | others):
        if path.name.startswith(("optim_", "extra_state_")):
            continue  # of training, not of the model
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)}\0{size}\0".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            if path not in weights or size <= _BLOCK * _BLOCKS:
                digest.update(file.read())
                continue
            for number in range(_BLOCKS):
                file.seek((size - _BLOCK) * number // (_BLOCKS - 1), os.SEEK_SET)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
