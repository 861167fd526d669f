"""Responses to embeddings, for SetPO's kernel. Without verl and Ray; the kinds need their own packages, when built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from verl_setpo.signals.embedding.embedder import Embedded, Embedder, EmbeddingError
from verl_setpo.signals.embedding.settings import EmbedderSettings, read_keys
from verl_setpo.signals.embedding.text import PARTS, Part, part_of

KINDS = ("endpoint", "local")


def read_embedder(kind: str, keys: Mapping[str, Any]) -> EmbedderSettings:
    """The settings of an embedder: `kind` endpoint or local, and the keys of `algorithm.set_rl.signal` that it has.

    Touches neither a server nor a model, so it is what a check before the start calls.

    Raises:
        ValueError: one sentence that names the key and the cure, also where a package is missing.
    """
    return _settings_and_class(kind, keys)[0]


def build_embedder(kind: str, keys: Mapping[str, Any]) -> Embedder:
    """An embedder of `kind` endpoint or local with these keys; a local model is loaded. ValueError as above."""
    settings, build = _settings_and_class(kind, keys)
    return build(settings)


def _settings_and_class(kind: str, keys: Mapping[str, Any]) -> tuple[EmbedderSettings, Callable[[Any], Embedder]]:
    if kind == "endpoint":
        try:
            from verl_setpo.signals.embedding.endpoint import EndpointEmbedder, EndpointEmbedderSettings
        except ModuleNotFoundError as error:
            raise ValueError(
                f"algorithm.set_rl.signal.kind=endpoint needs the package {error.name}: pip install verl-setpo[embed]."
            ) from None
        return read_keys(EndpointEmbedderSettings, keys), EndpointEmbedder
    if kind == "local":
        from verl_setpo.signals.embedding.local import LocalEmbedder, LocalEmbedderSettings

        return read_keys(LocalEmbedderSettings, keys), LocalEmbedder
    raise ValueError(f"algorithm.set_rl.signal.kind={kind} is unknown; the kinds are {', '.join(KINDS)}.")


__all__ = [
    "KINDS",
    "PARTS",
    "Embedded",
    "Embedder",
    "EmbedderSettings",
    "EmbeddingError",
    "Part",
    "build_embedder",
    "part_of",
    "read_embedder",
    "read_keys",
]
