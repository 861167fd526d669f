"""A reward that is no number, in a later step of set_loo: it costs what it touches, and nothing trains on NaN."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainer.batches import assert_same_bits, random_rows
from tests.trainer.conftest import compute, make_trainer


def second_step(rows, *overrides):
    trainer = make_trainer("+set_rl=set_loo", "algorithm.set_rl.signal.name=test_line", *overrides)
    compute(trainer, random_rows(seed=1))
    return compute(trainer, rows, pad_to=8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("base", ["grpo", "rloo"])
def test_its_group_trains_on_nothing_and_the_others_as_ever(queue, caplog, base, bad):
    rows = random_rows(seed=2)
    overrides = (f"algorithm.set_rl.base_estimator={base}",)
    right = second_step(rows, *overrides)
    next(row for row in rows if row.uid == "uid_1_x").reward = bad
    odd = second_step(rows, *overrides)
    for row, before, after in zip(odd.rows, right.advantages, odd.advantages, strict=True):
        hit = row is not None and row.uid == "uid_1_x"
        assert_same_bits([torch.zeros_like(before) if hit else before], [after.abs() if hit else after])
    assert odd.metrics["set_rl/rewards_out_of_range"] == 1
    assert "1 rewards are NaN or infinite" in caplog.text
    assert all(math.isfinite(value) for name, value in odd.metrics.items() if name.startswith("set_rl/"))


@pytest.mark.parametrize("base", ["reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_where_the_base_method_spreads_it_over_the_batch_no_rollout_trains_on_diversity_alone(queue, base):
    """Whitening makes every base advantage NaN: a step with the credit only would pay any answer for being rare."""
    rows = random_rows(seed=2)
    rows[0].reward = math.nan
    odd = second_step(rows, f"algorithm.set_rl.base_estimator={base}")
    assert all((advantage == 0).all() for advantage in odd.advantages)
