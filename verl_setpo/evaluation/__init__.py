"""Accuracy, diversity and intervals over problems. numpy only: importing this imports neither verl, ray nor torch.

`verl_setpo.evaluation.rating` and `.rater`, which ask an LLM, are imported by their own names.
"""

from verl_setpo.evaluation.accuracy import clusters_at_size, mean_at_n, solution_coverage, solved
from verl_setpo.evaluation.bootstrap import Interval, bootstrap_interval
from verl_setpo.evaluation.branching import branches_by_position, parting_position
from verl_setpo.evaluation.majority import MajorityAtK, majority_at_k
from verl_setpo.evaluation.measures import (
    DistinctAtSize,
    average_mode,
    distinct_at_size,
    distinct_correct,
    diversity_width,
    pass_at_k,
)
from verl_setpo.evaluation.paired import PairedComparison, compare_paired, sign_test
from verl_setpo.evaluation.vendi import vendi_score
from verl_setpo.evaluation.wording import distinct_n, self_bleu

__all__ = [
    "DistinctAtSize",
    "Interval",
    "MajorityAtK",
    "PairedComparison",
    "average_mode",
    "bootstrap_interval",
    "branches_by_position",
    "clusters_at_size",
    "compare_paired",
    "distinct_at_size",
    "distinct_correct",
    "distinct_n",
    "diversity_width",
    "majority_at_k",
    "mean_at_n",
    "parting_position",
    "pass_at_k",
    "self_bleu",
    "sign_test",
    "solution_coverage",
    "solved",
    "vendi_score",
]
