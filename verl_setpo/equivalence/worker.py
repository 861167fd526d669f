"""The worker process: answers one question after the other, "are these two answers equal?", with math-verify.

python -m verl_setpo.equivalence.worker FD PID     FD: an open duplex connection; PID: of the process that asks.

A question is JSON, {"one": text, "other": text, "limit_s": seconds}; a reply is {"verdict": "equal" | "different" |
"raised"}, and the first one, unasked, {"verdict": "ready"} or {"verdict": "error", "cause": text}. With one == other
the question is whether that text can be compared with others: "equal", "unreadable" where it is no mathematics, or
"raised".

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
# What math-verify's LaTeX does not read, and its reader of plain expressions does: 50%, 1,234.
_PLAIN_NUMBER = re.compile(r"[-+]?[0-9.,]+ ?(\\?%)?")


def main(fd: int, parent: int) -> None:
    """Serve until the connection is closed or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even inside one long operation of C
    _limit_memory()
    channel = Connection(fd)
    try:
        import math_verify  # noqa: F401
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
            verdict = _verdict(question["one"], question["other"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(channel, verdict=verdict)


def _send(channel: Connection, **reply: str) -> None:
    channel.send_bytes(json.dumps(reply).encode())


def _limit_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_BYTES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _verdict(one: str, other: str) -> str:
    try:
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
def value(text: str) -> complex | None:
    """The value of an expression, its variables at a fixed point that is nothing special; None where it has none."""
    from sympy import Expr, Symbol

    found = parse(text)
    # math-verify takes the one variable "answer" for the product a*n*s*w*e*r.
    if len(found) != 1 or not isinstance(found[0], Expr) or isinstance(found[0], Symbol):
        return None
    expression = found[0]
    point = {symbol: 0.5 + crc32(symbol.name.encode()) / 2**32 for symbol in expression.free_symbols}
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
def parse(text: str) -> list[Any]:
    """What math-verify reads in an answer, taken as the content of a box; [] where that is no mathematics."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig
    from math_verify import parse as read

    # Its own timeouts are alarms with a Python handler, which never runs inside one long operation.
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None, "raise_on_error": True}
    found = read(f"\\boxed{{{text}}}", [LatexExtractionConfig(boxed_match_priority=0)], **options)
    if not found and _PLAIN_NUMBER.fullmatch(text):
        found = read(text.replace("\\%", "%"), [ExprExtractionConfig()], **options)
    return list(found)


def _verify(one: list[Any], other: list[Any]) -> bool:
    from math_verify import verify

    return bool(verify(one, other, timeout_seconds=None, raise_on_error=True))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
