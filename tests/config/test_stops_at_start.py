"""A real `python -m verl.trainer.main_ppo` with a config that cannot work ends before Ray starts, in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISTAKES = {
    "estimator without mode": (
        ["algorithm.adv_estimator=set_loo"],
        "algorithm.adv_estimator=set_loo needs trainer.v1.trainer_mode=set_sync",
    ),
    "group without mode": (
        ["+set_rl=set_loo", "trainer.v1.trainer_mode=sync", "actor_rollout_ref.rollout.n=4"],
        "set trainer.v1.trainer_mode=set_sync",
    ),
    "auto without a share": (
        ["+set_rl=set_loo", "algorithm.set_rl.coef=auto", "actor_rollout_ref.rollout.n=4"],
        "algorithm.set_rl.coef=auto needs algorithm.set_rl.target_share",
    ),
    "set of the whole group": (
        ["+set_rl=poly_epo", "actor_rollout_ref.rollout.n=4"],
        "algorithm.set_rl.set_size=4 must be smaller than actor_rollout_ref.rollout.n=4",
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All at once: each takes its time to import verl."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "verl.trainer.main_ppo", *overrides],
            cwd=tmp_path_factory.mktemp("run"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (overrides, _) in MISTAKES.items()
    }
    return {name: (*process.communicate(timeout=300), process.returncode) for name, process in processes.items()}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_the_run_ends_before_ray_starts_with_a_sentence_that_names_the_key(runs, mistake):
    out, err, code = runs[mistake]
    assert code != 0
    last = err.strip().splitlines()[-1]
    assert last.startswith("verl_setpo: ")
    assert MISTAKES[mistake][1] in last
    assert "Traceback" not in err
    # verl prints this just before it starts Ray, and Ray this when it has started.
    assert "ray init kwargs" not in out
    assert "Started a local Ray instance" not in err
