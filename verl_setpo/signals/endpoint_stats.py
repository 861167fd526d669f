"""What an endpoint did: calls, failures, seconds and tokens."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field


@dataclass
class EndpointStats:
    """What an endpoint did since it was made.

    calls: finished ones, failed or not. retries: further requests. failures: failed calls by `EndpointError.kind`.
    seconds: of the latest successful calls, from first request to answer, retries included.
    prompt_tokens, completion_tokens: as the server counts them.
    """

    calls: int = 0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def p50(self) -> float:
        return self._quantile(0.5)

    @property
    def p95(self) -> float:
        return self._quantile(0.95)

    def _quantile(self, q: float) -> float:
        """Nearest rank, in seconds; NaN before the first success."""
        ordered = sorted(self.seconds)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def tokens_used(result: object) -> tuple[int, int]:
    """Tokens of prompt and answer, as the server counts them in `usage`; 0 where it does not say."""
    usage = getattr(result, "usage", None)
    prompt, answer = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return prompt if isinstance(prompt, int) else 0, answer if isinstance(answer, int) else 0
