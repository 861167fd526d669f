"""What the server is told to enforce, and that nothing else is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge.schema import max_answer_tokens, parse_answer, response_format

IDS = ["bcdf", "ghjk", "mnpq"]
GOOD = {name: {"strategy": "factoring", "cluster_id": i + 1} for i, name in enumerate(IDS)}


def schema(ids=IDS, degenerate=100, chars=200):
    return response_format(ids, degenerate, chars)["json_schema"]["schema"]


def test_the_schema_is_a_schema_and_admits_exactly_the_ids_in_their_order():
    Draft202012Validator.check_schema(schema())
    validator = Draft202012Validator(schema())
    assert validator.is_valid(GOOD)
    assert list(schema()["properties"]) == IDS
    assert list(schema()["properties"]["bcdf"]["properties"]) == ["strategy", "cluster_id"]
    assert response_format(IDS, 100, 200)["json_schema"]["strict"] is True
    for wrong in (
        {name: GOOD[name] for name in IDS[:2]},
        {**GOOD, "zzzz": GOOD["bcdf"]},
        {**GOOD, "bcdf": {"strategy": "x" * 201, "cluster_id": 1}},
        {**GOOD, "bcdf": {"strategy": 'say "new"', "cluster_id": 1}},
        {**GOOD, "bcdf": {"strategy": "a\\b", "cluster_id": 1}},
        {**GOOD, "bcdf": {"strategy": "π", "cluster_id": 1}},
        {**GOOD, "bcdf": {"strategy": "x", "cluster_id": 5}},
        {**GOOD, "bcdf": {"strategy": "x", "cluster_id": "1"}},
    ):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize(("count", "degenerate"), [(1, 100), (8, 100), (150, 100), (3, 2), (3, 0)])
def test_there_is_a_number_for_each_response_besides_the_degenerate_one(count, degenerate):
    ids = [f"id{i}" for i in range(count)]
    numbers = schema(ids, degenerate)["properties"]["id0"]["properties"]["cluster_id"]["enum"]
    assert len(set(numbers)) == count + 1
    assert numbers[-1] == degenerate


@pytest.mark.parametrize("count", [1, 8, 64])
def test_the_longest_answer_of_the_schema_is_not_cut_off(count):
    """Were every character a token, which is as bad as a tokenizer can be for printable ASCII."""
    longest = {f"z{i:05d}": {"strategy": "#" * 120, "cluster_id": 100} for i in range(count)}
    assert len(json.dumps(longest)) <= max_answer_tokens(count, 120)


def test_a_good_answer_is_read():
    assert {name: entry.cluster_id for name, entry in parse_answer(json.dumps(GOOD), IDS, 50).items()} == {
        "bcdf": 1,
        "ghjk": 2,
        "mnpq": 3,
    }
    long = {**GOOD, "bcdf": {"strategy": "by\n\x1b symmetry " * 99, "cluster_id": 1}}
    assert parse_answer(json.dumps(long), IDS, 12)["bcdf"].strategy == "by symmetry "


WRONG = {
    "text": "I think that all are alike.",
    "fenced": f"```json\n{json.dumps(GOOD)}\n```",
    "cut off": json.dumps(GOOD)[:-20],
    "two objects": json.dumps(GOOD) * 2,
    "array": json.dumps([{"id": name, **GOOD[name]} for name in IDS]),
    "missing": json.dumps({name: GOOD[name] for name in IDS[:2]}),
    "unasked": json.dumps({**GOOD, "zzzz": GOOD["bcdf"]}),
    "other id": json.dumps({"zzzz": GOOD["bcdf"], "ghjk": GOOD["ghjk"], "mnpq": GOOD["mnpq"]}),
    "twice": json.dumps(GOOD)[:-1] + ', "bcdf": {"strategy": "new", "cluster_id": 9}}',
    "twice within": json.dumps(GOOD).replace('"cluster_id": 1', '"cluster_id": 1, "cluster_id": 2'),
    "string": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": "1"}}),
    "float": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": 1.0}}),
    "true": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": True}}),
    "null": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": None}}),
    "negative": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": -1}}),
    "huge": json.dumps(GOOD).replace('"cluster_id": 1', '"cluster_id": ' + "9" * 5000),
    "nan": json.dumps(GOOD).replace('"cluster_id": 1', '"cluster_id": NaN'),
    "no strategy": json.dumps({**GOOD, "bcdf": {"cluster_id": 1}}),
    "extra": json.dumps({**GOOD, "bcdf": {"strategy": "x", "cluster_id": 1, "score": 1}}),
    "deep": "[" * 100_000,
    "empty": "",
}


@pytest.mark.parametrize("name", WRONG)
def test_nothing_else_is_believed(name):
    with pytest.raises(EndpointError) as error:
        parse_answer(WRONG[name], IDS, 50)
    assert error.value.kind == "bad_answer"
    assert len(error.value.message) < 300
    assert "\n" not in error.value.message


@given(st.text())
def test_any_text_is_an_answer_or_a_bad_answer(text):
    with pytest.raises(EndpointError):
        parse_answer(text, IDS, 50)
