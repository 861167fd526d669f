"""The real servers, started at most once for all tests of judge and embedder."""

from tests.signals.vllm_server import judge_model, vllm_embeddings, vllm_judge

__all__ = ["judge_model", "vllm_embeddings", "vllm_judge"]
