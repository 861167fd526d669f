"""Long texts: the head and the tail that fit into an embedding model, counted with the model's own tokenizer.

A solution's approach stands at its beginning and its result at its end, so the middle goes. Servers and
sentence-transformers would drop the tail, and say nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from verl_setpo.signals.embedding.settings import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GAP = "\n...\n"
"""Stands for the part that was left out. Its line breaks keep head and tail from growing together into new words."""

MIN_ROOM = 16
"""Tokens of text, beside prompt, special tokens and gap, below which a limit is refused: a mistake, not a choice."""


class Fitted(NamedTuple):
    """A text that fits: `tokens` with prompt and special tokens, `shortened` whether its middle is gone."""

    text: str
    tokens: int
    shortened: bool


class TokenCounter(ABC):
    """Counts tokens, and says where in a text they lie. Not for several threads at a time."""

    @abstractmethod
    def count(self, text: str) -> int:
        """Tokens of `text`, with the special tokens that the model sees around it."""

    @abstractmethod
    def ends(self, text: str) -> Sequence[tuple[int, int]]:
        """(start, end) in characters of each token of `text`, without special tokens."""


class TokenizerCounter(TokenCounter):
    """Exact: the embedding model's tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ValueError for a slow tokenizer, which does not know where its tokens lie."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"algorithm.set_rl.signal.tokenizer ({type(tokenizer).__name__}) is not a fast tokenizer: name a model "
                "that has a tokenizer.json, or set tokenizer=null to count one token per byte."
            )
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, name: str) -> TokenizerCounter:
        """The tokenizer of a model on the hub or in a folder; ValueError when it cannot be had."""
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception as error:
            # The hub, a missing package and a broken folder each raise their own.
            raise ValueError(
                f"algorithm.set_rl.signal.tokenizer={name} cannot be loaded ({type(error).__name__}: "
                f"{first_line(error)}): name a folder or a model on the hub, or set tokenizer=null to count one token "
                "per byte."
            ) from None
        return cls(tokenizer)

    def count(self, text: str) -> int:
        # verbose: no warning that the text is longer than the model's limit, which is what we count for.
        return len(self._tokenizer(text, verbose=False)["input_ids"])

    def ends(self, text: str) -> Sequence[tuple[int, int]]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["offset_mapping"]


class ByteCounter(TokenCounter):
    """Without a tokenizer: one token per UTF-8 byte, and `SPECIAL` around the text.

    No byte-level tokenizer needs more, so the model's limit holds; English mathematics needs a third of it, so texts
    are shortened three times as early as they would have to be.
    """

    SPECIAL = 4

    def count(self, text: str) -> int:
        return len(text.encode("utf-8", "replace")) + self.SPECIAL

    def ends(self, text: str) -> Sequence[tuple[int, int]]:
        return [
            (i, i + 1) for i, character in enumerate(text) for _ in range(len(character.encode("utf-8", "replace")))
        ]


class Truncator:
    """Shortens texts to at most `max_tokens` tokens of the model, with `prompt` before them and special tokens around.

    Every text that fits is returned as it is. Of others `head_share` of the room goes to their beginning, the rest to
    their end, with `GAP` between. Linear in the text, and no text without lone surrogates raises.
    """

    def __init__(self, counter: TokenCounter, max_tokens: int, prompt: str = "", head_share: float = 0.5) -> None:
        """max_tokens: of prompt, text and special tokens. head_share: in [0, 1].

        Raises ValueError when prompt and special tokens leave no room for a text.
        """
        self.max_tokens = max_tokens
        self._counter, self._prompt, self._head_share = counter, prompt, head_share
        self._room = max_tokens - counter.count(prompt + GAP)
        if self._room < MIN_ROOM:
            raise ValueError(
                f"algorithm.set_rl.signal.max_tokens={max_tokens} leaves {max(self._room, 0)} tokens for a text beside "
                f"the prompt and the special tokens: set it to {max_tokens - self._room + MIN_ROOM} or more, or "
                "shorten algorithm.set_rl.signal.prompt."
            )

    def fit(self, texts: Sequence[str]) -> list[Fitted]:
        """Each text, or the head and tail of it that fit."""
        return [self._fit(text) for text in texts]

    def _fit(self, text: str) -> Fitted:
        tokens = self._counter.count(self._prompt + text)
        return Fitted(text, tokens, False) if tokens <= self.max_tokens else self._shorten(text)

    def _shorten(self, text: str) -> Fitted:
        spans = self._counter.ends(text)
        room, step = min(self._room, len(spans) - 1), 1
        while room > 0:
            head = math.ceil(room * self._head_share)
            tail = room - head
            start = text[: spans[head - 1][1]] if head else ""
            end = text[spans[-tail][0] :] if tail else ""
            cut = start + GAP + end
            tokens = self._counter.count(self._prompt + cut)
            if tokens <= self.max_tokens:
                return Fitted(cut, tokens, True)
            # A part of a text may need other tokens than it had in the whole. The doubling bounds the number of rounds.
            room -= max(tokens - self.max_tokens, step)
            step *= 2
        return Fitted(GAP, self._counter.count(self._prompt + GAP), True)
