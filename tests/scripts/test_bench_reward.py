"""The benchmark of the reward runs, and both contenders give the same verdicts."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_reward.py"


def test_benchmark_writes_a_table_and_numbers(tmp_path):
    command = [sys.executable, str(SCRIPT), "--size", "80", "--hard-size", "10", "--rounds", "1"]
    run = subprocess.run([*command, "--out", str(tmp_path / "b.json")], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "answers per second" in run.stdout
    streams = json.loads((tmp_path / "b.json").read_text())["streams"]
    assert set(streams) == {"mix", "repeated", "hard"}
    for stream in streams.values():
        assert stream["agree"] > 0.95
        assert 0 < stream["right"] < 1
        assert min(stream["per_second"].values()) > 0
