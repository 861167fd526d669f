"""The command `verl-setpo`."""

import os
import sys
import threading

import typer

from verl_setpo.credit.commands import credit
from verl_setpo.demo.commands import demo
from verl_setpo.doctor.commands import doctor
from verl_setpo.doctor.group import ABANDONED
from verl_setpo.evaluate.commands import evaluate, grade
from verl_setpo.evaluation.commands import report
from verl_setpo.tasks.commands import data

app = typer.Typer(
    name="verl-setpo",
    help="Set-level RL for verl: make data, check a setup, try credit, compare runs, see a demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(data, name="data")
app.add_typer(demo, name="demo")
app.add_typer(doctor, name="doctor")
app.command("credit")(credit)
app.command("evaluate")(evaluate)
app.command("grade")(grade)
app.command("report")(report)


def main() -> None:
    try:
        app()
    except SystemExit as end:
        if any(thread.name == ABANDONED for thread in threading.enumerate()):
            # Python would wait at its end for what a reward function that was given up still does.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


if __name__ == "__main__":
    main()
