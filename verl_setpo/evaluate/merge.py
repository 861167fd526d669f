"""A checkpoint's shards as a Hugging Face folder, by verl's own merger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from verl_setpo.evaluate.models import Model
from verl_setpo.evaluation.text import printable
from verl_setpo.tasks.files import new_folder


def hf_folder(model: Model, merged: Path, log: Path) -> Path:
    """The folder that vLLM loads: the model's own, or `merged`, which is made whole or not at all, and only once.

    verl's merger writes bfloat16, whatever the shards hold.

    Args:
        log: takes what the merger says.

    Raises:
        ValueError: the merger fails, or the checkpoint is one of LoRA; the message is one sentence for the user.
    """
    if model.backend == "hf":
        return model.path
    if (merged / "config.json").is_file():
        return merged
    # What a merge that was killed has left.
    for left in merged.parent.glob(f".{merged.name}.*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    with new_folder(merged, record="config.json") as folder:
        _merge(model, folder, log)
        if (folder / "lora_adapter").is_dir():
            raise ValueError(
                f"{printable(model.path)} is a checkpoint of LoRA, whose adapter verl's merger leaves apart: "
                "merge the adapter into its base model and name that folder."
            )
    return merged


def _merge(model: Model, folder: Path, log: Path) -> None:
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", model.backend]
    command += ["--local_dir", str(model.path), "--target_dir", str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Safe path: a file of the user's in the folder that we are started in must not pass for a library.
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
        )
        try:
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if status != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else f"status {status}"
        raise ValueError(f"verl's merger failed at {printable(model.path)}: {printable(last)} (see {printable(log)})")
