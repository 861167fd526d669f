"""The tables of `verl-setpo credit`, 80 columns wide. What comes from the file is escaped and cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from verl_setpo.credit.figures import Figures
from verl_setpo.credit.methods import Choice
from verl_setpo.credit.sweep import Sweep
from verl_setpo.credit.telling import Shown
from verl_setpo.credit.trainer import Credited
from verl_setpo.evaluation.text import printable

LABEL_CHARS, TEXT_CHARS, QUESTION_CHARS, RUN_CHARS = 18, 40, 200, 16
HEADERS = ("mean\n|A|", "credit\nshare", "all 0", "correct\n< 0", "wrong\n> 0", "inverted")
_LEGEND = (
    "all 0: of the prompts. correct < 0, wrong > 0: of the correct and the wrong rollouts. inverted: of the prompts "
    "with both, where the wrong ones get more. !: a sign against the reward in such a prompt."
)


def cut(text: str, chars: int) -> str:
    """Escaped, on one line, and no longer than `chars`."""
    flat = printable(" ".join(text[: 4 * chars].split()))
    return flat if len(flat) <= chars else flat[: chars - 3] + "..."


def label(choice: Choice, given: Credited) -> str:
    """An estimator with what is in force."""
    if given.coef is not None:
        return f"{choice.name}, coef {given.coef:g}"
    return choice.name if given.set_size is None else f"{choice.name}, n {given.set_size}"


def summary(rows: Sequence[tuple[str, Figures]]) -> Table:
    """One row an estimator, over all prompts."""
    table = _table(["", *HEADERS])
    for name, figures in rows:
        table.add_row(Text(cut(name, 30)), *_cells(figures))
    return table


def sweep_table(swept: Sweep) -> Table:
    """One row a value of the swept key."""
    table = _table([f"{cut(swept.choice.name, 20)} {swept.key}", *HEADERS, "signs\nflipped"])
    for value, figures in zip(swept.values, swept.figures, strict=True):
        table.add_row(f"{value:g}", *_cells(figures), _share(figures.flips, figures.rollouts))
    return table


def prompt_table(shown: Shown, whole: bool) -> Table:
    """One prompt. Rollouts that are alike in all that is shown share a line, unless `whole`, which adds the texts."""
    names = list(shown.advantages)
    table = _table(["rollout", "reward", "strategy", *(cut(name, 12) for name in names)], left=(2,))
    if whole:
        table.add_column("text", overflow="ellipsis", no_wrap=True)
    lines = [
        (
            f"{reward:g}",
            cut(label, LABEL_CHARS),
            *(_advantage(shown.advantages[name][i], shown.against[name][i]) for name in names),
        )
        for i, (reward, label) in enumerate(zip(shown.rewards, shown.labels, strict=True))
    ]
    if whole:
        for i, line in enumerate(lines):
            table.add_row(str(i), *map(_coloured, line), Text(cut(shown.texts[i], TEXT_CHARS)))
        return table
    alike: dict[tuple[str, ...], list[int]] = {}
    for i, line in enumerate(lines):
        alike.setdefault(line, []).append(i)
    for line, members in alike.items():
        table.add_row(_runs(members), *map(_coloured, line))
    return table


def legend(prompts: Sequence[Table], by_kernel: bool) -> str:
    """What the signs of the tables of prompts and of the summary mean.

    Args:
        by_kernel: whether rollouts are compared by similarities, and not by clusters.
    """
    said = [_LEGEND]
    if by_kernel:
        said.append("alike 0.82: a rollout's mean similarity to the others of its prompt, from 0 to 1.")
    if any(", ..." in str(cell) for table in prompts for cell in table.columns[0].cells):
        said.append("12: 0, 4-6, ...: 12 rollouts that are alike in all that is shown, 0, 4, 5, 6 and others.")
    return " ".join(said)


def title(shown: Shown, prompts: int) -> str:
    """Above a prompt's table."""
    what = cut(shown.question, QUESTION_CHARS) or cut(shown.uid, QUESTION_CHARS)
    return f"Prompt {shown.number} of {prompts}: {what}"


def _table(headers: Sequence[str], left: Iterable[int] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for place, header in enumerate(headers):
        justify: JustifyMethod = "left" if place == 0 or place in left else "right"
        table.add_column(Text(header), justify=justify, overflow="fold", no_wrap=place not in left)
    return table


def _cells(figures: Figures) -> list[str]:
    return [
        f"{figures.mean_size:.4f}",
        f"{figures.credit_share:.3f}",
        _share(figures.zero_prompts, figures.prompts),
        _share(figures.correct_negative, figures.correct),
        _share(figures.wrong_positive, figures.wrong),
        _share(figures.inverted_prompts, figures.mixed_prompts),
    ]


def _share(part: int, whole: int) -> str:
    """Per cent, and the bare count where a table would hide it."""
    if whole == 0:
        return "-"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if part == 0 or percent >= 0.05 else "< 0.1 %"


def _advantage(value: float, against: bool) -> str:
    """A "!" marks a sign against the reward."""
    return f"{value:+.4f}{'!' if against else ''}" if value else "0"


def _coloured(cell: str) -> Text:
    return Text(cell, style="bold red" if cell.endswith("!") and cell[:1] in "+-" else "")


def _runs(members: Sequence[int]) -> str:
    """0-3, 7 for 0, 1, 2, 3, 7; of too many to show, their number first."""
    parts = []
    for _, run in groupby(enumerate(members), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        parts.append(f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    if len(", ".join(parts)) <= RUN_CHARS:
        return ", ".join(parts)
    shown = f"{len(members)}: {parts[0]}"
    for part in parts[1:]:
        if len(f"{shown}, {part}, ...") > RUN_CHARS:
            break
        shown += f", {part}"
    return f"{shown}, ..."
