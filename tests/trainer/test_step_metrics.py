"""Each figure under set_rl/ against numbers worked out by hand on a small batch."""

from __future__ import annotations

from itertools import combinations

import pytest

from tests.trainer import exact
from tests.trainer.batches import groups_of, line_kernel, random_rows, rewards_of, set_rl_metrics
from tests.trainer.conftest import Row, compute, make_trainer


def rows_of(uid: str, rewards: str, preds: str) -> list[Row]:
    """One digit and one letter a rollout; "-" is no answer."""
    return [
        Row(uid, s, reward=float(reward), pred="" if pred == "-" else pred)
        for s, (reward, pred) in enumerate(zip(rewards, preds, strict=True))
    ]


# p: 4 rollouts, q: all wrong and alike, r: too small for leave-one-out.
BATCH = rows_of("p", "1100", "aab-") + rows_of("q", "000", "xxx") + rows_of("r", "10", "cd")


@pytest.fixture
def set_loo_metrics(queue):
    overrides = (
        "+set_rl=set_loo",
        "algorithm.set_rl.coef=0.5",
        "algorithm.set_rl.shaping=linear",
        "algorithm.set_rl.signal.name=answer",
        "algorithm.norm_adv_by_std_in_grpo=False",
    )
    return set_rl_metrics(compute(make_trainer(*overrides), BATCH, pad_to=8))


def test_the_metrics_of_set_loo_by_hand(set_loo_metrics):
    """With g = 1 - m. p: masses 1/3 1/3 0 0, D = 5/6; without an a: D = 1, s = -1/6; without b or the rollout
    without an answer: masses 1/2 1/2 0, D = 2/3, s = 1/6. q: D = 0 with or without anyone. coef is 1/2."""
    expected = {
        "prompts_with_correct": 2 / 3,
        "zero_advantage_prompts": 1 / 3,  # q
        "signal_failed_groups": 0,
        "answer/groups": 3,
        "groups_too_small": 1,  # r
        "rewards_out_of_range": 0,
        "coef": 0.5,
        "clusters_per_prompt/mean": (2 + 1 + 2) / 3,
        "correct_clusters_per_prompt/mean": (1 + 0 + 1) / 3,
        "degenerate_fraction": 1 / 9,
        # Of p's and q's seven rollouts: -1/12 -1/12 1/12 1/12 0 0 0.
        "credit/mean": 0,
        "credit/std": (4 / 144 / 7) ** 0.5,
        "credit/min": -1 / 12,
        "credit/max": 1 / 12,
        # Base of p: 1/2 1/2 -1/2 -1/2, of q: 0.
        "credit_share": (4 / 12) / (4 / 12 + 4 / 2),
        "set_diversity/mean": (5 / 6 + 0) / 2,
        # g(m) of p: 2/3 2/3 1 1, of q: 0. own g/4; share -1/12 of the others' sum 8/3 8/3 7/3 7/3; relief what is left.
        "credit_parts/own": 0.5 * (2 / 6 + 2 / 4) / 7,
        "credit_parts/share": 0.5 * (2 * 8 / 36 + 2 * 7 / 36) / 7,
        "credit_parts/relief": 0.5 * (4 / 9) / 7,
    }
    got = {name.removeprefix("set_rl/"): value for name, value in set_loo_metrics.items()}
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shaping", ["neg_log1p", "linear", "neg_square", "exp"])
def test_the_set_diversity_under_a_kernel_is_setpos(queue, shaping):
    """D(S) of Eq. 3, the mean of the groups of three or more."""
    rows = random_rows(seed=1, sizes=(6, 4, 3, 2))
    overrides = ("algorithm.set_rl.signal.name=test_line", f"algorithm.set_rl.shaping={shaping}")
    metrics = compute(make_trainer("+set_rl=set_loo", *overrides), rows).metrics
    groups = [group for group in groups_of(rows).values() if len(group) > 2]
    diversities = [
        exact.kernel_set_diversity(line_kernel([row.pred for row in group]), range(len(group)), shaping)
        for group in groups
    ]
    assert metrics["set_rl/set_diversity/mean"] == pytest.approx(float(exact.mean(diversities)), abs=1e-6)


def test_all_metrics_are_floats_that_verl_can_average_over_trigger_steps(set_loo_metrics):
    assert {type(value) for value in set_loo_metrics.values()} == {float}


