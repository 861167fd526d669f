"""All checks of `verl-setpo doctor`, each for itself, and their page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_setpo.doctor.check import Check, isolated, secrets_of, without_secrets
from verl_setpo.evaluation.text import printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What imports verl is imported inside the checks: it may be what is broken.

NO_RUN = "no run given: add its KEY=VALUE words, or --recipe FILE"
_STYLES = {"ok": "green", "note": "yellow", "fail": "bold red", "not done": "dim"}


@dataclass(frozen=True)
class Asked:
    """What a user gave: a run's words, or a recipe's script besides; rows of data to grade; whether to start Ray."""

    words: Sequence[str] = ()
    recipe: Path | None = None
    rows: int = 16
    ray: bool = True


@dataclass
class _Setup:
    """What earlier checks found for later ones. config: None without a run, or where it does not compose."""

    words: list[str]
    given: bool
    config: DictConfig | None = None
    examples: dict[str, DictConfig] = field(default_factory=dict)
    keys_hold: bool = False
    ours: bool = False


Found = Iterable[Check]


def examine(asked: Asked, on_check: Callable[[str], None] = lambda name: None) -> Iterator[Check]:
    """All findings, without secrets. on_check is told the name of each check before it begins."""
    setup = _Setup(list(asked.words), bool(asked.words) or asked.recipe is not None)
    steps: list[tuple[str, Callable[[], Found]]] = [
        ("environment", _environment),
        ("plugin", _plugin),
        ("config groups", _groups),
        ("config", lambda: _config(setup, asked.recipe)),
        ("keys", lambda: _keys(setup)),
        ("data", lambda: _data(setup, asked.rows)),
        ("rewards", lambda: _rewards(setup, asked.rows)),
        ("signal", lambda: _signal(setup)),
        ("GPU memory", lambda: _memory(setup)),
        ("advantages", lambda: _advantages(setup)),
        ("Ray worker", lambda: _ray(setup, asked.ray)),
    ]
    for name, step in steps:
        on_check(name)
        checks = isolated(name, step)
        secrets = secrets_of(setup.words)
        yield from (without_secrets(check, secrets) for check in checks)


def _environment() -> Found:
    from verl_setpo.doctor.environment import all_checks

    return all_checks()


def _plugin() -> Found:
    from verl_setpo.doctor.plugin import plugin_here

    return plugin_here()


def _groups() -> Found:
    from verl_setpo.doctor.plugin import config_groups

    return config_groups()


def _config(setup: _Setup, recipe: Path | None) -> Found:
    from verl_setpo.doctor.command_line import compose_run, words_of
    from verl_setpo.doctor.keys import example_configs

    if not setup.given:
        setup.examples = example_configs()
        return [Check("config", "ok", "verl's composes with each of our groups")]
    if recipe is not None:
        setup.words = [*words_of(recipe), *setup.words]
    setup.config = compose_run(setup.words)
    return [Check("config", "ok", f"composes, {len(setup.words)} words")]


def _keys(setup: _Setup) -> Found:
    from verl_setpo.doctor.keys import group_checks, is_ours, key_checks

    if setup.examples:
        return group_checks(setup.examples)
    if setup.config is None:
        return [_no_config("keys")]
    setup.ours = is_ours(setup.config)
    checks = list(key_checks(setup.config, setup.words))
    setup.keys_hold = all(check.status == "ok" for check in checks if check.name in ("trainer mode", "keys"))
    return checks


def _data(setup: _Setup, rows: int) -> Found:
    if setup.config is None:
        return [_why_not("data", setup)]
    from verl_setpo.doctor.data_check import data_checks

    return data_checks(setup.config, rows)


def _rewards(setup: _Setup, rows: int) -> Found:
    if setup.config is None or not setup.keys_hold:
        return [_why_not("rewards", setup)]
    from verl_setpo.doctor.rewards import reward_checks

    return reward_checks(setup.config, setup.ours, rows)


def _signal(setup: _Setup) -> Found:
    if setup.config is None or not setup.keys_hold:
        return [_why_not("signal", setup)]
    if not setup.ours:
        return [Check("signal", "not done", "the run is verl's own, and has none")]
    from verl_setpo.doctor.signal_probe import signal_check
    from verl_setpo.trainer.settings import read_settings

    return signal_check(read_settings(setup.config.algorithm))


def _memory(setup: _Setup) -> Found:
    if setup.config is None:
        return [_why_not("GPU memory", setup)]
    from verl_setpo.doctor.gpu_memory import memory_checks

    return memory_checks(setup.config)


def _advantages(setup: _Setup) -> Found:
    from verl_setpo.doctor.dry_run import advantage_checks

    if setup.examples:
        return advantage_checks(setup.examples)
    if setup.config is None or not setup.keys_hold:
        return [_why_not("advantages", setup)]
    if not setup.ours:
        return [Check("advantages", "not done", "the run is verl's own: nothing of ours computes them")]
    return advantage_checks({"": setup.config})


def _ray(setup: _Setup, wanted: bool) -> Found:
    if not wanted:
        return [Check("Ray worker", "not done", "--no-ray")]
    from omegaconf import OmegaConf

    from verl_setpo.doctor.plugin import plugin_in_ray

    cluster, variables = None, dict[str, str]()
    if setup.config is not None:
        from verl_setpo.trainer.inputs_check import _ray_runs

        if _ray_runs(setup.config):
            cluster = OmegaConf.select(setup.config, "ray_kwargs.ray_init.address") or "auto"
        variables = OmegaConf.select(setup.config, "ray_kwargs.ray_init.runtime_env.env_vars") or {}
    return plugin_in_ray(cluster, {str(name): str(value) for name, value in variables.items()})


def _no_config(name: str) -> Check:
    return Check(name, "not done", "the config does not compose")


def _why_not(name: str, setup: _Setup) -> Check:
    if not setup.given:
        return Check(name, "not done", NO_RUN)
    return _no_config(name) if setup.config is None else Check(name, "not done", "the keys come first")


def table(checks: Sequence[Check]) -> Table:
    """The page: what was looked at, what was found and, below it where something is to be done, the cure."""
    page = Table("check", "", "result, and cure", pad_edge=False, show_edge=False)
    page.columns[2].overflow = "fold"
    for check in checks:
        mark = Text("-" if check.status == "not done" else check.status, style=_STYLES[check.status])
        result = Text(printable(check.found))
        if check.cure:
            result.append(f"\n{printable(check.cure)}", style="bold")
        page.add_row(Text(printable(check.name)), mark, result)
    return page


def print_page(console: Console, checks: Sequence[Check], seconds: float, quiet: bool) -> None:
    """All checks, or with `quiet` those that are not well; then how many there are of each status."""
    shown = [check for check in checks if check.status in ("note", "fail")] if quiet else list(checks)
    if shown:
        console.print(table(shown))
    if not quiet:
        counts = {status: sum(check.status == status for check in checks) for status in _STYLES}
        console.print(f"\n{', '.join(f'{n} {status}' for status, n in counts.items() if n)} in {seconds:.1f} s")


def failed(checks: Sequence[Check]) -> bool:
    return any(check.status == "fail" for check in checks)


def as_json(checks: Sequence[Check], seconds: float) -> dict[str, Any]:
    """What the page says, and how long each check took."""
    return {
        "well": not failed(checks),
        "seconds": round(seconds, 3),
        "checks": [{**asdict(check), "seconds": round(check.seconds, 3)} for check in checks],
    }


def timed(asked: Asked, on_check: Callable[[str], None]) -> tuple[list[Check], float]:
    """All findings and the seconds that they took."""
    started = time.monotonic()
    return list(examine(asked, on_check)), time.monotonic() - started
