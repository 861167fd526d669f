"""The whole command in a process of its own: a tiny run, its plugin and a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.doctor.conftest import OUR_REWARD, POLYNOMIALS


@pytest.fixture
def doctor(tmp_path):
    """Runs the command: its exit status, what it printed, and its findings by name."""

    def run(*words, **environment):
        path = tmp_path / "findings.json"
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "verl_setpo.cli", "doctor", "--json", str(path), *words],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "80", **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert "Traceback" not in result.stderr
        findings = json.loads(path.read_text())["checks"] if path.exists() else []
        return result, {check["name"]: check for check in findings}

    return run


def test_a_run_that_fits_is_well_from_its_versions_to_a_ray_worker(doctor, run_words):
    result, found = doctor(*run_words(POLYNOMIALS, *OUR_REWARD, "+set_rl=poly_epo"))
    assert result.returncode == 0, result.stdout
    assert {check["status"] for check in found.values()} <= {"ok", "note", "not done"}
    for name in ("plugin", "config groups", "keys", "verl's keys", "inputs", "rewards", "signal", "advantages"):
        assert found[name]["status"] == "ok", found[name]
    assert found["Ray worker"]["found"].endswith("verl loads the plugin in a worker")
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_plugin_that_is_switched_off_fails_here_and_in_rays_workers(doctor):
    result, found = doctor(VERL_USE_EXTERNAL_PLUGINS="none")
    assert result.returncode == 1
    for name in ("plugin", "Ray worker"):
        assert found[name]["status"] == "fail"
        assert found[name]["found"] == "verl did not load it (VERL_USE_EXTERNAL_PLUGINS=none)"
        assert found[name]["cure"].startswith("Unset VERL_USE_EXTERNAL_PLUGINS")


def test_a_wrong_command_line_fails_in_a_sentence_and_shows_no_key(doctor, run_words):
    words = ["algorithm.adv_estimator=set_loo", "+algorithm.set_rl.signal.api_key=sk-canary-6b2f"]
    result, found = doctor("--no-ray", *run_words(POLYNOMIALS, *OUR_REWARD, *words))
    assert result.returncode == 1
    assert found["plugin"]["status"] == "ok"  # which reads a run's command line, and this is not one
    assert "trainer.v1.trainer_mode=set_sync" in found["trainer mode"]["found"]
    assert "canary" not in result.stdout + result.stderr + json.dumps(found)
