"""The commands `verl-setpo evaluate` and `verl-setpo grade`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from verl_setpo.evaluate.summary import Figures

# numpy, pyarrow and rich are imported inside the commands, so that --help is quick; vLLM only in its own process.

RewardPath = Annotated[
    str | None,
    typer.Option(
        "--reward",
        metavar="PATH:NAME",
        help="Another reward function, as verl's reward.custom_reward_function: my_reward.py:compute_score.",
        show_default="that of this package",
    ),
]
RewardKwargs = Annotated[str | None, typer.Option(metavar="JSON", help="Arguments of the reward function.")]
Timeout = Annotated[float, typer.Option(help="Seconds that grading one response may take.")]
Ks = Annotated[
    str | None,
    typer.Option(help="The k of pass@k and majority@k in the table, 1,8,64 say.", show_default="1 and the largest"),
]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A Hugging Face folder, a model of the hub (owner/name), a checkpoint of verl (global_step_N), or a "
            "run's folder of checkpoints. NAME=MODEL gives it a name.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="FILE", help="A parquet file in verl's schema, or NAME=FILE. Repeat for several."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for samples and figures; one that stopped goes on.")],
    n: Annotated[int, typer.Option("--n", help="Samples a prompt.")] = 64,
    temperature: Annotated[float, typer.Option(help="0: greedy, with --n 1.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="1: of all tokens.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="-1: of all tokens.")] = -1,
    max_tokens: Annotated[int, typer.Option(help="Longest response.")] = 4096,
    seed: Annotated[int, typer.Option(help="Each sample has a seed of its own, from this and what it is.")] = 0,
    limit: Annotated[int | None, typer.Option(help="The first prompts of each set only.", show_default="all")] = None,
    steps: Annotated[
        str | None, typer.Option(help="Of a run's folder these checkpoints: 20,40.", show_default="all")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the weights: auto, bfloat16, float16, float32.")] = "auto",
    tensor_parallel: Annotated[int, typer.Option("--tp", min=1, help="GPUs that share a model.")] = 1,
    engine: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="More of vLLM's EngineArgs: '{\"gpu_memory_utilization\": 0.8}'."),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None, typer.Option(metavar="JSON", help="As verl's data.apply_chat_template_kwargs.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code of the model's folder.")
    ] = False,
    reward: RewardPath = None,
    reward_kwargs: RewardKwargs = None,
    reward_timeout: Timeout = 60.0,
    ks: Ks = None,
) -> None:
    """Draw many samples of each prompt with vLLM, grade them, and show pass@k, majority@k and diversity.

    May be killed at any time: the same command goes on with the samples that are missing.
    """
    from rich.console import Console

    from verl_setpo.evaluate.generate import EngineError
    from verl_setpo.evaluate.grading import parse_reward
    from verl_setpo.evaluate.manifest import Options
    from verl_setpo.evaluate.models import find_models
    from verl_setpo.evaluate.run import Evaluation, Interrupted, all_figures
    from verl_setpo.evaluate.run import evaluate as run
    from verl_setpo.evaluate.sets import read_sets

    console = Console(highlight=False)
    before = signal.signal(signal.SIGTERM, _interrupt)  # as a cluster's scheduler ends a job
    try:
        options = Options(
            n=n,
            limit=limit,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens=max_tokens,
            seed=seed,
            dtype=dtype,
            chat_template_kwargs=_object("--chat-template-kwargs", chat_template_kwargs),
            reward=parse_reward(reward, _object("--reward-kwargs", reward_kwargs), reward_timeout),
        )
        options.check()
        wanted_ks = _numbers("--ks", ks, least=1)
        asked = Evaluation(
            out=out,
            sets=read_sets(data, limit),
            models=find_models(models, _numbers("--steps", steps)),
            options=options,
            engine={"tensor_parallel_size": tensor_parallel, **_object("--engine", engine)},
            trust_remote_code=trust_remote_code,
        )
        run(asked, console)
        _show(console, out, all_figures(out, wanted_ks), wanted_ks)
    except Interrupted as stopped:
        typer.echo(str(stopped), err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, EngineError) as error:
        _fail(str(error))
    finally:
        signal.signal(signal.SIGTERM, before)


def grade(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="STEP.jsonl of verl's trainer.validation_data_dir, or the parquet of verl's main_generation. "
            "NAME=FILE gives it a name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to make, for graded samples and figures.")],
    data_source: Annotated[
        str | None, typer.Option(help="Of rows that do not say of which set they are: gsm8k, polynomial, ...")
    ] = None,
    reward: RewardPath = None,
    reward_kwargs: RewardKwargs = None,
    reward_timeout: Timeout = 60.0,
    ks: Ks = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what this command wrote there before.")
    ] = False,
) -> None:
    """Grade samples that exist, and show pass@k, majority@k and diversity. Needs no vLLM."""
    from rich.console import Console

    from verl_setpo.evaluate.existing import grade_files
    from verl_setpo.evaluate.grading import parse_reward
    from verl_setpo.evaluate.run import all_figures
    from verl_setpo.evaluation.text import printable

    console = Console(highlight=False)
    try:
        wanted_ks = _numbers("--ks", ks, least=1)
        function = parse_reward(reward, _object("--reward-kwargs", reward_kwargs), reward_timeout)
        graded = grade_files(files, out, function, data_source=data_source, overwrite=overwrite)
        if graded.first_error is not None:
            console.print(
                f"The reward function failed, first with: {printable(graded.first_error)[:300]}", markup=False
            )
        _show(console, out, all_figures(out, wanted_ks), wanted_ks, graded.notes)
    except (ValueError, OSError) as error:
        _fail(str(error))


def _show(console: Console, out: Path, rows: list[Figures], ks: list[int] | None, known: Sequence[str] = ()) -> None:
    """Print the table, and write summary.json and summary.md. known: notes besides those on the figures."""
    from verl_setpo.evaluate import tables
    from verl_setpo.evaluate.manifest import write_json, write_text
    from verl_setpo.evaluate.notes import notes
    from verl_setpo.evaluation.text import printable

    said = [*known, *notes(rows, ks)]
    write_json(out / "summary.json", tables.as_json(rows, said))
    write_text(out / "summary.md", tables.markdown_table(rows, ks, said))
    for number, table in enumerate(tables.rich_tables(rows, ks, console.width)):
        console.print(*([""] if number else []), table, sep="\n")
    console.print(f"{printable(tables.caption(rows))}.", markup=False, style="dim")
    for note in said:
        console.print(f"Note: {printable(note)}", markup=False, soft_wrap=True)
    console.print(printable(out / "summary.json"), markup=False, soft_wrap=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _object(option: str, text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{option} is not a JSON object: give it as '{{\"key\": 1}}'")
    return value


def _numbers(option: str, text: str | None, least: int = 0) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= least for part in parts):
        above = f", {least} or more" if least else ""
        raise ValueError(f"{option} is {text!r}: give whole numbers separated by commas{above}, such as 1,4,16")
    return [int(part) for part in parts]


def _fail(message: str) -> NoReturn:
    from verl_setpo.evaluation.text import printable

    typer.echo(f"Error: {printable(message)}", err=True)
    raise typer.Exit(1)
