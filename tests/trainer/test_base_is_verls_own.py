"""With coef 0 a set_loo run trains on the base method's advantages, bit for bit; verl computes them itself."""

import random

import pytest
import torch

from tests.trainer.conftest import Row, compute, make_trainer, put_rows


def mixed_rows(seed: int, multi_output: bool = False) -> list[Row]:
    """Five prompts with 1 to 4 rollouts of random rewards and lengths, in shuffled order."""
    rng = random.Random(seed)
    rows = []
    for p, size in enumerate([4, 4, 3, 2, 1]):
        for session in rng.sample(range(4), size):
            outputs = rng.choice([1, 2]) if multi_output else 1
            reward = rng.choice([0.0, 1.0, 0.1, -0.5])
            rows += [
                Row(f"p{p}", session, output, reward, "".join(rng.choices("abcd", k=rng.randint(1, 5))))
                for output in range(outputs)
            ]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("base", ["grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "opo"])
@pytest.mark.parametrize("seed", [0, 1])
def test_coef_0_is_the_base_method_bit_for_bit(queue, base, seed):
    rows = mixed_rows(seed)
    plain = compute(make_trainer(f"algorithm.adv_estimator={base}"), rows, pad_to=8)
    ours = make_trainer("+set_rl=set_loo", "algorithm.set_rl.coef=0", f"algorithm.set_rl.base_estimator={base}")
    result = compute(ours, rows, pad_to=8)
    for expected, got in zip(plain.advantages + plain.returns, result.advantages + result.returns, strict=True):
        assert torch.equal(expected.view(torch.int32), got.view(torch.int32))


def test_coef_0_with_several_outputs_a_session_is_grpo_bit_for_bit(queue):
    rows = mixed_rows(3, multi_output=True)
    plain = compute(make_trainer("algorithm.adv_estimator=grpo"), rows, pad_to=8)
    result = compute(make_trainer("+set_rl=set_loo", "algorithm.set_rl.coef=0"), rows, pad_to=8)
    for expected, got in zip(plain.advantages, result.advantages, strict=True):
        assert torch.equal(expected.view(torch.int32), got.view(torch.int32))


def test_the_recipes_own_estimator_becomes_the_base(queue):
    rows = mixed_rows(1)
    plain = compute(make_trainer("algorithm.adv_estimator=rloo"), rows)
    ours = make_trainer("algorithm.adv_estimator=rloo", "+set_rl=set_loo", "algorithm.set_rl.coef=0")
    assert ours.config.algorithm.adv_estimator == "set_loo"
    result = compute(ours, rows)
    for expected, got in zip(plain.advantages, result.advantages, strict=True):
        assert torch.equal(expected, got)


def test_verls_setting_of_the_std_reaches_the_base(queue):
    rows = mixed_rows(1)
    flag = "algorithm.norm_adv_by_std_in_grpo=False"
    plain = compute(make_trainer("algorithm.adv_estimator=grpo", flag), rows)
    result = compute(make_trainer("+set_rl=set_loo", "algorithm.set_rl.coef=0", flag), rows)
    for expected, got in zip(plain.advantages, result.advantages, strict=True):
        assert torch.equal(expected, got)


def test_a_method_writes_as_verl_does_and_reads_two_columns_more(queue, monkeypatch):
    """Of a short step the queue's round trips are the most that a method can cost."""
    calls = []
    put, get = queue.kv_batch_put, queue.kv_batch_get
    monkeypatch.setattr(
        queue, "kv_batch_put", lambda **all: calls.append(("put", set(all["fields"].keys()))) or put(**all)
    )
    monkeypatch.setattr(
        queue, "kv_batch_get", lambda **all: calls.append(("get", set(all.get("select_fields") or ()))) or get(**all)
    )

    def calls_of(*overrides):
        batch, _ = put_rows(mixed_rows(1), pad_to=8)
        calls.clear()
        make_trainer(*overrides)._compute_advantage(batch, {})
        return list(calls)

    of_verl = calls_of("algorithm.adv_estimator=grpo")
    assert [what for what, _ in of_verl] == ["get", "put"]
    extra = ("get", {"responses", "extra_fields"})
    assert calls_of("+set_rl=set_loo") == [extra, *of_verl]
    sets = ("+set_rl=poly_epo", "algorithm.set_rl.set_size=2", "algorithm.set_rl.reward_range=[-0.5,1]")
    assert calls_of(*sets) == [extra, *of_verl]
