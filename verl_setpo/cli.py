"""The command `verl-setpo`."""

import typer

from verl_setpo.credit.commands import credit
from verl_setpo.demo.commands import demo
from verl_setpo.doctor.commands import doctor
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
    app()


if __name__ == "__main__":
    main()
