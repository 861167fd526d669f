"""An experiment runs the trials that its file names, and reports the one that its validation prompts choose."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from omegaconf import OmegaConf
from reproduce import Run, missing, search_runs
from reproduction import results
from reproduction.experiment import FOLDER, Evaluation, load

from tests.scripts.experiments import SMALL, counts, whole_run

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
    again = [{**line, "method": "again"} for line in whole_run("grpo", {"LR": 1}, 101, "validation")]
    assert {run.settings.get("LR") for run in missing(experiment, search_runs(experiment), again)} == {2, None}
    test = [Run("test", name, 0, trial, 101) for name, trial in (("grpo", {"LR": 1}), ("again", {}))]
    again = [{**line, "set": "test" if line["set"] else None} for line in again]
    assert [run.method for run in missing(experiment, test, again)] == ["grpo"]
    assert results.in_force(experiment, [*lines, {**lines[0], "method": "again"}]) == [
        {**lines[0], "method": "again"},
        *lines[1:],
    ]


def test_a_step_off_the_grid_of_checkpoints_is_refused_with_its_name():
    with pytest.raises(ValueError, match="steps has 12, which is no multiple of every, 5"):
        Evaluation(steps=[5, 12], max_tokens=8)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"COEFF": 4}}, "settings have COEFF, which is none of the recipe's METHOD, TRAIN_BATCH_SIZE, "),
        ({"methods": {"grpo": {"trials": [{"STEPS": 5}]}}}, "settings have STEPS, which is none of the recipe's "),
        ({"sedes": [1]}, "sedes: Extra inputs are not permitted"),
        ({"validation": 90}, "data.test-size must be a number above validation, 90: the rest is reported"),
        ({"evaluation": {"steps": []}}, "evaluation.steps: List should have at least 1 item"),
        ({"name": "other"}, "name is other, but the file is coins.yaml: both must be the same"),
        ({"task": "gold.py"}, "task is gold.py, and there is no "),
        ({"controls": ["slow"]}, "controls has slow, which is none of the methods: grpo, "),
        ({"data": {"test-size": "90"}}, "data.test-size must be a number above validation, "),
        ({"settings": {"Lr": 1}}, "settings have Lr, which is none of the recipe's METHOD, "),
        ({"settings": {"LR": None}}, "settings have LR without a value: leave it out, "),
        ({"methods": {"start": {"label": "Start", "settings": {}}}}, "methods has start, which is the name of "),
        ({"evaluation": {"every": 0}}, "evaluation.every: Input should be greater than or equal to 1"),
        ({"evaluation": {"steps": [0]}}, "evaluation: steps has no step but 0: there is nothing to train"),
        ({"evaluation": {"temperatures": []}}, "evaluation.temperatures: List should have at least 1 item"),
        ({"evaluation": {"max_tokens": 48}}, "evaluation.max_tokens is 48, but MAX_RESPONSE_LENGTH 32: "),
        (
            {"methods": {"grpo": {"trials": [{"LR": 1}, {"LR": 2}]}}, "search_seeds": []},
            "search_seeds has none, and there are methods with several trials",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_that_names_it(tmp_path, monkeypatch, change, message):
    content = OmegaConf.merge(yaml.safe_load((FOLDER / "coins.yaml").read_text()), change)
    path = tmp_path / "coins.yaml"
    path.write_text(OmegaConf.to_yaml(content))
    monkeypatch.setattr("reproduction.experiment.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        load("coins")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("extends: countdown_3", "extends countdown_3, which extends countdown itself: extend countdown"),
        (
            "{extends: countdown, search_of: countdown, methods: "
            "{new: {label: New, settings: {}, trials: [{}, {LR: 1}]}}}",
            "new has trials to choose from, and the search of countdown is not of it",
        ),
    ],
)
def test_an_experiment_that_extends_what_it_cannot_is_refused(tmp_path, monkeypatch, content, message):
    for name in ("countdown", "countdown_3"):
        shutil.copy(FOLDER / f"{name}.yaml", tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine", **yaml.safe_load(content)}))
    monkeypatch.setattr("reproduction.experiment.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        load("mine")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: coins\n\ttitle: x", "is no YAML: while scanning"),
        ("- coins", "holds no keys: an experiment has name, title, task, "),
        ("", "holds no keys: an experiment has name, title, task, "),
    ],
)
def test_a_file_that_is_no_experiment_is_named(tmp_path, monkeypatch, content, message):
    (tmp_path / "coins.yaml").write_text(content)
    monkeypatch.setattr("reproduction.experiment.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'coins.yaml'} {message}")):
        load("coins")


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


def test_results_of_an_own_task_are_of_its_file_as_it_is(tmp_path, monkeypatch):
    for name in ("coins.yaml", "coins.py"):
        shutil.copy(FOLDER / name, tmp_path)
    monkeypatch.setattr("reproduction.experiment.FOLDER", tmp_path)
    before = load("coins").identity()
    (tmp_path / "coins.py").write_text((tmp_path / "coins.py").read_text().replace("MOST = 8", "MOST = 7"))
    assert load("coins").own_task == tmp_path / "coins.py"
    assert load("coins").identity() != before
