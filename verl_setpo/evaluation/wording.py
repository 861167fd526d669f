"""How alike the responses to one prompt are in their words: Self-BLEU and distinct-n. No dependency.

Tokens are words or token ids: how a text is cut is the caller's choice, and figures of different cuts do not compare.
Both see wording only. Two strategies in similar words look alike, one strategy in other words looks diverse.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from verl_setpo.evaluation.samples import check_k

Tokens = Sequence[str | int]


def distinct_n(responses: Sequence[Any], n: int) -> float:
    """Different n-grams over all n-grams of the responses to a prompt together (Li et al., arXiv 1510.03055).

    It falls with the length and the number of responses: compare groups of the same size only.

    Args:
        responses: each a list or array of words or token ids.
        n: tokens of an n-gram.

    Returns:
        In (0, 1]; NaN where no response has n tokens.

    Raises:
        TypeError: a response that is one text, or tokens that are neither text nor integers.
        ValueError: n below 1.
    """
    n = check_k(n, "n")
    grams = [gram for tokens in _all_tokens(responses) for gram in _ngrams(tokens, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(responses: Sequence[Any], max_order: int = 4) -> float:
    """Mean BLEU of each response with all others as references (Zhu et al., arXiv 1802.01886): 1 for equal responses.

    BLEU is that of Papineni et al. (ACL 2002) for one sentence, with the choices of sacrebleu's `sentence_bleu`: orders
    for which a response is too short are left out, the i-th order without a match has the precision 1 / (2^i total), a
    response without any match scores 0, and of references equally near in length the shorter counts. An empty response
    scores 1 where another is empty, else 0.

    Args:
        responses: each a list or array of words or token ids.
        max_order: tokens of the longest n-grams.

    Returns:
        In [0, 1], not in percent; NaN for fewer than two responses.

    Raises:
        TypeError: a response that is one text, or tokens that are neither text nor integers.
        ValueError: max_order below 1.
    """
    max_order = check_k(max_order, "max_order")
    tokens_N = _all_tokens(responses)
    if len(tokens_N) < 2:
        return math.nan
    total_N, matched_N = [], []
    for order in range(1, max_order + 1):
        counts_N = [Counter(_ngrams(tokens, order)) for tokens in tokens_N]
        total_N.append([sum(counts.values()) for counts in counts_N])
        matched_N.append(_matched(counts_N))
    lengths = Counter(len(tokens) for tokens in tokens_N)
    scores = [
        _bleu(len(tokens), lengths, [matched[i] for matched in matched_N], [total[i] for total in total_N])
        for i, tokens in enumerate(tokens_N)
    ]
    return math.fsum(scores) / len(scores)


def _matched(counts_N: Sequence[Counter[tuple[str | int, ...]]]) -> list[int]:
    """n-grams of each response that are in another, each at most as often as in the one that has it most often."""
    # The largest count over all others is the largest or, for who has it, the second largest over all.
    largest: dict[tuple[str | int, ...], tuple[int, int]] = {}
    for counts in counts_N:
        for gram, count in counts.items():
            first, second = largest.get(gram, (0, 0))
            largest[gram] = (count, first) if count > first else (first, max(count, second))
    return [sum(min(count, largest[gram][count == largest[gram][0]]) for gram, count in c.items()) for c in counts_N]


def _bleu(length: int, lengths: Counter[int], matched: Sequence[int], totals: Sequence[int]) -> float:
    """BLEU of a response of this length, given the lengths of all responses, itself included."""
    others = [other for other in lengths if other != length or lengths[length] > 1]
    reference = min(others, key=lambda other: (abs(other - length), other))
    if length == 0:
        return float(reference == 0)
    if matched[0] == 0:
        return 0.0
    logs, halving = [], 1
    for match, total in zip(matched, totals, strict=True):
        if total == 0:
            break
        if match == 0:
            halving *= 2
        logs.append(math.log(match / total) if match else -math.log(halving * total))
    brevity = min(0.0, 1 - reference / length)
    return math.exp(brevity + math.fsum(logs) / len(logs))


def _ngrams(tokens: Tokens, n: int) -> Iterator[tuple[str | int, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


def _all_tokens(responses: Sequence[Any]) -> list[Tokens]:
    if isinstance(responses, str):
        raise TypeError("responses must be a list of lists of tokens, not one text")
    return [_tokens(i, response) for i, response in enumerate(responses)]


def _tokens(i: int, response: Any) -> Tokens:
    if isinstance(response, (str, bytes)):
        raise TypeError(f"response {i} is one text: cut it into words, or give its token ids")
    # Elements of a tensor are tensors, of which no two are the same key.
    tokens = response.tolist() if hasattr(response, "tolist") else list(response)
    for kind in set(map(type, tokens)):
        if not issubclass(kind, (str, int, np.integer)):
            raise TypeError(f"response {i} must be a list of words or token ids, not of {kind.__name__}")
    return tokens
