"""The checkpoint engine `zmq`: weights from the trainer to separate rollout workers over TCP, without an accelerator.

verl's own engines move weights between devices. This one moves host memory: every rollout worker listens, and the
trainer's rank 0 pushes buckets of tensors to each of them, in safetensors' format. verl imports this module where
`actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module` names it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any

import ray
import torch
import zmq
import zmq.asyncio
from safetensors.torch import load, save
from verl.checkpoint_engine import CheckpointEngine, CheckpointEngineRegistry

BACKEND = "zmq"
KEY = f"actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.{BACKEND}.timeout_s"
WEIGHTS, END = b"weights", b"end"
"""Kinds of messages: a bucket of tensors; how many tensors there were, which is the last one."""


@CheckpointEngineRegistry.register(BACKEND)
class ZmqCheckpointEngine(CheckpointEngine):
    """Weights by a socket for each rollout worker, opened and closed again with each transfer.

    Args:
        bucket_size: bytes of tensors in a message; a larger tensor goes alone. Each end holds a few messages at a time.
        is_master: verl tells the trainer's rank 0 True and its other ranks False, and rollout workers nothing.
        timeout_s: seconds without a message after which a transfer fails.
    """

    def __init__(self, bucket_size: int, is_master: bool | None = None, timeout_s: float = 600.0) -> None:
        self.bucket_size = bucket_size
        self.is_rollout = is_master is None
        self.timeout_s = timeout_s
        self._context = zmq.asyncio.Context()
        self._sockets: list[zmq.asyncio.Socket] = []

    def prepare(self) -> dict[str, Any]:
        """The address at which a rollout worker listens; nothing of a trainer's."""
        if not self.is_rollout:
            return {}
        host = ray.util.get_node_ip_address().strip("[]")
        socket = self._open(zmq.PULL)
        port = socket.bind_to_random_port(f"tcp://[{host}]" if ":" in host else f"tcp://{host}")
        return {"address": f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"}

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Rank 0 of the trainer sends to every rollout worker; `metadata` has what all prepared, trainer first."""
        addresses = [of_worker["address"] for of_worker in metadata[actor_wg_world_size:]]
        to_actors = {"receivers": [addresses] + [[]] * (actor_wg_world_size - 1)}
        return to_actors, {"receivers": [[]] * rollout_world_size}

    def init_process_group(self, receivers: list[str]) -> None:  # type: ignore[override]
        """Connect to each of `receivers`, which listen already."""
        for address in receivers:
            self._open(zmq.PUSH).connect(address)

    def finalize(self) -> None:
        """Close what this transfer opened."""
        for socket in self._sockets:
            socket.close()
        self._sockets = []

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """Send all of `weights`; a rank without receivers only walks them, since making each is collective.

        Raises TimeoutError when a receiver takes nothing for `timeout_s`.
        """
        count = 0
        for bucket in _buckets(weights, self.bucket_size):
            count += len(bucket)
            if self._sockets:
                await self._send(WEIGHTS, save(bucket))
        await self._send(END, str(count).encode())
        return {}

    async def receive_weights(  # type: ignore[override]
        self, global_steps: int | None = None
    ) -> AsyncGenerator[tuple[str, torch.Tensor], None]:
        """Yield each tensor's name and the tensor, in host memory of its own.

        Raises TimeoutError when nothing comes for `timeout_s`, RuntimeError when tensors were lost on the way.
        """
        (socket,) = self._sockets
        count = 0
        while True:
            try:
                kind, content = await socket.recv_multipart()
            except zmq.Again:
                raise TimeoutError(
                    f"The trainer sent no weights for {self.timeout_s:g} s: see its log, or raise {KEY}."
                ) from None
            if kind == END:
                break
            for name, tensor in load(content).items():
                count += 1
                yield name, tensor
        if count != int(content):
            raise RuntimeError(
                f"{int(content)} weights were sent and {count} arrived: the connection broke, start the run again."
            )

    def _open(self, kind: int) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.ipv6 = True
        # verl closes both ends once both are done; after a failure nothing may hold up the end of the process.
        socket.linger = 0
        # Of messages in waiting, each as large as a bucket.
        socket.sndhwm = socket.rcvhwm = 1
        socket.sndtimeo = socket.rcvtimeo = int(self.timeout_s * 1000)
        self._sockets.append(socket)
        return socket

    async def _send(self, kind: bytes, content: bytes) -> None:
        for socket in self._sockets:
            try:
                await socket.send_multipart([kind, content], copy=False)
            except zmq.Again:
                raise TimeoutError(
                    f"A rollout worker took no weights for {self.timeout_s:g} s: see its log, or raise {KEY}."
                ) from None


def _buckets(weights: Iterable[tuple[str, torch.Tensor]], size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Copies of the tensors in host memory, in order, `size` bytes at a time.

    Copies, because safetensors refuses tensors that share memory, as tied weights may.
    """
    bucket: dict[str, torch.Tensor] = {}
    filled = 0
    for name, weight in weights:
        tensor = weight.detach().cpu().clone(memory_format=torch.contiguous_format)
        if bucket and filled + tensor.nbytes > size:
            yield bucket
            bucket, filled = {}, 0
        bucket[name] = tensor
        filled += tensor.nbytes
    if bucket:
        yield bucket
