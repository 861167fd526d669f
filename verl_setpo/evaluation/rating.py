"""How diverse an LLM finds the solutions of a problem, from 1 to 5 (SetPO, arXiv 2602.01062): its prompt, its answer.

Not part of `verl_setpo.evaluation`'s own names: it needs torch and the packages of the judge, whose quoting it uses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge.prompt import Prompt, PromptTemplate, Quoter

TEMPLATE = PromptTemplate(Path(__file__).with_name("rating.jinja"))
LOWEST, HIGHEST = 1, 5
MIN_RESPONSES = 6
"""The paper rates 16. Of fewer than 6 solutions no count would be few enough for a 5."""

_FIRST = re.compile(r"\s*\[\[([^\[\]]*)\]\]")
_NUMBER = re.compile(r"\[\[\s*[-+.0-9]+\s*\]\]")


def rating_prompt(question: str, responses: Sequence[str], rng: random.Random, quoter: Quoter | None = None) -> Prompt:
    """The prompt for a rating of all `responses`, shuffled and named by `rng`, quoted as the judge's are.

    Equal responses are all in it: how many follow one path is what is rated. The bounds of the grades are those of 16
    solutions, scaled to their number; the papers' figures are for 16.

    Args:
        responses: written by a policy, so hostile.
        quoter: one that knows the special tokens of the rater's tokenizer; None: the usual ones.

    Raises:
        ValueError: fewer than MIN_RESPONSES.
    """
    if len(responses) < MIN_RESPONSES:
        raise ValueError(
            f"a diversity rating needs at least {MIN_RESPONSES} responses, not {len(responses)}: sample more, the "
            "paper rates 16"
        )
    return TEMPLATE.render(question, responses, rng, quoter=quoter or Quoter())


def parse_rating(answer: str) -> int:
    """The grade with which the answer begins, `[[1]]` to `[[5]]`.

    Anything else is a failure, never a guess: no grade, one that is not first, not a whole number or out of range, or
    a second number in double brackets further on.

    Raises:
        EndpointError: bad_answer.
    """
    first = _FIRST.match(answer)
    if first is None:
        raise EndpointError("bad_answer", "the rating's answer does not begin with a grade such as [[3]]")
    # Not int(), which takes digits of other scripts, signs and underscores.
    if not re.fullmatch(f"[{LOWEST}-{HIGHEST}]", first[1].strip(" ")):
        raise EndpointError("bad_answer", f"the rating's grade is not a whole number from {LOWEST} to {HIGHEST}")
    if _NUMBER.search(answer, first.end()):
        raise EndpointError("bad_answer", "the rating's answer holds more than one grade")
    return int(first[1])
