"""How many tokens a prompt costs, and how it fits: the longest responses lose their middle, down to one level."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence

TokenCounter = Callable[[str], int]

MIN_LEVEL = 64
"""Tokens below which a response would say nothing; a budget that small is an error."""

_PIECES = re.compile(r"([A-Za-z]+)|([^\S\r\n]+)|([\x00-\x7f])|([^\x00-\x7f])")


def estimate_tokens(text: str) -> int:
    """A count without a tokenizer, meant to be too high: prose has about half as many tokens, formulas a few less.

    One token for every two letters of a word, for every run of blanks, for every other ASCII character (digits are
    single tokens in most vocabularies), and one for every byte of all else.
    """
    total = 0
    for match in _PIECES.finditer(text):
        letters, _, _, other = match.groups()
        total += (len(letters) + 1) // 2 if letters else len(other.encode("utf-8", "replace")) if other else 1
    return total


class TokenizerCount:
    """Counts with a transformers tokenizer, by name or path; ValueError, naming the key, where it cannot be loaded.

    special_tokens: all strings that it would turn into tokens of their own.
    """

    def __init__(self, tokenizer: str) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        except Exception as error:  # whatever a hub, a file system or a broken file raises
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"tokenizer={tokenizer} cannot be loaded ({type(error).__name__}: {reason})") from None
        self.special_tokens = {*self._tokenizer.all_special_tokens, *self._tokenizer.get_added_vocab()}
        self._lock = threading.Lock()  # fast tokenizers cannot be used by two threads at once

    def __call__(self, text: str) -> int:
        with self._lock:
            return len(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))


def water_level(sizes: Sequence[int], budget: int) -> int:
    """The largest L with sum(min(size, L)) <= budget; max(sizes) where all fit, 0 where nothing does."""
    left, level = budget, 0
    for rank, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - rank)
        if size > share:
            return max(share, 0)
        left -= size
        level = size
    return level


def fit(texts: Sequence[str], budget: int, count: TokenCounter) -> tuple[list[str], list[bool]]:
    """`texts`, shortened evenly so that their counts sum to at most `budget`; and which of them were.

    Args:
        count: tokens of a text as it will stand in the prompt, quotes and all.

    Raises:
        ValueError: where a response would keep fewer than `MIN_LEVEL` tokens.
    """
    sizes = [count(text) for text in texts]
    level = water_level(sizes, budget)
    shortened = [size > level for size in sizes]
    if any(shortened) and level < MIN_LEVEL:
        raise ValueError(f"leaves {max(budget, 0)} tokens for {len(texts)} responses of {sum(sizes)}")
    return [
        cut_middle(text, size, level, count) if cut else text
        for text, size, cut in zip(texts, sizes, shortened, strict=True)
    ], shortened


def cut_middle(text: str, size: int, level: int, count: TokenCounter) -> str:
    """`text` (of `size` tokens) with as much of its middle replaced by a note as makes it cost at most `level`."""
    kept = len(text) * level // size
    while True:
        head, tail = kept - kept // 2, kept // 2
        short = f"{text[:head]} [... {len(text) - kept} characters removed ...] {text[len(text) - tail :]}"
        cost = count(short)
        if cost <= level or kept == 0:
            return short
        kept = min(kept * level // cost, kept * 99 // 100)
