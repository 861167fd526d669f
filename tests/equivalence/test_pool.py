"""The pool of graders with real processes: limits, crashes, forks, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.signals.test_math_answers import SLACK_S, TOWER, is_alive, wait_until
from verl_setpo.equivalence.pool import GraderPool, shared_pool
from verl_setpo.equivalence.process import StartError, Verdict, Worker

EQUAL = (r"\sqrt{8}", r"2\sqrt{2}")


@pytest.fixture
def pool(request):
    pool = GraderPool(2, getattr(request, "param", 30.0))
    yield pool
    pool.close()


def test_it_grades_and_starts_no_more_than_it_may(pool):
    assert pool.pids == []
    golds = [rf"\sqrt{{{n}}}" for n in range(40, 60)]
    with ThreadPoolExecutor(10) as threads:
        verdicts = list(threads.map(lambda gold: pool.grade(gold, r"\sqrt{47}"), golds))
    assert [verdict is Verdict.EQUAL for verdict in verdicts] == [gold == r"\sqrt{47}" for gold in golds]
    assert 1 <= len(pool.pids) <= 2
    assert pool.grade("x", "{{") is Verdict.UNREADABLE


@pytest.mark.parametrize("pool", [1.0], indirect=True)
def test_a_hostile_answer_is_ended_in_time_and_costs_its_neighbours_nothing(pool):
    assert pool.grade(*EQUAL) is Verdict.EQUAL
    answers = [TOWER, r"2\sqrt{2}", f"{TOWER}+1", r"\sqrt{2}+\sqrt{2}", f"{TOWER}+2", r"\frac{4}{\sqrt{2}}"]
    start = time.monotonic()
    with ThreadPoolExecutor(len(answers)) as threads:
        verdicts = list(threads.map(lambda answer: pool.grade(r"\sqrt{8}", answer), answers))
    assert verdicts == [Verdict.TIMED_OUT, Verdict.EQUAL] * 3
    assert time.monotonic() - start < 3 * 1.0 + SLACK_S


@pytest.mark.parametrize("pool", [1.5], indirect=True)
def test_a_group_with_one_hostile_answer_waits_for_it_once(pool, monkeypatch):
    asked = []
    ask = Worker.ask
    monkeypatch.setattr(
        Worker, "ask", lambda self, *args, **kwargs: (asked.append(args[:2]), ask(self, *args, **kwargs))[1]
    )
    assert pool.grade(*EQUAL) is Verdict.EQUAL
    with ThreadPoolExecutor(8) as threads:
        verdicts = set(threads.map(lambda _: pool.grade("7", TOWER), range(8)))
    assert verdicts == {Verdict.TIMED_OUT}
    assert asked.count(("7", TOWER)) == 1


def test_a_killed_worker_costs_no_answer(pool):
    assert pool.grade(*EQUAL) is Verdict.EQUAL
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    assert pool.grade(r"\sqrt{12}", r"2\sqrt{3}") is Verdict.EQUAL


def test_a_worker_killed_at_work_is_asked_again_and_then_counted(pool):
    killed: list[int] = []

    def kill_twice_at_work():
        while len(killed) < 2:
            for worker in pool._workers:
                if worker._asked and worker.pid not in killed:
                    killed.append(worker.pid)
                    os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_twice_at_work)
    killer.start()
    assert pool.grade("7", TOWER) is Verdict.CRASHED
    killer.join()
    assert len(set(killed)) == 2
    assert pool.grade(*EQUAL) is Verdict.EQUAL


def test_where_no_worker_starts_all_who_wait_are_told(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")

    def cause(n):
        try:
            pool.grade(*EQUAL)
        except StartError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(6) as threads:
        causes = set(threads.map(cause, range(6)))
    assert causes == {"the process that runs math-verify does not start: it ended at once"}
    monkeypatch.undo()
    assert pool.grade(*EQUAL) is Verdict.EQUAL, "it may start later"


def test_settings_share_one_pool():
    assert shared_pool(2, 5.0) is shared_pool(2, 5.0)
    assert shared_pool(2, 5.0) is not shared_pool(1, 5.0)


FORKING = """
import os, sys, threading
from verl_setpo.equivalence.pool import shared_pool

def grade(n):
    assert shared_pool(1, 20.0).grade(rf"\\sqrt{{{n * n * 2}}}", rf"{n}\\sqrt{{2}}").value == "equal"

grade(2)
before = shared_pool(1, 20.0).pids
busy = threading.Thread(target=lambda: [grade(n) for n in range(3, 60)])  # its worker is taken while we fork
busy.start()
child = os.fork()
if child == 0:
    grade(3)
    assert shared_pool(1, 20.0).pids and shared_pool(1, 20.0).pids != before
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
busy.join()
grade(61)
assert shared_pool(1, 20.0).pids == before, "the child ended its parent's worker"
print(*before, flush=True)
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_forked_copy_has_its_own_workers_and_none_outlives_its_process(end):
    run = subprocess.run([sys.executable, "-c", FORKING + end], stdout=subprocess.PIPE, timeout=120)
    assert run.returncode == (-9 if "kill" in end else 0)
    pids = [int(pid) for pid in run.stdout.split()]
    assert pids
    assert wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_importing_the_reward_imports_neither_torch_nor_sympy_and_starts_nothing():
    code = """
        import sys, multiprocessing
        from verl_setpo.tasks.rewards import compute_score
        assert compute_score("gsm8k", "#### 7", "7")["score"] == 1.0
        found = {"torch", "verl", "ray", "sympy", "math_verify"} & set(sys.modules)
        assert not found, found
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
