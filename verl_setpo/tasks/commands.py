"""`verl-setpo data`: datasets of our own tasks and of the papers' published sets, and a tiny model to train on them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from verl_setpo.tasks import countdown as countdown_task
from verl_setpo.tasks import multiplication as multiplication_task
from verl_setpo.tasks import polynomial as polynomial_task
from verl_setpo.tasks.math_sets import COUNTDOWN
from verl_setpo.tasks.math_sets_commands import add_sets, columns
from verl_setpo.tasks.options import LocalPath, Out, Overwrite, Revision, errors_as_one_sentence

# torch, transformers, datasets and pyarrow are imported inside the commands, so that --help is quick.

data = typer.Typer(help="Make training and test data, and tiny models to train on it.", no_args_is_help=True)

TrainSize = Annotated[int, typer.Option(help="Training prompts.")]
TestSize = Annotated[int, typer.Option(help="Held-out prompts, all different from the training prompts.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Style = Annotated[str, typer.Option(help="tiny: a short prompt for a tiny model. instruct: English, for an LLM.")]
Range = tuple[int, int]


def _generate(out: Path, task: str, train_size: int, test_size: int, **options: Any) -> None:
    from verl_setpo.tasks.data import write_dataset

    with errors_as_one_sentence():
        write_dataset(out, task, train_size=train_size, test_size=test_size, **options)
        typer.echo(f"{out}: {train_size} training and {test_size} test prompts")


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
    _generate(
        out,
        polynomial_task.DATA_SOURCE,
        train_size,
        test_size,
        seed=seed,
        style=style,
        overwrite=overwrite,
        a=a,
        b=b,
        c=c,
    )


@data.command()
def multiplication(
    out: Out,
    train_size: TrainSize = multiplication_task.DEFAULT_SIZES[0],
    test_size: TestSize = multiplication_task.DEFAULT_SIZES[1],
    seed: Seed = 0,
    style: Style = "tiny",
    digits: Annotated[Range, typer.Option(help="Digits of the first and of the second number.")] = (3, 2),
    overwrite: Overwrite = False,
) -> None:
    """Multi-digit multiplication (Poly-EPO): the product, by any way of taking the numbers apart."""
    _generate(
        out,
        multiplication_task.DATA_SOURCE,
        train_size,
        test_size,
        seed=seed,
        style=style,
        overwrite=overwrite,
        digits=digits,
    )


@data.command(
    help="Countdown (SetPO): any equation that uses each number once and makes the target is correct.\n\n"
    "Without --source hub or --local-path the problems are generated.\n\n" + columns(COUNTDOWN, "numbers", "the target")
)
def countdown(
    context: typer.Context,
    out: Out,
    source: Annotated[
        Literal["generate", "hub"], typer.Option(help=f"generate: new problems. hub: {COUNTDOWN.hub}.")
    ] = "generate",
    local_path: LocalPath = None,
    revision: Revision = None,
    train_size: Annotated[
        int | None,
        typer.Option(help=f"Training prompts. Default: {countdown_task.DEFAULT_SIZES[0]}, or all of the set."),
    ] = None,
    test_size: Annotated[
        int | None,
        typer.Option(
            help="Held-out prompts, all different from the training prompts. "
            f"Default: {countdown_task.DEFAULT_SIZES[1]}, or of the set none."
        ),
    ] = None,
    seed: Seed = 0,
    style: Annotated[
        str | None,
        typer.Option(
            help="tiny: a short prompt for a tiny model. instruct: English, for an LLM. "
            "Default: tiny, or of the set instruct."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Numbers in a generated problem.")] = 3,
    numbers: Annotated[Range, typer.Option(help="Lowest and highest number.")] = (1, 20),
    target: Annotated[Range, typer.Option(help="Lowest and highest target.")] = (1, 99),
    min_solutions: Annotated[
        int, typer.Option(help="Keep problems with at least so many different solutions. 1 skips the check.")
    ] = 2,
    overwrite: Overwrite = False,
) -> None:
    if source == "generate" and local_path is None:
        with errors_as_one_sentence():
            if revision is not None:
                raise ValueError(f"--revision is {revision!r}, but problems are generated: add --source hub")
        _generate(
            out,
            countdown_task.DATA_SOURCE,
            countdown_task.DEFAULT_SIZES[0] if train_size is None else train_size,
            countdown_task.DEFAULT_SIZES[1] if test_size is None else test_size,
            seed=seed,
            style=style or "tiny",
            overwrite=overwrite,
            num_numbers=count,
            numbers=numbers,
            target=target,
            min_solutions=min_solutions,
        )
        return
    from verl_setpo.tasks.math_sets_select import Selection
    from verl_setpo.tasks.math_sets_write import write_countdown_set

    with errors_as_one_sentence():
        for name in ("count", "numbers", "target", "min_solutions"):
            given = context.get_parameter_source(name)
            if given is not None and given.name != "DEFAULT":
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is for problems that are generated, and these are read: leave it out")
        written = write_countdown_set(
            out,
            COUNTDOWN,
            style or "instruct",
            Selection(train_size=train_size, test_size=test_size, seed=seed),
            local_path=local_path,
            revision=revision,
            overwrite=overwrite,
        )
        written.tell(out)


@data.command()
def own(
    task: Annotated[str, typer.Argument(metavar="FILE.py", help="Such as scripts/experiments/coins.py.")],
    out: Out,
    train_size: TrainSize,
    test_size: TestSize,
    seed: Seed = 0,
    style: Style = "tiny",
    overwrite: Overwrite = False,
) -> None:
    """A task of your own: a Python file with DATA_SOURCE, Problem, generate and compute_score."""
    _generate(out, task, train_size, test_size, seed=seed, style=style, overwrite=overwrite)


add_sets(data)


@data.command("tiny-model")
def tiny_model(
    task: Annotated[str, typer.Option(help="polynomial, multiplication, countdown, or a Python file: `data own`.")],
    data: Annotated[Path, typer.Option(help="Folder that `verl-setpo data` wrote for this task.")],
    out: Annotated[Path, typer.Option(help="Folder to make, for actor_rollout_ref.model.path.")],
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Most steps of training; default by task.")] = None,
    target: Annotated[float | None, typer.Option(help="Stop at this pass@1 on training prompts.")] = None,
    wrong_share: Annotated[float | None, typer.Option(help="Share of answers that are wrong on purpose.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of a sample, a byte each; default by task.")] = None,
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 3,
    width: Annotated[int, typer.Option(help="Hidden size.")] = 64,
    threads: Annotated[int, typer.Option(help="CPU threads. Other numbers give slightly other weights.")] = 1,
    overwrite: Overwrite = False,
) -> None:
    """Build a tiny model and teach it the task half-way, so that RL begins diverse and fallible."""
    with errors_as_one_sentence():
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
            max_new_tokens=max_new_tokens,
            layers=layers,
            width=width,
            threads=threads,
            overwrite=overwrite,
            report=typer.echo,
        )
