"""`verl-setpo demo bandit`: the experiment against formulas by hand, its claims, and the command as a user runs it."""

import itertools
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from verl_setpo.cli import app
from verl_setpo.demo.bandit import (
    LEARNING_RATES,
    MODES,
    REWARDED,
    Settings,
    Trace,
    bandit_methods,
    grpo,
    policy_gradient,
    sample_modes,
    train,
)

SHORT = Settings(seeds=20, steps=500)
METHODS = bandit_methods(coefs=[0.0, 0.1, 0.5, 2.0], div_coef=0.1, set_size=4)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["demo", "bandit", *map(str, arguments)], env={"COLUMNS": "300"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    return {name: train(advantage, SHORT) for name, advantage in METHODS.items()}


def kept(trace: Trace) -> float:
    return trace.effective_modes_TP[-1].mean().item()


def reward(trace: Trace) -> float:
    return trace.mean_reward_TP[-1].mean().item()


# What the bandit shows


def test_grpo_ends_on_one_rewarded_mode(traces: dict[str, Trace]) -> None:
    assert kept(traces["GRPO"]) < 1.3
    assert reward(traces["GRPO"]) > 0.99


def test_diversity_methods_keep_the_rewarded_modes(traces: dict[str, Trace]) -> None:
    assert kept(traces["SetPO, coef 2"]) > kept(traces["GRPO"]) + 1.5
    assert kept(traces["GRPO+DIV, coef 0.1"]) > kept(traces["GRPO"]) + 1.5
    assert kept(traces["Poly-EPO"]) > 3.9
    assert (traces["Poly-EPO"].modes_above_TP(0.05)[-1] == REWARDED).all()


def test_setpo_keeps_more_with_a_larger_coef_and_pays_little_reward(traces: dict[str, Trace]) -> None:
    small, middle, large = (kept(traces[f"SetPO, coef {coef}"]) for coef in (0.1, 0.5, 2))
    assert small < kept(traces["GRPO"]) + 0.3
    assert middle > small + 0.2
    assert large > middle + 0.8
    assert reward(traces["SetPO, coef 2"]) > 0.98


def test_poly_epo_learns_slowest_at_the_same_learning_rate(traces: dict[str, Trace]) -> None:
    """Its advantage is not divided by a standard deviation."""
    assert 0.75 < reward(traces["Poly-EPO"]) < reward(traces["GRPO+DIV, coef 0.1"]) - 0.05


def test_setpo_with_coef_0_is_grpo(traces: dict[str, Trace]) -> None:
    assert torch.equal(traces["SetPO, coef 0"].logits_TPM, traces["GRPO"].logits_TPM)


def test_adam_lets_a_coef_of_the_papers_size_keep_the_modes() -> None:
    settings = Settings(seeds=20, steps=1000, optimizer="adam")
    grpo_kept, setpo_kept = (kept(train(METHODS[name], settings)) for name in ("GRPO", "SetPO, coef 0.1"))
    assert setpo_kept > grpo_kept + 1.0


# Its parts


@pytest.mark.parametrize("name", METHODS)
def test_the_same_settings_give_the_same_policies(name: str, traces: dict[str, Trace]) -> None:
    settings = Settings(seeds=5, steps=40)
    first, second = (train(METHODS[name], settings).logits_TPM for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first[-1, 0], first[-1, 1])  # seeds differ


@pytest.mark.parametrize("optimizer", LEARNING_RATES)
def test_a_seed_is_the_same_among_few_and_among_many(optimizer: str) -> None:
    few, many = (
        train(METHODS["SetPO, coef 2"], Settings(seeds=seeds, steps=30, optimizer=optimizer)).logits_TPM
        for seeds in (2, 7)
    )
    torch.testing.assert_close(few, many[:, :2], rtol=1e-9, atol=1e-12)


def test_training_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(METHODS["GRPO"], Settings(seeds=2, steps=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_policy_gradient_is_that_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_PM = torch.randn(6, MODES, generator=generator, dtype=torch.float64, requires_grad=True)
    modes_PN = torch.randint(MODES, (6, 5), generator=generator)
    advantage_PN = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    objective = (advantage_PN * logits_PM.log_softmax(1).gather(1, modes_PN)).mean(1).sum()
    (expected_PM,) = torch.autograd.grad(objective, logits_PM)
    found_PM = policy_gradient(logits_PM.detach().softmax(1), modes_PN, advantage_PN)
    torch.testing.assert_close(found_PM, expected_PM, rtol=1e-12, atol=1e-14)


def first_group(seed: int, rollouts: int) -> tuple[list[list[float]], list[int]]:
    """Embeddings of the modes, and the modes that the uniform policy samples first."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(MODES, 50, generator=generator, dtype=torch.float64).tolist()
    uniform = torch.rand(rollouts, generator=generator, dtype=torch.float64).tolist()
    return embeddings, [math.floor(number * MODES) for number in uniform]


def grpo_by_hand(rewards: list[float]) -> list[float]:
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (std + 1e-6) for reward in rewards]


def setpo_by_hand(embeddings: list[list[float]], modes: list[int], coef: float) -> list[float]:
    """Eq. 3 and 4 as they stand, with D of every smaller group computed anew."""

    def similarity(a: int, b: int) -> float:
        return min(1.0, max(0.0, dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))))

    def dot(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(embeddings[a], embeddings[b], strict=True))

    def diversity(group: list[int]) -> float:
        masses = [
            sum(similarity(a, b) for j, b in enumerate(group) if j != i) / (len(group) - 1) for i, a in enumerate(group)
        ]
        return statistics.mean(-math.log1p(mass) for mass in masses)

    credits = [diversity(modes) - diversity(modes[:i] + modes[i + 1 :]) for i in range(len(modes))]
    base = grpo_by_hand([float(mode < REWARDED) for mode in modes])
    return [advantage + coef * credit for advantage, credit in zip(base, credits, strict=True)]


def poly_epo_by_hand(modes: list[int], set_size: int) -> list[float]:
    """Eq. 8, 10 and 11 over all sets."""

    def value(members: tuple[int, ...]) -> float:
        distinct = len({modes[i] for i in members})
        return sum(modes[i] < REWARDED for i in members) / set_size * distinct / set_size * (distinct > 1)

    sets = list(itertools.combinations(range(len(modes)), set_size))
    mean = statistics.mean(map(value, sets))
    return [statistics.mean(value(s) for s in sets if i in s) - mean for i in range(len(modes))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["GRPO", "SetPO, coef 2", "Poly-EPO"])
def test_the_first_step_is_the_formula_by_hand(name: str, seed: int) -> None:
    settings = Settings(seeds=4, steps=1, rollouts=6, learning_rate=0.5)
    embeddings, modes = first_group(seed, settings.rollouts)
    advantages = {
        "GRPO": lambda: grpo_by_hand([float(mode < REWARDED) for mode in modes]),
        "SetPO, coef 2": lambda: setpo_by_hand(embeddings, modes, 2.0),
        "Poly-EPO": lambda: poly_epo_by_hand(modes, 4),
    }[name]()
    expected = [
        0.5 * statistics.mean(a * ((m == mode) - 1 / MODES) for a, mode in zip(advantages, modes, strict=True))
        for m in range(MODES)
    ]
    found_M = train(METHODS[name], settings).logits_TPM[-1, seed]
    torch.testing.assert_close(found_M, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_grpo_normalises_as_verl_does() -> None:
    import numpy as np
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards_PN = (torch.rand(20, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    rewards_PN[0], rewards_PN[1] = 1.0, 0.0
    uids = np.repeat(np.arange(20), 8)
    expected, _ = compute_grpo_outcome_advantage(rewards_PN.reshape(-1, 1), torch.ones(160, 1), uids)
    torch.testing.assert_close(grpo(rewards_PN), expected.reshape(20, 8))


def test_modes_are_drawn_from_the_policy() -> None:
    probability_PM = torch.tensor([[0.0, 0.5, 0.0, 0.3, 0.2], [1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    modes_PN = sample_modes(probability_PM, 20_000, generators)
    share_PM = torch.nn.functional.one_hot(modes_PN, 5).double().mean(1)
    assert (share_PM - probability_PM).abs().max() < 0.015
    assert (share_PM[probability_PM == 0] == 0).all()


def policy(*probabilities: float) -> Trace:
    return Trace([0], torch.tensor(probabilities, dtype=torch.float64).log()[None, None])


def test_measures_of_known_policies() -> None:
    even = policy(*[0.2] * 4, *[0.025] * 8)
    assert even.effective_modes_TP.item() == pytest.approx(4)
    assert even.mean_reward_TP.item() == pytest.approx(0.8)
    assert even.modes_above_TP(0.05).item() == 4
    skewed = policy(0.75, 0.25, *[0.0] * 10)
    assert skewed.effective_modes_TP.item() == pytest.approx(4 / 3**0.75)
    assert skewed.modes_above_TP(0.3).item() == 1


def test_effective_modes_are_those_of_the_conditional_policy_even_if_it_underflows() -> None:
    logits = torch.tensor([0.0] * 4 + [5000.0] * 8, dtype=torch.float64)
    assert Trace([0], logits[None, None]).effective_modes_TP.item() == pytest.approx(4)


@pytest.mark.parametrize(("steps", "records"), [(1, 2), (7, 8), (50, 51), (1234, 51)])
def test_records_begin_at_the_start_and_end_at_the_end(steps: int, records: int) -> None:
    trace = train(METHODS["GRPO"], Settings(seeds=2, steps=steps, rollouts=3))
    assert trace.steps_T[0] == 0
    assert trace.steps_T[-1] == steps
    assert len(trace.steps_T) == len(trace.logits_TPM) == records
    assert (trace.logits_TPM[0] == 0).all()


# The command


def test_the_command_writes_table_picture_and_figures(tmp_path: Path) -> None:
    out = tmp_path / "made" / "toy.png"
    code, output = run("--seeds", 4, "--steps", 60, "--rollouts", 6, "--coef", 0.5, "--set-size", 3, "--out", out)
    assert code == 0, output
    assert out.read_bytes().startswith(b"\x89PNG")
    content = json.loads(out.with_suffix(".json").read_text())
    wanted = {"seeds": 4, "steps": 60, "rollouts": 6, "coef": [0.5], "div_coef": 0.1, "set_size": 3}
    assert wanted.items() <= content["settings"].items()
    assert [row["method"] for row in content["methods"]] == [
        "GRPO",
        "SetPO, coef 0.5",
        "Poly-EPO",
        "GRPO+DIV, coef 0.1",
    ]
    for row in content["methods"]:
        (line,) = re.findall(rf"^{re.escape(row['method'])} +(.*?) *$", output, flags=re.MULTILINE)
        shown = [
            f"{row[key]['mean']:.{digits}f} {row[key]['low']:.{digits}f}-{row[key]['high']:.{digits}f}"
            for key, digits in (("effective_modes", 2), ("modes_kept", 2), ("mean_reward", 3))
        ]
        assert re.split(r" {2,}", line) == shown
        assert sum(mode["mean"] for mode in row["probability"]) == pytest.approx(1)
        rewarded = [mode["mean"] for mode in row["probability"][:REWARDED]]
        assert rewarded == sorted(rewarded, reverse=True)
        assert sum(rewarded) == pytest.approx(row["mean_reward"]["mean"])
        assert row["training"][0]["effective_modes"]["mean"] == pytest.approx(4)
        assert row["training"][-1]["effective_modes"] == row["effective_modes"]
        assert row["effective_modes"]["low"] <= row["effective_modes"]["mean"] <= row["effective_modes"]["high"]
    assert [path.name for path in sorted(out.parent.iterdir())] == ["toy.json", "toy.png"]
    assert str(out) in output


def test_without_coef_the_table_has_a_small_and_a_large_one(tmp_path: Path) -> None:
    code, output = run("--seeds", 2, "--steps", 3, "--optimizer", "adam", "--out", tmp_path / "bandit.png")
    assert code == 0, output
    assert "SetPO, coef 0.1" in output
    assert "SetPO, coef 2" in output
    assert "adam with learning rate 0.1" in output


def test_extreme_weights_give_numbers_all_the_same(tmp_path: Path) -> None:
    """json.dumps would refuse a NaN."""
    arguments = ["--coef", 1000, "--div-coef", 1000, "--learning-rate", 1000, "--seeds", 2, "--steps", 200]
    code, output = run(*arguments, "--out", tmp_path / "bandit.png")
    assert code == 0, output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", 1], "--seeds: 1 leaves no interval over seeds: give at least 2."),
        (["--steps", 0], "--steps: 0 trains nothing: give at least 1."),
        (["--rollouts", 2], "--rollouts: 2 are too few for SetPO's leave-one-out credit: give at least 3."),
        (["--rollouts", 5000], "--rollouts: 5000 with 20 seeds take too much memory: lower --rollouts or --seeds."),
        (["--set-size", 8], "--set-size: 8 does not fit groups of 8 rollouts: give 2 to 7, or raise --rollouts."),
        (["--set-size", 1], "--set-size: 1 does not fit groups of 8 rollouts: give 2 to 7, or raise --rollouts."),
        (["--coef", -0.1], "--coef: -0.1 is no weight: give 0 to 1000."),
        (["--coef", "nan"], "--coef: nan is no weight: give 0 to 1000."),
        (["--coef", 1, "--coef", 1.0], "--coef: two values are the same: give each once."),
        ([part for i in range(10) for part in ("--coef", i)], "--coef: 10 are too many: give at most 9."),
        (["--div-coef", "inf"], "--div-coef: inf is no weight: give 0 to 1000."),
        (["--optimizer", "lion"], "--optimizer: 'lion' is not known: give sgd or adam."),
        (["--learning-rate", 0], "--learning-rate: 0 does not train: give more than 0 and at most 1000."),
        (["--out", "bandit.jpg"], "--out: bandit.jpg does not end in .png: name a picture, such as bandit.png."),
    ],
)
def test_a_bad_option_is_one_sentence_that_names_it(
    arguments: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run(*arguments)
    assert code == 2
    assert f"Invalid value for {message}" in output
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "file" / "bandit.png", tmp_path / "folder.png"):
        code, output = run("--steps", 10**9, "--out", out)
        assert code == 2
        assert "--out" in output


def test_help_waits_for_neither_torch_nor_matplotlib() -> None:
    code = "import sys, verl_setpo.cli\nassert not {'torch', 'matplotlib'} & set(sys.modules), 'heavy imports'\n"
    subprocess.run([sys.executable, "-c", code], check=True)
