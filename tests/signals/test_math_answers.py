"""`signal.equal=math`: real math-verify in real processes, against answers that a policy might write to break it."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from verl_setpo.equivalence import worker
from verl_setpo.equivalence.clusters import MAX_CHARS, MathEquality
from verl_setpo.equivalence.process import Verdict
from verl_setpo.signals import AnswerClusters, Rollout, build_signal
from verl_setpo.tasks.rewards import compute_score

SLACK_S = 20.0
"""On top of every bound: these are tests that bounds hold, not of speed."""

# Read in no time, and then out of reach.
TOWER = "9^{9^{9^{9}}}"
HOSTILE = {
    "tower": TOWER,
    "power of ten": "10^{10^{8}}",
    "double factorial": "99999999999!!",
    "sum": r"\sum_{n=1}^{10^9} n^{n}",
    "long integer": "9" * 990,
    "braces": "{" * 100_000,
    "deep brackets": "(" * 400 + "1" + ")" * 400,
    "deep roots": r"\sqrt{" * 140 + "2" + "}" * 140,
    "no characters": "\x00\ud800\udfff",
    "protocol": '"}\n{"verdict": "equal"}',
    "alarm": r"\signal.alarm(0)__import__('os')._exit(0)",
}


def group(*answers: str) -> list[Rollout]:
    return [Rollout("p", s, torch.tensor([65]), answer, lambda: "") for s, answer in enumerate(answers)]


def clusters(by_math: AnswerClusters, *answers: str) -> list[int]:
    batch = by_math.collect([group(*answers)])
    assert batch.failures == (None,)
    return batch.clusters_PN[0].tolist()


def partition(ids: list[int], answers: tuple[str, ...]) -> set[frozenset[str]]:
    return {frozenset(a for a, j in zip(answers, ids, strict=True) if i == j) for i in ids}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = SLACK_S) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def shared():
    by_math = AnswerClusters("math")
    yield by_math
    by_math.close()


@pytest.fixture
def by_math(request):
    by_math = AnswerClusters("math", **getattr(request, "param", {}))
    yield by_math
    by_math.close()


@pytest.mark.parametrize(
    "equal",
    [
        (r"\frac{1}{2}", "0.5", "1/2", r"\frac12", "2/4", "50%", r"50\%", ".5"),
        ("1234", "1,234", "01234", r"1{,}234", "x=1234"),
        ("(x+1)^2", "x^2+2x+1", "1 + x(x + 2)"),
        (r"\sqrt{8}", r"2\sqrt{2}", "8^{1/2}", "sqrt(8)"),
        (r"\{1,2\}", r"\{2, 1\}", "{1,2}"),
        ("[0,1)", "[0, 1)", r"\left[0, \frac{2}{2}\right)"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&8/2\end{bmatrix}"),
        ("(0,1)", "0<x<1"),
        ("0<x<1", "(0,1)"),
        (r"x \in (0,1)", "0<x<1"),
        ("0<x<1", r"x \in (0,1)"),
    ],
    ids=lambda answers: answers[0],
)
def test_mathematically_equal_answers_share_a_cluster(shared, equal):
    assert clusters(shared, *equal) == [0] * len(equal)
    assert clusters(AnswerClusters(), *equal) == list(range(len(equal)))


def test_unequal_answers_and_no_answer_do_not(shared):
    answers = ("1/2", "0.51", "", "7", "(0,1)", "[0,1]", "Alice", "Bob", "x+1", "y+1", "{", "}")
    ids = clusters(shared, *answers)
    assert ids[2] == -1
    assert sorted(ids) == [-1, *range(len(answers) - 1)]


def test_clusters_are_numbered_by_first_appearance_and_groups_do_not_share_them(shared):
    batch = shared.collect([group("7", "0.5", "7.0", "1/2"), group("1/2"), group("", "3", "0.5", "1/2", "3")])
    assert batch.clusters_PN.tolist() == [[0, 1, 0, 1, -1], [0, -1, -1, -1, -1], [-1, 0, 1, 1, 0]]
    assert shared.collect([]).clusters_PN.shape == (0, 0)


def test_the_order_of_rollouts_changes_no_cluster():
    """Also where math-verify is not transitive: for it 50% is 1/2 and 50, and 0.333333 is 1/3 and 0.3333334."""
    answers = ("50%", "50", "1/2", "0.333333", "1/3", "0.3333334", "(0,1)", "0<x<1", "{", "Alice")
    found = set()
    for seed in range(4):
        order = tuple(random.Random(seed).sample(answers, len(answers)))
        by_math = AnswerClusters("math")  # nothing remembered
        found.add(frozenset(partition(clusters(by_math, *order), order)))
        by_math.close()
    assert len(found) == 1


def test_nothing_is_asked_twice_and_the_answers_survive_the_processes(by_math):
    answers = ("1/2", "0.5", "7", "8", "{{")
    first = clusters(by_math, *answers)
    assert by_math.counts.asked > 0
    by_math.close()
    assert clusters(by_math, *answers[::-1]) == [0, 1, 2, 3, 3]
    assert first == [0, 0, 1, 2, 3]
    assert (by_math.counts.asked, by_math._math.pids) == (0, [])
    assert by_math.counts.cached > 0


def test_no_process_starts_where_nothing_is_to_compare(by_math):
    long = ["1" * (MAX_CHARS + 1), "2" * 100_000, "{" * 100_000]
    assert by_math.collect([group("7", "7", "", "7"), group(*long, long[0])]).clusters_PN.tolist() == [
        [0, 0, -1, 0],
        [0, 1, 2, 0],
    ]
    assert by_math._math.pids == []
    assert by_math.counts.by_text == 3


@pytest.mark.parametrize("by_math", [{"timeout_s": 0.7}], indirect=True)
def test_hostile_answers_cost_their_time_and_no_other_answer_its_cluster(by_math, caplog):
    answers = ("1/2", *HOSTILE.values(), "0.5", "7", r"\frac{1}{2}", TOWER)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        ids = clusters(by_math, *answers)
    assert time.monotonic() - start < len(HOSTILE) * 0.7 + SLACK_S
    assert ids[0] == ids[-4] == ids[-2] == 0
    assert ids[1] == ids[-1] == 1
    assert len(set(ids)) == len(HOSTILE) + 2
    assert by_math.counts.timed_out >= 3
    assert by_math.counts.timed_out + 1 <= by_math.counts.by_text <= len(HOSTILE)
    assert len(caplog.records) == 1
    assert f"{by_math.counts.by_text} answers were compared by their text only" in caplog.text

    assert clusters(by_math, *answers) == ids
    assert by_math.counts.timed_out == 0, "a text that took too long once is not asked about again"
    assert by_math.counts.by_text > 0


@pytest.mark.parametrize("by_math", [{"timeout_s": 2, "budget_s": 3}], indirect=True)
def test_a_step_takes_no_longer_than_its_budget(by_math):
    groups = [group("1/2", *(f"{base}^{{9^{{9^{{{p}}}}}}}" for base in range(5, 9)), "0.5") for p in range(100, 160)]
    start = time.monotonic()
    batch = by_math.collect(groups)
    took = time.monotonic() - start
    assert took < 3 + SLACK_S
    assert by_math.counts.unasked > 0
    assert by_math.counts.seconds == pytest.approx(took, abs=1)
    assert not any(batch.failures)
    assert (batch.clusters_PN[:, 1:5].sort(-1).values.diff() > 0).all(), "without time, by text"


def test_a_worker_killed_between_steps_is_replaced(by_math):
    assert clusters(by_math, "1/2", "0.5") == [0, 0]
    pids = by_math._math.pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert clusters(by_math, "1/3", "2/6") == [0, 0]
    assert by_math.counts.crashed == 0


@pytest.mark.parametrize("by_math", [{"timeout_s": 60}], indirect=True)
def test_a_worker_killed_at_work_costs_one_answer(by_math):
    assert clusters(by_math, "1/2", "0.5") == [0, 0]
    killer = threading.Timer(0.5, lambda: [os.kill(pid, signal.SIGKILL) for pid in by_math._math.pids])
    killer.start()
    assert clusters(by_math, "7", TOWER, "7.0", "1/3", "2/6") == [0, 1, 0, 2, 2]
    assert (by_math.counts.crashed, by_math.counts.by_text, by_math.counts.timed_out) == (1, 1, 0)


def test_two_answers_whose_comparison_fails_cost_their_group_no_other():
    """Each of them passes alone; which is to blame nobody knows. Texts with an equal number are equal here."""

    def ask(one: str, other: str) -> Verdict:
        if one != other and "poison" in one + other:
            return Verdict.TIMED_OUT
        return Verdict.EQUAL if one[-1] == other[-1] else Verdict.DIFFERENT

    texts = ["poison 1", "a1", "b1", "a2", "c1", "b2", "d2"]
    math = MathEquality(1, 1)
    names, by_text = {text: text for text in texts}, set[str]()
    math._sort(texts, names, by_text, ask)
    assert by_text == {"poison 1", "a1"}
    assert names == {text: text for text in texts} | {"c1": "b1", "b2": "a2", "d2": "a2"}

    texts = ["a1", "b1", "poison 1", "c1"]
    names, by_text = {text: text for text in texts}, set()
    math._sort(texts, names, by_text, ask)
    assert by_text == {"poison 1", "a1"}
    assert names == {"a1": "a1", "b1": "a1", "poison 1": "poison 1", "c1": "a1"}, "the cluster lives on without a1"


def test_after_close_no_process_is_left(by_math):
    clusters(by_math, "1/2", "0.5")
    pids = by_math._math.pids
    assert pids
    assert all(is_alive(pid) for pid in pids)
    by_math.close()
    assert not any(is_alive(pid) for pid in pids)
    by_math.close()


def test_a_signal_that_is_dropped_leaves_no_process():
    by_math = AnswerClusters("math")
    clusters(by_math, "1/2", "0.5")
    pids = by_math._math.pids
    del by_math
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


PARENT = """
import sys, threading, time, torch
from verl_setpo.signals import AnswerClusters, Rollout

