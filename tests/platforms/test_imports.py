"""What a fresh process has after an import: verl finds us by itself, and our mathematics needs neither verl nor ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ["verl", "ray", "vllm", "hydra", "omegaconf", "transformers", "transfer_queue"]
REGISTERED = """
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.plugin.platform import get_platform
from verl.trainer.ppo.v1 import get_trainer_cls
names = sorted(set(ADV_ESTIMATOR_REGISTRY) & {"set_loo", "poly_epo", "grpo_div", "set_rl"})
modes = [get_trainer_cls(mode).__name__ for mode in ("set_sync", "set_colocate_async", "set_separate_async")]
print(json.dumps([names, modes, get_reward_manager_cls("set_rl").__name__, get_platform().device_name]))
"""
CODE = {
    "verl_setpo.set_rl": f"import verl_setpo.set_rl; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))",
    "verl": "import verl" + REGISTERED,
    "verl_setpo.plugin before verl": "import verl_setpo.plugin" + REGISTERED,
}


@pytest.fixture(scope="module")
def printed():
    """Module -> what a fresh process prints after its import; all at once."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", f"import json, sys; {code}"],
            env={**os.environ, "VERL_PLATFORM": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, code in CODE.items()
    }
    outputs = {name: process.communicate(timeout=300)[0] for name, process in processes.items()}
    assert {process.returncode for process in processes.values()} == {0}
    return {name: json.loads(out.strip().splitlines()[-1]) for name, out in outputs.items()}


def test_our_package_and_its_mathematics_import_neither_verl_nor_ray(printed):
    assert printed["verl_setpo.set_rl"] == []


@pytest.mark.parametrize("module", ["verl", "verl_setpo.plugin before verl"])
def test_importing_verl_registers_all_that_is_ours(printed, module):
    """verl swallows what a plugin raises. vLLM's workers may import our module first."""
    estimators, modes, manager, device = printed[module]
    assert estimators == ["grpo_div", "poly_epo", "set_loo", "set_rl"]
    assert modes == ["SetSyncTrainer", "SetColocateAsyncTrainer", "SetSeparateAsyncTrainer"]
    assert manager == "SetRewardManager"
    assert device == "cpu"
