"""Embeddings by a sentence-transformers model in this process."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field

from verl_setpo.signals.embedding.batching import token_batches
from verl_setpo.signals.embedding.embedder import Embedder, EmbeddingError
from verl_setpo.signals.embedding.settings import PREFIX, EmbedderSettings, first_line
from verl_setpo.signals.embedding.truncate import Fitted, TokenizerCounter, Truncator

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class LocalEmbedderSettings(EmbedderSettings):
    """Keys of a local model. Pooling, padding side and normalisation are the model's own config's.

    model: a folder, or a name on the hub, such as Qwen/Qwen3-Embedding-0.6B (last-token pooling, padded on the left,
        1,024 dimensions, normalised, 32,768 tokens).
    prompt_name: one of the model's own prompts, in place of `prompt`.
    max_tokens: None: the model's own limit.
    device: cpu, cuda, cuda:1, ...
    dtype: of the weights; auto: as they are stored, which for Qwen3-Embedding is bfloat16, slow on most CPUs.
    threads: of torch, so that the model does not fight with training for a CPU's cores.
    batch_tokens: padding included.
    """

    model: str = Field(min_length=1)
    prompt_name: str | None = None
    device: str = "cpu"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = Field(1, ge=1)


class LocalEmbedder(Embedder):
    """A sentence-transformers model, in one thread of its own; its calls wait for each other."""

    def __init__(self, settings: LocalEmbedderSettings) -> None:
        """Load the model, which takes seconds; ValueError is one sentence that names the key and the cure."""
        self.settings = settings
        self._model = _load(settings)
        self._prompt = _prompt(self._model, settings)
        # A copy: the model's thread and the one that counts must not share a tokenizer.
        counter = TokenizerCounter(copy.deepcopy(self._model.tokenizer))
        truncator = Truncator(counter, _max_tokens(self._model, settings), self._prompt or "", settings.head_share)
        super().__init__(truncator, settings.cache_size)
        self._encoding = ThreadPoolExecutor(
            1, thread_name_prefix="embed", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )

    def __repr__(self) -> str:
        return f"LocalEmbedder({self.settings.model} on {self.settings.device})"

    async def _ask(self, texts: Sequence[Fitted]) -> torch.Tensor:
        loop = asyncio.get_running_loop()
        batches = token_batches([text.tokens for text in texts], self.settings.batch_tokens, padded=True)
        # Batch after batch, not all at once: so calls take turns, and one that is given up ends after its batch.
        parts = [await loop.run_in_executor(self._encoding, self._encode, [texts[i].text for i in b]) for b in batches]
        vectors = torch.cat(parts)
        order = torch.tensor([i for batch in batches for i in batch])
        return torch.empty_like(vectors).index_copy_(0, order, vectors)

    def _encode(self, texts: list[str]) -> torch.Tensor:
        """(len(texts), D) float32 on the CPU, one forward pass."""
        try:
            vectors = self._model.encode(
                texts,
                prompt=self._prompt,
                batch_size=len(texts),
                show_progress_bar=False,
                convert_to_tensor=True,
                truncate_dim=self.settings.dimensions,
            )
        except Exception as error:
            # Out of memory, a broken device: whatever torch and the model raise concerns this call only.
            raise EmbeddingError("model", f"{self!r} failed ({type(error).__name__}: {first_line(error)})") from None
        return vectors.to("cpu", torch.float32).clone()  # clone: not an inference tensor

    async def close(self) -> None:
        await super().close()
        self._encoding.shutdown(wait=False, cancel_futures=True)


def _load(settings: LocalEmbedderSettings) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"{PREFIX}model={settings.model} needs the package sentence-transformers: pip install verl-setpo[embed]."
        ) from None
    kwargs: dict[str, Any] = {} if settings.dtype == "auto" else {"dtype": getattr(torch, settings.dtype)}
    try:
        model = SentenceTransformer(settings.model, device=settings.device, model_kwargs=kwargs)
    except Exception as error:
        # The hub, torch and a broken folder each raise their own.
        raise ValueError(
            f"{PREFIX}model={settings.model} cannot be loaded on {PREFIX}device={settings.device} "
            f"({type(error).__name__}: {first_line(error)}): name a sentence-transformers model that this node has or "
            "can download, and a device of this node."
        ) from None
    # The old name is what sentence-transformers 5.0 has.
    dimension = (getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension)()
    if settings.dimensions and dimension and settings.dimensions > dimension:
        raise ValueError(
            f"{PREFIX}dimensions={settings.dimensions} is more than the {dimension} of {settings.model}: lower it, or "
            "set it null."
        )
    return model


def _prompt(model: SentenceTransformer, settings: LocalEmbedderSettings) -> str | None:
    """The prompt in force: `prompt`, the model's prompt called `prompt_name`, or the model's default."""
    if settings.prompt is not None and settings.prompt_name is not None:
        raise ValueError(f"{PREFIX}prompt and {PREFIX}prompt_name exclude each other: set one of them null.")
    if settings.prompt is not None:
        return settings.prompt
    name = settings.prompt_name or model.default_prompt_name
    if name is not None and name not in model.prompts:
        raise ValueError(
            f"{PREFIX}prompt_name={name} is not a prompt of {settings.model}; it has "
            f"{', '.join(model.prompts) or 'none'}."
        )
    return None if name is None else model.prompts[name]


def _max_tokens(model: SentenceTransformer, settings: LocalEmbedderSettings) -> int:
    """`max_tokens`, or the model's own limit, which the former must not pass: the model would drop the rest."""
    own = model.max_seq_length
    if settings.max_tokens is None and own is None:
        raise ValueError(f"{PREFIX}max_tokens must be set, since {settings.model} does not say how many it takes.")
    if settings.max_tokens is not None and own is not None and settings.max_tokens > own:
        raise ValueError(
            f"{PREFIX}max_tokens={settings.max_tokens} is more than the {own} that {settings.model} takes: lower it, "
            "or set it null."
        )
    return int(settings.max_tokens or own or 0)
