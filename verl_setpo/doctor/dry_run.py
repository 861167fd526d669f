"""One step of advantages by the trainer of a run itself, with its method and keys, on made-up rollouts of its shape.

verl's trainer of that mode calls our estimator, which has verl compute the base advantage, from a batch in a queue.
Only the queue is in this process, and no worker, model or server is there.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import get_trainer_cls, trainer_base

from verl_setpo.credit.advice import LITTLE, MUCH
from verl_setpo.doctor.check import Check
from verl_setpo.doctor.fake_batch import LocalQueue, RandomClusters, RandomKernel, Shape, make_queue
from verl_setpo.signals import AnswerClusters, Signal
from verl_setpo.signals.answer import ANSWER_FIELD
from verl_setpo.signals.ngram import NgramKernel
from verl_setpo.trainer import rows
from verl_setpo.trainer.config_check import check_config
from verl_setpo.trainer.modes import SetRLMixin
from verl_setpo.trainer.settings import WITH_COEF

SEED = 0


@dataclass(frozen=True)
class DryRun:
    """What came of the step. signal: what judged the rollouts, in words."""

    shape: Shape
    signal: str
    seconds: float
    advantages: torch.Tensor
    metrics: Mapping[str, float]

    @property
    def share(self) -> str:
        """`set_rl/credit_share`, in words."""
        share = self.metrics.get("set_rl/credit_share")
        return "no credit" if share is None else f"credit share {share:.3f}"


def dry_run(config: DictConfig) -> DryRun:
    """Run the step. Raises what it raises in a run, ValueError for a key.

    The config is not changed, and no file is written.
    """
    config = copy.deepcopy(config)
    with open_dict(config):
        config.algorithm.set_rl.rollout_log = None
    cls = get_trainer_cls(config.trainer.v1.trainer_mode)
    assert issubclass(cls, SetRLMixin), "asked for our modes only"
    trainer = cls.__new__(cls)  # what __init__ does beyond this starts workers
    trainer._read_method(config)
    trainer.config, trainer.global_steps, trainer.tokenizer = config, 1, None
    if config.algorithm.use_kl_in_reward:
        trainer.kl_ctrl_in_reward = core_algos.get_kl_controller(config.algorithm.kl_ctrl)
    generator = torch.Generator().manual_seed(SEED)
    field = trainer.signal.field if isinstance(trainer.signal, AnswerClusters) else ANSWER_FIELD
    trainer.signal, said = _stand_in(trainer.signal, trainer.settings.signal.name, generator)
    shape = Shape.of(config)
    queue = make_queue(shape, trainer.settings.reward_range, field, generator)
    metrics: dict[str, float] = {}
    try:
        with _in_place_of_transfer_queue(queue), _one_thread():
            started = time.monotonic()
            trainer._compute_advantage(queue.batch, metrics)
            seconds = time.monotonic() - started
    finally:
        trainer.signal.close()
    return DryRun(shape, said, seconds, queue.fields["advantages"].values(), metrics)


def _stand_in(signal: Signal, name: str, generator: torch.Generator) -> tuple[Signal, str]:
    """The signal itself where it needs nobody, else random clusters or a random kernel in its place."""
    if isinstance(signal, AnswerClusters | NgramKernel):
        return signal, f"signal {name} on made-up rollouts"
    if signal.provides == "clusters":
        return RandomClusters(), f"random clusters for {name}"
    return RandomKernel(generator), f"random vectors for {name}"


@contextlib.contextmanager
def _in_place_of_transfer_queue(queue: LocalQueue) -> Iterator[None]:
    """The real one is several Ray actors."""
    with contextlib.ExitStack() as stack:
        for module in (trainer_base, rows):
            stack.enter_context(mock.patch.object(module, "tq", queue))
        yield


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As Ray gives the trainer's actor (OMP_NUM_THREADS=1), so that the time is that of a run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def advantage_checks(configs: Mapping[str, DictConfig]) -> Iterator[Check]:
    """A dry run of each config, called by its name ("" for a run's own)."""
    found = []
    shape = said = cure = ""
    for name, config in configs.items():
        result = dry_run(config)
        shape, said = str(result.shape), result.signal if not name else "made-up rollouts"
        label = f"{name}: " if name else ""
        fault = _fault(result)
        if fault:
            yield Check("advantages", "fail", f"{label}{fault} ({shape}, {said})", "Look at the keys of the method.")
            return
        found.append(f"{label}{result.seconds:.2f} s, {result.share}")
        cure = cure or ("" if name else _cure_of_share(config, result))
    yield Check("advantages", "note" if cure else "ok", f"{'; '.join(found)} ({shape}, {said})", cure)


def _cure_of_share(config: DictConfig, result: DryRun) -> str:
    """What to do about a share of the advantage that is not worth its name, or more than correctness has; "" if well.

    By the bounds of `verl-setpo credit`: of set objectives it is the upper one alone, and only of poly_epo.
    """
    method = check_config(config)
    by_coef, share = method.estimator in WITH_COEF, result.metrics.get("set_rl/credit_share")
    if share is None or method.settings.coef == 0 == share:  # coef=0 is the base method, and asked for
        return ""
    measure = "; `verl-setpo credit` has the share on real rollouts."
    if share > MUCH and (by_coef or method.estimator == "poly_epo"):
        weaker = "Lower algorithm.set_rl.coef" if by_coef else "Lower algorithm.set_rl.set_size"
        return f"Diversity outweighs correctness on made-up rollouts. {weaker}{measure}"
    if share < LITTLE and by_coef:
        return f"Diversity changes next to nothing on made-up rollouts. Raise algorithm.set_rl.coef{measure}"
    return ""


def _fault(result: DryRun) -> str:
    if not bool(torch.isfinite(result.advantages).all()):
        return "advantages that are not finite"
    if not bool(result.advantages.any()):
        return "all advantages are 0"
    failed = result.metrics.get("set_rl/signal_failed_groups", 0.0)
    return f"{failed:g} groups without a signal" if failed else ""