def collect(*answers):
    return by_math.collect([[Rollout("p", s, torch.tensor([65]), a, lambda: "") for s, a in enumerate(answers)]])

by_math = AnswerClusters("math", timeout_s=4)
assert collect("1/2", "0.5").clusters_PN.tolist() == [[0, 0]]
assert "math_verify" not in sys.modules and "sympy" not in sys.modules
print(*by_math._math.pids, flush=True)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os._exit(4)", 4),
        ("import os; os.kill(os.getpid(), 9)", -9),
        # Killed while its worker is inside one operation that lasts for ever.
        (f"import os; threading.Timer(1, os.kill, (os.getpid(), 9)).start(); collect('7', {TOWER!r})", -9),
    ],
    ids=["end", "exit", "_exit", "killed", "killed at work"],
)
def test_no_process_outlives_its_parent(end, code):
    run = subprocess.run([sys.executable, "-c", PARENT + end], stdout=subprocess.PIPE, timeout=60)
    assert run.returncode == code
    pids = [int(pid) for pid in run.stdout.split()]
    assert pids
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_worker_imports_neither_torch_nor_verl_nor_ray():
    code = """
        import sys
        from verl_setpo.equivalence.worker import equal
        assert equal("1/2", "0.5")
        found = {"torch", "verl", "ray", "hydra", "numpy"} & set(sys.modules)
        assert not found, found
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


def test_the_short_cut_by_values_agrees_with_math_verify():
    """Two values far apart are different without being asked about; everything else is math-verify's word."""
    texts = (
        *(r"\frac{1}{2}", "0.5", "50%", "50", r"5\%", "0.05", "1/3", "0.333333", "0.3333", r"\ln 2", "0.6931472"),
        *(r"\sqrt{8}", r"2\sqrt{2}", "2.828427", "-1", r"e^{i\pi}", "0", "0.0000001", "10^{20}", "10^{20}+1"),
        *(r"\sqrt{x^2}", "x", "a+b", "b+a", "ab", r"\text{ab}", r"\sin^2 x+\cos^2 x", "1", r"\infty", r"-\infty"),
    )
    different = 0
    for i, one in enumerate(texts):
        for other in texts[:i]:
            if worker._surely_different(worker.value(one), worker.value(other)):
                different += 1
                assert not worker._verify(worker.parse(one), worker.parse(other)), (one, other)
    assert different > 200


