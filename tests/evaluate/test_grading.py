"""Grading by any reward function: as verl calls it, with a hard limit, and at the cost of nobody else's verdict."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from verl_setpo.evaluate.grading import Graders, Reward, RewardError, parse_reward

FUNCTIONS = '''
import os, subprocess, sys, time
import numpy as np

def score(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    """As verl calls it."""
    print("noise on stdout")
    if solution_str == "hang":
        time.sleep(1000)
    if solution_str == "children":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        open(ground_truth, "w").write(str(child.pid))
        time.sleep(1000)
    if solution_str == "die":
        os._exit(3)
    if solution_str == "raise":
        raise RuntimeError("no such\\x1b[31m answer")
    if solution_str == "nan":
        return float("nan")
    if solution_str == "numpy":
        return {"score": np.float32(0.5), "acc": np.bool_(True), "pred": np.array([1, 2])}
    return float(solution_str == ground_truth) + bonus + len(extra_info)

async def later(data_source, solution_str, ground_truth, extra_info):
    return {"score": 1.0, "pred": solution_str}

not_a_function = 3
'''


@pytest.fixture(scope="module")
def functions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "my_reward.py"
    path.write_text(FUNCTIONS)
    return path


def asked(output, gts="7", extra_info=None, data_source="mine"):
    return {"data_source": data_source, "output": output, "gts": gts, "extra_info": extra_info}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def graders(functions):
    with Graders(Reward(str(functions), "score", {"bonus": 0.25}, timeout_s=3.0)) as graders:
        assert graders.submit(asked("7")).result()["score"] == 1.25  # loaded: what follows is not the start
        yield graders


def test_a_plain_number_is_score_and_acc_as_in_verl(graders):
    assert graders.submit(asked("8", extra_info={"index": 1})).result() == {"score": 1.25, "acc": 1.25, "reward": 1.25}


def test_numbers_and_arrays_of_numpy_are_plain(graders):
    assert graders.submit(asked("numpy")).result() == {"score": 0.5, "acc": True, "pred": [1, 2], "reward": 0.5}


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("raise", "RuntimeError: no such"),
        ("nan", "the score is nan"),
        ("die", "died"),
        ("hang", "no verdict after 3 s"),
    ],
)
def test_a_response_without_a_verdict_scores_0_says_so_and_costs_no_other_its_own(functions, output, why):
    started = time.monotonic()
    with Graders(Reward(str(functions), "score", timeout_s=3.0)) as graders:
        futures = [graders.submit(asked(text)) for text in ("7", output, "7", "8")]
        results = [future.result() for future in futures]
        assert [result["score"] for result in results] == [1.0, 0.0, 1.0, 0.0]
        assert results[1]["grader_failed"] == 1.0
        assert results[1]["pred"] == ""
        assert why in (graders.first_error or "")
        assert graders.failed == 1
    assert time.monotonic() - started < 100


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_what_a_hanging_function_has_started_ends_with_it(functions, tmp_path):
    pid_file = tmp_path / "pid"
    with Graders(Reward(str(functions), "score", timeout_s=3.0), workers=1) as graders:
        assert graders.submit(asked("children", gts=str(pid_file))).result()["grader_failed"] == 1.0
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_an_asynchronous_function_is_awaited(functions):
    with Graders(Reward(str(functions), "later"), workers=1) as graders:
        assert graders.submit(asked("5")).result() == {"score": 1.0, "pred": "5", "reward": 1.0, "acc": 1.0}


@pytest.mark.parametrize(
    ("path", "name", "why"),
    [
        ("nowhere.py", "score", "cannot be loaded"),
        (None, "missing", "cannot be loaded"),
        (None, "not_a_function", "not_a_function is no function"),
        ("pkg://no.such.module", "score", "cannot be loaded"),
    ],
)
def test_a_function_that_is_not_there_is_one_sentence(functions, path, name, why):
    with Graders(Reward(path or str(functions), name), workers=1) as graders:
        with pytest.raises(RewardError, match=rf"^The reward function .*{name} .*{why}") as error:
            graders.submit(asked("7")).result()
        assert "\n" not in str(error.value)


def test_the_packages_own_reward_is_the_default_and_needs_no_verl():
    with Graders(Reward(), workers=1) as graders:
        graded = graders.submit(asked(r"so \boxed{\frac{14}{2}}", data_source="gsm8k")).result()
        assert (graded["score"], graded["acc"], graded["pred"], graded["grader_failed"]) == (1.0, 1.0, "7", 0.0)
        assert graders.check(asked("", data_source="gsm8k")) is None
        assert "unknown data_source" in (graders.check(asked("", data_source="mine")) or "")
        process = graders._processes[0]._process
        assert process is not None
        maps = Path(f"/proc/{process.pid}/maps")
        assert not maps.exists() or "libtorch" not in maps.read_text()


def test_grading_processes_end_with_the_one_who_asks(functions):
    graders = Graders(Reward(str(functions), "score"), workers=1)
    graders.submit(asked("7")).result()
    process = graders._processes[0]._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # all that is left of a parent that is killed
    assert process.wait(20) == 0
    graders.__exit__()


@pytest.mark.parametrize("text", ["my_reward.py", "my_reward.py:", ":score", "my_reward.py:a b"])
def test_a_reward_without_a_name_is_refused(text):
    with pytest.raises(ValueError, match=r"is not path:name: give my_reward\.py:compute_score"):
        parse_reward(text, {}, 60.0)


def test_the_path_of_a_reward_is_verls():
    assert parse_reward("pkg://a.b:c", {"k": 1}, 5.0) == Reward("pkg://a.b", "c", {"k": 1}, 5.0)
    assert parse_reward(None, {}, 60.0).is_own
    assert os.path.basename(parse_reward("/x/y.py:z", {}, 1.0).path) == "y.py"
