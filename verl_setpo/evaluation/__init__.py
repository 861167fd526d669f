"""Pass@k, diversity and intervals over problems. numpy only: importing this imports neither verl nor ray."""

from verl_setpo.evaluation.bootstrap import Interval, bootstrap_interval
from verl_setpo.evaluation.measures import (
    DistinctAtSize,
    average_mode,
    distinct_at_size,
    distinct_correct,
    diversity_width,
    pass_at_k,
)

__all__ = [
    "DistinctAtSize",
    "Interval",
    "average_mode",
    "bootstrap_interval",
    "distinct_at_size",
    "distinct_correct",
    "diversity_width",
    "pass_at_k",
]
