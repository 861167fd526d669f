"""`verl-setpo demo`: the methods at work where a reader can see through everything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# torch and matplotlib are imported inside the command, so that --help is quick.

demo = typer.Typer(help="See the methods at work on a toy, in seconds.", no_args_is_help=True)

MOST_KERNEL_ENTRIES = 2**26  # 512 MiB in float64
LARGEST_WEIGHT = 1000.0
MOST_COEFS = 9  # with the three other methods the picture's twelve different lines


@demo.callback()
def _keep_the_subcommand() -> None:
    """With a single command and no callback, typer would drop the command's name."""


@demo.command()
def bandit(
    seeds: Annotated[int, typer.Option(help="Repetitions; the intervals are over them.")] = 20,
    steps: Annotated[int, typer.Option(help="Policy-gradient steps, one group of rollouts each.")] = 1000,
    rollouts: Annotated[int, typer.Option(help="Rollouts in a group.")] = 8,
    coef: Annotated[
        list[float] | None,
        typer.Option(
            help="SetPO's lambda (the paper: 0.05 to 0.5). Repeat the option for several.", show_default="0.1 and 2"
        ),
    ] = None,
    div_coef: Annotated[float, typer.Option(help="Weight of GRPO+DIV's bonus.")] = 0.1,
    set_size: Annotated[int, typer.Option(help="Rollouts in a set of Poly-EPO.")] = 4,
    optimizer: Annotated[str, typer.Option(help="sgd: the plain policy gradient. adam: rescaled by Adam.")] = "sgd",
    learning_rate: Annotated[
        float | None, typer.Option(help="The same for all methods.", show_default="1 for sgd, 0.1 for adam")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture, a .png; a .json goes next to it.")] = Path("bandit.png"),
) -> None:
    """The bandit of SetPO's Figure 1: of four equally good modes, how many does each method keep?"""
    from rich.console import Console

    from verl_setpo.evaluation.text import printable

    coefs = coef or [0.1, 2.0]
    _check_counts(seeds, steps, rollouts, set_size)
    _check_weights(coefs, div_coef, optimizer, learning_rate)
    data = _check_out(out)

    import json

    from verl_setpo.demo.bandit import Settings, bandit_methods, train
    from verl_setpo.demo.figure import save_figure
    from verl_setpo.demo.summary import json_summary, rich_table, summarise

    settings = Settings(seeds, steps, rollouts, optimizer, learning_rate)
    methods = bandit_methods(coefs, div_coef, set_size)
    summaries = [summarise(name, train(advantage, settings)) for name, advantage in methods.items()]
    content = json_summary(summaries, settings, {"coef": coefs, "div_coef": div_coef, "set_size": set_size})
    try:
        data.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        save_figure(summaries, settings, out)
    except OSError as error:
        raise typer.BadParameter(f"{error}: give a place that can be written.", param_hint="--out") from error

    console = Console(highlight=False)
    console.print(rich_table(summaries, settings))
    for path in (out, data):
        console.print(printable(path), markup=False, soft_wrap=True)


def _check_counts(seeds: int, steps: int, rollouts: int, set_size: int) -> None:
    if seeds < 2:
        raise typer.BadParameter(f"{seeds} leaves no interval over seeds: give at least 2.", param_hint="--seeds")
    if steps < 1:
        raise typer.BadParameter(f"{steps} trains nothing: give at least 1.", param_hint="--steps")
    if rollouts < 3:
        raise typer.BadParameter(
            f"{rollouts} are too few for SetPO's leave-one-out credit: give at least 3.", param_hint="--rollouts"
        )
    if seeds * rollouts**2 > MOST_KERNEL_ENTRIES:
        raise typer.BadParameter(
            f"{rollouts} with {seeds} seeds take too much memory: lower --rollouts or --seeds.", param_hint="--rollouts"
        )
    if not 2 <= set_size < rollouts:
        raise typer.BadParameter(
            f"{set_size} does not fit groups of {rollouts} rollouts: give 2 to {rollouts - 1}, or raise --rollouts.",
            param_hint="--set-size",
        )


def _check_weights(coefs: list[float], div_coef: float, optimizer: str, learning_rate: float | None) -> None:
    for weight, option in [*((coef, "--coef") for coef in coefs), (div_coef, "--div-coef")]:
        if not 0 <= weight <= LARGEST_WEIGHT:  # also refuses NaN
            raise typer.BadParameter(f"{weight:g} is no weight: give 0 to {LARGEST_WEIGHT:g}.", param_hint=option)
    if len(coefs) > MOST_COEFS:
        raise typer.BadParameter(f"{len(coefs)} are too many: give at most {MOST_COEFS}.", param_hint="--coef")
    if len({f"{coef:g}" for coef in coefs}) < len(coefs):
        raise typer.BadParameter("two values are the same: give each once.", param_hint="--coef")
    if optimizer not in ("sgd", "adam"):
        raise typer.BadParameter(f"{optimizer!r} is not known: give sgd or adam.", param_hint="--optimizer")
    if learning_rate is not None and not (0 < learning_rate <= LARGEST_WEIGHT):
        raise typer.BadParameter(
            f"{learning_rate:g} does not train: give more than 0 and at most {LARGEST_WEIGHT:g}.",
            param_hint="--learning-rate",
        )


def _check_out(out: Path) -> Path:
    """The JSON file next to the picture. What can be found out before the work is done is found out here."""
    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"{out} does not end in .png: name a picture, such as bandit.png.", param_hint="--out")
    if out.is_dir():
        raise typer.BadParameter(f"{out} is a folder: name a file in it, such as {out}/bandit.png.", param_hint="--out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{error}: give a place that can be written.", param_hint="--out") from error
    return out.with_suffix(".json")
