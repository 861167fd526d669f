"""recipes/cluster/ray_on_slurm.sh with a real Ray; only Slurm's own commands are stood in for, on this one host."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "cluster" / "ray_on_slurm.sh"
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
    [ "$1" = -w ] && shift
    shift
done
exec "$@"
"""
RECIPE = """
import os, sys, ray
ray.init(log_to_driver=False)
gpus = int(ray.cluster_resources()["GPU"])
print("nodes", len(ray.nodes()), "GPUs", gpus, "NNODES", os.environ["NNODES"], *sys.argv[1:])
"""


@pytest.fixture
def slurm(tmp_path):
    """A folder with `srun` and `scontrol` for a job of one node, and a recipe that says which Ray it found."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    tools = tmp_path / "bin"
    tools.mkdir()
    # srun runs what follows its options, and ends it when it is ended itself.
    (tools / "srun").write_text(
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do [ "$1" = -w ] && shift; shift; done\nexec "$@"\n'
    )
    (tools / "scontrol").write_text("#!/bin/bash\necho here\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "recipe.py").write_text(RECIPE)
    recipe = tmp_path / "run.sh"
    recipe.write_text(f'exec {sys.executable} {tmp_path}/recipe.py "$@"\n')
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "here",
        "SLURM_GPUS_ON_NODE": "3",
        "SLURM_CPUS_PER_TASK": "4",
        "RAY_PORT": str(port),
        "PYTHON": sys.executable,
        # Where `ray start` writes which cluster runs here, for any other run to join; short, as sockets lie in it.
        "RAY_TMPDIR": tempfile.mkdtemp(prefix="slurm"),
    }
    yield recipe, environment
    shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


def run(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, int]:
    """Exit status, output, and the session that the script led."""
    process = subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=240)[0]
    finally:
        subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
    return process.returncode, output, process.pid


@pytest.mark.slow
def test_ray_starts_the_recipe_joins_it_and_both_end(slurm):
    recipe, environment = slurm
    code, output, _ = run([str(recipe), "trainer.total_epochs=1"], environment)
    assert code == 0, output
    assert "nodes 1 GPUs 3 NNODES 1 trainer.total_epochs=1" in output
    # Whoever starts the next recipe on this port must not meet the last one's Ray.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(environment["RAY_PORT"]))) != 0


def test_a_missing_recipe_is_said_before_ray_starts(slurm):
    code, output, _ = run(["recipes/none.sh"], slurm[1])
    assert (code, output.count("\n")) == (2, 1)
    assert "there is no recipe recipes/none.sh" in output
