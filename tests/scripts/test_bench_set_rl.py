"""The benchmark runs, checks itself against its own baselines, and writes what it measured."""

import json
import math
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_set_rl.py"


def test_benchmark_writes_table_plot_and_numbers(tmp_path):
    command = [sys.executable, str(SCRIPT), "--small", "--repeats", "2", "--out", str(tmp_path / "b.png")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "enumeration in numpy" in run.stdout
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / "b.json").read_text())
    assert all(math.isfinite(row["ratio"]) for row in numbers["rows"])
    assert {row["against"] for row in numbers["rows"]} >= {"enumeration in numpy", "naive loop", "rewards", "kernel"}
    for line in numbers["growth"].values():
        assert len(line["sizes"]) == len(line["seconds"])
        assert min(line["seconds"]) > 0


def test_baselines_of_the_benchmark_are_wrong_when_the_mathematics_is(tmp_path):
    """The comparison before each measurement can fail: a marginal advantage that is off by a constant is noticed."""
    code = (
        "import sys; sys.argv = ['bench', '--small', '--repeats', '1', '--out', sys.argv[1]]\n"
        "import verl_setpo.set_rl as m\n"
        "right = m.marginal_set_advantage\n"
        "m.marginal_set_advantage = lambda *a, **k: right(*a, **k) + 1e-6\n"
        f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "b.png")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode != 0
    assert "Not equal to tolerance" in run.stderr
