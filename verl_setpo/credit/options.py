"""What a run's checks say of its keys, in the options of `verl-setpo credit`."""

from __future__ import annotations

import re

_VALUE = r"(?:=([^\s,;:]+))?"
_IN_OPTIONS = (
    (r"algorithm\.set_rl\.signal\.name=", "--signal "),
    (r"set --signal", "choose --signal"),
    (r"with algorithm\.set_rl\.zero_single_cluster=True", "without --no-zero-single-cluster"),
    (r"set zero_single_cluster=False", "add --no-zero-single-cluster"),
    (r"actor_rollout_ref\.rollout\.n=(\d+)", r"n=\1 (the most rollouts of a prompt)"),
    (r"raise rollout\.n\b", "generate more rollouts"),
    (r"set it to null for all sets", "leave it out for all sets"),
    (r"\bset num_sets\b", "give num_sets"),
)
_KEY = re.compile(rf"(?:algorithm\.set_rl\.|(?<![\w.-]))(set_size|num_sets)\b{_VALUE}")
_FULL_KEY = re.compile(rf"algorithm\.set_rl\.(coef|shaping|objective|seed|reward_range)\b{_VALUE}")


def option(key: str) -> str:
    """The command's option for a key of `algorithm.set_rl`."""
    return "--no-zero-single-cluster" if key == "zero_single_cluster" else f"--{key.replace('_', '-')}"


def in_options(message: str) -> str:
    """A sentence that names keys of `algorithm.set_rl`, naming the options in their place."""

    def named(match: re.Match[str]) -> str:
        return f"{option(match[1])} {match[2]}" if match[2] else option(match[1])

    for pattern, words in _IN_OPTIONS:
        message = re.sub(pattern, words, message)
    return _FULL_KEY.sub(named, _KEY.sub(named, message))
