"""A second grader, independent of the reward: verl's own `prime_math`, in a process of its own.

python -m verl_setpo.doctor.grader_second FD PID     as `verl_setpo.equivalence.worker`, whose protocol it keeps.

It normalises texts and asks sympy, without math-verify. It may take for ever, and it calls Python's eval on what it is
given: for texts that we wrote, never for a policy's.
"""

from __future__ import annotations

import sys
from typing import Any

from verl_setpo.equivalence.worker import serve


def _load() -> None:
    from verl.utils.reward_score import prime_math  # noqa: F401


def _verdict(gold: str, response: str, gold_first: bool) -> str:
    from verl.utils.reward_score import prime_math

    score: Any = prime_math.compute_score  # whose declared type is not what it returns
    try:
        return "equal" if score(response, gold)[0] else "different"
    except Exception:
        return "raised"


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), _load, _verdict)
