"""What a group is judged by: which rollouts share a strategy (clusters), or how alike they are (a kernel)."""

from verl_setpo.signals.answer import AnswerClusters
from verl_setpo.signals.base import (
    Rollout,
    Run,
    Signal,
    SignalBatch,
    build_signal,
    collect_safely,
    question_of,
    register_signal,
    signal_class,
)
from verl_setpo.signals.embedding.signal import EmbeddingSignal
from verl_setpo.signals.judge.signal import JudgeSignal
from verl_setpo.signals.ngram import NgramKernel

__all__ = [
    "AnswerClusters",
    "EmbeddingSignal",
    "JudgeSignal",
    "NgramKernel",
    "Rollout",
    "Run",
    "Signal",
    "SignalBatch",
    "build_signal",
    "collect_safely",
    "question_of",
    "register_signal",
    "signal_class",
]
