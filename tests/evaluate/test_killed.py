"""An evaluation that is killed, again and again, ends in the same bytes as one that is not.

KILLS=10 kills it ten times in place of two.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluate.conftest import ROWS, SAMPLING, SLOWLY, N

KILLS = int(os.environ.get("KILLS", "2"))
FILE = Path("tiny") / "polynomial" / "validation" / "0.jsonl"
PART = FILE.with_name("0.part.jsonl")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def processes_of(out: Path) -> list[int]:
    """Processes with open files in the folder: the command itself, and the engine, whose log is there."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and process.name != str(os.getpid()):
            try:
                files = [os.readlink(descriptor) for descriptor in (process / "fd").iterdir()]
            except OSError:  # it has ended, or is not ours
                continue
            if any(file.startswith(f"{out}/") for file in files):
                found.append(int(process.name))
    return found


def wait_until(holds, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.005)
    return holds()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_evaluation_ends_in_the_bytes_of_one_that_was_not(evaluated, start, model, polynomials, tmp_path):
    out = tmp_path / "killed"
    arguments = (model, "--data", polynomials / "test.parquet", "--out", out, *SAMPLING, *SLOWLY)
    chance = random.Random()
    known: dict[str, bytes] = {}
    for kill in range(KILLS):
        process = start(*arguments)
        there = lines(out / PART)
        # Somewhere on the way: among the samples that are left, with a share for each kill that is to come.
        aim = there + chance.randint(0, (ROWS * N - there) // (KILLS - kill + 1))
        assert wait_until(lambda aim=aim: lines(out / PART) >= aim and (out / "evaluation.json").is_file(), 120)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert wait_until(lambda: not processes_of(out), 10), "the engine outlives its killed parent"
        drawn = (out / PART).read_bytes().splitlines(keepends=True) if (out / PART).exists() else []
        whole = {json.loads(line)["uid"]: line for line in drawn if line.endswith(b"\n")}
        assert known.items() <= whole.items(), "a sample was lost or drawn again"
        assert len(whole) == sum(line.endswith(b"\n") for line in drawn), "a sample is there twice"
        known = whole
        print(f"kill {kill + 1}: {len(known)} of {ROWS * N} samples, {'cut' if len(drawn) > len(whole) else 'whole'}")
    assert not (out / FILE).exists()
    process = start(*arguments)
    said, wrong = process.communicate(timeout=240)
    assert process.returncode == 0, said + wrong
    assert (out / FILE).read_bytes() == (evaluated / FILE).read_bytes()
    assert json.loads((out / "summary.json").read_text()) == json.loads((evaluated / "summary.json").read_text())
    assert not (out / PART).exists()


@pytest.mark.slow
def test_ctrl_c_ends_it_with_a_sentence_and_no_process_is_left(start, model, polynomials, tmp_path):
    out, n = tmp_path / "stopped", 16 * N  # so many that it is not over before a busy machine gets to the signal
    process = start(model, "--data", polynomials / "test.parquet", "--out", out, *SAMPLING, "--n", n, *SLOWLY)
    assert wait_until(lambda: lines(out / PART) >= 5, 120)
    process.send_signal(signal.SIGINT)
    _, wrong = process.communicate(timeout=30)
    assert process.returncode == 130, wrong
    there = lines(out / PART)
    assert 5 <= there < ROWS * n
    assert wrong == f"Stopped: {there} of {ROWS * n} samples are in {out}; the same command draws the others.\n"
    assert not processes_of(out)


@pytest.mark.slow
def test_an_engine_that_dies_is_one_sentence_that_names_its_log(start, model, polynomials, tmp_path):
    out = tmp_path / "died"
    process = start(model, "--data", polynomials / "test.parquet", "--out", out, *SAMPLING, *SLOWLY)
    assert wait_until(lambda: lines(out / PART) >= 1, 120)
    engine = [pid for pid in processes_of(out) if pid != process.pid]
    assert len(engine) == 1
    os.kill(engine[0], signal.SIGKILL)
    _, wrong = process.communicate(timeout=30)
    assert process.returncode == 1
    assert wrong.startswith(
        "Error: The process of vLLM was killed by SIGKILL, most often by the system for want of memory"
    )
    assert str(out / "tiny" / "engine-0.log") in wrong
    assert lines(out / PART) >= 1


def test_two_at_a_time_in_one_folder_are_refused(tmp_path):
    from verl_setpo.evaluate.manifest import locked

    out = tmp_path / "out"
    with locked(out):
        code = "import sys, pathlib; from verl_setpo.evaluate.manifest import locked\n"
        code += "with locked(pathlib.Path(sys.argv[1])): pass"
        other = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=False)
    assert "another process works in this folder" in other.stderr
    with locked(out):
        pass  # it is free again
