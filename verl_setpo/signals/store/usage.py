"""What judges and embedders did: counted where they run, summed over shards, logged once a step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any


class SignalError(Exception):
    """A judge or an embedder that gave nothing. `kind` is for counting, `message` one line for people, without keys."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @classmethod
    def of(cls, error: BaseException) -> SignalError:
        """Any error as one of these; errors of endpoints and embedders keep their kind and message."""
        kind, message = getattr(error, "kind", None), getattr(error, "message", None)
        if isinstance(kind, str) and isinstance(message, str):
            return cls(kind, message)
        text = " ".join(str(error).split())[:300]
        return cls("internal", f"{type(error).__name__}: {text}")


@dataclass
class Usage:
    """Figures of a stretch of time; `a + b` are those of both.

    calls: requests answered or given up. retries: further tries of them. failures: calls that failed, by kind.
    seconds: of each successful call. prompt_tokens, completion_tokens: as the server counts them.
    asked: groups (judge) or texts (embedder). cached: of those, known from before. shortened: responses that did not
    fit and lost their middle. answers, bad_answers: of a judge, and those that broke the schema.
    """

    calls: int = 0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    asked: int = 0
    cached: int = 0
    shortened: int = 0
    answers: int = 0
    bad_answers: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def metrics(self) -> dict[str, float]:
        """By the names under which they are logged; a quantile without calls is left out."""
        found: dict[str, float] = {
            "asked": self.asked,
            "calls": self.calls,
            "retries": self.retries,
            "failed_calls": sum(self.failures.values()),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cache_hits": self.cached,
            "shortened": self.shortened,
            **{f"failed_calls/{kind}": count for kind, count in self.failures.items()},
        }
        if self.seconds:
            found |= {"seconds/p50": quantile(self.seconds, 0.5), "seconds/p95": quantile(self.seconds, 0.95)}
        if self.answers:
            found["parse_rate"] = 1 - self.bad_answers / self.answers
        return {name: float(value) for name, value in found.items()}


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank; NaN for nothing."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else math.nan


def drain_endpoint(endpoint: Any) -> Usage:
    """What an `Endpoint` did since it was last drained."""
    stats, endpoint.stats = endpoint.stats, type(endpoint.stats)()
    return Usage(
        calls=stats.calls,
        retries=stats.retries,
        failures=stats.failures,
        seconds=list(stats.seconds),
        prompt_tokens=stats.prompt_tokens,
        completion_tokens=stats.completion_tokens,
    )
