"""The interface of a diversity signal, and the registry that `algorithm.set_rl.signal.name` chooses from."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch

from verl_setpo.set_rl.checks import KERNEL_TOLERANCE


@dataclass(frozen=True)
class Rollout:
    """One finished rollout, as a signal sees it.

    uid: of its prompt in this step. session: which of the prompt's rollouts it is.
    token_ids: (T,) response tokens. answer: canonical final answer, "" when there is none.
    text: decodes the response; call it only when needed, and treat it as hostile.
    """

    uid: str
    session: int
    token_ids: torch.Tensor
    answer: str
    text: Callable[[], str]


@dataclass(frozen=True)
class SignalBatch:
    """What a signal says of P groups of at most N rollouts: clusters or kernel, and where it has nothing to say.

    clusters_PN: integer strategy of each rollout, -1 where it has none (degenerate).
    kernel_PNN: similarities in [0, 1], symmetric, 1 on the diagonal.
    failures: for each prompt the cause why it has no signal, or None.
    """

    clusters_PN: torch.Tensor | None = None
    kernel_PNN: torch.Tensor | None = None
    failures: tuple[str | None, ...] = ()


class Signal(ABC):
    """A diversity signal. Its constructor's keyword arguments are the keys of `algorithm.set_rl.signal`.

    `submit` is called in a reward worker as soon as a rollout is finished, while others still generate, and must not
    block: this is where a judge or an embedder is asked. `collect` is called in the trainer with the whole batch.
    """

    provides: ClassVar[Literal["clusters", "kernel"]]

    async def submit(self, rollout: Rollout) -> None:
        """Start work for one rollout. A signal that is cheap enough to compute at `collect` does nothing here."""
        return

    @abstractmethod
    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        """The signal of P groups; a group's failure is said in `failures`, never raised."""

    def close(self) -> None:
        """Give back what the signal holds, such as processes. Called at most when a trainer ends: one that is killed
        calls nothing."""
        return


def collect_safely(signal: Signal, groups: Sequence[Sequence[Rollout]], mask_PN: torch.Tensor) -> SignalBatch:
    """`signal.collect`, with whatever goes wrong turned into a cause for the groups that it concerns.

    A run must not end because a judge or an embedder, or somebody's own signal, misbehaved in one step.

    Args:
        mask_PN: (P, N) True where a group has a rollout.
    """
    try:
        batch = signal.collect(groups)
        said = batch.failures or (None,) * len(groups)
        _check_batch(batch, signal.provides, said, mask_PN)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        failures = (cause,) * len(groups)
        if signal.provides == "clusters":
            return SignalBatch(clusters_PN=torch.full(mask_PN.shape, -1), failures=failures)
        return SignalBatch(kernel_PNN=torch.eye(mask_PN.shape[1]).repeat(len(groups), 1, 1), failures=failures)
    if batch.kernel_PNN is None:
        return SignalBatch(batch.clusters_PN, None, tuple(said))
    found = _kernel_faults(batch.kernel_PNN, mask_PN)
    return SignalBatch(None, batch.kernel_PNN, tuple(a or b for a, b in zip(said, found, strict=True)))


def _check_batch(batch: SignalBatch, provides: str, failures: Sequence[str | None], mask_PN: torch.Tensor) -> None:
    """Raise ValueError for a result that does not have the form that `SignalBatch` describes."""
    if provides == "clusters":
        tensor, expected, right = batch.clusters_PN, tuple(mask_PN.shape), "integers"
    else:
        tensor, expected, right = batch.kernel_PNN, (*mask_PN.shape, mask_PN.shape[1]), "floats"
    if tensor is None or tuple(tensor.shape) != expected:
        got = None if tensor is None else tuple(tensor.shape)
        raise ValueError(f"collect returned {provides} of shape {got} where {expected} was due")
    if tensor.is_floating_point() != (right == "floats") or tensor.dtype == torch.bool or tensor.is_complex():
        raise ValueError(f"collect returned {provides} of {tensor.dtype} where {right} were due")
    if len(failures) != len(mask_PN):
        raise ValueError(f"collect returned {len(failures)} failures for {len(mask_PN)} groups")


def _kernel_faults(kernel_PNN: torch.Tensor, mask_PN: torch.Tensor) -> tuple[str | None, ...]:
    """For each prompt what is wrong with its kernel, or None: what `set_loo` would refuse the whole batch for."""
    pair_PNN = mask_PN[:, :, None] & mask_PN[:, None, :]
    kernel_PNN = torch.where(pair_PNN, kernel_PNN, 0.0)
    diagonal_PN = torch.where(mask_PN, kernel_PNN.diagonal(dim1=1, dim2=2), 1.0)
    tests = (
        ("the kernel has NaN or infinity", ~torch.isfinite(kernel_PNN)),
        ("the kernel leaves [0, 1]", (kernel_PNN < -KERNEL_TOLERANCE) | (kernel_PNN > 1 + KERNEL_TOLERANCE)),
        ("the kernel is not symmetric", (kernel_PNN - kernel_PNN.mT).abs() > KERNEL_TOLERANCE),
        ("the kernel is not 1 on its diagonal", (diagonal_PN - 1).abs() > KERNEL_TOLERANCE),
    )
    faults: list[str | None] = [None] * len(kernel_PNN)
    for cause, wrong in tests:
        for p in wrong.flatten(1).any(-1).nonzero()[:, 0].tolist():
            faults[p] = faults[p] or cause
    return tuple(faults)


_SIGNALS: dict[str, type[Signal]] = {}
_S = TypeVar("_S", bound=Signal)


def register_signal(name: str) -> Callable[[type[_S]], type[_S]]:
    """Class decorator: make a signal available as `algorithm.set_rl.signal.name=<name>`."""

    def register(cls: type[_S]) -> type[_S]:
        if _SIGNALS.get(name, cls) is not cls:
            raise ValueError(f"The signal {name!r} is already registered by {_SIGNALS[name].__qualname__}.")
        _SIGNALS[name] = cls
        return cls

    return register


def signal_class(name: str) -> type[Signal]:
    """The class registered as `name`; ValueError names those that exist."""
    try:
        return _SIGNALS[name]
    except KeyError:
        raise ValueError(
            f"algorithm.set_rl.signal.name={name} is unknown; the signals are {', '.join(sorted(_SIGNALS))}."
        ) from None


def build_signal(name: str, keys: dict[str, Any]) -> Signal:
    """Build a signal from its name and keys; ValueError names a key that it does not have."""
    cls = signal_class(name)
    known = list(inspect.signature(cls).parameters)
    for key in keys:
        if key not in known:
            has = f"its keys are {', '.join(known)}" if known else "it has no keys"
            raise ValueError(f"algorithm.set_rl.signal.{key} is not a key of the signal {name}; {has}.")
    try:
        return cls(**keys)
    except (TypeError, ValueError) as error:
        raise ValueError(f"algorithm.set_rl.signal ({name}): {error}") from None
