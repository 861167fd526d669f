"""Where new weights go to vLLM: a socket of this run's own."""

from __future__ import annotations

import os
from typing import Any

from verl.workers.rollout.vllm_rollout import ServerAdapter


def own_handle(handle: str) -> str:
    """verl's address of the weights' socket, with this Ray cluster in its name.

    verl tells runs on one host apart by their Ray job id, which is 01000000 in every cluster of its own: two runs side
    by side would connect to each other's socket and wait for ever, or take each other's weights. All processes below a
    raylet, vLLM's engine among them, inherit its process id.
    """
    return handle.replace("/rl-colocate-zmq-", f"/rl-colocate-zmq-{os.environ.get('RAY_RAYLET_PID', '0')}-")


class CpuServerAdapter(ServerAdapter):
    """verl's rollout by vLLM, with a socket that no other run on this host has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zmq_handle = own_handle(self.zmq_handle)
