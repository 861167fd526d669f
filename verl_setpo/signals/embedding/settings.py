"""The keys of `algorithm.set_rl.signal` that every kind of embedder has, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verl_setpo.signals.embedding.text import Part

PREFIX = "algorithm.set_rl.signal."

_SECRET_KEYS = ("base_url", "api_key_env")
"""Keys that people put secrets into by mistake: what was found there is not repeated."""


class EmbedderSettings(BaseModel):
    """Keys of every kind.

    part: what of a response is embedded, see `text`.
    prompt: put before every text. None: what the model's own config says, which for most models is nothing; an
        OpenAI-compatible server adds nothing. Qwen3-Embedding has an instruction for queries only ("Instruct: ...\\n
        Query:"); solutions are compared with each other, so both sides are documents, which it embeds without one.
    max_tokens: of prompt, text and special tokens; longer texts keep head and tail.
    head_share: of a shortened text's tokens, how many its beginning gets.
    dimensions: keep that many of a model trained for it (Matryoshka; Qwen3-Embedding is), None: all.
    batch_tokens: tokens of one request or one forward pass.
    cache_size: embeddings kept, 4 bytes a dimension each; 0: none.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    part: Part = "response"
    prompt: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    head_share: float = Field(0.5, ge=0, le=1)
    dimensions: int | None = Field(None, ge=1)
    batch_tokens: int = Field(16384, ge=1)
    cache_size: int = Field(10000, ge=0)


_S = TypeVar("_S", bound=EmbedderSettings)


def read_keys(cls: type[_S], keys: Mapping[str, Any]) -> _S:
    """Validate the keys of a kind of embedder; ValueError is one sentence that names the key and the cure."""
    try:
        return cls.model_validate(dict(keys))
    except ValidationError as error:
        raise ValueError(_sentence(cls, error)) from None


def _sentence(cls: type[EmbedderSettings], error: ValidationError) -> str:
    first = error.errors()[0]
    # A key of several types has the failing type's name after its own.
    name = str(first["loc"][0]) if first["loc"] else ""
    key = PREFIX + name
    if first["type"] == "extra_forbidden":
        return f"{key} is not a key of this embedder; its keys are {', '.join(cls.model_fields)}."
    if first["type"] == "missing":
        return f"{key} is missing: set it."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if not name or message.startswith(f"{name} "):
        return f"{PREFIX}{message}."
    found = "" if name in _SECRET_KEYS else f" (found {first['input']!r})"
    return f"{key}: {message}{found}."


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, short enough for a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else ""
