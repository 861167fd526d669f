"""How good a judge is: agreement with hand-built groups and with itself, answers that hold, cost of a call."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge.judge import Judge, JudgeSettings, Verdict

BUILTIN_GROUPS = Path(__file__).with_name("groups.jsonl")


class Group(BaseModel):
    """Responses to one question whose strategies are known. clusters: one a response, -1 for a degenerate one."""

    model_config = ConfigDict(extra="forbid")

    question: str
    responses: list[str]
    clusters: list[int]
    tag: str = ""

    @model_validator(mode="after")
    def _check(self) -> Group:
        if len(self.responses) != len(self.clusters):
            raise ValueError(f"{len(self.clusters)} clusters for {len(self.responses)} responses")
        return self


def load_groups(path: str | Path = BUILTIN_GROUPS) -> list[Group]:
    """One group a line; ValueError names the line that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    groups = []
    # Not splitlines, which would also split at what a response may hold.
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        try:
            groups.append(Group.model_validate(json.loads(line)))
        except (ValueError, RecursionError) as error:  # the latter for JSON that is nested too deep
            raise ValueError(f"{path}, line {number}: {_problem(error)}") from None
    return groups


def _problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"no JSON ({error})"
    first = error.errors(include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


@dataclass
class PairCounts:
    """Pairs of responses by whether they are together in truth and in the verdict; degenerate ones are together."""

    both: int = 0
    only_found: int = 0
    only_known: int = 0
    neither: int = 0

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts(
            self.both + other.both,
            self.only_found + other.only_found,
            self.only_known + other.only_known,
            self.neither + other.neither,
        )

    @property
    def precision(self) -> float:
        """Of the pairs that the judge puts together, the share that belongs together; NaN without such pairs."""
        return _ratio(self.both, self.both + self.only_found)

    @property
    def recall(self) -> float:
        """Of the pairs that belong together, the share that the judge puts together; NaN without such pairs."""
        return _ratio(self.both, self.both + self.only_known)


def count_pairs(known: Sequence[int], found: Sequence[int]) -> PairCounts:
    """Compare two clusterings of the same N responses over their N(N-1)/2 pairs, however they are numbered."""
    counts = PairCounts()
    for together_known, together_found in zip(_together(known), _together(found), strict=True):
        if together_known and together_found:
            counts.both += 1
        elif together_found:
            counts.only_found += 1
        elif together_known:
            counts.only_known += 1
        else:
            counts.neither += 1
    return counts


def stability(runs: Sequence[Sequence[int]]) -> float:
    """Share of the pairs of responses on which two clusterings of the same responses agree, over all pairs of `runs`.

    1 where the order of the responses in the prompt changes nothing; NaN for fewer than two runs or responses.
    """
    same = total = 0
    for one, other in itertools.combinations(runs, 2):
        agreements = [a == b for a, b in zip(_together(one), _together(other), strict=True)]
        same, total = same + sum(agreements), total + len(agreements)
    return _ratio(same, total)


def _together(clusters: Sequence[int]) -> list[bool]:
    return [a == b for a, b in itertools.combinations(clusters, 2)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


@dataclass
class Quality:
    """How a judge did on G groups, each asked `shuffles` times in different orders.

    pairs, by_tag: agreement with what is known, over all groups and by their tag.
    degenerate: the same for the question whether a response has a strategy: (precision, recall).
    stability: mean over the groups, see `stability`. parse_rate: share of the judge's answers that hold.
    failed: calls without a verdict, by kind of `EndpointError`; they are in no other figure but `parse_rate`.
    tokens, seconds: mean of a call, prompt and answer; seconds under the settings' concurrency.
    """

    groups: int
    shuffles: int
    pairs: PairCounts
    by_tag: dict[str, PairCounts]
    degenerate: tuple[float, float]
    stability: float
    parse_rate: float
    tokens: float
    seconds: float
    failed: dict[str, int] = field(default_factory=dict)


def summarise(
    groups: Sequence[Group], runs: Sequence[Sequence[Verdict | EndpointError]], answers: int, bad_answers: int
) -> Quality:
    """The figures of `runs`: one sequence a shuffle, in it a verdict or an error for each of `groups`.

    Args:
        answers: that the judge gave in all, of which `bad_answers` broke the schema.
    """
    pairs, by_tag, failed = PairCounts(), defaultdict[str, PairCounts](PairCounts), defaultdict[str, int](int)
    hits = said = there = 0
    verdicts: list[Verdict] = []
    for run in runs:
        for group, verdict in zip(groups, run, strict=True):
            if isinstance(verdict, EndpointError):
                failed[verdict.kind] += 1
                continue
            verdicts.append(verdict)
            counts = count_pairs(group.clusters, verdict.clusters)
            pairs, by_tag[group.tag] = pairs + counts, by_tag[group.tag] + counts
            known, found = [c < 0 for c in group.clusters], [c < 0 for c in verdict.clusters]
            hits += sum(a and b for a, b in zip(known, found, strict=True))
            said, there = said + sum(found), there + sum(known)
    return Quality(
        groups=len(groups),
        shuffles=len(runs),
        pairs=pairs,
        by_tag=dict(by_tag),
        degenerate=(_ratio(hits, said), _ratio(hits, there)),
        stability=_mean(
            stability([verdict.clusters for verdict in asked if isinstance(verdict, Verdict)])
            for asked in zip(*runs, strict=True)
        ),
        parse_rate=_ratio(answers - bad_answers, answers),
        tokens=_mean(verdict.tokens for verdict in verdicts),
        seconds=_mean(verdict.seconds for verdict in verdicts),
        failed=dict(failed),
    )


def _mean(values: Iterable[float]) -> float:
    """NaN left out, and for nothing."""
    numbers = [value for value in values if not math.isnan(value)]
    return _ratio(sum(numbers), len(numbers))


async def measure(
    settings: JudgeSettings,
    groups: Sequence[Group],
    shuffles: int = 3,
    on_call: Callable[[Verdict | EndpointError], None] = lambda result: None,
) -> Quality:
    """Ask a judge about each group `shuffles` times, in an order of its own each time.

    Args:
        on_call: told the result of each call as soon as it is there.

    Raises:
        ValueError: as `Judge`. What fails while asking is counted, not raised.
    """
    runs: list[list[Verdict | EndpointError]] = []
    answers = bad_answers = 0
    for shuffle in range(shuffles):
        judge = Judge(settings.model_copy(update={"seed": settings.seed + shuffle, "cache_size": 0}))
        try:
            runs.append(await asyncio.gather(*(_ask(judge, group, on_call) for group in groups)))
        finally:
            await judge.close()
        answers, bad_answers = answers + judge.stats.answers, bad_answers + judge.stats.bad_answers
    return summarise(groups, runs, answers, bad_answers)


async def _ask(
    judge: Judge, group: Group, on_call: Callable[[Verdict | EndpointError], None]
) -> Verdict | EndpointError:
    result: Verdict | EndpointError
    try:
        result = await judge.cluster(group.question, group.responses)
    except EndpointError as error:
        result = error
    on_call(result)
    return result