def test_the_metrics_of_grpo_div_by_hand(queue):
    """Bonuses of p (N = 4): a (4/2 - 1)/3 = 1/3, b 1, none 0: mean 5/12; of q 0; of r 1 and 1. coef is 1/2."""
    trainer = make_trainer("+set_rl=grpo_div", "algorithm.set_rl.coef=0.5")
    metrics = set_rl_metrics(compute(trainer, BATCH))
    credits = [0.5 * (bonus - 5 / 12) for bonus in (1 / 3, 1 / 3, 1, 0)] + [0] * 5
    base = [0.5, 0.5, -0.5, -0.5, 0, 0, 0, 0.5, -0.5]
    size, rest = sum(map(abs, credits)), sum(map(abs, base))
    assert metrics["set_rl/credit/mean"] == pytest.approx(0, abs=1e-6)
    assert metrics["set_rl/credit/std"] == pytest.approx((sum(c * c for c in credits) / 9) ** 0.5, abs=1e-6)
    assert metrics["set_rl/credit/min"] == pytest.approx(min(credits), abs=1e-6)
    assert metrics["set_rl/credit/max"] == pytest.approx(max(credits), abs=1e-6)
    assert metrics["set_rl/credit_share"] == pytest.approx(size / (size + rest), abs=1e-6)
    assert metrics["set_rl/groups_too_small"] == 0
    assert metrics["set_rl/coef"] == 0.5
    assert "set_rl/set_size" not in metrics
    # Of p's six pairs, two (a b) have two strategies and the others one; of q's all have one, of r's all two.
    assert metrics["set_rl/set_diversity/mean"] == pytest.approx(((2 + 4 / 2) / 6 + 1 / 2 + 1) / 3, abs=1e-6)


@pytest.mark.parametrize("zero_single_cluster", [True, False])
def test_the_credit_of_poly_epo_is_what_diversity_brought(queue, zero_single_cluster):
    """Its advantage less what it would be if every set had the prompt's mean diversity."""
    rows = rows_of("p", "11100", "aabc-") + rows_of("q", "00000", "ababa")
    overrides = (
        "+set_rl=poly_epo",
        "actor_rollout_ref.rollout.n=5",
        "algorithm.set_rl.set_size=3",
        f"algorithm.set_rl.zero_single_cluster={zero_single_cluster}",
    )
    metrics = set_rl_metrics(compute(make_trainer(*overrides), rows))
    value = exact.polychromic if zero_single_cluster else exact.polychromic_paying_singles
    rewards, clusters = rewards_of(rows[:5]), [0, 0, 1, 2, -1]
    diversity = exact.mean_set_diversity(clusters, 3)
    advantages = exact.marginal_of_all_sets(rewards, clusters, value, 3)
    reward_parts = [diversity * a for a in exact.marginal_of_all_sets(rewards, clusters, exact.mean_reward, 3)]
    credits = [float(a - part) for a, part in zip(advantages, reward_parts, strict=True)]
    size, rest = sum(map(abs, credits)), float(sum(map(abs, reward_parts)))
    assert metrics["set_rl/credit/min"] == pytest.approx(min(credits), abs=1e-6)
    assert metrics["set_rl/credit/max"] == pytest.approx(max(credits), abs=1e-6)
    assert metrics["set_rl/credit/mean"] == pytest.approx(sum(credits) / 10, abs=1e-6)
    assert metrics["set_rl/credit_share"] == pytest.approx(size / (size + rest), abs=1e-6)
    assert metrics["set_rl/zero_advantage_prompts"] == 0.5  # q, where no reward is
    both = [diversity, exact.mean_set_diversity([0, 1, 0, 1, 0], 3)]
    assert metrics["set_rl/set_diversity/mean"] == pytest.approx(float(exact.mean(both)), abs=1e-6)
    assert metrics["set_rl/set_size"] == 3
    assert "set_rl/coef" not in metrics


@pytest.mark.parametrize("zero_single_cluster", [True, False])
def test_the_parts_of_poly_epos_advantage(queue, zero_single_cluster):
    """Eq. 15: product and covariance, from the sets with each rollout."""
    rewards, clusters, n = [1, 1, 0, 1, 0], [0, 0, 1, 2, -1], 3
    sets = list(combinations(range(5), n))

    def diversity(members):
        distinct = len({clusters[i] for i in members} - {-1})
        return distinct / n if distinct > 1 or not zero_single_cluster else 0

    def moments(chosen):
        values = [(sum(rewards[i] for i in members) / n, diversity(members)) for members in chosen]
        count = len(values)
        means = [sum(column) / count for column in zip(*values, strict=True)]
        return means[0] * means[1], sum(r * d for r, d in values) / count - means[0] * means[1]

    overall = moments(sets)
    own = [moments([members for members in sets if i in members]) for i in range(5)]
    rows = rows_of("p", "11010", "aabc-")
    overrides = (
        "+set_rl=poly_epo",
        "actor_rollout_ref.rollout.n=5",
        "algorithm.set_rl.set_size=3",
        f"algorithm.set_rl.zero_single_cluster={zero_single_cluster}",
    )
    metrics = set_rl_metrics(compute(make_trainer(*overrides), rows))
    for part, name in enumerate(["product", "covariance"]):
        size = sum(abs(one[part] - overall[part]) for one in own) / 5
        assert metrics[f"set_rl/credit_parts/{name}"] == pytest.approx(size, abs=1e-6)
        assert size > 0.001


