"""What `verl-setpo doctor` says of a run's words: the sentence with which the run itself would end."""

from __future__ import annotations

import pytest

from tests.doctor.conftest import OUR_REWARD, POLYNOMIALS
from verl_setpo.doctor import page
from verl_setpo.doctor.command_line import compose_run
from verl_setpo.doctor.keys import key_checks


@pytest.fixture
def keys_of(run_words):
    def look(*words):
        given = run_words(POLYNOMIALS, *OUR_REWARD, *words)
        return {check.name: check for check in key_checks(compose_run(given), given)}

    return look


@pytest.mark.parametrize(
    ("words", "mode", "keys"),
    [
        (["+set_rl=set_loo"], "set_sync with set_loo", "set_loo on grpo, signal ngram, coef 0.1"),
        (
            ["+set_rl=poly_epo", "algorithm.adv_estimator=rloo", "trainer.v1.trainer_mode=set_colocate_async"],
            "set_colocate_async with poly_epo",
            "poly_epo on rloo, signal answer, set_size 4",
        ),
        (["algorithm.adv_estimator=grpo"], "sync with grpo, an estimator of verl", "none of ours"),
        (["+set_rl=off", "algorithm.adv_estimator=rloo"], "sync with rloo, an estimator of verl", "none of ours"),
    ],
)
def test_a_run_that_fits_is_described(keys_of, words, mode, keys):
    checks = keys_of(*words)
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["trainer mode"].found == mode
    assert keys in checks["keys"].found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+set_rl=set_loo", "trainer.v1.trainer_mode=sync"], "set trainer.v1.trainer_mode=set_sync"),
        (["algorithm.adv_estimator=set_loo"], "algorithm.adv_estimator=set_loo needs trainer.v1.trainer_mode=set_sync"),
        (["trainer.v1.trainer_mode=set_sync"], "trainer.v1.trainer_mode=set_sync needs algorithm.adv_estimator"),
        (["+set_rl=off", "trainer.v1.trainer_mode=set_sync"], "set_sync needs one of our estimators"),
    ],
)
def test_a_mode_that_does_not_fit_the_estimator_fails_once(keys_of, words, says):
    checks = keys_of(*words)
    assert checks["trainer mode"].status == "fail"
    assert says in checks["trainer mode"].found
    assert checks["keys"].status == "not done"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("algorithm.set_rl.set_size=8", "algorithm.set_rl.set_size=8 must be smaller"),
        ("+algorithm.set_rl.coef=1", "algorithm.set_rl.coef is not a key of poly_epo"),
        ("algorithm.set_rl.signal.name=nosuch", "algorithm.set_rl.signal.name=nosuch is unknown"),
        ("algorithm.set_rl.num_sets=0", "algorithm.set_rl.num_sets"),
    ],
)
def test_a_wrong_key_of_ours_fails_with_the_runs_own_sentence(keys_of, word, says):
    check = keys_of("+set_rl=poly_epo", word)["keys"]
    assert check.status == "fail"
    assert says in check.found


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("actor_rollout_ref.actor.optim.lr=abc", "actor_rollout_ref.actor.optim.lr=abc is no number"),
        ("actor_rollout_ref.rollout.temperature=true", "actor_rollout_ref.rollout.temperature=True is no number"),
        ("trainer.total_training_steps=0", "trainer.total_training_steps=0"),
        ("trainer.total_training_steps=many", "trainer.total_training_steps=many"),
        ("data.max_response_length=2.5", "data.max_response_length=2.5"),
    ],
)
def test_text_where_a_number_must_be_fails_before_a_worker_falls_over_it(keys_of, word, says):
    check = keys_of("+set_rl=set_loo", "algorithm.set_rl.coef=auto", "algorithm.set_rl.target_share=0.2", word)[
        "numbers"
    ]
    assert (check.status, check.found) == ("fail", says)
    assert check.cure.startswith("Give ")


def test_verls_own_validation_and_a_missing_file_are_checks_of_their_own(keys_of, tmp_path):
    checks = keys_of("+set_rl=poly_epo", "data.train_batch_size=2", f"data.val_files={tmp_path}/none.parquet")
    assert checks["verl's keys"].status == "fail"
    assert "train_batch_size" in checks["verl's keys"].found
    assert checks["inputs"].status == "fail"
    assert "none.parquet" in checks["inputs"].found
    assert checks["keys"].status == "ok"


@pytest.mark.parametrize("word", ["data.no_such_key=1", "+set_rl=no_such_group", "data.train_files=[a", "a b=1"])
def test_words_that_do_not_compose_fail_with_the_word_in_the_sentence(word):
    found = {check.name: check for check in page.examine(page.Asked(words=[word], ray=False))}
    assert found["config"].status == "fail"
    assert any(
        part in found["config"].found for part in ("no_such_key", "no_such_group", "data.train_files: its value", "a b")
    )
    assert found["keys"].found == "the config does not compose"
