"""What stands in the tables of an experiment is what its raw results say."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError
from reproduce import PUBLISHED, app
from reproduction import results
from reproduction.evaluate import count
from reproduction.experiment import Experiment, load
from reproduction.inputs import fingerprint
from reproduction.tables import against_baseline, at_equal_accuracy, beside, cell, write
from typer.testing import CliRunner

from tests.scripts.experiments import SMALL, counts


def test_samples_are_counted_by_prompt_and_strategies_where_the_reward_names_them(tmp_path):
    samples = [
        ("a_0_0", 1.0, {"pred": "(1,2)"}),
        ("a_1_0", 1.0, {"pred": "(1,2)"}),
        ("a_2_0", 0.0, {"pred": "(9,9)"}),
        ("b_0_0", 1.0, {"pred": "7", "strategy": "20+3"}),
        ("b_1_0", 1.0, {"pred": "7", "strategy": "22+1"}),
        ("b_2_0", 1.0, {"pred": "7", "strategy": ""}),  # right, and its parts do not hold
        ("c_0_0", 0.0, {"pred": ""}),
        ("d_0_0", 1.0, {"pred": ["of", "another", "type"]}),
    ]
    file = tmp_path / "5.jsonl"
    file.write_text("".join(json.dumps({"uid": uid, "acc": acc, **more}) + "\n" for uid, acc, more in samples))
    assert count(file) == {"correct": [2, 3, 0, 1], "distinct": [1, 2, 0, 1]}


def test_figures_are_those_of_a_count_by_hand():
    line = {"correct": [0, 1, 4, 2], "distinct": [0, 1, 3, 2], "n": 4}
    found = results.figures(line)

    def pass_at(k):
        solved = [any(i < c for i in chosen) for c in line["correct"] for chosen in combinations(range(4), k)]
        return sum(solved) / len(solved)

    assert [found[f"pass@{k}"] for k in (1, 2, 4)] == pytest.approx([pass_at(k) for k in (1, 2, 4)])
    assert "pass@8" not in found
    assert results.figures({"correct": [3], "distinct": [1], "n": 6})["pass@6"] == 1.0  # n is no power of two
    assert (found["distinct"], found["width"], found["mode"], found["coverage"]) == (1.5, 0.5, 2.5, 0.75)


def test_the_interval_over_seeds_holds_the_mean_of_95_of_100_draws():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        interval = results.estimate(rng.normal(3.0, 2.0, size=6))
        inside += interval.low <= 3.0 <= interval.high
    assert 0.94 < inside / 2000 < 0.96
    assert results.estimate([0.5, 0.6]).low is None


def test_the_interval_of_one_more_run_holds_it_95_of_100_times():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        *known, one_more = rng.normal(3.0, 2.0, size=5)
        interval = results.estimate(known)
        inside += interval.one_low <= one_more <= interval.one_high
    assert 0.935 < inside / 2000 < 0.965


def test_the_spread_of_all_methods_serves_those_with_few_runs_and_holds_one_more_95_of_100_times():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(2000):
        pairs = [rng.normal(mean, 2.0, size=2) for mean in (0.0, 30.0, 5.0, 7.0)]
        (only,), others = rng.normal(9.0, 2.0, size=1), results.pooled([*pairs, [1.0], [], [math.nan, 4.0]])
        interval = results.estimate([only], others)
        assert (others.degrees, interval.low, interval.high) == (4, None, None)
        inside += interval.one_low <= rng.normal(9.0, 2.0) <= interval.one_high
    assert 0.935 < inside / 2000 < 0.965
    assert results.pooled([[1.0, 2.0], [3.0, 5.0], [4.0]]) is None
    assert results.pooled([[1.0, 3.0], [2.0, 6.0], [0.0, 0.0]]).sd == pytest.approx(math.sqrt((2 + 8 + 0) / 3))
    assert results.estimate([1.0, 2.0, 4.0], results.Spread(100.0, 9)) == results.estimate([1.0, 2.0, 4.0])


def test_a_repeated_run_is_shown_beside_where_one_more_is_to_be_expected():
    where = {"set": "test", "step": 10}
    published = [
        counts("grpo", {"LR": 1}, [right], [distinct], seed, **where)
        for seed, right, distinct in ((1, 8, 2), (2, 9, 3), (3, 10, 4))
    ]
    again = counts("grpo", {"LR": 1}, [7], [1], 1, **where)
    elsewhere = [{**again, "set": "train"}, {**again, "step": 5}, {**again, "kind": "curves"}]

    def row(known):
        *_, only = beside(SMALL, [*elsewhere, again], known).splitlines()
        return [cell.strip() for cell in only.split("|")[1:-1]]

    # 4.303 standard deviations x sqrt(4 / 3) about the mean, and no share above 1.
    assert row(published) == ["GRPO", "1", "1", "70.0 %", "90.0 % (40.3 to 100.0)", "1.00", "3.00 (0.00 to 7.97)"]
    few = "no interval of so few"
    assert row(published[:2])[3:] == ["70.0 %", f"85.0 % (80.0, 90.0), {few}", "1.00", f"2.50 (2.00, 3.00), {few}"]
    assert row([])[4] == "not published"
    # The spread of another method serves where GRPO has one run.
    others = [
        counts("other", {"C": 1}, [right], [distinct], seed, **where)
        for seed, right, distinct in ((1, 4, 2), (2, 4, 2), (3, 5, 3), (4, 6, 4), (5, 6, 4))
    ]
    half = 2.776 * math.sqrt(2)  # four degrees of freedom, standard deviation 1
    assert row([published[1], *others])[3:] == [
        "70.0 %",
        f"90.0 % ({90 - 10 * half:.1f} to 100.0)",
        "1.00",
        f"3.00 (0.00 to {3 + half:.2f})",
    ]


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("distinct", [2.0], "2.00"),
        ("distinct", [2.0, 4.0], "3.00 (2.00, 4.00)"),
        ("distinct", [2.0, 3.0, 4.0], "3.00 (0.52 to 5.48)"),
        ("pass@1", [0.99, 0.995, 1.0], "99.5 % (98.3 to 100.0)"),
        ("points", [-1.0, 0.0, 1.0], "0.00 (-2.48 to 2.48)"),
        ("mode", [math.nan, 2.0], "2.00, 1 of 2 runs"),
        ("mode", [math.nan], "none"),
    ],
)
def test_a_cell_shows_no_interval_of_two_and_no_share_above_all(name, values, shown):
    assert cell(name, values) == shown


def test_starting_models_have_a_range_and_no_interval():
    assert cell("pass@1", [0.43, 0.45, 0.43, 0.45], of_starts=True) == "44.0 % (43.0 to 45.0)"
    assert cell("pass@1", [0.45, 0.43], of_starts=True) == cell("pass@1", [0.45, 0.43]) == "44.0 % (45.0, 43.0)"


def test_a_seed_whose_starting_model_differs_between_machines_counts_as_two(tmp_path):
    experiment = load("polynomial")
    of = experiment.identity()

    def line(model, correct):
        where = {"set": "test", "n": 64, "step": 0, "warm_start": 1, "model": model, "of": of}
        return counts("start", {}, [correct], [correct], None, **where)

    lines = [line("here", 9), line("there", 3), line("here", 8)]  # the first was counted again
    starts = results.in_force(experiment, lines)
    assert [(one["model"], one["correct"]) for one in starts] == [("here", [8]), ("there", [3])]
    page = tmp_path / "page.md"
    write(experiment, {name: method.trials[0] for name, method in experiment.methods.items()}, [], starts, page)
    assert "on 2 starting models of one seed (another machine makes other weights), the" in page.read_text()
    assert "At the end of training" not in page.read_text()
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, weights in ((one, b"1"), (other, b"2")):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
    assert fingerprint(one) != fingerprint(other)


def test_a_method_is_compared_with_the_baseline_of_the_same_seed():
    last = max(load("polynomial").evaluation.steps)

    def line(method, seed, correct, distinct, step=last):
        return counts(method, {}, correct, distinct, seed, **{"set": "test", "step": step, "warm_start": 1})

    lines = [line("grpo", 1, [10, 10], [1, 3]), line("grpo", 2, [8, 8], [1, 1]), line("set_loo", 2, [8, 6], [4, 2])]
    lines += [line("set_loo", 1, [9, 9], [4, 4]), line("set_loo", 3, [1, 1], [1, 1]), line("set_loo", 1, [1], [1], 5)]
    *_, only = against_baseline(load("polynomial"), lines).splitlines()
    assert [one.strip() for one in only.split("|")[1:-1]] == [
        "SetPO",
        "-10.00 (-10.00, -10.00)",
        "2.50 (2.00, 3.00)",
        "1.33, 1 of 2 runs",  # of the second GRPO no problem has two answers
        "2.00, 1 of 2 runs",
        "2",
    ]
    assert against_baseline(load("polynomial"), lines[:2]) == ""
    control = line("grpo_diverse", 1, [9, 9], [2, 2])
    *_, title, table = against_baseline(load("polynomial"), [*lines, control]).split("\n\n")
    assert title == "Against GRPO, tuned for diversity, seed by seed:"
    assert [row.partition(" |")[0] + row[-6:] for row in table.splitlines()[2:]] == ["| GRPO | 1 |", "| SetPO | 1 |"]
    assert "| SetPO | 0.00 | 2.00 | 2.00 | 1.00 | 1 |" in table


def test_at_equal_accuracy_a_run_counts_where_it_is_most_diverse_and_accurate_enough():
    def line(method, seed, step, correct, distinct):
        more = {"set": "test", "step": step, "warm_start": 1}
        return counts(method, {}, [correct], [distinct], seed, **more)

    lines = [
        line("start", None, 0, 5, 5),
        *(line("grpo", 1, 5, 8, 3), line("grpo", 1, 10, 9, 1), line("grpo", 2, 5, 6, 4), line("grpo", 2, 10, 9, 2)),
        *(line("set_loo", 1, 5, 9, 5), line("set_loo", 1, 10, 6, 6)),
    ]

    def cells_of(page):
        return {
            name: rest for name, *rest in ([one.strip() for one in row.split("|")[1:-1]] for row in page.splitlines())
        }

    _, fronts, against, times = at_equal_accuracy(load("polynomial"), lines).split("\n\n")
    cells = cells_of(fronts)
    at = dict(zip(cells[""], cells["GRPO"], strict=True))
    # Between the start and step 5: 5 - 2 x 0.025 / 0.3, and 5 - 1 x 0.025 / 0.1.
    assert at["52.5 %"] == "4.79 (4.83, 4.75)"
    assert at["62.5 %"] == "4.00 (4.17, 3.83)"  # the second between steps 5 and 10: 4 - 2 x 0.025 / 0.3
    assert at["82.5 %"] == "2.50 (2.50, 2.50)"
    assert at["90.0 %"] == "1.50 (1.00, 2.00)"
    of_set_loo = dict(zip(cells[""], cells["SetPO"], strict=True))
    assert [of_set_loo[level] for level in ("52.5 %", "60.0 %", "75.0 %", "90.0 %")] == ["6.00", "6.00", "5.50", "5.00"]
    assert against == "Times that of GRPO, of the seeds where both reach it:"
    of_seed_1 = dict(zip(cells[""], cells_of(times)["SetPO"], strict=True))
    assert (of_seed_1["52.5 %"], of_seed_1["62.5 %"], of_seed_1["82.5 %"]) == ("1.24", "1.42", "2.10")
    lines.append(line("set_loo", 2, 5, 6, 9))
    _, fronts, _, times = at_equal_accuracy(load("polynomial"), lines).split("\n\n")
    assert fronts.endswith("| reached by 1 of 2 runs |")
    assert times.endswith("| 5.00, 1 of 2 runs |")


def test_controls_are_methods_of_the_experiment_and_are_compared_with_too():
    with pytest.raises(ValidationError, match="controls has slow, which is none of the methods: grpo, "):
        Experiment(**{**load("polynomial").model_dump(), "controls": ["slow"]})

    def line(method, step, seed, correct, distinct):
        more = {"set": "test", "step": step, "warm_start": 1}
        return counts(method, {}, [correct], [distinct], seed, **more)

    lines = [line("start", 0, None, 5, 6), line("grpo", 5, 1, 6, 1), line("grpo_diverse", 5, 1, 6, 2)]
    lines.append(line("set_loo", 5, 1, 6, 6))
    *_, against, times = at_equal_accuracy(load("polynomial"), lines).split("\n\n")
    assert against == "Times that of GRPO, tuned for diversity, of the seeds where both reach it:"
    at_the_end = [(row.split("|")[1], row.split("|")[-2]) for row in times.splitlines()[2:]]
    assert at_the_end == [(" GRPO ", " 0.50 "), (" SetPO ", " 3.00 ")]


def test_along_training_a_prompt_with_a_correct_one_of_so_many_rollouts_is_counted_where_the_start_lacks_some(tmp_path):
    experiment = load("multiplication")
    chosen = {name: method.trials[0] for name, method in experiment.methods.items()}

    def rows(of_start):
        of = experiment.identity()
        lines = [counts("start", {}, of_start, [1, 1], None, set="train", n=64, step=0, warm_start=1, of=of)]
        for seed, correct in ((1, [64, 0]), (2, [64, 64])):
            lines.append(counts("poly_epo", chosen["poly_epo"], correct, [1, 1], seed, set="train", n=64, step=20))
        write(experiment, chosen, [], lines, tmp_path / "page.md")
        _, _, table = (tmp_path / "page.md").read_text().partition("## Along training: ")
        table = table.partition("##")[0].splitlines()
        return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table if row.startswith("| ")]

    # 8 of 64 samples hold the only correct one an eighth of the time.
    assert rows([1, 1]) == [
        ["", "step 0", "step 20"],
        ["---"] * 3,
        ["starting model", "12.5 %", ""],
        ["Poly-EPO", "", "75.0 % (50.0, 100.0)"],
    ]
    assert rows([64, 64]) == []


def test_along_training_methods_are_compared_within_a_seed(tmp_path):
    experiment = load("multiplication")
    chosen = {name: method.trials[0] for name, method in experiment.methods.items()}
    of = experiment.identity()
    where = {"set": "train", "n": 64, "step": 0, "warm_start": 1, "of": of}
    lines = [counts("start", {}, [right] * 2, [1, 1], None, **where, model=f"m{right}") for right in (1, 2)]
    for method, seed, correct in (
        *(("poly_epo", 1, [64, 0]), ("poly_epo", 2, [64, 64]), ("poly_epo", 3, [64, 64])),
        *(("grpo", 1, [64, 64]), ("grpo", 2, [0, 8]), ("grpo_slow", 2, [0, 0])),
    ):
        lines.append(counts(method, chosen[method], correct, [1, 1], seed, set="train", n=64, step=20))
    write(experiment, chosen, [], lines, tmp_path / "page.md")
    _, _, page = (tmp_path / "page.md").read_text().partition("## Along training: ")
    shares, *pairs = page.partition("\n##")[0].split("\n\nPoints more than ")
    assert "| starting model | 18.1 % (12.5, 23.6) |  |" in shares  # of one seed, from two machines
    assert [text.partition(",")[0] for text in pairs] == ["GRPO", "GRPO"]
    against, of_control = (text.splitlines()[4:] for text in pairs)
    # Of 8 of 64 samples one is in 67.9 % of draws of 8 of them.
    assert against == [
        "| GRPO, learning rate 1e-4 | -33.95 |",
        "| Poly-EPO | 8.02 (-50.00, 66.05) |",
    ]
    assert of_control == ["| GRPO | 33.95 |", "| Poly-EPO | 100.00 |"]


def test_show_draws_as_soon_as_there_is_a_run_and_says_which_choice_was_below_the_bound(tmp_path):
    search, test = (results.read(PUBLISHED / f"countdown.{stage}.jsonl") for stage in ("search", "test"))
    results.append(tmp_path / "countdown.search.jsonl", search)
    raw = tmp_path / "countdown.test.jsonl"
    results.append(raw, [line for line in test if line["method"] == "start"])

    def shown() -> tuple[str, set[str]]:
        done = CliRunner().invoke(app, ["show", "countdown", "--results", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return (tmp_path / "countdown.md").read_text(), {path.name for path in tmp_path.glob("*.png")}

    page, plots = shown()
    assert "## At the end of training" not in page
    assert not plots
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith("| ")]
    how = {(row[0], row[-1]) for row in rows if row[-1]}
    assert {("GRPO", "chosen"), ("SetPO+GRPO", "chosen, as none is accurate enough")} < how
    results.append(raw, [line for line in test if line["method"] == "grpo" and line["seed"] == 1])
    page, plots = shown()
    assert "## At the end of training" in page
    assert plots == {f"countdown.{name}.png" for name in ("training", "front", "pass_at_k")}
