"""What a group is judged by: which rollouts share a strategy (clusters), or how alike they are (a kernel)."""

from verl_setpo.signals.answer import AnswerClusters
from verl_setpo.signals.base import (
    Rollout,
    Signal,
    SignalBatch,
    build_signal,
    collect_safely,
    register_signal,
    signal_class,
)
from verl_setpo.signals.ngram import NgramKernel

__all__ = [
    "AnswerClusters",
    "NgramKernel",
    "Rollout",
    "Signal",
    "SignalBatch",
    "build_signal",
    "collect_safely",
    "register_signal",
    "signal_class",
]
