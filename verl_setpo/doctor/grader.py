"""How good is the reward for mathematical problems? Against answers of which is known whether they are right.

`grader_cases.jsonl` has one case a line: kind, gold (the ground truth), response, equal (whether the response gives
it), and, of those that the reward gets wrong, known: why.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_setpo.equivalence.normal_form import read_answer
from verl_setpo.equivalence.pool import GraderPool, shared_pool
from verl_setpo.equivalence.process import Verdict
from verl_setpo.equivalence.settled import question
from verl_setpo.tasks.math import TIMEOUT_S, WORKERS
from verl_setpo.tasks.math_sets import SETS
from verl_setpo.tasks.rewards import compute_score

CASES = Path(__file__).with_name("grader_cases.jsonl")
SOURCE = "math500"
SECOND_LIMIT_S = 20.0
_THREADS = 4
_BY_TEXT = "math-verify cannot compare it: only the same text is right"


@dataclass(frozen=True)
class Case:
    kind: str
    gold: str
    response: str
    equal: bool
    known: str = ""


@dataclass(frozen=True)
class Graded:
    """A case with what came of it. second: None where the second grader gave no answer."""

    case: Case
    ours: bool
    failed: bool
    second: bool | None

    @property
    def wrong(self) -> bool:
        return self.ours != self.case.equal

    @property
    def bad(self) -> bool:
        """Not as this package says it is: wrong and not known to be, or the other way round, or not graded."""
        return self.failed or self.wrong != bool(self.case.known)


@dataclass(frozen=True)
class Row:
    """A row of data with a ground truth that is hard to grade. index: from 0, in its file; cause: why.

    gradable: it gets the reward 1 as an answer, but math-verify cannot compare it, so that no other text does.
    """

    index: int
    source: str
    gold: str
    cause: str
    gradable: bool


def load_cases(path: Path = CASES) -> list[Case]:
    return [Case(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def grade_cases(cases: Iterable[Case], on_case: Callable[[], None] = lambda: None) -> list[Graded]:
    """Both graders on each case; on_case is called after each. Raises StartError where one does not start."""
    second = GraderPool(1, SECOND_LIMIT_S, module="verl_setpo.doctor.grader_second")

    def grade(case: Case) -> Graded:
        ours = compute_score(SOURCE, case.response, case.gold)
        verdict = second.grade(case.gold, case.response)
        on_case()
        known = verdict in (Verdict.EQUAL, Verdict.DIFFERENT)
        return Graded(
            case,
            ours=bool(ours["score"]),
            failed=bool(ours["grader_failed"]),
            second=verdict is Verdict.EQUAL if known else None,
        )

    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(grade, cases))
    finally:
        second.close()


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The data source and the ground truth of each row of a parquet file in verl's schema.

    Raises ValueError that names the file when it is none.
    """
    import pyarrow.parquet as pq
    from pyarrow.lib import ArrowException

    try:
        table = pq.read_table(path, columns=["data_source", "reward_model"])
    except (OSError, ArrowException) as error:
        raise ValueError(
            f"--data {path} cannot be read as parquet with the columns data_source and reward_model "
            f"({str(error).splitlines()[0]:.200}): name a file that `verl-setpo data` wrote."
        ) from None
    for row in table.to_pylist():
        yield str(row["data_source"]), (row["reward_model"] or {}).get("ground_truth")


def hard_rows(rows: Iterable[tuple[str, Any]], on_row: Callable[[], None] = lambda: None) -> list[Row]:
    """The rows whose ground truth, as a response with just that in a box, does not get the reward 1, and those that are
    compared by their text only."""

    def grade(numbered: tuple[int, tuple[str, Any]]) -> Row | None:
        index, (source, gold) = numbered
        cause = _cause(source, gold)
        gradable = not cause and source in SETS and not _is_read(gold)
        on_row()
        if not cause and not gradable:
            return None
        return Row(
            index, source, str(gold), cause or "math-verify does not read it: only the same text is right", gradable
        )

    with ThreadPoolExecutor(_THREADS) as threads:
        return [row for row in threads.map(grade, enumerate(rows)) if row is not None]


def _cause(source: str, gold: Any) -> str:
    try:
        result = compute_score(source, f"\\boxed{{{gold}}}", gold)
    except ValueError as error:
        return str(error)
    return "" if result["score"] == 1.0 else "as an answer it is not equal to itself"


def _is_read(gold: Any) -> bool:
    """Whether answers are compared with this one by its value: a number, a word, or what math-verify can compare."""
    answer = read_answer(str(gold))
    if answer.number is not None or answer.words:
        return True
    return shared_pool(WORKERS, TIMEOUT_S).grade(*question(answer, answer)) is Verdict.EQUAL
