"""The figures that tell a good judge from a bad one, on made-up verdicts and through a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.signals.fake_server import completion, fails, says, serve
from tests.signals.judge.test_judge import seen
from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge import JudgeSettings, Verdict
from verl_setpo.signals.judge.quality import Group, PairCounts, count_pairs, load_groups, measure, stability, summarise

CLUSTERS = st.lists(st.integers(-1, 3), min_size=2, max_size=8)


def test_pairs_by_hand():
    assert count_pairs([0, 0, 1, 1], [0, 0, 0, 1]) == PairCounts(both=1, only_found=2, only_known=1, neither=2)
    counts = count_pairs([0, 0, 1, 1], [0, 0, 0, 1])
    assert (counts.precision, counts.recall) == (1 / 3, 1 / 2)
    all_apart = count_pairs([0, 0, 0], [0, 1, 2])
    assert math.isnan(all_apart.precision)
    assert all_apart.recall == 0


@given(CLUSTERS, st.permutations(range(-1, 4)))
def test_only_who_is_together_counts_and_not_the_numbers(clusters, names):
    renamed = [names[c + 1] for c in clusters]
    counts = count_pairs(clusters, renamed)
    assert counts.only_found == counts.only_known == 0
    assert counts.both + counts.neither == len(clusters) * (len(clusters) - 1) // 2
    assert stability([clusters, renamed, clusters]) == 1


def test_stability_by_hand():
    assert stability([[0, 0, 1], [0, 1, 1]]) == 1 / 3  # they agree on the outer pair only
    assert stability([[0, 0, 1], [0, 0, 1], [0, 1, 1]]) == pytest.approx((3 + 1 + 1) / 9)
    assert math.isnan(stability([[0, 1]]))


def test_a_summary_by_hand():
    groups = [
        Group(question="q", responses=["a", "b", "c"], clusters=[0, 0, -1], tag="words"),
        Group(question="q", responses=["a", "b"], clusters=[0, 1], tag="slip"),
    ]
    right = [Verdict([0, 0, -1], [""] * 3, prompt_tokens=90, seconds=1.0), Verdict([0, 1], [""] * 2, prompt_tokens=50)]
    wrong = [Verdict([0, 0, 0], [""] * 3, completion_tokens=10), EndpointError("bad_answer", "no")]
    quality = summarise(groups, [right, wrong], answers=6, bad_answers=3)
    assert quality.pairs == PairCounts(both=2, only_found=2, only_known=0, neither=3)
    assert quality.by_tag["slip"] == PairCounts(neither=1)
    assert quality.degenerate == (1.0, 0.5)
    assert quality.stability == 1 / 3  # the second group has one verdict only
    assert (quality.parse_rate, quality.tokens, quality.seconds) == (0.5, 50, pytest.approx(1 / 3))
    assert quality.failed == {"bad_answer": 1}


def test_nothing_measured_is_nan_and_no_error():
    quality = summarise([], [], 0, 0)
    assert math.isnan(quality.parse_rate)
    assert math.isnan(quality.pairs.precision)


def test_the_hand_built_groups_are_sound():
    groups = load_groups()
    tags = Counter(group.tag for group in groups)
    assert len(groups) >= 40
    assert set(tags) == {"other words", "slip", "same answer two strategies", "gibberish", "injection"}
    for group in groups:
        assert 3 <= len(group.responses) <= 8
        assert len(set(group.responses)) == len(group.responses)
        first_seen = list(dict.fromkeys(c for c in group.clusters if c >= 0))
        assert first_seen == list(range(len(first_seen)))
        assert (-1 in group.clusters) or group.tag != "gibberish"


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2"), ('{"question": "q", "responses": ["a"], "clusters": []}', "line 2"), ('{"a": 1}', "line 2")],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = tmp_path / "groups.jsonl"
    path.write_text('{"question": "q", "responses": ["a"], "clusters": [0]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_groups(path)


def test_an_oracle_is_perfect_and_one_who_sees_no_difference_is_not():
    groups = load_groups()
    known = {text: c for group in groups for text, c in zip(group.responses, group.clusters, strict=True)}

    def oracle(body):
        entries = {
            name: {"strategy": "s", "cluster_id": 100 if known[text] < 0 else known[text] + 1}
            for name, text in seen(body).items()
        }
        return completion(json.dumps(entries))

    def sees_no_difference(body):
        return completion(json.dumps({name: {"strategy": "s", "cluster_id": 1} for name in seen(body)}))

    with serve(oracle) as server:
        settings = JudgeSettings(base_url=server.url, model="judge")
        server.then = [says("no JSON")]
        quality = asyncio.run(measure(settings, groups[:12], shuffles=2))
        assert (quality.pairs.precision, quality.pairs.recall, quality.stability) == (1, 1, 1)
        assert quality.parse_rate == 24 / 25
        assert quality.tokens == pytest.approx(15 * 25 / 24)
        orders = {tuple(sorted(seen(body).values())): set() for body in server.asked}
        for body in server.asked:
            orders[tuple(sorted(seen(body).values()))].add(tuple(seen(body).values()))
        assert sum(len(different) > 1 for different in orders.values()) > 6
        server.always = sees_no_difference
        quality = asyncio.run(measure(settings, groups, shuffles=1))
        assert quality.pairs.recall == 1
        assert quality.pairs.precision < 0.5
        assert quality.degenerate[1] == 0
        server.always = fails(400)
        quality = asyncio.run(measure(settings, groups[:3], shuffles=1))
        assert quality.failed == {"refused": 3}
