"""The worker process: answers one question after the other, "are these two answers equal?", with math-verify.

python -m verl_setpo.equivalence.worker FD PID     FD: an open duplex connection; PID: of the process that asks.

A question is JSON, {"one": text, "other": text, "gold_first": whether `one` is the truth, "limit_s": seconds}; a reply
is {"verdict": "equal" | "different" | "unreadable" | "raised"}, and the first one, unasked, {"verdict": "ready"} or
{"verdict": "error", "cause": text}. "unreadable" is what is no mathematics. With one == other, and no truth among the
two, the question is whether that text can be compared with others.

The answers are a policy's, so they are hostile: who asks ends this process when an answer takes too long. Should the
one who asks die first, the kernel's alarm ends a busy process and the closed connection an idle one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any
from zlib import crc32

MEMORY_BYTES = 4 << 30
"""Address space of a worker; beyond it a comparison raises MemoryError."""
_ALARM_GRACE_S = 1.0
_LOOK_FOR_PARENT_S = 10.0
_FAR = 1e-3  # relative; math-verify rounds to 6 decimals
_HUGE = 1e12
_ZERO = 1e-60  # sympy's evaluation of what is zero ends somewhere below
# What math-verify's LaTeX does not read, and its reader of plain expressions does: 50%, 1,234.
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9.,]+ ?(\\?%)?")


def main(fd: int, parent: int) -> None:
    """Serve math-verify."""
    _limit_memory()
    serve(fd, parent, _load, _verdict)


def serve(fd: int, parent: int, load: Callable[[], None], verdict: Callable[[str, str, bool], str]) -> None:
    """Answer questions until the connection is closed or the parent is gone.

    load: imports what is needed; what it raises is reported as the reason why this process does not start.
    verdict: from `one`, `other` and `gold_first` to the word for what came of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside one long operation of C
    channel = Connection(fd)
    try:
        load()
    except Exception as error:
        _send(channel, verdict="error", cause=f"{type(error).__name__}: {error}")
        return
    logging.disable(logging.CRITICAL)
    _send(channel, verdict="ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            # A process forked from the parent may hold the connection open after its death.
            while not channel.poll(_LOOK_FOR_PARENT_S):
                if os.getppid() != parent:
                    return
            question = json.loads(channel.recv_bytes())
            signal.setitimer(signal.ITIMER_REAL, question["limit_s"] + _ALARM_GRACE_S)
            found = verdict(question["one"], question["other"], question["gold_first"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(channel, verdict=found)


def _load() -> None:
    # Its first question costs thirty times a later one, more than a short limit on a busy machine.
    for units in (False, True):
        if not _verify(parse(r"\sqrt{8}", units), parse(r"2\sqrt{2}", units)):
            raise RuntimeError("math-verify does not find sqrt(8) equal to 2 sqrt(2)")


def _send(channel: Connection, **reply: str) -> None:
    channel.send_bytes(json.dumps(reply).encode())


def _limit_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_BYTES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _verdict(one: str, other: str, gold_first: bool) -> str:
    try:
        if gold_first:
            return _grade(one, other)
        if one == other:
            return _can_be_compared(one)
        return "equal" if equal(one, other) else "different"
    except Exception:
        return "raised"


def _can_be_compared(text: str) -> str:
    """Reading 9^9^9^9 takes no time, and its value is out of reach. Compared with a number, that shows here, and not
    first in a comparison with an innocent answer."""
    if not parse(text):
        return "unreadable"
    equal(text, "0.123")
    return "equal"


def _grade(gold: str, answer: str) -> str:
    if not parse(gold, units=False) or not parse(answer, units=False):
        return "unreadable"
    return "equal" if accepts(gold, answer) else "different"


def accepts(gold: str, answer: str) -> bool:
    """Whether math-verify takes the answer for the gold one.

    Not the same as `equal`. The gold one comes first, or any equation that ends in "= 0" would be equal to 0. Units
    stay, as math-verify's list of them has single letters, which makes 3t and 3m equal to 3. Values far apart are
    different also where they are small: by its 6 decimals 0.0000001 is 0.0000002, and 10^{-34} is 10^{-33}. And i is
    the imaginary unit, for math-verify a variable.
    """
    one, other = value(gold, units=False), value(answer, units=False)
    percent = "%" in gold or "%" in answer
    if one is not None and other is not None:
        factors = (1, 100, 0.01) if percent else (1,)
        if all(_far_apart(factor * one, other) for factor in factors):
            return False
    return _verify(parse(gold, units=False), parse(answer, units=False), relations=True)


def _far_apart(one: complex, other: complex) -> bool:
    larger = max(abs(one), abs(other))
    return larger > _ZERO and abs(one - other) > _FAR * larger


def equal(one: str, other: str) -> bool:
    """Whether math-verify finds the two equal, in either order: it is not symmetric where an equation meets a value or
    an interval."""
    if _surely_different(value(one), value(other)):
        return False
    if _verify(parse(one), parse(other)):
        return True
    return _kinds(one) != _kinds(other) and _verify(parse(other), parse(one))


def _surely_different(one: complex | None, other: complex | None) -> bool:
    """Whether two values are far apart, also where one is a percentage, which math-verify takes for 50 and for 0.5.

    Saves nearly all the time: sympy simplifies for 0.1 s before it finds two roots or polynomials different.
    """
    if one is None or other is None:
        return False
    pairs = ((one, other), (100 * one, other), (one, 100 * other))
    return all(abs(a - b) > _FAR * max(1.0, abs(a), abs(b)) for a, b in pairs)


@lru_cache(maxsize=1024)
def value(text: str, units: bool = True) -> complex | None:
    """The value of an expression, its variables at a fixed point that is nothing special; None where it has none."""
    from sympy import Expr, Float, Symbol

    found = parse(text, units)
    # math-verify takes the one variable "answer" for the product a*n*s*w*e*r.
    if len(found) != 1 or not isinstance(found[0], Expr) or isinstance(found[0], Symbol):
        return None
    expression = found[0]
    point = {symbol: Float(0.5 + crc32(symbol.name.encode()) / 2**32) for symbol in expression.free_symbols}
    try:
        number = complex(expression.evalf(20, subs=point))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if abs(number) < _HUGE else None


def _kinds(text: str) -> list[str]:
    """What math-verify treats alike; between two of a kind it is symmetric."""
    from sympy import Set
    from sympy.logic.boolalg import Boolean

    return [
        type(part).__name__ if isinstance(part, Boolean) else "set" if isinstance(part, Set) else "expression"
        for part in parse(text)
    ]


@lru_cache(maxsize=1024)
def parse(text: str, units: bool = True) -> list[Any]:
    """What math-verify reads in an answer, taken as the content of a box; [] where that is no mathematics.

    units: take what math-verify knows as a unit off its end.
    """
    from math_verify import ExprExtractionConfig
    from math_verify import parse as read

    # Its own timeouts are alarms with a Python handler, which never runs inside one long operation.
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None, "raise_on_error": True}
    found = read(f"\\boxed{{{text}}}", [_latex(units)], **options)
    if not found and _PLAIN_NUMBER.fullmatch(text):
        found = read(text.replace("\\%", "%"), [ExprExtractionConfig()], **options)
    return list(found) if units else [_with_imaginary_unit(part) for part in found]


def _with_imaginary_unit(part: Any) -> Any:
    from sympy import I

    # An index of a sum is not free.
    names = {symbol: I for symbol in getattr(part, "free_symbols", ()) if symbol.name == "i"}
    if not names:
        return part
    try:
        return part.xreplace(names)
    except (TypeError, ValueError):  # sympy has no order of complex numbers
        return part


@lru_cache(maxsize=2)
def _latex(units: bool) -> Any:
    from math_verify import LatexExtractionConfig

    config = LatexExtractionConfig(boxed_match_priority=0)
    return config if units else replace(config, normalization_config=replace(config.normalization_config, units=False))


def _verify(one: list[Any], other: list[Any], relations: bool = False) -> bool:
    from math_verify import verify

    options: dict[str, Any] = {"timeout_seconds": None, "raise_on_error": True}
    return bool(verify(one, other, allow_set_relation_comp=relations, **options))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
