"""The running means of `coef=auto` in verl's own checkpoint folder, saved and loaded by verl's trainers.

Of a checkpoint only the model is left out; dataloader, TransferQueue, tracker file and callback are verl's own.
"""

from __future__ import annotations

import json
import logging

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.trainer.ppo.v1 import get_trainer_cls

from tests.trainer.batches import random_rows
from tests.trainer.conftest import Tokenizer, compose_config, compute
from tests.trainer.test_trainer_modes import SEPARATE

AUTO = ("algorithm.set_rl.coef=auto", "algorithm.set_rl.target_share=0.3")
FILE = "set_rl_auto_coef.json"


class NoModel:
    """The worker group of an actor without weights."""

    def save_checkpoint(self, *args, **kwargs):
        pass

    def load_checkpoint(self, *args, **kwargs):
        pass


class SeesTheFolder(CheckpointCallback):
    """As one that uploads the folder."""

    def on_save(self, trainer, global_step, checkpoint_dir, async_save=False, **kwargs):
        with open(f"{checkpoint_dir}/{FILE}", encoding="ascii") as file:
            trainer.seen_by_callback = json.load(file)


def start(folder, *overrides, mode="set_sync"):
    """A trainer as verl has it when it begins to train, from the newest checkpoint in the folder if there is one."""
    separate = SEPARATE if mode == "set_separate_async" else ()
    words = ("+set_rl=set_loo", "algorithm.set_rl.signal.name=test_line", f"trainer.v1.trainer_mode={mode}", *separate)
    trainer = get_trainer_cls(mode)(compose_config(*words, f"trainer.default_local_dir={folder}", *overrides))
    trainer.tokenizer = Tokenizer()
    trainer.actor_rollout_wg = NoModel()
    trainer.train_dataloader = StatefulDataLoader(list(range(8)))
    trainer._load_checkpoint()
    return trainer


def train(trainer, steps):
    """The coef of each further step."""
    coefs = []
    for _ in range(steps):
        trainer.global_steps += 1
        rows = random_rows(seed=trainer.global_steps, sizes=(6, 5, 4))
        coefs.append(compute(trainer, rows).metrics["set_rl/coef"])
    return coefs


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "afresh" in r.getMessage()]


@pytest.mark.parametrize("mode", ["set_sync", "set_colocate_async", "set_separate_async"])
def test_a_resumed_run_has_the_coefs_of_one_that_was_never_stopped(queue, tmp_path, caplog, mode):
    whole = train(start(tmp_path / "whole", *AUTO, mode=mode), 5)
    first = start(tmp_path / "cut", *AUTO, mode=mode)
    assert train(first, 3) == whole[:3]
    first._save_checkpoint()
    resumed = start(tmp_path / "cut", *AUTO, mode=mode)
    assert resumed.global_steps == 3
    assert train(resumed, 2) == whole[3:]
    # What a run that forgot would have: its fourth batch alone.
    forgetful = start(tmp_path / "other", *AUTO, mode=mode)
    forgetful.global_steps = 3
    assert train(forgetful, 1) != whole[3:4]
    assert warnings_of(caplog) == []


def test_an_older_checkpoint_by_its_path_brings_the_means_of_its_step(queue, tmp_path, monkeypatch):
    trainer = start(tmp_path, *AUTO)
    train(trainer, 2)
    trainer._save_checkpoint()
    later = train(trainer, 1)
    trainer._save_checkpoint()
    monkeypatch.chdir(tmp_path)  # verl takes a relative path as well
    by_path = ("trainer.resume_mode=resume_path", "trainer.resume_from_path=global_step_2")
    resumed = start(tmp_path / "elsewhere", *AUTO, *by_path)
    assert resumed.global_steps == 2
    assert train(resumed, 1) == later


def test_the_file_is_there_before_verl_calls_the_checkpoint_complete(queue, tmp_path):
    callback = f"+trainer.checkpoint_callback_class={__name__}.SeesTheFolder"
    trainer = start(tmp_path, *AUTO, callback)
    train(trainer, 1)
    trainer._save_checkpoint()
    assert trainer.seen_by_callback == trainer.auto_coef.state_dict()
    assert trainer.seen_by_callback["credit"] > 0


def test_a_run_without_auto_saves_no_such_file_and_reads_none(queue, tmp_path, caplog):
    trainer = start(tmp_path)
    train(trainer, 1)
    trainer._save_checkpoint()
    assert not (tmp_path / "global_step_1" / FILE).exists()
    (tmp_path / "global_step_1" / FILE).write_text("not read")
    assert train(start(tmp_path), 1) == [0.1]
    assert warnings_of(caplog) == []


BROKEN = {
    "empty": b"",
    "cut off": b'{"credit": 0.1, "re',
    "no JSON": b"\xff\xfe\x00",
    "a list": b"[1, 2, 3]",
    "a key is missing": b'{"credit": 0.1, "rest": 0.5}',
    "NaN": b'{"credit": NaN, "rest": 0.5, "weight": 0.05}',
    "infinite": b'{"credit": 0.1, "rest": Infinity, "weight": 0.05}',
    "negative": b'{"credit": -0.1, "rest": 0.5, "weight": 0.05}',
}


@pytest.mark.parametrize("content", [None, *BROKEN.values()], ids=["missing", *BROKEN])
def test_a_missing_or_broken_file_starts_afresh_with_one_warning(queue, tmp_path, caplog, content):
    trainer = start(tmp_path, *AUTO)
    train(trainer, 1)
    trainer._save_checkpoint()
    path = tmp_path / "global_step_1" / FILE
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    resumed = start(tmp_path, *AUTO)
    assert resumed.global_steps == 1
    assert resumed.auto_coef.means.weight == 0
    (warning,) = warnings_of(caplog)
    assert str(path) in warning
    assert "algorithm.set_rl.coef=auto" in warning
    assert "\n" not in warning
    assert train(resumed, 1)[0] > 0


def test_a_folder_in_place_of_the_file_starts_afresh_as_well(queue, tmp_path, caplog):
    trainer = start(tmp_path, *AUTO)
    train(trainer, 1)
    trainer._save_checkpoint()
    (tmp_path / "global_step_1" / FILE).unlink()
    (tmp_path / "global_step_1" / FILE).mkdir()
    assert start(tmp_path, *AUTO).auto_coef.means.weight == 0
    assert len(warnings_of(caplog)) == 1


def test_a_run_from_scratch_says_nothing(queue, tmp_path, caplog):
    assert start(tmp_path, *AUTO).global_steps == 0
    assert start(tmp_path, *AUTO, "trainer.resume_mode=disable").global_steps == 0
    assert warnings_of(caplog) == []