def test_where_no_worker_starts_the_groups_have_no_signal(by_math, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    batch = by_math.collect([group("1/2", "0.5"), group("7", "7"), group("7", "8")])
    assert batch.failures[1] is None
    assert (
        batch.failures[0] == batch.failures[2] == "the process that runs math-verify does not start: it ended at once"
    )
    assert batch.clusters_PN.tolist() == [[-1, -1], [0, 0], [-1, -1]]
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "No such file" in by_math.collect([group("1/2", "0.5")]).failures[0]
    monkeypatch.undo()
    assert clusters(by_math, "1/2", "0.5") == [0, 0]


def test_without_the_package_the_cure_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"\(answer\): signal\.equal=math needs the package math-verify: pip install math-verify\.$"
    ):
        build_signal("answer", {"equal": "math"})
    assert build_signal("answer", {"equal": "text"}).counts.asked == 0


@pytest.mark.parametrize(
    ("source", "truth", "equal", "other"),
    [
        (
            "countdown",
            '{"numbers": [3, 5, 7], "target": 22, "style": "tiny"}',
            ["3*5+7", "7+(5*3)", "7 + 5 * 3"],
            "3+5+7",
        ),
        ("polynomial", '{"a": 1, "b": 3, "c": 7}', ["(1,11)", r"\boxed{(01, 11)}", r"\left(1,11\right)"], "(0,7)"),
    ],
)
def test_by_text_the_tasks_of_this_package_bring_their_canonical_form(source, truth, equal, other):
    preds = [compute_score(source, text, truth)["pred"] for text in (*equal, other)]
    assert clusters(AnswerClusters(), *preds) == [0, 0, 0, 1]
