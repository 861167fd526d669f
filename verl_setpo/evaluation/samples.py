"""What the measures ask of the samples of a problem, each refusal one sentence with the cure."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def check_k(k: Any, name: str = "k") -> int:
    """A whole number of at least 1.

    Raises:
        TypeError: not an integer.
        ValueError: below 1.
    """
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"{name} must be at least 1, not {k}")
    return k


def flags(name: str, values: Any) -> np.ndarray:
    """True or false a sample, (n,) bool; 0 and 1 are taken, other numbers and text are not.

    Raises:
        TypeError: something else than booleans and integers, "False" or 0.5 say.
        ValueError: not one flag after another, or an integer that is neither 0 nor 1.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be a list with one flag a sample, not of shape {array.shape}")
    if array.size == 0 or array.dtype == np.bool_:
        return array.astype(np.bool_)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be true or false, not {array.dtype}: compare the scores with a threshold first")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} holds a number other than 0 and 1: compare the scores with a threshold first")
    return array.astype(np.bool_)


def paired_with_flags(
    name: str, values_P: Sequence[Sequence[Any]], correct_P: Sequence[Any]
) -> Iterator[tuple[str, Sequence[Any], np.ndarray]]:
    """For each problem the words to name it by, its `values` and whether each sample is correct, equally many.

    Raises:
        ValueError: `values_P` and `correct_P` differ in length, as a whole or at a problem.
    """
    if len(values_P) != len(correct_P):
        raise ValueError(f"{name} has {len(values_P)} problems, correct has {len(correct_P)}: give both for each")
    for p, (values, correct) in enumerate(zip(values_P, correct_P, strict=True)):
        correct_n = flags(f"correct of problem {p}", correct)
        if len(values) != len(correct_n):
            raise ValueError(
                f"problem {p} has {len(values)} {name} but {len(correct_n)} correct: give one of each for every sample"
            )
        yield f"problem {p}", values, correct_n
