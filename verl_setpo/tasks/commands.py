"""`verl-setpo data`: datasets of the two tasks, and a tiny model to train on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from verl_setpo.tasks import countdown as countdown_task
from verl_setpo.tasks import polynomial as polynomial_task

# torch, transformers and pyarrow are imported inside the commands, so that --help is quick.

data = typer.Typer(help="Make training data, and tiny models to train on it.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder to make: train.parquet, test.parquet, dataset.json.")]
TrainSize = Annotated[int, typer.Option(help="Training prompts.")]
TestSize = Annotated[int, typer.Option(help="Held-out prompts, all different from the training prompts.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Style = Annotated[str, typer.Option(help="tiny: a short prompt for a tiny model. instruct: English, for an LLM.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")]
Range = tuple[int, int]


@contextmanager
def _errors_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


@data.command()
def polynomial(
    out: Out,
    train_size: TrainSize = polynomial_task.DEFAULT_SIZES[0],
    test_size: TestSize = polynomial_task.DEFAULT_SIZES[1],
    seed: Seed = 0,
    style: Style = "tiny",
    a: Annotated[Range, typer.Option(help="Lowest and highest a.")] = (1, 3),
    b: Annotated[Range, typer.Option(help="Lowest and highest b.")] = (1, 9),
    c: Annotated[Range, typer.Option(help="Lowest and highest c.")] = (1, 9),
    overwrite: Overwrite = False,
) -> None:
    """Polynomial solving (Poly-EPO): any integer point on y = ax^2 + bx + c is correct."""
    from verl_setpo.tasks.data import write_dataset

    with _errors_as_one_sentence():
        write_dataset(
            out,
            polynomial_task.DATA_SOURCE,
            train_size=train_size,
            test_size=test_size,
            seed=seed,
            style=style,
            overwrite=overwrite,
            a=a,
            b=b,
            c=c,
        )
        typer.echo(f"{out}: {train_size} training and {test_size} test prompts")


@data.command()
def countdown(
    out: Out,
    train_size: TrainSize = countdown_task.DEFAULT_SIZES[0],
    test_size: TestSize = countdown_task.DEFAULT_SIZES[1],
    seed: Seed = 0,
    style: Style = "tiny",
    count: Annotated[int, typer.Option(help="Numbers in a problem.")] = 3,
    numbers: Annotated[Range, typer.Option(help="Lowest and highest number.")] = (1, 20),
    target: Annotated[Range, typer.Option(help="Lowest and highest target.")] = (1, 99),
    min_solutions: Annotated[
        int, typer.Option(help="Keep problems with at least so many different solutions. 1 skips the check.")
    ] = 2,
    overwrite: Overwrite = False,
) -> None:
    """Countdown (SetPO): any equation that uses each number once and makes the target is correct."""
    from verl_setpo.tasks.data import write_dataset

    with _errors_as_one_sentence():
        write_dataset(
            out,
            countdown_task.DATA_SOURCE,
            train_size=train_size,
            test_size=test_size,
            seed=seed,
            style=style,
            overwrite=overwrite,
            num_numbers=count,
            numbers=numbers,
            target=target,
            min_solutions=min_solutions,
        )
        typer.echo(f"{out}: {train_size} training and {test_size} test prompts")


@data.command("tiny-model")
def tiny_model(
    task: Annotated[str, typer.Option(help="polynomial or countdown.")],
    data: Annotated[Path, typer.Option(help="Folder that `verl-setpo data polynomial` or `countdown` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to make, for actor_rollout_ref.model.path.")],
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Most steps of training; default by task.")] = None,
    target: Annotated[float | None, typer.Option(help="Stop at this pass@1 on training prompts.")] = None,
    wrong_share: Annotated[float | None, typer.Option(help="Share of answers that are wrong on purpose.")] = None,
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 3,
    width: Annotated[int, typer.Option(help="Hidden size.")] = 64,
    threads: Annotated[int, typer.Option(help="CPU threads. Other numbers give slightly other weights.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Build a tiny model and teach it the task half-way, so that RL begins diverse and fallible."""
    with _errors_as_one_sentence():
        from transformers.utils.logging import disable_progress_bar

        from verl_setpo.tasks.make_model import make_tiny_model

        disable_progress_bar()
        make_tiny_model(
            task,
            data,
            out,
            seed=seed,
            steps=steps,
            target=target,
            wrong_share=wrong_share,
            layers=layers,
            width=width,
            threads=threads,
            overwrite=overwrite,
            report=typer.echo,
        )
