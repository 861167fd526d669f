"""Mistakes that a verl run's command line shows."""

from __future__ import annotations

import shlex

import pytest

from verl_setpo import preflight
from verl_setpo.preflight import check_command_line, find_mistake

MAIN = "python3 -m verl.trainer.main_ppo data.train_files=x.parquet "


@pytest.mark.parametrize("estimator", ["set_loo", "poly_epo", "grpo_div", "set_rl"])
@pytest.mark.parametrize("mode", ["", "trainer.v1.trainer_mode=colocate_async", "+trainer.v1.trainer_mode=sync"])
def test_an_estimator_without_a_mode_of_ours_names_the_mode_to_set(estimator, mode):
    sentence = find_mistake(shlex.split(f"{MAIN} algorithm.adv_estimator={estimator} {mode}"))
    assert f"algorithm.adv_estimator={estimator} needs trainer.v1.trainer_mode=set_sync" in sentence
    group = "pass_at_n" if estimator == "set_rl" else estimator
    assert f"add +set_rl={group}" in sentence


@pytest.mark.parametrize("mode", ["set_sync", "set_colocate_async", "set_separate_async"])
@pytest.mark.parametrize("estimator", ["", "algorithm.adv_estimator=grpo", "++algorithm.adv_estimator=gae"])
def test_a_mode_without_an_estimator_of_ours_names_the_estimator_to_set(mode, estimator):
    sentence = find_mistake(shlex.split(f"{MAIN} trainer.v1.trainer_mode={mode} {estimator}"))
    assert f"trainer.v1.trainer_mode={mode} needs algorithm.adv_estimator to be one of set_loo, poly_epo" in sentence
    assert "add +set_rl=set_loo" in sentence


@pytest.mark.parametrize(
    "words",
    [
        "",
        "algorithm.adv_estimator=grpo",
        "algorithm.adv_estimator=grpo trainer.v1.trainer_mode=separate_async",
        "+set_rl=set_loo",
        "+set_rl=set_loo algorithm.adv_estimator=grpo",
        "+set_rl=poly_epo +platform=cpu",
        "+platform=cpu",
        "algorithm.adv_estimator=set_loo trainer.v1.trainer_mode=set_sync +algorithm.set_rl.signal.name=answer",
        # What a config file sets is not seen here.
        "--config-name=mine algorithm.adv_estimator=set_loo",
        "--config-path conf -cn mine trainer.v1.trainer_mode=set_sync",
    ],
)
def test_a_command_line_that_may_be_right_passes(words):
    assert find_mistake(shlex.split(MAIN + words)) is None


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["python"],
        ["python", "-c", "x = 1; y == 2"],
        ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"],
        ["python", "default_worker.py", "--node-ip-address=127.0.0.1", "--object-store-name=/tmp/ray/plasma_store"],
        ["pytest", "-k", "a=b", "=", "+=", "~trainer.x"],
    ],
)
def test_other_processes_that_import_verl_pass(argv):
    assert find_mistake(argv) is None


@pytest.mark.parametrize("word", ["+set_rl=set_loo", "+platform=cpu"])
def test_a_group_that_hydra_cannot_see_would_be_a_plain_key_that_nobody_reads(monkeypatch, word):
    monkeypatch.setattr(preflight, "_search_path_installed", lambda: False)
    assert f"{word} would be ignored" in find_mistake(shlex.split(MAIN + word))
    assert find_mistake(["python", "my_script.py", word]) is None


def test_the_search_path_is_installed_here():
    assert preflight._search_path_installed()


def test_a_mistake_ends_the_process_with_one_sentence():
    with pytest.raises(SystemExit, match=r"^verl_setpo: algorithm\.adv_estimator=set_loo needs .*[^.]\.$"):
        check_command_line(shlex.split(MAIN + "algorithm.adv_estimator=set_loo"))
    check_command_line(shlex.split(MAIN))
