"""What stands in the tables of an experiment is what its raw results say."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError
from reproduce import PUBLISHED, Run, app, missing, search_runs
from reproduction import results
from reproduction.evaluate import count
from reproduction.experiment import FOLDER, Experiment, load
from reproduction.inputs import fingerprint
from reproduction.tables import against_baseline, at_equal_accuracy, cell, write
from typer.testing import CliRunner

EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_loads_and_searches_as_much_for_each_method_that_it_searches_for(name):
    experiment = load(name)
    assert len({len(method.trials) for method in experiment.methods.values()} - {1}) <= 1
    assert len(experiment.warm_starts.seeds) >= 2
    assert {experiment.warm_start_of(seed) for seed in experiment.seeds} == set(experiment.warm_starts.seeds)


def test_a_trial_of_two_methods_is_run_once_and_counts_for_both():
    methods = {
        **SMALL.methods,
        "again": SMALL.methods["grpo"].model_copy(
            update={"settings": {**SMALL.methods["grpo"].settings, "LR": 1}, "trials": [{}, {"C": 2}]}
        ),
    }
    experiment = SMALL.model_copy(update={"methods": methods})
    runs = [(run.method, run.settings) for run in search_runs(experiment)]
    assert runs == [
        ("grpo", {"LR": 1}),
        ("grpo", {"LR": 2}),
        *[("other", {"C": n}) for n in (1, 2)],
        ("again", {"C": 2}),
    ]
    lines = [counts("grpo", {"LR": 1}, [9, 9], [7, 7]), counts("grpo", {"LR": 2}, [9, 9], [1, 1])]
    lines += [counts("other", {"C": n}, [9, 9], [1, 1]) for n in (1, 2)]
    of = experiment.identity(experiment.settings_of("again", {"C": 2}))
    lines.append({**counts("grpo", {}, [9, 9], [2, 2]), "method": "again", "of": of})
    assert results.choose(experiment, lines)["again"] == {}
    again = {**lines[0], "method": "again", "kind": "curves"}
    assert {run.settings.get("LR") for run in missing(experiment, search_runs(experiment), [again])} == {2, None}
    test = [Run("test", name, 0, trial, 101) for name, trial in (("grpo", {"LR": 1}), ("again", {}))]
    assert [run.method for run in missing(experiment, test, [again])] == ["grpo"]
    assert results.in_force(experiment, [*lines, {**lines[0], "method": "again"}]) == [
        {**lines[0], "method": "again"},
        *lines[1:],
    ]


def test_a_step_off_the_grid_of_checkpoints_is_refused_with_its_name():
    from reproduction.experiment import Evaluation

    with pytest.raises(ValueError, match="steps has 12, which is no multiple of every, 5"):
        Evaluation(steps=[5, 12], max_tokens=8)


def test_figures_are_those_of_a_count_by_hand():
    line = {"correct": [0, 1, 4, 2], "distinct": [0, 1, 3, 2], "n": 4}
    found = results.figures(line)

    def pass_at(k):
        solved = [any(i < c for i in chosen) for c in line["correct"] for chosen in combinations(range(4), k)]
        return sum(solved) / len(solved)

    assert [found[f"pass@{k}"] for k in (1, 2, 4)] == pytest.approx([pass_at(k) for k in (1, 2, 4)])
    assert "pass@8" not in found
    assert (found["distinct"], found["width"], found["mode"], found["coverage"]) == (1.5, 0.5, 2.5, 0.75)


def test_the_interval_over_seeds_holds_the_mean_of_95_of_100_draws():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        interval = results.estimate(rng.normal(3.0, 2.0, size=6))
        inside += interval.low <= 3.0 <= interval.high
    assert 0.94 < inside / 2000 < 0.96
    assert results.estimate([0.5, 0.6]).low is None


POLYNOMIAL = load("polynomial")
SMALL = POLYNOMIAL.model_copy(
    update={
        "search_seeds": [101],
        "slack": 0.05,
        "evaluation": POLYNOMIAL.evaluation.model_copy(update={"every": 5, "steps": [5, 10]}),
        "methods": {
            "grpo": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"LR": 1}, {"LR": 2}]}),
            "other": POLYNOMIAL.methods["grpo"].model_copy(update={"trials": [{"C": 1}, {"C": 2}]}),
        },
    }
)


def counts(method, settings, correct, distinct, seed=101, **other):
    of = SMALL.identity(SMALL.settings_of(method, settings)) if method in SMALL.methods else SMALL.identity()
    line = {"kind": "counts", "method": method, "settings": settings, "of": of, "seed": seed, "set": "validation"}
    return {**line, "n": 10, "temperature": 1.0, "step": 10, "correct": correct, "distinct": distinct, **other}


class TestTheChosenTrial:
    @pytest.fixture
    def experiment(self):
        return SMALL

    GRPO = (counts("grpo", {"LR": 1}, [9, 9], [1, 1]), counts("grpo", {"LR": 2}, [10, 9], [1, 1]))

    def test_is_the_most_diverse_of_those_that_are_accurate_enough(self, experiment):
        tried = [counts("other", {"C": 1}, [9, 9], [3, 3]), counts("other", {"C": 2}, [8, 9], [9, 9])]
        assert results.choose(experiment, [*self.GRPO, *tried])["other"] == {"C": 1}
        assert results.choose(experiment.model_copy(update={"slack": 0.11}), [*self.GRPO, *tried])["other"] == {"C": 2}

    def test_is_the_most_accurate_where_none_is_accurate_enough(self, experiment):
        tried = [counts("other", {"C": 1}, [5, 5], [3, 3]), counts("other", {"C": 2}, [4, 4], [9, 9])]
        assert results.choose(experiment, [*self.GRPO, *tried])["other"] == {"C": 1}

    def test_is_then_the_most_diverse_of_those_that_are_as_accurate_as_can_be_told(self, experiment):
        """Prompt by prompt: the second is less accurate by 1 of 10 samples, give or take 1; the third by exactly 1."""
        tried = [counts("other", {"C": 1}, [5, 5], [3, 3]), counts("other", {"C": 2}, [3, 5], [4, 4])]
        assert results.choose(experiment, [*self.GRPO, *tried])["other"] == {"C": 2}
        tried[1] = counts("other", {"C": 2}, [4, 4], [4, 4])
        assert results.choose(experiment, [*self.GRPO, *tried])["other"] == {"C": 1}

    def test_goes_by_means_over_seeds_of_the_search_in_whichever_order_they_ended(self, experiment):
        experiment = experiment.model_copy(update={"search_seeds": [101, 102]})
        grpo = [counts("grpo", {"LR": n}, [10, 10], [1, 1], seed) for n in (1, 2) for seed in (101, 102)]
        # Prompt by prompt 5, 5 and 3, 5: less by 1, give or take 1.
        one = [counts("other", {"C": 1}, [2, 5], [3, 3], 101), counts("other", {"C": 1}, [8, 5], [3, 3], 102)]
        other = [counts("other", {"C": 2}, [6, 5], [4, 4], 102), counts("other", {"C": 2}, [0, 5], [4, 4], 101)]
        assert results.choose(experiment, [*grpo, *one, *other])["other"] == {"C": 2}
        other = [counts("other", {"C": 2}, [4, 0], [4, 4], 102), counts("other", {"C": 2}, [4, 8], [4, 4], 101)]
        assert results.choose(experiment, [*grpo, *one, *other])["other"] == {"C": 1}

    def test_of_the_baseline_is_the_most_accurate_however_diverse_another(self, experiment):
        grpo = [counts("grpo", {"LR": 1}, [9, 9], [5, 5]), counts("grpo", {"LR": 2}, [10, 9], [1, 1])]
        others = [counts("other", {"C": n}, [9, 9], [1, 1]) for n in (1, 2)]
        assert results.choose(experiment, [*grpo, *others])["grpo"] == {"LR": 2}

    def test_is_not_chosen_by_test_prompts_or_by_earlier_checkpoints(self, experiment):
        tried = [counts("other", {"C": 1}, [9, 9], [3, 3]), counts("other", {"C": 2}, [9, 9], [2, 2])]
        elsewhere = [
            counts("other", {"C": 2}, [10, 10], [9, 9], set="test"),
            counts("other", {"C": 2}, [10, 10], [9, 9], step=5),
        ]
        assert results.choose(experiment, [*self.GRPO, *tried, *elsewhere])["other"] == {"C": 1}

    def test_waits_until_all_trials_have_been_run(self, experiment):
        with pytest.raises(ValueError, match="has not been run"):
            results.choose(experiment, [*self.GRPO, counts("other", {"C": 1}, [9, 9], [3, 3])])

    def test_of_a_method_with_one_is_that_one_without_a_search(self, experiment):
        one = {"one": experiment.methods["other"].model_copy(update={"trials": [{"C": 7}]})}
        both = experiment.model_copy(update={"methods": {**experiment.methods, **one}})
        tried = [counts("other", {"C": 1}, [9, 9], [3, 3]), counts("other", {"C": 2}, [4, 4], [9, 9])]
        assert results.choose(both, [*self.GRPO, *tried])["one"] == {"C": 7}
        assert results.choose(experiment.model_copy(update={"methods": one}), []) == {"one": {"C": 7}}


class TestLinesInForce:
    CHOSEN = ({"grpo": {"LR": 1}, "other": {"C": 2}},)

    def test_are_of_the_chosen_trial_and_the_seeds_of_the_report(self):
        seed = SMALL.seeds[0]
        good = counts("grpo", {"LR": 1}, [9], [1], seed, set="test")
        others = [
            counts("grpo", {"LR": 2}, [8], [1], seed, set="test"),  # another trial
            counts("grpo", {"LR": 1}, [7], [1], 77, set="test"),  # a seed that the file no longer names
            {**good, "of": "0123456789ab", "correct": [6]},  # settings that the file no longer has
        ]
        assert results.in_force(SMALL, [good, *others], *self.CHOSEN) == [good]

    def test_of_one_that_is_there_twice_are_the_last(self):
        first, last = (counts("other", {"C": 2}, [n], [1], SMALL.seeds[0]) for n in (3, 4))
        assert results.in_force(SMALL, [first, last], *self.CHOSEN) == [last]

    @pytest.mark.parametrize(
        "change",
        [
            {"settings": {**SMALL.settings, "ROLLOUT_N": 9}},
            {"data": {**SMALL.data, "seed": 12}},
            {"validation": 50},
            {"evaluation": SMALL.evaluation.model_copy(update={"n": 32})},
            {"evaluation": SMALL.evaluation.model_copy(update={"steps": [5, 15]})},
            {"warm_starts": SMALL.warm_starts.model_copy(update={"options": {"steps": 7}})},
        ],
    )
    def test_are_none_of_those_before_a_change_of_what_a_result_depends_on(self, change):
        line = counts("grpo", {"LR": 1}, [9], [1], SMALL.seeds[0])
        assert results.in_force(SMALL, [line], *self.CHOSEN)
        assert not results.in_force(SMALL.model_copy(update=change), [line], *self.CHOSEN)


def test_a_line_that_was_cut_off_is_neither_read_nor_in_the_way_of_the_next(tmp_path):
    path = tmp_path / "x.jsonl"
    results.append(path, [{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": 3, "b')
    assert results.read(path) == [{"a": 1}, {"a": 2}]
    results.append(path, [{"a": 4}])
    assert results.read(path) == [{"a": 1}, {"a": 2}, {"a": 4}]


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


class TestAnExperimentThatExtendsAnother:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        (tmp_path / "polynomial.yaml").write_text((FOLDER / "polynomial.yaml").read_text())
        monkeypatch.setattr("reproduction.experiment.FOLDER", tmp_path)
        return tmp_path

    def test_has_what_it_names_and_else_all_of_the_other(self, folder):
        (folder / "wide.yaml").write_text(
            "{name: wide, title: Wide, extends: polynomial, settings: {ROLLOUT_N: 16}, "
            "methods: {grpo_div: null, poly_epo: {trials: [{SET_SIZE: 8}]}}}"
        )
        base, wide = load("polynomial"), load("wide")
        assert wide.settings == {**base.settings, "ROLLOUT_N": 16}
        assert wide.methods["poly_epo"].trials == [{"SET_SIZE": 8}]
        assert wide.methods["set_loo"] == base.methods["set_loo"]
        assert set(wide.methods) == set(base.methods) - {"grpo_div"}
        assert (wide.data, wide.warm_starts, wide.extends) == (base.data, base.warm_starts, "polynomial")

    def test_cannot_have_other_prompts_because_it_shares_starting_models(self, folder):
        (folder / "wide.yaml").write_text("{name: wide, title: Wide, extends: polynomial, data: {seed: 12}}")
        with pytest.raises(ValueError, match=r"wide\.yaml: data is that of polynomial, which this experiment extends"):
            load("wide")


def test_the_search_of_another_experiment_counts_although_its_settings_are_others():
    seven, three = load("countdown"), load("countdown_3")
    lines = []
    for name, method in seven.methods.items():
        for number, trial in enumerate(method.trials):
            of = seven.identity(seven.settings_of(name, trial))
            more = {"step": max(seven.evaluation.steps), "seed": seven.search_seeds[0], "of": of}
            lines.append(counts(name, trial, [number + 1] * 2, [number + 1] * 2, **more))
    chosen = results.choose(three, lines)
    assert three.settings["ROLLOUT_N"] == 3
    assert chosen["set_loo"] == seven.methods["set_loo"].trials[-1]
    assert chosen["poly_epo"] == three.methods["poly_epo"].trials[0]
    with pytest.raises(ValueError, match="has not been run"):
        results.choose(three, [line for line in lines if line["method"] != "set_loo_gspo"])


def test_samples_are_counted_by_prompt_and_strategies_where_the_reward_names_them(tmp_path):
    samples = [
        ("a_0_0", 1.0, {"pred": "(1,2)"}),
        ("a_1_0", 1.0, {"pred": "(1,2)"}),
        ("a_2_0", 0.0, {"pred": "(9,9)"}),
        ("b_0_0", 1.0, {"pred": "7", "strategy": "20+3"}),
        ("b_1_0", 1.0, {"pred": "7", "strategy": "22+1"}),
        ("c_0_0", 0.0, {"pred": ""}),
    ]
    file = tmp_path / "5.jsonl"
    file.write_text("".join(json.dumps({"uid": uid, "acc": acc, **more}) + "\n" for uid, acc, more in samples))
    assert count(file) == {"correct": [2, 2, 0], "distinct": [1, 2, 0]}


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
    assert "on 2 starting models" in page.read_text()
    assert "At the end of training" not in page.read_text()
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, weights in ((one, b"1"), (other, b"2")):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
    assert fingerprint(one) != fingerprint(other)


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


def test_at_equal_accuracy_the_most_diverse_checkpoint_that_is_accurate_enough_counts():
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
    assert at["52.5 %"] == "3.50 (3.00, 4.00)"  # step 5 of both seeds
    assert at["62.5 %"] == "2.50 (3.00, 2.00)"  # the end of the second
    assert at["82.5 %"] == "1.50 (1.00, 2.00)"
    assert at["90.0 %"] == "1.50 (1.00, 2.00)"
    assert dict(zip(cells[""], cells["SetPO"], strict=True)) == {
        level: "6.00" if float(level[:4]) <= 60 else "5.00" for level in at
    }
    assert against == "Times that of GRPO, of the seeds where both reach it:"
    of_seed_1 = dict(zip(cells[""], cells_of(times)["SetPO"], strict=True))
    assert (of_seed_1["52.5 %"], of_seed_1["62.5 %"], of_seed_1["82.5 %"]) == ("2.00", "1.67", "5.00")
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
    assert [row.split("|")[1:3] for row in times.splitlines()[2:]] == [[" GRPO ", " 0.50 "], [" SetPO ", " 3.00 "]]
