"""Clusters of strategies by an LLM: one call for all responses of a prompt."""

from verl_setpo.signals.judge.judge import DEGENERATE, Judge, JudgeSettings, JudgeStats, Verdict

__all__ = ["DEGENERATE", "Judge", "JudgeSettings", "JudgeStats", "Verdict"]
