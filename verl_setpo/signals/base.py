"""The interface of a diversity signal, and the registry that `algorithm.set_rl.signal.name` chooses from."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import torch

from verl_setpo.set_rl.checks import KERNEL_TOLERANCE


@dataclass(frozen=True)
class Rollout:
    """One finished rollout, as a signal sees it.

    uid: of its prompt in this step. session: which of the prompt's rollouts it is.
    token_ids: (T,) response tokens. answer: canonical final answer, "" when there is none.
    text: decodes the response; call it only when needed, and treat it as hostile.
    question: what the prompt asks. group_size: rollouts that the prompt has, if none fails; 0 where it is not known.
    reward_extra_info: verl's name for what the reward function returned besides the reward, such as "pred".
    """

    uid: str
    session: int
    token_ids: torch.Tensor
    answer: str
    text: Callable[[], str]
    question: str = ""
    group_size: int = 0
    reward_extra_info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that stand for the response: a restarted prompt has its sessions again, with other tokens."""
        tokens = self.token_ids.detach().to("cpu", torch.int64).contiguous().numpy()
        return hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()


def question_of(raw_prompt: Any) -> str:
    """What a prompt asks, from its chat messages as verl's data has them: the user's texts, else all texts."""
    # A list or, where verl has made a batch of it, an array of messages.
    messages = [m for m in raw_prompt if isinstance(m, dict)] if hasattr(raw_prompt, "__len__") else []
    users = [m for m in messages if m.get("role") == "user"]
    return "\n\n".join(_content(message.get("content")) for message in users or messages)


def _content(content: Any) -> str:
    """A message's text; of a list of parts those that are text."""
    if isinstance(content, list):
        return "\n".join(str(p["text"]) for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return content if isinstance(content, str) else ""


@dataclass(frozen=True)
class Run:
    """The training run that a signal serves.

    name: unique, and the same in the trainer and in all reward workers. nodes: machines of the cluster.
    reward_model_url, reward_model: the server of `reward.reward_model` and the model's name there, "" without one.
    placement_groups: of the trainer's GPUs, one a node.
    asleep_at_collect: whether that server shares the trainer's GPUs, and sleeps when the trainer collects.
    """

    name: str
    nodes: int = 1
    reward_model_url: str = ""
    reward_model: str = ""
    placement_groups: Sequence[Any] = field(default=(), compare=False)
    asleep_at_collect: bool = False


@dataclass(frozen=True)
class SignalBatch:
    """What a signal says of P groups of at most N rollouts: clusters or kernel, and where it has nothing to say.

    clusters_PN: integer strategy of each rollout, -1 where it has none (degenerate).
    kernel_PNN: similarities in [0, 1], symmetric, 1 on the diagonal.
    failures: for each prompt the cause why it has no signal, or None.
    notes: for each prompt and rollout a line for the rollout log, such as a judge's name of the strategy, or None.
    """

    clusters_PN: torch.Tensor | None = None
    kernel_PNN: torch.Tensor | None = None
    failures: tuple[str | None, ...] = ()
    notes: Sequence[Sequence[str]] | None = None


class Signal(ABC):
    """A diversity signal. Its constructor's keyword arguments are the keys of `algorithm.set_rl.signal`.

    `submit` is called in a reward worker as soon as a rollout of a training prompt is finished, while others still
    generate, and must not block: this is where a judge or an embedder is asked. `collect` is called in the trainer
    with the whole batch. A signal that is cheap enough to compute in `collect` needs nothing else.
    """

    provides: ClassVar[Literal["clusters", "kernel"]]
    needs_question: ClassVar[bool] = False
    """Whether `Rollout.question` is read."""

    @property
    def needs_workers(self) -> bool:
        """Whether `start` has to wait for verl's workers (their GPUs, a reward model's server), which take minutes."""
        return False

    def bind(self, run: Run) -> None:
        """Told once in each reward worker, before the first `submit`."""
        return

    def start(self, run: Run) -> None:
        """Told once in the trainer, before the first step; ValueError says in one sentence what is wrong."""
        return

    async def submit(self, rollout: Rollout, settle: bool = False) -> None:
        """Start work for one rollout.

        Args:
            settle: come back only when the work that this rollout started is done, or has taken too long.
        """
        return

    @abstractmethod
    def collect(self, groups: Sequence[Sequence[Rollout]]) -> SignalBatch:
        """The signal of P groups; a group's failure is said in `failures`, never raised."""

    def metrics(self) -> dict[str, float]:
        """Figures of the last `collect`, logged as set_rl/<name of the signal>/<name>."""
        return {}

    def close(self) -> None:
        """Give back what the signal holds, such as processes. Called when a trainer ends: one that is killed calls
        nothing."""
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
        return replace(batch, failures=tuple(said))
    found = _kernel_faults(batch.kernel_PNN, mask_PN)
    return replace(batch, failures=tuple(a or b for a, b in zip(said, found, strict=True)))


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
    if batch.notes is not None and [len(lines) for lines in batch.notes] != mask_PN.sum(-1).tolist():
        raise ValueError("collect returned notes that are not one a rollout")


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
    parameters = inspect.signature(cls).parameters
    known = list(parameters)
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in keys:
        if key not in known and not takes_all:
            has = f"its keys are {', '.join(known)}" if known else "it has no keys"
            if "kind" in keys:
                has += " (+set_rl/signal=... belongs after +set_rl=..., and nothing may set signal.name after it)"
            raise ValueError(f"algorithm.set_rl.signal.{key} is not a key of the signal {name}; {has}.")
    try:
        return cls(**keys)
    except (TypeError, ValueError) as error:
        message = str(error)
        named = message.startswith("algorithm.set_rl.signal")
        raise ValueError(message if named else f"algorithm.set_rl.signal ({name}): {message}") from None
