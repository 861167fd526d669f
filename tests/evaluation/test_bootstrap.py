import numpy as np
import pytest

from verl_setpo.evaluation import bootstrap as bootstrap_module
from verl_setpo.evaluation import bootstrap_interval


def test_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(60) < 0.3, num_resamples=400)
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_is_as_wide_as_the_normal_interval_on_many_values() -> None:
    values = np.random.default_rng(2).normal(5.0, 2.0, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.08 * half)


def test_higher_confidence_is_wider_and_equal_values_have_no_width() -> None:
    values = list(range(20))
    narrow, wide = bootstrap_interval(values, confidence=0.5), bootstrap_interval(values, confidence=0.99)
    assert wide.low < narrow.low < 9.5 < narrow.high < wide.high
    assert bootstrap_interval([0.25] * 10) == (0.25, 0.25)


def test_the_seed_decides_and_memory_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random(50)
    whole = bootstrap_interval(values, seed=7)
    assert bootstrap_interval(values, seed=7) == whole
    assert bootstrap_interval(values, seed=8) != whole
    monkeypatch.setattr(bootstrap_module, "_CHUNK_VALUES", 1000)  # 20 resamples at a time
    assert bootstrap_interval(values, seed=7) == whole


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "non-empty"),
        ([[1.0]], {}, "non-empty"),
        ([1.0, float("nan")], {}, "finite"),
        ([1.0], {"confidence": 1.0}, "confidence"),
        ([1.0], {"confidence": 95}, "confidence"),
        ([1.0], {"num_resamples": 0}, "num_resamples"),
    ],
)
def test_bad_arguments_are_errors(values: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)
