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
    longest = {f"z{i:05d}": {"strategy": "π" * 120, "cluster_id": 100} for i in range(count)}
    # Every character a token, and these two; indentation of a line is one.
    assert len(json.dumps(longest, ensure_ascii=False)) + 120 * count + 4 * count <= max_answer_tokens(count, 120)


@pytest.mark.parametrize("count", [3, 64])
def test_the_engine_of_structured_output_in_vllm_enforces_it(count):
    """xgrammar itself, with a token for each byte: what it lets through has each id once, in order, and is bounded."""
    xgrammar = pytest.importorskip("xgrammar")
    ids = [f"b{a}{b}d" for a in "cdfghjkm" for b in "cdfghjkm"][:count]
    vocabulary = xgrammar.TokenizerInfo([bytes([i]) for i in range(256)] + [b"</s>"], stop_token_ids=[256])
    grammar = xgrammar.GrammarCompiler(vocabulary, max_threads=1).compile_json_schema(json.dumps(schema(ids)))

    def lets_through(answer, **how):
        matcher = xgrammar.GrammarMatcher(grammar)
        text = answer if isinstance(answer, str) else json.dumps(answer, **how)
        return matcher.accept_string(text) and matcher.accept_token(256)

    good = {name: {"strategy": "factoring, then [both] roots", "cluster_id": 1} for name in ids}

    def with_first(strategy, cluster_id):
        return {**good, ids[0]: {"strategy": strategy, "cluster_id": cluster_id}}

    assert lets_through(good)
    assert lets_through(good, indent=2)
    assert lets_through(good, separators=(",", ":"))
    assert lets_through(with_first("x" * 200, 100))
    assert not lets_through(with_first("x" * 201, 1))
    assert not lets_through(with_first("x", 99))
    assert not lets_through(with_first("x", "1"))
    assert not lets_through({name: good[name] for name in ids[1:]})
    assert not lets_through(dict(reversed(good.items())))
    assert not lets_through({**good, "zzzz": good[ids[0]]})
    assert not lets_through(json.dumps(good)[:-1] + f', "{ids[0]}": {json.dumps(good[ids[0]])}}}')


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
