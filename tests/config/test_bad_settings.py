"""What a wrong config says before anything starts: one sentence that names the key to set."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf, open_dict

from tests.trainer.conftest import compose_config
from verl_setpo.trainer.config_check import check_config
from verl_setpo.trainer.start_check import StartCheck

LOO = ("+set_rl=set_loo",)
POLY = ("+set_rl=poly_epo", "actor_rollout_ref.rollout.n=8")
PASS = ("+set_rl=pass_at_n", "actor_rollout_ref.rollout.n=8")
DIV = ("+set_rl=grpo_div",)
KEY = "algorithm.set_rl."

BAD = {
    "negative coef": ((*LOO, f"{KEY}coef=-0.1"), KEY + "coef: .*greater than or equal to 0 .*-0.1"),
    "negative coef of grpo_div": ((*DIV, f"{KEY}coef=-1"), KEY + "coef: .*greater than or equal to 0"),
    "coef is no number": ((*LOO, f"{KEY}coef=much"), KEY + "coef: .*valid number.*'much'"),
    "coef is null": ((*LOO, f"{KEY}coef=null"), KEY + "coef: .*valid number, a schedule such as .*, or auto"),
    "a schedule without its kind": ((*LOO, f"{KEY}coef={{start:5,end:1,steps:9}}"), KEY + "coef.schedule: Field requ"),
    "an unknown kind of schedule": (
        (*LOO, f"{KEY}coef={{schedule:exp,start:5,end:1,steps:9}}"),
        KEY + "coef.schedule: .*'constant', 'linear' or 'cosine' .*'exp'",
    ),
    "a schedule without an end": (
        (*DIV, f"{KEY}coef={{schedule:linear,start:5}}"),
        KEY + "coef: schedule=linear needs end and steps",
    ),
    "a constant with an end": (
        (*LOO, f"{KEY}coef={{schedule:constant,start:5,end:1}}"),
        KEY + "coef: schedule=constant has only a start: remove end",
    ),
    "a schedule of one step": (
        (*LOO, f"{KEY}coef={{schedule:cosine,start:5,end:1,steps:1}}"),
        KEY + "coef.steps: .*greater than or equal to 2 .*1",
    ),
    "an unknown key of the schedule": (
        (*LOO, f"{KEY}coef={{schedule:linear,start:5,end:1,steps:9,warmup:3}}"),
        KEY + "coef.warmup is not a key of verl_setpo; the keys are schedule, start, end, steps",
    ),
    "a schedule to below 0": (
        (*LOO, f"{KEY}coef={{schedule:linear,start:5,end:-1,steps:9}}"),
        KEY + "coef: its start and end .*greater than or equal to 0",
    ),
    "auto without a share": ((*LOO, f"{KEY}coef=auto"), KEY + "coef=auto needs .*target_share.*: set it, such as 0.3"),
    "auto and the whole share": (
        (*LOO, f"{KEY}coef=auto", f"{KEY}target_share=1"),
        KEY + "target_share: .*less than 1",
    ),
    "auto and no share": ((*DIV, f"{KEY}coef=auto", f"{KEY}target_share=0"), KEY + "target_share: .*greater than 0"),
    "auto without room": (
        (*LOO, f"{KEY}coef=auto", f"{KEY}target_share=0.3", f"{KEY}max_coef=0"),
        KEY + "max_coef: .*greater than 0",
    ),
    "a share without auto": (
        (*LOO, f"{KEY}target_share=0.3"),
        KEY + "target_share=0.3 has no effect with .*coef=0.1: set coef=auto, or target_share=null",
    ),
    "a share and a schedule": (
        (*DIV, f"{KEY}target_share=0.3", f"{KEY}coef={{schedule:linear,start:5,end:1,steps:9}}"),
        KEY + "target_share=0.3 has no effect with .*coef=linear 5 to 1 in 9 steps: set coef=auto",
    ),
    "auto for a method without coef": (
        (*POLY, f"+{KEY}coef=auto", f"+{KEY}target_share=0.3"),
        KEY
        + "coef is not a key of poly_epo, which would not read it: remove it, .*the keys of poly_epo are .*set_size",
    ),
    "a schedule of coef for a method without it": (
        (*PASS, f"+{KEY}coef={{schedule:linear,start:5,end:1,steps:9}}"),
        KEY + "coef is not a key of set_rl, which would not read it",
    ),
    "a schedule of set_size for a method without it": (
        (*LOO, f"+{KEY}set_size={{schedule:linear,start:5,end:1,steps:9}}"),
        KEY + "set_size is not a key of set_loo, which would not read it",
    ),
    "a set size for a method without sets": (
        (*DIV, f"+{KEY}set_size=3"),
        KEY + "set_size is not a key of grpo_div, which would not read it",
    ),
    "an objective for a method that has its own": (
        (*POLY, f"+{KEY}objective=vendi"),
        KEY + "objective is not a key of poly_epo, which would not read it: remove it, or choose another method",
    ),
    "a reward range for a method that takes rewards as they are": (
        (*LOO, f"+{KEY}reward_range=[-1,1]"),
        KEY + "reward_range is not a key of set_loo, which would not read it",
    ),
    "a seed for a method that draws nothing": (
        (*DIV, f"+{KEY}seed=3"),
        KEY + "seed is not a key of grpo_div, which would not read it",
    ),
    "unknown shaping": ((*LOO, f"{KEY}shaping=log"), KEY + "shaping=log is unknown; the shapings are neg_log1p, "),
    "unknown signal": ((*LOO, f"{KEY}signal.name=bleu"), KEY + "signal.name=bleu is unknown; the signals are answer, "),
    "wrong key of the signal": ((*LOO, f"+{KEY}signal.m=2"), KEY + "signal.m is not a key of the signal ngram"),
    "wrong value of the signal": ((*LOO, f"+{KEY}signal.n=0"), KEY + r"signal \(ngram\): signal.n is 0"),
    "an unknown equality": (
        (*POLY, f"+{KEY}signal.equal=latex"),
        KEY + r"signal \(answer\): signal.equal is 'latex', but must be text or math",
    ),
    "equality of a signal without answers": (
        (*LOO, f"+{KEY}signal.equal=math"),
        KEY + "signal.equal is not a key of the signal ngram; its keys are n",
    ),
    "no signal": ((*LOO, f"~{KEY}signal"), KEY + "signal: Field required"),
    "a kernel where clusters are due": (
        (*POLY, f"{KEY}signal.name=ngram"),
        KEY + "signal.name=ngram gives a kernel, and poly_epo needs clusters: set .*signal.name=answer",
    ),
    "unknown failure policy": (
        (*POLY, f"{KEY}on_signal_failure=zeros"),
        KEY + "on_signal_failure: Input should be 'base_advantage' or 'error' .*'zeros'",
    ),
    "more than all may fail": (
        (*LOO, f"{KEY}max_failed_fraction=2"),
        KEY + "max_failed_fraction: Input should be less than or equal to 1 .*2",
    ),
    "an objective of clusters and a kernel": (
        (*PASS, f"{KEY}objective=coverage", f"{KEY}signal.name=ngram"),
        KEY + "signal.name=ngram gives a kernel, and set_rl needs clusters: set .*signal.name=answer",
    ),
    "unknown objective": (
        (*PASS, f"{KEY}objective=best"),
        KEY + "objective: objective 'best' is not known: use one of",
    ),
    "objective that does not import": (
        (*PASS, f"{KEY}objective='no.such:thing'"),
        KEY + "objective: objective 'no.such:thing' cannot be imported",
    ),
    "set_size of the group": ((*POLY, f"{KEY}set_size=8"), KEY + "set_size=8 must be smaller than .*rollout.n=8"),
    "set_size above the group": ((*PASS, f"{KEY}set_size=9"), KEY + "set_size=9 must be smaller than .*rollout.n=8"),
    "set_size of 0": ((*POLY, f"{KEY}set_size=0"), KEY + "set_size: .*greater than or equal to 1 .*0"),
    "set_size that is no integer": ((*POLY, f"{KEY}set_size=2.5"), KEY + "set_size: .*valid integer"),
    "set_size of auto": ((*POLY, f"{KEY}set_size=auto"), KEY + "set_size: .*valid integer, or a schedule such as"),
    "set_size from the group on": (
        (*POLY, f"{KEY}set_size={{schedule:linear,start:8,end:2,steps:9}}"),
        KEY + r"set_size=8 \(in the schedule linear 8 to 2 in 9 steps\) must be smaller than .*rollout.n=8",
    ),
    "set_size up to the group, by rounding": (
        (*PASS, f"{KEY}set_size={{schedule:cosine,start:2,end:7.6,steps:9}}"),
        KEY + r"set_size=8 \(.*\) must be smaller than .*rollout.n=8",
    ),
    "set_size to below 1": (
        (*POLY, f"{KEY}set_size={{schedule:linear,start:4,end:0.9,steps:9}}"),
        KEY + "set_size: its start and end .*greater than or equal to 1",
    ),
    "sets that end as ones that are all worth 0": (
        (*POLY, f"{KEY}set_size={{schedule:linear,start:4,end:1,steps:9}}"),
        KEY + r"set_size=1 \(.*\) .*zero_single_cluster=True .*: let the schedule end at 2, or set zero_.*=False",
    ),
    "sets that start as ones that are all worth 0": (
        (*POLY, f"{KEY}set_size={{schedule:linear,start:1,end:4,steps:9}}"),
        KEY + "set_size=1 .*: let the schedule start at 2, or set zero_single_cluster=False",
    ),
    "too many sets at the end of the schedule": (
        (*POLY, f"{KEY}num_sets=29", f"{KEY}set_size={{schedule:linear,start:4,end:2,steps:9}}"),
        KEY + r"num_sets=29 is more than the 28 sets of 2 \(.*\) among 8 rollouts: lower it",
    ),
    "too many sets to list in the middle of the schedule": (
        (
            *PASS,
            f"{KEY}objective='tests.trainer.objectives:worst'",
            f"{KEY}set_size={{schedule:linear,start:2,end:30,steps:90}}",
            "actor_rollout_ref.rollout.n=32",
        ),
        KEY + "num_sets=null would list 601080390 sets of 16 among 32 rollouts .*: set num_sets",
    ),
    "sets of one that are all worth 0": ((*POLY, f"{KEY}set_size=1"), KEY + "set_size=1 .*zero_single_cluster=True"),
    "too many sets": ((*POLY, f"{KEY}num_sets=71"), KEY + "num_sets=71 is more than the 70 sets of 4 among 8 rollouts"),
    "no sets": ((*POLY, f"{KEY}num_sets=0"), KEY + "num_sets: .*greater than or equal to 1"),
    "unknown reduction": ((*POLY, f"{KEY}reduction=max"), KEY + "reduction: .*'mean' or 'sum' .*'max'"),
    "range upside down": ((*POLY, f"{KEY}reward_range=[1,0]"), KEY + r"reward_range: is \[1.0, 0.0\], but must be"),
    "range of one": ((*POLY, f"{KEY}reward_range=[1]"), KEY + "reward_range"),
    "unknown key": (
        (*LOO, f"+{KEY}lambda=1"),
        KEY + "lambda is not a key of verl_setpo; the keys are estimator, coef, ",
    ),
    "unknown base": (
        (*LOO, f"{KEY}base_estimator=a2c"),
        KEY + "base_estimator=a2c is unknown to verl; it has gae, grpo",
    ),
    "base of ours": (
        (*LOO, f"{KEY}base_estimator=poly_epo"),
        KEY + "base_estimator: is 'poly_epo', but must be .*verl's",
    ),
    "a base that verl's v1 trainer does not feed": (
        (*LOO, f"{KEY}base_estimator=remax"),
        KEY + "base_estimator=remax needs more than verl's v1 trainer hands .*: choose one of gae, grpo",
    ),
    "rows drawn anew by the base": (
        (*LOO, f"{KEY}base_estimator=gae", "algorithm.use_pf_ppo=True"),
        r"algorithm\.use_pf_ppo=True draws the rows .*: set it False",
    ),
    "unknown estimator": ((*LOO, f"{KEY}estimator=setpo"), KEY + "estimator: is 'setpo', but must be one of set_loo, "),
    "too few rollouts for set_loo": (
        (*LOO, "actor_rollout_ref.rollout.n=2"),
        r"actor_rollout_ref\.rollout\.n=2 is too few for set_loo.*at least 3: raise rollout\.n",
    ),
    "one rollout for grpo_div": (
        (*DIV, "actor_rollout_ref.rollout.n=1"),
        r"actor_rollout_ref\.rollout\.n=1 .*at least 2",
    ),
    "a KL penalty in set rewards": (
        (*POLY, "algorithm.use_kl_in_reward=True"),
        r"algorithm\.use_kl_in_reward=True .*poly_epo .*: set it False and actor_rollout_ref\.actor\.use_kl_loss=True",
    ),
    "verl's old trainer": ((*LOO, "trainer.use_v1=False"), r"trainer\.use_v1=False .*: set it True"),
    "verl's own mode": (
        (*LOO, "trainer.v1.trainer_mode=sync"),
        r"adv_estimator=set_loo needs a trainer mode .*it is sync.*: set trainer\.v1\.trainer_mode=set_sync",
    ),
    "verl's own mode and a recipe's estimator": (
        (*LOO, "algorithm.adv_estimator=grpo", "trainer.v1.trainer_mode=colocate_async"),
        r"adv_estimator=set_loo needs .*it is colocate_async.*: set trainer\.v1\.trainer_mode=set_sync",
    ),
    "our mode without our estimator": (
        ("algorithm.adv_estimator=grpo", "trainer.v1.trainer_mode=set_sync"),
        r"trainer_mode=set_sync needs one of our estimators, not .*=grpo: set algorithm\.adv_estimator to one of",
    ),
    "estimator and mode without the group": (
        ("algorithm.adv_estimator=poly_epo", "trainer.v1.trainer_mode=set_sync"),
        r"adv_estimator=poly_epo has no algorithm\.set_rl: add \+set_rl=set_loo, poly_epo",
    ),
    "unknown inner reward manager": ((*LOO, f"{KEY}reward_manager=prome"), KEY + "reward_manager.*prome"),
    "reward manager inside itself": ((*LOO, f"{KEY}reward_manager=set_rl"), KEY + "reward_manager=set_rl wraps itself"),
    "too many sets to list": (
        (
            *PASS,
            f"{KEY}objective='tests.trainer.objectives:worst'",
            f"{KEY}set_size=8",
            "actor_rollout_ref.rollout.n=64",
        ),
        KEY + "num_sets",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_wrong_config_is_one_sentence_that_names_the_key(bad):
    overrides, message = BAD[bad]
    with pytest.raises(ValueError, match=message) as refused:
        check_config(compose_config(*overrides))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


GOOD = {
    "coef of 0": (*LOO, f"{KEY}coef=0"),
    "coef that falls to 0": (*LOO, f"{KEY}coef={{schedule:cosine,start:5,end:0,steps:2}}"),
    "coef that is constant": (*DIV, f"{KEY}coef={{schedule:constant,start:5}}"),
    "auto": (*DIV, f"{KEY}coef=auto", f"{KEY}target_share=0.999", f"{KEY}max_coef=1e-3"),
    "set_size through all that fit": (*POLY, f"{KEY}set_size={{schedule:linear,start:7,end:2,steps:9}}"),
    "set_size to 1 for an objective without clusters": (
        *PASS,
        f"{KEY}set_size={{schedule:linear,start:4,end:1,steps:9}}",
    ),
    "set_size to 1 that pays singles": (
        *POLY,
        f"{KEY}zero_single_cluster=False",
        f"{KEY}set_size={{schedule:linear,start:4,end:1,steps:9}}",
    ),
    "as many sets as the end of the schedule has": (
        *POLY,
        f"{KEY}num_sets=28",
        f"{KEY}set_size={{schedule:linear,start:4,end:2,steps:9}}",
    ),
    "three rollouts for set_loo": (*LOO, "actor_rollout_ref.rollout.n=3"),
    "two rollouts for grpo_div": (*DIV, "actor_rollout_ref.rollout.n=2"),
    "all sets but one": (*POLY, f"{KEY}num_sets=69"),
    "all sets": (*POLY, f"{KEY}num_sets=70"),
    "largest set_size": (*POLY, f"{KEY}set_size=7"),
    "sets of one of an objective without clusters": (*PASS, f"{KEY}set_size=1"),
    "sets of one that pay singles": (*POLY, f"{KEY}set_size=1", f"{KEY}zero_single_cluster=False"),
    "clusters for set_loo": (*LOO, f"{KEY}signal.name=answer"),
    "KL in the reward of set_loo's base": (*LOO, "algorithm.use_kl_in_reward=True"),
    "an objective by import path": (*PASS, f"{KEY}objective='tests.trainer.objectives:worst'"),
    "colocated": (*LOO, "trainer.v1.trainer_mode=set_colocate_async"),
    "separate": (*LOO, "trainer.v1.trainer_mode=set_separate_async"),
}


def test_an_inner_reward_manager_may_be_given_by_its_name_key_alone():
    check_config(compose_config(*LOO, f"{KEY}reward_manager={{name: dapo}}"))


@pytest.mark.parametrize("module", ["", ", module: {path: /no/such/file.py}"])
def test_an_inner_reward_manager_whose_file_is_not_there_is_named(module):
    config = compose_config(*LOO, f"{KEY}reward_manager={{source: importlib, name: Mine{module}}}")
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\.reward_manager"):
        check_config(config)


@pytest.mark.parametrize(
    ("group", "estimator"), [("poly_epo", "set_loo"), ("poly_epo", "grpo_div"), ("grpo_div", "set_loo")]
)
def test_the_group_of_one_method_with_the_estimator_of_another_is_refused(group, estimator):
    config = compose_config(f"+set_rl={group}", f"algorithm.adv_estimator={estimator}", "actor_rollout_ref.rollout.n=8")
    with pytest.raises(ValueError, match=r"algorithm\.(adv_estimator|set_rl\.estimator)"):
        check_config(config)


@pytest.mark.parametrize("good", list(GOOD))
def test_the_nearest_right_config_passes(good):
    check_config(compose_config(*GOOD[good]))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coef", NAN),
        ("coef", INF),
        ("coef", {"schedule": "linear", "start": NAN, "end": 1.0, "steps": 9}),
        ("coef", {"schedule": "linear", "start": 1.0, "end": INF, "steps": 9}),
        ("target_share", NAN),
        ("max_coef", INF),
        ("max_coef", NAN),
        ("reward_range", [0.0, NAN]),
        ("reward_range", [0.0, INF]),
    ],
)
def test_what_is_no_number_is_refused(key, value):
    """As a Python script or a config file may set it; on the command line ".inf" is a string, which is refused too."""
    config = compose_config(*POLY)
    with open_dict(config):
        config.algorithm.set_rl[key] = value
    with pytest.raises(ValueError, match=rf"^algorithm\.set_rl\.{key}(\.\w+)*: "):
        check_config(config)


def test_the_recipes_estimator_is_the_base_unless_the_user_names_one():
    named = compose_config(*LOO, "algorithm.adv_estimator=rloo")
    assert check_config(named).base_estimator == "rloo"
    both = compose_config(*LOO, "algorithm.adv_estimator=rloo", f"{KEY}base_estimator=opo")
    assert check_config(both).base_estimator == "opo"
    assert check_config(compose_config(*LOO)).base_estimator == "grpo"


def test_the_callback_ends_the_process_with_the_sentence(there):
    """Hydra makes a warning of any other exception of a callback, and the run would start."""
    with pytest.raises(SystemExit, match=r"^verl_setpo: algorithm\.set_rl\.coef: "):
        StartCheck().on_job_start(compose_config(*BAD["negative coef"][0]))
    StartCheck().on_job_start(compose_config(*LOO, *there))


def test_the_check_changes_nothing_in_the_config():
    config = compose_config(*LOO, "algorithm.adv_estimator=rloo")
    before = OmegaConf.to_container(config)
    check_config(config)
    assert OmegaConf.to_container(config) == before
