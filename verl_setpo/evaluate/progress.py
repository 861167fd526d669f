"""How far an evaluation is: a bar with the time left on a terminal, a line now and then on a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task

LINE_EVERY_S = 30.0


class Meter:
    """Counts samples; a context manager. Tokens a second are those of finished samples.

    Args:
        label: of the model.
        total, done: samples in all, and those that are there already.
    """

    def __init__(self, console: Console, label: str, total: int, done: int) -> None:
        self.console, self.label, self.total, self.done = console, label, total, done
        self.tokens, self._before = 0, done
        self._started = self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Meter:
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                _column(self.rate_text),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
                speed_estimate_period=600,
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.done > self._before:
            self._line()

    def begin(self) -> None:
        """Samples come from now on: loading the model is no part of the rate."""
        self._started = self._said = time.monotonic()
        if self._bar is not None:
            self._bar.reset(self._task, completed=self.done)

    def advance(self, tokens: int) -> None:
        """One sample more, of so many tokens."""
        self.done += 1
        self.tokens += tokens
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._line()

    def rate_text(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{self.tokens / seconds:,.0f} tokens/s" if self.tokens and seconds > 0 else ""

    def left_s(self) -> float | None:
        """Seconds left at the rate so far; None before the first sample."""
        new = self.done - self._before
        return (time.monotonic() - self._started) / new * (self.total - self.done) if new else None

    def _line(self) -> None:
        left = self.left_s()
        parts = [f"{self.label}: {self.done} of {self.total} samples", self.rate_text()]
        parts.append(f"{left:.0f} s left" if left and self.done < self.total else "")
        self.console.print(", ".join(part for part in parts if part), markup=False, highlight=False, soft_wrap=True)


def _column(text: Callable[[], str]) -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Column(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(text())

    return Column()
