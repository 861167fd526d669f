"""The checkpoint engine `zmq`: what rollout workers get is what the trainer holds, or the transfer says why not."""

from __future__ import annotations

import asyncio

import pytest
import torch
import zmq
from verl.checkpoint_engine import CheckpointEngineManager, CheckpointEngineRegistry
from verl.utils.config import omega_conf_to_dataclass

from tests.trainer.conftest import compose_config
from verl_setpo.platforms.checkpoint_engine import ZmqCheckpointEngine

KILOBYTE = 2**10
MEGABYTE = 2**20


class Cluster:
    """Engines as verl makes them: the trainer's ranks, of which the first is the master, and rollout workers."""

    def __init__(self, actors: int = 1, rollouts: int = 1, bucket_size: int = KILOBYTE, timeout_s: float = 20) -> None:
        def new(**keys):
            return CheckpointEngineRegistry.new("zmq", bucket_size=bucket_size, timeout_s=timeout_s, **keys)

        self.actors = [new(is_master=rank == 0) for rank in range(actors)]
        self.rollouts = [new() for _ in range(rollouts)]

    def connect(self) -> None:
        """What `CheckpointEngineManager.build_process_group` does with the actors of Ray that hold the engines."""
        metadata = [engine.prepare() for engine in (*self.actors, *self.rollouts)]
        kwargs = ZmqCheckpointEngine.build_topology(len(self.actors), len(self.rollouts), metadata)
        for engines, of_rank in zip((self.actors, self.rollouts), kwargs, strict=True):
            for rank, engine in enumerate(engines):
                engine.init_process_group(**{key: values[rank] for key, values in of_rank.items()})

    def finalize(self) -> None:
        for engine in (*self.actors, *self.rollouts):
            engine.finalize()

    def transfer(self, weights: list[tuple[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """What each rollout worker has after one whole transfer."""

        async def run():
            sent = [engine.send_weights(iter(weights), global_steps=1) for engine in self.actors]
            *_, received = await asyncio.gather(*sent, asyncio.gather(*map(received_by, self.rollouts)))
            return received

        self.connect()
        try:
            return asyncio.run(run())
        finally:
            self.finalize()


async def received_by(engine: ZmqCheckpointEngine) -> dict[str, torch.Tensor]:
    return {name: tensor async for name, tensor in engine.receive_weights(global_steps=1)}


def assert_same(received: dict[str, torch.Tensor], weights: list[tuple[str, torch.Tensor]]) -> None:
    assert received.keys() == dict(weights).keys()
    for name, weight in weights:
        assert received[name].dtype == weight.dtype
        assert received[name].shape == weight.shape
        assert torch.equal(received[name], weight)


def weights_of_all_kinds() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(64, 32, generator=generator)  # 8 kB: larger than a bucket
    return [
        ("embed.weight", embedding),
        ("lm_head.weight", embedding),  # tied: the same memory
        ("q.weight", torch.randn(5, 7, generator=generator).bfloat16()),
        ("k.weight", torch.randn(6, 4, generator=generator).T),  # not contiguous
        ("norm.weight", torch.randn(3, generator=generator).half()),
        ("scale", torch.tensor(0.5)),
        ("none", torch.empty(0, 4)),
        ("steps", torch.arange(5)),
        ("trained", torch.nn.Parameter(torch.ones(2))),
        *((f"layer.{i}", torch.randn(9, 9, generator=generator)) for i in range(40)),
    ]


@pytest.mark.parametrize("bucket_size", [1, KILOBYTE, 64 * MEGABYTE])
@pytest.mark.parametrize(("actors", "rollouts"), [(1, 1), (2, 3)])
def test_every_rollout_worker_gets_the_trainers_weights_bit_for_bit(actors, rollouts, bucket_size):
    weights = weights_of_all_kinds()
    for received in Cluster(actors, rollouts, bucket_size).transfer(weights):
        assert_same(received, weights)


def test_what_arrived_is_the_receivers_own():
    """The next step changes the trainer's weights in place while vLLM may still load the last."""
    weights = [("w", torch.zeros(4))]
    (received,) = Cluster().transfer(weights)
    weights[0][1].add_(1)
    assert torch.equal(received["w"], torch.zeros(4))


def test_a_later_transfer_brings_the_new_weights():
    cluster = Cluster(rollouts=2)
    for value in (0.0, 1.0, 2.0):
        weights = [("w", torch.full((300,), value))]
        for received in cluster.transfer(weights):
            assert_same(received, weights)


def test_ranks_that_do_not_send_still_make_every_weight():
    """Making a weight is collective: a rank that stopped would leave the others waiting."""
    made = []

    def weights():
        for i in range(5):
            made.append(i)
            yield f"w{i}", torch.ones(2)

    other = Cluster(actors=2).actors[1]
    assert other.prepare() == {}
    other.init_process_group(receivers=[])
    asyncio.run(other.send_weights(weights()))
    assert made == list(range(5))


def test_the_trainer_is_only_a_few_buckets_ahead_of_a_slow_worker():
    """Else all weights of a large model would wait in the trainer's memory, once for each worker."""
    made = 0

    def weights():
        nonlocal made
        for i in range(64):
            made += 1
            yield f"w{i}", torch.ones(MEGABYTE)  # 4 MB, a bucket of its own

    async def run(cluster):
        sending = asyncio.create_task(cluster.actors[0].send_weights(weights()))
        await asyncio.sleep(1)
        ahead = made
        received = await received_by(cluster.rollouts[0])
        await sending
        return ahead, len(received)

    cluster = Cluster(bucket_size=MEGABYTE)
    cluster.connect()
    try:
        ahead, received = asyncio.run(run(cluster))
    finally:
        cluster.finalize()
    assert 1 <= ahead <= 8
    assert received == 64


def test_a_trainer_that_sends_nothing_ends_the_transfer_with_the_key():
    cluster = Cluster(timeout_s=0.2)
    cluster.connect()
    with pytest.raises(TimeoutError, match=r"The trainer sent no weights for 0\.2 s: .*zmq\.timeout_s"):
        asyncio.run(received_by(cluster.rollouts[0]))
    cluster.finalize()


def test_a_worker_that_takes_nothing_ends_the_transfer_with_the_key():
    cluster = Cluster(timeout_s=0.2)
    cluster.connect()
    weights = ((f"w{i}", torch.ones(MEGABYTE)) for i in range(64))
    with pytest.raises(TimeoutError, match=r"A rollout worker took no weights for 0\.2 s: .*zmq\.timeout_s"):
        asyncio.run(cluster.actors[0].send_weights(weights))
    cluster.finalize()


def test_weights_that_are_lost_on_the_way_end_the_transfer():
    cluster = Cluster()
    address = cluster.rollouts[0].prepare()["address"]
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        socket.send_multipart([b"end", b"3"])
        with pytest.raises(RuntimeError, match="3 weights were sent and 0 arrived"):
            asyncio.run(received_by(cluster.rollouts[0]))
    cluster.finalize()


def test_the_cpu_platform_names_this_engine_and_verl_finds_it():
    config = omega_conf_to_dataclass(
        compose_config("+platform=cpu").actor_rollout_ref.rollout.checkpoint_engine  # as the trainer reads it
    )
    assert config.custom_backend_module == ZmqCheckpointEngine.__module__
    manager = CheckpointEngineManager(config=config, actor_wg=None, replicas=[])
    assert manager.backend_cls is ZmqCheckpointEngine


def test_the_limit_of_a_transfer_is_set_under_engine_kwargs():
    key = "+actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.zmq.timeout_s=5"
    config = omega_conf_to_dataclass(compose_config("+platform=cpu", key).actor_rollout_ref.rollout.checkpoint_engine)
    engine = CheckpointEngineRegistry.new(config.backend, bucket_size=1, **config.engine_kwargs.get(config.backend, {}))
    assert engine.timeout_s == 5
