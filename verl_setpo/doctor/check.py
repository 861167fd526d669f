"""A finding of `verl-setpo doctor`, and what keeps one check from harming another: isolation, silence, no secrets."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Status = Literal["ok", "note", "fail", "not done"]

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[._-])(?:(?:api|access|auth|bearer|hf|private|secret)_?(?:key|token)|token|secret|passw(?:or)?d|credentials?)$"
)
_SECRET_VARIABLE = re.compile(r"(?i)_key$")
"""Of an environment variable besides; of a config's keys, data.prompt_key is none."""
_NO_SECRET = re.compile(r"(?i)^(?:true|false|none|null|[\d._-]*)$")
_IN_ADDRESS = re.compile(r"://[^/\s@]+@")
_IN_QUERY = re.compile(r"(?i)([?&][\w-]*(?:key|token|secret|password)=)[^&\s]+")
_MIN_SECRET = 8
_MAX_CHARS = 600


@dataclass(frozen=True)
class Check:
    """One finding. `fail` means that a run would fail or not be the method; `not done` says in `found` why.

    cure: a sentence for a finding that is not ok. seconds: what the check took, with those found beside it.
    """

    name: str
    status: Status
    found: str
    cure: str = ""
    seconds: float = 0.0


def isolated(name: str, function: Callable[..., Iterable[Check]], *arguments: Any) -> list[Check]:
    """The findings of `function`; whatever it raises is one more, a failed check called `name`, with a sentence.

    What it prints, logs and warns of is dropped: verl, Ray and people's own reward functions all talk.
    """
    started = time.monotonic()
    checks: list[Check] = []
    try:
        with _silence():
            for check in function(*arguments):
                checks.append(check)  # one by one: what was found before it raises, counts
    except (Exception, SystemExit) as error:  # verl_setpo's own refusal of a command line is a SystemExit
        checks.append(Check(name, "fail", sentence(error), "Mend what it names, and ask again."))
    seconds = time.monotonic() - started
    return [replace(check, seconds=seconds) for check in checks]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def sentence(error: BaseException) -> str:
    """What an error says in one line. ValueError and SystemExit, with which this package speaks to people, go without
    the name of their type."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip()).removeprefix("verl_setpo: ")
    if len(text) > _MAX_CHARS:
        text = f"{text[:_MAX_CHARS]}..."
    plain = isinstance(error, SystemExit) or type(error) is ValueError
    return text if plain and text else f"{type(error).__name__}{f': {text}' if text else ''}"


def secrets_of(words: Sequence[str]) -> list[str]:
    """Values that must be shown nowhere: of environment variables and of words KEY=VALUE whose name is a secret's."""
    given = [word.lstrip("+").split("=", 1) for word in words if "=" in word]
    found = {value.strip("'\" ") for name, value in [*os.environ.items(), *given] if _SECRET_NAME.search(name)}
    found |= {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)}
    # Longest first, so that one that holds another is replaced as a whole.
    return sorted((s for s in found if len(s) >= _MIN_SECRET and not _NO_SECRET.match(s)), key=len, reverse=True)


def without_secrets(check: Check, secrets: Sequence[str]) -> Check:
    """The check with secrets, and what of an address may be one, replaced by ***."""

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return _IN_QUERY.sub(r"\1***", _IN_ADDRESS.sub("://***@", text))

    return replace(check, found=clean(check.found), cure=clean(check.cure))
