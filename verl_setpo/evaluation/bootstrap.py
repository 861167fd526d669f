"""Intervals over problems: how much would the mean move with other problems of the same kind."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_CHUNK_VALUES = 4_000_000  # resampled values held at a time, 32 MB


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap_interval(values: Any, confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean (Efron 1979): problems are drawn with replacement.

    Args:
        values: one figure a problem, (P,), finite.
        confidence: chance that the interval covers the true mean, in (0, 1).
        num_resamples: bootstrap means to draw.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: no values, a value that is not finite, or a bad confidence or num_resamples.
    """
    values_P = np.asarray(values, dtype=np.float64)
    if values_P.ndim != 1 or values_P.size == 0:
        raise ValueError(f"values must be a non-empty list of numbers, not of shape {values_P.shape}")
    if not np.isfinite(values_P).all():
        raise ValueError("values must be finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, not {num_resamples}")
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_VALUES // values_P.size)
    means = np.concatenate(
        [
            values_P[rng.integers(values_P.size, size=(min(chunk, num_resamples - done), values_P.size))].mean(axis=1)
            for done in range(0, num_resamples, chunk)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))
