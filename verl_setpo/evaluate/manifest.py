"""What a folder of samples holds, written before the first sample; what does not fit it is refused."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_setpo.evaluate.grading import Reward
from verl_setpo.evaluate.models import Model, fingerprint
from verl_setpo.evaluate.sets import EvalSet
from verl_setpo.evaluation.text import printable

FILE = "evaluation.json"
FORMAT = 1


@dataclass(frozen=True)
class Options:
    """How samples are drawn and graded. Two evaluations of one folder may differ in `n` and `limit`, upwards, only.

    n: samples a prompt. limit: prompts a set, from its first on; None: all. top_k: -1 for all tokens.
    """

    n: int
    limit: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 4096
    seed: int = 0
    dtype: str = "auto"
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    reward: Reward = field(default_factory=Reward)

    def check(self) -> None:
        """Raises ValueError that names the option at fault."""
        if self.n < 1:
            raise ValueError(f"--n is {self.n}: give at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit is {self.limit}: give at least 1")
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens is {self.max_tokens}: give at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"--temperature is {self.temperature}: give 0 or more")
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"--temperature is 0, at which all {self.n} samples of a prompt are the same: give --n 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p is {self.top_p}: give a number above 0 and at most 1")
        if self.top_k != -1 and self.top_k < 1:
            raise ValueError(f"--top-k is {self.top_k}: give at least 1, or -1 for all tokens")

    def sampling(self) -> dict[str, Any]:
        """In vLLM's words."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_tokens": self.max_tokens,
        }

    def fixed(self) -> dict[str, Any]:
        """What may not change, by the name of its option."""
        return {
            "temperature": self.temperature,
            "top-p": self.top_p,
            "top-k": self.top_k,
            "max-tokens": self.max_tokens,
            "seed": self.seed,
            "dtype": self.dtype,
            "chat-template-kwargs": self.chat_template_kwargs,
            "reward": f"{self.reward.path}:{self.reward.name}",
            "reward-kwargs": self.reward.kwargs,
        }


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make the folder, and hold it for this process.

    Raises:
        ValueError: it is a file, holds something else, or another process works in it.
    """
    if out.is_file():
        raise ValueError(f"--out {printable(out)} is a file: name a folder")
    others = [path.name for path in out.iterdir() if path.name != ".lock"] if out.is_dir() else []
    if others and not (out / FILE).is_file():
        raise ValueError(f"--out {printable(out)} holds other things: name a new folder, or one of this command")
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:  # the system frees it with the process, however that ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"--out {printable(out)}: another process works in this folder; wait for it") from None
        yield


def settle(out: Path, options: Options, sets: Sequence[EvalSet], models: Sequence[Model]) -> dict[str, Any]:
    """Write what the folder holds, with what it held before, whole or not at all; returns it.

    A folder without a sample is begun anew.

    Raises:
        ValueError: it was begun with something else; the message is one sentence for the user.
    """
    path = out / FILE
    before = _read(path) if path.is_file() else None
    content: dict[str, Any] = {"format": FORMAT, "n": options.n, "limit": options.limit, "options": options.fixed()}
    content["sets"] = {one.name: {"file": str(one.path), "sha256": one.sha256} for one in sets}
    content["models"] = {}
    for model in models:
        steps = content["models"].setdefault(model.run, {})
        steps[str(model.step)] = {"path": str(model.path), "fingerprint": fingerprint(model.path)}
    if before is not None and not _has_samples(out):
        _forget_merged(out, before, content)
    elif before is not None:
        _check(out, before, content)
        content["sets"] = {**before["sets"], **content["sets"]}
        for run, steps in before["models"].items():
            content["models"][run] = {**steps, **content["models"].get(run, {})}
    write_json(path, content)
    return content


def order(out: Path) -> tuple[list[str], list[str]]:
    """The models and the sets of a folder in the order in which they were named; no sets where files were graded."""
    content = json.loads((out / FILE).read_text(encoding="utf-8"))
    return list(content["models"]), list(content.get("sets", ()))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] == FORMAT:
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{printable(path)} is of another version of this command: name another --out")


def _has_samples(out: Path) -> bool:
    return any(path.stat().st_size > 0 for path in out.glob("*/*/validation/*.jsonl"))


def _forget_merged(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Remove what was merged of a model that is no longer there, or is now another one by the same name."""
    for run, steps in before["models"].items():
        for step, one in steps.items():
            if now["models"].get(run, {}).get(step, {}).get("fingerprint") != one["fingerprint"]:
                shutil.rmtree(out / run / "merged" / step, ignore_errors=True)


def _check(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    where, cure = f"{printable(out)} was begun with", "give the same, or another --out"
    for name, value in now["options"].items():
        if before["options"].get(name) != value:
            raise ValueError(f"--{name} is {_short(value)}, but {where} {_short(before['options'].get(name))}: {cure}")
    if now["n"] < before["n"]:
        raise ValueError(f"--n is {now['n']}, but {where} {before['n']}: give as many or more, or another --out")
    if now["limit"] is not None and (before["limit"] is None or now["limit"] < before["limit"]):
        had = "all rows" if before["limit"] is None else before["limit"]
        raise ValueError(f"--limit is {now['limit']}, but {where} {had}: give as many or more, or another --out")
    for name, one in now["sets"].items():
        if before["sets"].get(name, one)["sha256"] != one["sha256"]:
            raise ValueError(
                f"--data {printable(one['file'])} is not the file that {printable(out)} has as {name}: "
                f"name it otherwise, --data {name}-2=FILE, or name another --out"
            )
    for run, steps in now["models"].items():
        for step, one in steps.items():
            had = before["models"].get(run, {}).get(step, one)
            if had["fingerprint"] != one["fingerprint"]:
                raise ValueError(
                    f"{printable(one['path'])} is not the model that {printable(out)} has as {run}, step {step}: "
                    f"name it otherwise, {run}-2=MODEL, or name another --out"
                )


def _short(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value))[:200]


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
