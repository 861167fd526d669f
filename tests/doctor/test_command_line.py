"""The words of a recipe, from the script itself and without a run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from verl_setpo.doctor import command_line
from verl_setpo.doctor.command_line import words_of

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def script(folder, text):
    path = folder / "run.sh"
    path.write_text(f"set -e\n{text}\n")
    return path


@pytest.mark.parametrize("python", ["python", "python3", '"$PYTHON"', "env python3 -u"])
def test_the_words_are_those_that_verl_would_get(tmp_path, monkeypatch, python):
    monkeypatch.setenv("METHOD", "poly_epo")
    path = script(
        tmp_path, f"{python} -m verl.trainer.main_ppo +set_rl=$METHOD 'data.train_files=[\"a b\", c]' x=$((2*3))"
    )
    assert words_of(path) == ["+set_rl=poly_epo", 'data.train_files=["a b", c]', "x=6"]


def test_python_is_python_for_all_that_is_no_run(tmp_path):
    path = script(tmp_path, 'n=$(python -c "print(6 * 7)")\npython3 -m verl.trainer.main_ppo trainer.total_epochs=$n')
    assert words_of(path) == ["trainer.total_epochs=42"]


def test_a_recipe_of_ours_is_read(monkeypatch):
    monkeypatch.setenv("METHOD", "set_loo+gspo")
    words = words_of(RECIPES / "set_loo" / "run_qwen2_5_math_7b_fsdp.sh")
    assert "+set_rl=set_loo" in words
    assert "actor_rollout_ref.actor.policy_loss.loss_mode=gspo" in words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo nothing to train", "started no verl.trainer.main_ppo through python, python3 or \\$PYTHON"),
        ("echo 'METHOD=x is unknown' >&2; exit 2", "its last line: METHOD=x is unknown"),
        ("set -x; METHOD=x; echo 'METHOD=x is unknown' >&2 && exit 1", "its last line: METHOD=x is unknown"),
        ("python -m verl.trainer.main_ppo --config-name mine a=1", "gives verl the option --config-name"),
    ],
)
def test_a_script_that_cannot_be_read_is_refused_with_its_own_words(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        words_of(script(tmp_path, text))


def test_no_such_script_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        words_of(tmp_path / "none.sh")


def test_a_script_that_does_not_end_is_ended_with_all_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "SCRIPT_LIMIT_S", 1.0)
    alive = tmp_path / "alive"
    path = script(tmp_path, f"(while true; do date > {alive}; sleep 0.05; done) & sleep 100")
    with pytest.raises(ValueError, match="was ended after 1 s"):
        words_of(path)
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()
