"""How `verl-setpo doctor` takes a run's words beside its commands, and how it ends."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import typer
from typer.core import TyperGroup

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


def leave(status: int) -> None:
    """End, also where a reward function that was given up still works in a thread, for which Python would wait."""
    if any(thread.name.startswith("doctor") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        raise typer.Exit(status)
