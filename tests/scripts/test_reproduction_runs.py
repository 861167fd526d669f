"""Trainings of an experiment: which are begun, with what, and what stays of one that is cut off."""

from __future__ import annotations

import re
import shutil
import time

import pytest
import typer
from processes import CommandFailed, run
from reproduce import PUBLISHED, Run, _all, _alone_in, app, in_parallel, missing
from reproduction import results
from reproduction.experiment import load
from reproduction.inputs import check_lengths
from reproduction.train import train
from typer.testing import CliRunner

from tests.scripts.experiments import SMALL, counts, whole_run
from verl_setpo.cli import app as cli
from verl_setpo.tasks.tiny_model import build_tokenizer


def test_a_run_that_fails_stops_no_other_and_the_command_says_so(capsys):
    done = []

    def work(item):
        if item == 1:
            raise CommandFailed("run_tiny_fsdp.sh ended with status 1")
        done.append(item)

    with pytest.raises(typer.Exit) as end:
        in_parallel(2, work, [0, 1, 2, 3])
    assert end.value.exit_code == 1
    assert sorted(done) == [0, 2, 3]
    said = capsys.readouterr().out
    assert "run_tiny_fsdp.sh ended with status 1" in said
    assert "1 of 4 failed; the same command tries them again" in said


def test_a_defect_of_the_script_ends_all(tmp_path):
    begun = []

    def work(item):
        begun.append(item)
        if item == "defect":
            while not (tmp_path / "started").exists():
                time.sleep(0.05)
            raise KeyError(item)
        run(["bash", "-c", f"touch {tmp_path}/started; exec sleep 300"], tmp_path / "log")

    before = time.monotonic()
    with pytest.raises(KeyError):
        in_parallel(2, work, ["sleeper", "defect", "never"])
    assert time.monotonic() - before < 60
    assert "never" not in begun


def test_a_run_has_results_when_all_that_is_looked_at_is_there():
    trial = {"LR": 1}
    seed = SMALL.seeds[1]
    lines = whole_run("grpo", trial, seed, "test")
    wanted = Run("test", "grpo", 0, trial, seed)
    assert missing(SMALL, [wanted], lines) == []
    assert missing(SMALL, [wanted], lines[1:]) == [wanted]
    assert missing(SMALL, [wanted], lines[:2]) == [wanted]
    cooler = SMALL.evaluation.model_copy(update={"temperatures": [0.5, 1.0]})
    assert missing(SMALL.model_copy(update={"evaluation": cooler}), [wanted], lines) == [wanted]
    probed = SMALL.evaluation.model_copy(update={"train_prompts": 8})
    assert missing(SMALL.model_copy(update={"evaluation": probed}), [wanted], lines) == [wanted]
    # The other starting model is now that of this seed.
    turned = SMALL.model_copy(update={"seeds": SMALL.seeds[1:]})
    assert missing(turned, [wanted], lines) == [wanted]
    assert results.in_force(turned, lines, {"grpo": trial, "other": {"C": 1}}) == []


def test_what_cannot_be_written_is_not_deleted(tmp_path, monkeypatch):
    seed = SMALL.seeds[0]
    wanted = Run("test", "grpo", 0, {"LR": 1}, seed)
    place = tmp_path / "runs" / f"test-grpo-{wanted.of(SMALL)}-seed-{seed}"

    def trained(*_):
        for name in ("samples", "checkpoints"):
            (place / name).mkdir(parents=True, exist_ok=True)
        (place / "trained").touch()
        return [counts("grpo", {"LR": 1}, [9], [1], seed)]

    monkeypatch.setattr("reproduce._one", trained)
    full = tmp_path / "full"
    full.mkdir()  # a folder where the file should be: no line can be written
    with pytest.raises(IsADirectoryError):
        _all(SMALL, [wanted], tmp_path, tmp_path, full, 1)
    assert {path.name for path in place.iterdir()} == {"samples", "checkpoints", "trained"}
    shutil.rmtree(place)
    full.rmdir()
    _all(SMALL, [wanted], tmp_path, tmp_path, full, 1)
    assert list(place.iterdir()) == []
    assert results.read(full) == trained()


def test_what_a_shell_has_exported_changes_no_training(tmp_path, monkeypatch):
    for name, value in {"SIGNAL": "ngram", "LR": "7", "PYTHON": "/nowhere", "HOME": "/kept"}.items():
        monkeypatch.setenv(name, value)
    seen = {}
    monkeypatch.setattr("reproduction.train.run", lambda words, log, environment: seen.update(environment))
    train(SMALL, {"METHOD": "grpo", "LR": 1}, tmp_path / "run", tmp_path, tmp_path, 1)
    assert (seen["LR"], seen["METHOD"], seen["HOME"]) == ("1", "grpo", "/kept")
    assert not {"SIGNAL", "PYTHON"} & seen.keys()


def test_two_do_not_work_in_one_folder(tmp_path):
    with (
        _alone_in(tmp_path),
        pytest.raises(typer.BadParameter, match="another run is going on in"),
        _alone_in(tmp_path),
    ):
        pass


def test_prompts_that_verl_would_cut_off_are_refused(tmp_path):
    coins = load("coins")
    data = tmp_path / "data"
    words = ["data", "own", str(coins.own_task), "--out", str(data), "--train-size", "6", "--test-size", "6"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    shutil.copy(data / "test.parquet", data / "validation.parquet")
    model = tmp_path / "model"
    build_tokenizer().save_pretrained(model)
    check_lengths(coins, data, model)
    narrow = coins.model_copy(update={"settings": {**coins.settings, "data.max_prompt_length": 2}})
    with pytest.raises(CommandFailed, match=r"data\.max_prompt_length is 2: set it to \d+ under settings"):
        check_lengths(narrow, data, model)
    key = "actor_rollout_ref.rollout.max_model_len"
    narrow = coins.model_copy(update={"settings": {**coins.settings, key: 33}})
    with pytest.raises(CommandFailed, match=rf"{re.escape(key)} is 33: set it to \d+ under settings"):
        check_lengths(narrow, data, model)


def test_other_prompts_or_starting_models_have_a_folder_of_their_own():
    assert load("countdown").inputs() == load("countdown_3").inputs()
    for change in (
        {"validation": 50},
        {"data": {**SMALL.data, "seed": 12}},
        {"warm_starts": SMALL.warm_starts.model_copy(update={"options": {"steps": 7}})},
    ):
        assert SMALL.model_copy(update=change).inputs() != SMALL.inputs()
    assert SMALL.model_copy(update={"seeds": [9]}).inputs() == SMALL.inputs()


def test_where_all_runs_are_published_none_is_trained_and_no_starting_model_either(tmp_path):
    done = CliRunner().invoke(app, ["run", "coins", "--results", str(PUBLISHED), "--work-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "test: 10 of 10 runs are there" in done.output
    assert not list(tmp_path.rglob("inputs-*"))


def test_only_the_starting_models_of_runs_that_are_missing_are_made(tmp_path, monkeypatch):
    made = []

    def stop(experiment, inputs, seed):
        made.append(seed)
        raise CommandFailed("no further")

    monkeypatch.setattr("reproduce.make_data", lambda experiment, inputs: inputs / "data")
    monkeypatch.setattr("reproduce.make_warm_start", stop)
    words = ["run", "polynomial", "--seed", "4", "--method", "grpo", "--method", "set_loo"]
    done = CliRunner().invoke(app, [*words, "--results", str(tmp_path / "again"), "--work-dir", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "search: 12 of 12 runs are there" in done.output
    assert made == [load("polynomial").warm_start_of(4)]
