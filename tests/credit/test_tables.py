"""What the terminal shows, and that the size of a chunk changes nothing."""

from __future__ import annotations

import random
import re

import torch

from tests.credit.conftest import group
from verl_setpo.credit.chunks import chunks_of
from verl_setpo.credit.figures import figures_of
from verl_setpo.credit.layout import Rollout
from verl_setpo.credit.methods import choices_of
from verl_setpo.credit.reading import group_rollouts
from verl_setpo.credit.signal import CLUSTERS, collect, words
from verl_setpo.credit.trainer import Bench

SIZE = ("--set-size", 2)


def test_one_prompt_is_shown_rollout_by_rollout_with_its_texts(credit, write):
    rows = [{"uid": "x", "prompt": "Why?", "reward": i % 2, "cluster": i // 2, "text": f"since {i}"} for i in range(4)]
    path = write([*rows, *({**row, "uid": "y", "prompt": "other"} for row in rows)])
    for which in ("x", 0):
        lines = [line.split() for line in credit(path, *SIZE, "--prompt", which).result.stdout.splitlines()]
        assert ["Prompt", "0", "of", "2:", "Why?"] in lines
        shown = [line for line in lines if line[-2:-1] == ["since"]]
        assert [(line[0], line[1], line[2], line[-1]) for line in shown] == [
            *(("0", "0", "0", "0"), ("1", "1", "0", "1"), ("2", "0", "1", "2"), ("3", "1", "1", "3"))
        ]
    assert not any("other" in line for line in lines if "Prompt" in line)


def test_the_prompts_shown_first_are_those_where_signs_go_against_rewards(credit, write):
    plain = [row for p in range(20) for row in group(f"plain{p}", [1, 1, 0, 0, 0, 0, 0, 0], "AAABCDDD")]
    rare = group("rare", [1, 1, 1, 0, 0, 0, 0, 0], "ABCDDDDD") + group("correct", [1] * 8, "AAAABBBC")
    flipped, gone = group("flipped", [1] * 5 + [0] * 3, "AAAAABCD"), group("gone", [1, 1] + [0] * 6, "AAAAAAAA")
    rows = plain[:80] + flipped + plain[80:] + rare + gone
    found = credit(write(rows), "--estimator", "poly_epo", "--set-size", 6)
    titles = [line for line in found.result.stdout.splitlines() if line.startswith("Prompt ")]
    assert titles[0] == "Prompt 10 of 24: flipped"
    assert titles[1] == "Prompt 23 of 24: gone"
    assert len(titles) == 3


def test_of_prompts_that_differ_in_names_and_order_only_one_is_shown(credit, write):
    rows = [row for p in range(9) for row in group(f"p{p}", [1, 1, 0, 0], "AABC")]
    rows += group("turned", [0, 1, 0, 1], "CABA") + group("another", [1, 0, 0, 0], "AABC")
    found = credit(write(rows), "--estimator", "poly_epo", *SIZE)
    assert sum(line.startswith("Prompt ") for line in found.result.stdout.splitlines()) == 2


def test_the_summary_has_the_shares_of_the_figures(credit, write):
    found = credit(write(group("a", [1, 1, 1, 0], "AAAB")), "--estimator", "poly_epo", "--set-size", 3)
    row = next(line for line in found.result.stdout.splitlines() if line.startswith("poly_epo, n 3"))
    figures = found.summary("poly_epo")
    assert row.split()[3:] == [
        *(f"{figures['mean_advantage_size']:.4f}", f"{figures['credit_share']:.3f}"),
        *("0.0", "%", "100.0", "%", "100.0", "%", "100.0", "%"),
    ]


def test_each_estimator_comes_with_the_words_of_a_run(credit, write):
    found = credit(write(group("a", [1, 0, 1, 0], "ABCD")), *SIZE, "--coef", 2, "--objective", "coverage")
    assert "set_loo in a run: +set_rl=set_loo algorithm.set_rl.coef=2" in found.text
    assert "poly_epo in a run: +set_rl=poly_epo algorithm.set_rl.set_size=2" in found.text
    assert "coverage in a run: +set_rl=pass_at_n algorithm.set_rl.objective=coverage" in found.text


def test_no_line_is_wider_than_the_terminal_and_no_figure_is_broken(credit, write):
    rows = group("p", [1, 0, 1, 0, 0], "ABCDE")
    rows += group("large", [1, 0] * 16, ["a long name of a strategy", "B", "A", "C"] * 8)
    more = ("--estimator", "poly_epo", "--estimator", "grpo_div", "--estimator", "grpo")
    found = credit(
        write(rows), "--estimator", "set_loo", *more, *SIZE, "--sweep-set-size", "2-4", "--sweep-coef", "1,2"
    )
    lines = found.result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for start, cluster in (("8: 0, 4, 8, ...", "a long name of"), ("8: 1, 5, 9, ...", " B ")):
        (row,) = (line for line in lines if line.startswith(start))
        assert cluster in row
        assert len(re.findall(r" [+-]\d\.\d{4}\b", row)) == 4


def test_the_legend_explains_the_signs_that_are_there(credit, write):
    many = credit(write(group("large", [1, 0] * 16, "ABCD" * 8)), *SIZE).text
    assert "12: 0, 4-6, ...: 12 rollouts that are alike in all that is shown" in many
    assert "mean similarity" not in many
    rows = [{"prompt": "p", "reward": i % 2, "text": f"since {i}"} for i in range(4)]
    by_kernel = credit(write(rows, "texts.jsonl")).text
    assert "alike 0.82: a rollout's mean similarity to the others of its prompt" in by_kernel
    assert "12 rollouts" not in by_kernel


def test_small_chunks_give_the_figures_and_advantages_of_large_ones():
    rng = random.Random(0)
    rollouts = [
        Rollout(f"p{p}", -1, 0, "", float(rng.random() < 0.5), rng.choice("ABC"), None, "")
        for p in range(40)
        for _ in range(rng.choice((3, 5, 8)))
    ]
    groups, _ = group_rollouts(rollouts)
    choices = choices_of(["set_loo", "poly_epo", "grpo_div", "grpo"], [], {"coef": 1.0, "set_size": 3})

    def tried(most_entries):
        chunks = chunks_of(groups, most_entries)
        bench = Bench(chunks, collect(CLUSTERS, {}, chunks, words()), {"name": "answer"})
        assert max(len(chunk.groups) * chunk.size**2 for chunk in chunks) <= most_entries
        rows = {}
        for choice in choices:
            credited = bench.credit(choice)
            for chunk, given in zip(chunks, credited, strict=True):
                for one, advantage_N in zip(chunk.groups, given.advantage_PN, strict=True):
                    rows[choice.name, one.uid] = advantage_N
            rows[choice.name] = figures_of(bench, credited, (0.0, 1.0))
        return rows, len(chunks)

    (large, few), (small, many) = tried(2**24), tried(130)
    assert few == 3 < 10 < many
    for key, value in large.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, small[key])
        else:
            assert value.prompts == small[key].prompts == 40
            assert value.wrong_positive == small[key].wrong_positive
            assert abs(value.credit_share - small[key].credit_share) < 1e-6
