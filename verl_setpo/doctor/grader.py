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

from verl_setpo.doctor.reward_rows import own_answers
from verl_setpo.equivalence.normal_form import read_answer
from verl_setpo.equivalence.pool import GraderPool, shared_pool
from verl_setpo.equivalence.process import Verdict
from verl_setpo.equivalence.settled import question
from verl_setpo.tasks import countdown
from verl_setpo.tasks.countdown_solutions import MAX_SOLVE_COUNT
from verl_setpo.tasks.math import TIMEOUT_S, WORKERS
from verl_setpo.tasks.math_sets import SETS
from verl_setpo.tasks.rewards import TASKS, compute_score

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

    gradable: it gets the reward 1 as an answer, but math-verify cannot compare it, so that no other text does. None: it
    is a problem for which no solution is sought.
    """

    index: int
    source: str
    gold: str
    cause: str
    gradable: bool | None


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    cure = "name a parquet file that `verl-setpo data` wrote, such as train.parquet."
    if not path.is_file():
        raise ValueError(f"--data {path} is {'a folder' if path.is_dir() else 'not there'}: {cure}")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [name for name in ("data_source", "reward_model") if name not in schema.names]
            if missing:
                raise ValueError(f"--data {path} has no column {' or '.join(missing)}: {cure}")
            model = schema.field("reward_model").type
            if not pa.types.is_struct(model) or model.get_field_index("ground_truth") < 0:
                raise ValueError(f"--data {path} has no ground_truth in its column reward_model: {cure}")
            rows = file.read(columns=["data_source", "reward_model.ground_truth"]).to_pylist()
    except pa.ArrowException:
        raise ValueError(f"--data {path} is not a parquet file, or a broken one: {cure}") from None
    except OSError as error:
        raise ValueError(f"--data {path} cannot be read ({error.strerror or 'it is broken'}): {cure}") from None
    for row in rows:
        yield str(row["data_source"]), (row["reward_model"] or {}).get("ground_truth")


def hard_rows(rows: Iterable[tuple[str, Any]], on_row: Callable[[], None] = lambda: None) -> list[Row]:
    """The rows whose ground truth, as a response with just that in a box, does not get the reward 1, those that are
    compared by their text only, and those that are not looked at.

    Of a generated task, whose ground truth is the problem, a solution of it is the response. Countdown with more than
    MAX_SOLVE_COUNT numbers is not looked at: to find a solution could take for ever.
    """

    def grade(numbered: tuple[int, tuple[str, Any]]) -> Row | None:
        index, (source, gold) = numbered
        cause = _cause(source, gold)
        on_row()
        if cause is None:
            return Row(index, source, str(gold), "no solution of it is sought", None)
        if cause:
            return Row(index, source, str(gold), cause, False)
        if source in SETS and not _is_read(gold):
            return Row(index, source, str(gold), _BY_TEXT, True)
        return None

    with ThreadPoolExecutor(_THREADS) as threads:
        return [row for row in threads.map(grade, enumerate(rows)) if row is not None]


def _cause(source: str, gold: Any) -> str | None:
    """Why the row cannot be graded; "" where it can, None where that is not looked at."""
    try:
        answers = _answers(source, gold)
        if answers is None or any(compute_score(source, answer, gold)["score"] == 1.0 for answer in answers):
            return None if answers is None else ""
    except ValueError as error:
        return str(error)
    if source in TASKS:
        return "a solution of it does not get the reward 1" if answers else "it has no solution"
    return "as an answer it is not equal to itself"


def _answers(source: str, gold: Any) -> list[str] | None:
    """Responses of which one gets the reward 1; none where there is no solution, None where none is sought.

    Raises ValueError for a broken ground truth of one of `TASKS`.
    """
    if source not in TASKS:
        return [f"\\boxed{{{gold}}}"]
    if source == countdown.DATA_SOURCE and len(countdown.Problem.from_ground_truth(gold).numbers) > MAX_SOLVE_COUNT:
        return None
    return own_answers({"data_source": source, "reward_model": {"ground_truth": gold}})


def _is_read(gold: Any) -> bool:
    """Whether answers are compared with this one by its value: a number, a word, or what math-verify can compare."""
    answer = read_answer(str(gold))
    if answer.number is not None or answer.words:
        return True
    return shared_pool(WORKERS, TIMEOUT_S).grade(*question(answer, answer)) is Verdict.EQUAL
