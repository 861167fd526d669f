"""Two runs on one host, each with a Ray of its own, as users start them: weights must not cross."""

from __future__ import annotations

import json
import os
import subprocess
import sys

VERLS = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"

# In a worker of Ray, as the trainer is; and what a process sees that it starts, as vLLM's engine is.
RUN = f"""
import json, os, subprocess, sys
import ray

@ray.remote
def address():
    from verl_setpo.platforms.vllm_rollout import own_handle

    seen = subprocess.run(["printenv", "RAY_RAYLET_PID"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return [ray.get_runtime_context().get_job_id(), own_handle({VERLS!r}), os.environ["RAY_RAYLET_PID"], seen.strip()]

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(json.dumps(ray.get(address.remote())), flush=True)
sys.stdin.readline()  # until the other has told too
"""


def test_each_run_has_its_own_socket_for_new_weights():
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        told = [json.loads(run.stdout.readline()) for run in runs]
    finally:
        for run in runs:
            run.communicate("\n", timeout=60)
    (job_a, address_a, raylet_a, engine_a), (job_b, address_b, raylet_b, engine_b) = told
    assert job_a == job_b  # why verl's own address does not do
    assert address_a != address_b
    assert (raylet_a, raylet_b) == (engine_a, engine_b)  # so both ends have the same address