def test_rollouts_in_none_of_the_drawn_sets_are_counted(queue):
    """One set of two among five leaves three out; a group of two is its own set, and leaves nobody out."""
    rows = rows_of("p", "11000", "abcde") + rows_of("q", "100", "abc")
    overrides = ("+set_rl=pass_at_n", "actor_rollout_ref.rollout.n=5", "algorithm.set_rl.set_size=2")
    computed = compute(make_trainer(*overrides, "algorithm.set_rl.num_sets=1"), rows)
    assert set_rl_metrics(computed)["set_rl/rollouts_in_no_set"] == 3 + 1
    assert computed.group("p") == [0] * 5  # one set is its own baseline
    all_sets = compute(make_trainer(*overrides), rows)
    assert "set_rl/rollouts_in_no_set" not in set_rl_metrics(all_sets)
    # q has three sets: with more asked for it uses them all, beside p that draws.
    some = compute(make_trainer(*overrides, "algorithm.set_rl.num_sets=3"), rows)
    assert some.group("q") == all_sets.group("q")
    assert some.group("p") != all_sets.group("p")


def test_the_credit_of_pass_at_n_is_its_advantage_less_that_of_the_mean(queue):
    rows = rows_of("p", "10000", "aabbc")
    overrides = ("+set_rl=pass_at_n", "actor_rollout_ref.rollout.n=5", "algorithm.set_rl.set_size=2")
    metrics = set_rl_metrics(compute(make_trainer(*overrides), rows))
    pairs = zip(
        *(
            exact.marginal_of_all_sets(rewards_of(rows), [0] * 5, value, 2)
            for value in (exact.pass_at_n, exact.mean_reward)
        ),
        strict=True,
    )
    credits = [float(best - mean) for best, mean in pairs]
    assert metrics["set_rl/credit/max"] == pytest.approx(max(credits), abs=1e-6)
    assert metrics["set_rl/credit/min"] == pytest.approx(min(credits), abs=1e-6)


def test_full_collapse_shows_as_zero_advantage_prompts(queue):
    """All answers agree and are right: no method here can undo that, and a user must see it."""
    rows = rows_of("p", "1111", "aaaa") + rows_of("q", "1010", "abab")
    for overrides in (("+set_rl=set_loo", "algorithm.set_rl.signal.name=answer"), ("+set_rl=grpo_div",)):
        metrics = compute(make_trainer(*overrides), rows).metrics
        assert metrics["set_rl/zero_advantage_prompts"] == 0.5


def test_no_credit_and_no_advantage_is_a_share_of_zero(queue):
    metrics = compute(make_trainer("+set_rl=grpo_div"), rows_of("p", "111", "aaa")).metrics
    assert metrics["set_rl/credit_share"] == 0


def test_correct_threshold_decides_what_counts_as_correct(queue):
    rows = [Row("p", s, reward=reward, pred=str(s)) for s, reward in enumerate([0.1, 0.3, 0.6, 1.0])]
    for threshold, correct in ((0.5, 2), (0.2, 3), (0.6, 1)):
        trainer = make_trainer("+set_rl=set_loo", f"algorithm.set_rl.correct_threshold={threshold}")
        assert compute(trainer, rows).metrics["set_rl/correct_clusters_per_prompt/mean"] == correct


def test_clusters_are_left_out_where_no_answer_is_known(queue):
    """A kernel of wording says nothing of answers; a 0 would look like collapse."""
    rows = [Row("p", s, text="abc"[: s + 1]) for s in range(3)]
    metrics = compute(make_trainer("+set_rl=set_loo"), rows).metrics
    assert not [name for name in metrics if "cluster" in name or "degenerate" in name]
    assert "set_rl/credit/mean" in metrics


def test_a_step_of_degenerate_rollouts_only_shows(queue):
    trainer = make_trainer("+set_rl=poly_epo", "algorithm.set_rl.set_size=2")
    metrics = compute(trainer, rows_of("p", "000", "---")).metrics
    assert metrics["set_rl/degenerate_fraction"] == 1
    assert metrics["set_rl/clusters_per_prompt/mean"] == metrics["set_rl/correct_clusters_per_prompt/mean"] == 0


def test_the_answers_are_counted_also_under_a_kernel(queue):
    metrics = compute(make_trainer("+set_rl=set_loo"), rows_of("p", "1100", "aab-")).metrics
    assert metrics["set_rl/clusters_per_prompt/mean"] == 2
    assert metrics["set_rl/correct_clusters_per_prompt/mean"] == 1
    assert metrics["set_rl/degenerate_fraction"] == 0.25


def test_a_session_of_several_outputs_counts_once(queue):
    once = rows_of("p", "1100", "aabc")
    twice = [
        row
        for s in once
        for row in (Row("p", s.session, 0, 1.0, pred="z"), Row("p", s.session, 1, s.reward, pred=s.pred))
    ]
    trainer = make_trainer("+set_rl=grpo_div")
    assert set_rl_metrics(compute(trainer, twice)) == set_rl_metrics(compute(trainer, once))


def test_groups_whose_signal_failed_are_in_no_figure_of_clusters(queue):
    """q fails: had it no say, p alone would give 2 clusters and no degenerate rollout."""
    rows = rows_of("p", "1100", "aabb") + rows_of("q", "1100", "abcd")
    trainer = make_trainer(
        "+set_rl=grpo_div", "algorithm.set_rl.signal.name=test_failing_answers", "+algorithm.set_rl.signal.failing=q"
    )
    metrics = compute(trainer, rows).metrics
    assert metrics["set_rl/clusters_per_prompt/mean"] == 2
