"""How `verl-setpo doctor` takes a run's words beside its commands, and which thread it may leave behind."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

ABANDONED = "doctor-rewards"
"""Name of the thread in which a reward function is asked. One that never returns is given up."""

WORDS = "verl_setpo.doctor.words"
"""Under which the words of a run are found in `Context.meta`."""


class WordsOrCommand(TyperGroup):
    """A group that takes the KEY=VALUE words of a run as well as a command, in any order with its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not self.commands.keys() & set(args):
            words = [word for word in args if word.startswith("~") or ("=" in word and not word.startswith("-"))]
            ctx.meta[WORDS] = words
            args = [word for word in args if word not in words]
        return super().parse_args(ctx, args)
