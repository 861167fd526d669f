"""The work of scripts/smoke_recipes.sh: compose every recipe, and train those for FSDP for two steps on the CPU."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from smoke.composition import REPOSITORY, Case, all_cases, check_composition
from smoke.training import make_inputs, train, trained_cases, untrained_recipes

console = Console(width=120)


@dataclass
class Report:
    """What came of the cases."""

    table: Table = field(default_factory=lambda: Table("recipe", "result", "s", box=None))
    failed: int = 0

    def add(self, case: Case, result: str, started: float, failed: bool = False) -> None:
        self.failed += failed
        console.print(f"{'FAILED' if failed else 'ok'}  {case.name}: {result}", markup=False, highlight=False)
        self.table.add_row(case.name, "[red]failed" if failed else result, f"{time.monotonic() - started:.0f}")


def main(
    compose_only: Annotated[bool, typer.Option("--compose-only", help="Train nothing.")] = False,
    only: Annotated[str, typer.Option(help="Only cases whose name has this part.")] = "",
    work_dir: Annotated[Path, typer.Option(help="For inputs, logs, metrics; made anew.")] = Path("runs/smoke_recipes"),
) -> None:
    """Exit status 1 when any case fails."""
    sys.path.insert(0, str(REPOSITORY))  # what the tests start from: a tiny judge, an embedder
    work_dir = work_dir.resolve()
    shutil.rmtree(work_dir, ignore_errors=True)
    inputs = work_dir / "inputs"
    inputs.mkdir(parents=True)
    make_inputs(inputs)

    report = Report()
    composed = [case for case in all_cases() if only in case.name]
    for case in composed:
        started = time.monotonic()
        try:
            check_composition(case, inputs)
        except Exception as error:
            report.add(case, f"{type(error).__name__}: {error}", started, failed=True)
    console.print(f"{len(composed)} command lines composed and checked, {report.failed} failed")

    cases = [] if compose_only else [case for case in trained_cases() if only in case.name]
    for number, case in enumerate(cases):
        started = time.monotonic()
        try:
            report.add(case, train(case, inputs, work_dir / f"{number:02d}"), started)
        except (ValueError, RuntimeError) as error:
            report.add(case, str(error), started, failed=True)
    if cases:
        console.print(report.table)
    if untrained := untrained_recipes() if cases and not only else []:
        console.print(f"FAILED  never trained: {', '.join(untrained)}")
        report.failed += 1
    raise typer.Exit(1 if report.failed or not (composed or cases) else 0)


if __name__ == "__main__":
    typer.run(main)
