"""A judge behind a real HTTP server: what it is asked, what is made of its answers, and what of bad ones."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.signals.fake_server import completion, fails, raw, says, serve
from tests.signals.judge.hostile import HOSTILE
from verl_setpo.signals import endpoint as endpoint_module
from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge import Judge, JudgeSettings

QUESTION = "Solve x^2 - 5x + 6 = 0."


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.02)


def seen(body):
    """The solutions by id, as the judge's server was sent them."""
    lines = body["messages"][-1]["content"].split("\n")
    items = [json.loads(line) for line in lines if line.startswith('{"id"')]
    return {item["id"]: item["solution"] for item in items}


def by_first_word(body):
    """Cluster by the first word; "junk" is degenerate. Numbered in the order of the prompt."""
    numbers, answer = {}, {}
    for name, text in seen(body).items():
        word = text.split()[0]
        number = 100 if word == "junk" else numbers.setdefault(word, len(numbers) + 1)
        answer[name] = {"strategy": f"by {word}", "cluster_id": number}
    ids = body["response_format"]["json_schema"]["schema"]["required"]
    assert list(answer) == ids
    return completion(json.dumps(answer))


def spoil(change):
    """The right answer, changed: `change` gets and returns the object."""
    return lambda body: completion(
        json.dumps(change(json.loads(json.loads(by_first_word(body).body)["choices"][0]["message"]["content"])))
    )


def judge_all(url, *groups, **keys):
    """The verdicts (or EndpointErrors) on groups of responses, one after the other, and the judge."""

    async def main():
        judge = Judge(JudgeSettings(**{"base_url": url, "model": "judge", "timeout_s": 5, "max_retries": 1, **keys}))
        results = []
        for responses in groups:
            try:
                results.append(await judge.cluster(QUESTION, responses))
            except EndpointError as error:
                results.append(error)
        await judge.close()
        return results, judge

    return asyncio.run(main())


def test_clusters_are_numbered_as_they_first_appear_whatever_the_order_in_the_prompt():
    with serve(by_first_word) as server:
        for seed in range(4):
            responses = ["factor it", "junk", "formula", "factor too", "square it", "formula again"]
            (verdict,), _ = judge_all(server.url, responses, seed=seed)
            assert verdict.clusters == [0, -1, 1, 0, 2, 1]
            assert verdict.strategies == ["by factor", "by junk", "by formula", "by factor", "by square", "by formula"]
            assert (verdict.tries, verdict.shortened, verdict.cached) == (1, 0, False)
            assert (verdict.prompt_tokens, verdict.completion_tokens, verdict.tokens) == (10, 5, 15)
            assert verdict.seconds > 0
        assert len({tuple(seen(body).values()) for body in server.asked}) > 1


def test_equal_responses_are_sent_once_and_blank_ones_not_at_all():
    with serve(by_first_word) as server:
        responses = ["factor", "", "factor", " \n\u200b\u202e", "formula", "factor"]
        (verdict,), _ = judge_all(server.url, responses)
        assert verdict.clusters == [0, -1, 0, -1, 1, 0]
        assert verdict.strategies[1] == ""
        assert sorted(seen(server.asked[0]).values()) == ["factor", "formula"]


def test_nothing_to_judge_asks_nobody():
    with serve(by_first_word) as server:
        verdicts, _ = judge_all(server.url, [], ["", "  "])
        assert [verdict.clusters for verdict in verdicts] == [[], [-1, -1]]
        assert server.asked == []


def test_a_lone_response_is_asked_about_since_it_may_be_degenerate():
    with serve(by_first_word) as server:
        verdicts, _ = judge_all(server.url, ["junk"], ["factor"], ["junk"] * 8)
        assert [verdict.clusters for verdict in verdicts] == [[-1], [0], [-1] * 8]
        assert len(server.asked) == 2  # the third group has the same different responses as the first


def test_the_same_responses_in_any_order_are_judged_once():
    with serve(by_first_word) as server:
        groups = ["a 1", "b", "a 2"], ["b", "a 2", "a 1"], ["b", "a 2", "a 1", "b"], ["b", "a 2"]
        verdicts, judge = judge_all(server.url, *groups)
        assert [verdict.clusters for verdict in verdicts] == [[0, 1, 0], [0, 1, 1], [0, 1, 1, 0], [0, 1]]
        assert [verdict.cached for verdict in verdicts] == [False, True, True, False]
        assert (verdicts[1].tokens, verdicts[1].tries) == (0, 0)
        assert len(server.asked) == 2
        assert (judge.stats.groups, judge.stats.cached) == (4, 2)
        judge_all(server.url, *groups[:2], cache_size=0)
        assert len(server.asked) == 4


def test_a_run_asks_the_same_again_and_another_seed_another_order():
    with serve(by_first_word) as server:
        for seed in (0, 0, 1):
            judge_all(server.url, [f"s{i}" for i in range(8)], seed=seed)
        first, again, other = (body["messages"] for body in server.asked)
        assert first == again != other


def test_the_request_holds_what_the_settings_say():
    with serve(by_first_word) as server:
        body_keys = {"chat_template_kwargs": {"enable_thinking": False}}
        judge_all(server.url, ["a", "b"], extra_body=body_keys, max_strategy_chars=50, degenerate_cluster=7, seed=3)
    (body,) = server.asked
    assert (body["model"], body["temperature"], body["seed"]) == ("judge", 0, 3)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["max_tokens"] >= 2 * 50
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "Cluster 7 is kept" in body["messages"][0]["content"]


def without_one(answer):
    del answer[next(iter(answer))]
    return answer


BAD = {
    "missing id": spoil(without_one),
    "unasked id": spoil(lambda answer: {**answer, "zzzz": {"strategy": "x", "cluster_id": 1}}),
    "strings": spoil(lambda answer: {name: {**entry, "cluster_id": "1"} for name, entry in answer.items()}),
    "array": spoil(lambda answer: [{"id": name, **entry} for name, entry in answer.items()]),
    "duplicate id": lambda body: completion(
        "{" + ", ".join(f'"{name}": {{"strategy": "x", "cluster_id": 1}}' for name in [*seen(body), *seen(body)]) + "}"
    ),
    "prose": says("They are all different."),
    "cut off": lambda body: completion('{"', finish_reason="length"),
    "no choices": raw('{"choices": []}'),
    "no message": raw('{"choices": [{"index": 0}]}'),
    "no content": raw('{"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}]}'),
    "no finish reason": raw('{"choices": [{"message": {"content": "{}"}}]}'),
    "message is text": raw('{"choices": [{"message": "hello"}]}'),
    "choices by name": raw('{"choices": {"first": 1}}'),
    "choices of nothing": raw('{"choices": [null]}'),
    "odd usage": raw('{"usage": {"prompt_tokens": "many"}, "choices": [{"message": {"content": "{}"}}]}'),
    "not an object": raw("[1, 2]"),
    "html": raw("<html>", "text/html"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_asked_for_again_and_then_said(name):
    with serve(by_first_word) as server:
        server.then = [BAD[name]]
        (verdict,), judge = judge_all(server.url, ["a", "b", "a b"])
        assert verdict.clusters == [0, 1, 0]
        assert judge.stats.bad_answers + judge.endpoint.stats.retries == 1
        server.always = BAD[name]
        server.asked.clear()
        (error,), judge = judge_all(server.url, ["a", "b", "a b"], bad_answer_retries=1)
        assert isinstance(error, EndpointError)
        assert error.kind == "bad_answer"
        assert len(server.asked) == 2
        assert judge.stats.bad_answers <= judge.stats.answers


def test_a_new_try_has_a_new_order_and_its_tokens_count():
    with serve(by_first_word) as server:
        server.then = [BAD["prose"], BAD["missing id"]]
        (verdict,), judge = judge_all(server.url, [f"s{i}" for i in range(6)])
        assert (verdict.tries, verdict.tokens, judge.stats.bad_answers) == (3, 45, 2)
        assert len({tuple(seen(body)) for body in server.asked}) == 3
        assert len({tuple(seen(body).values()) for body in server.asked}) > 1


def test_a_failure_is_not_kept():
    with serve(by_first_word) as server:
        server.then = [fails(400)]
        (error, verdict), _ = judge_all(server.url, ["a", "b"], ["a", "b"])
        assert error.kind == "refused"
        assert verdict.clusters == [0, 1]


def test_hostile_responses_reach_the_judge_unharmed_and_apart():
    with serve(by_first_word) as server:
        responses = [f"w{i} {text}" for i, text in enumerate(HOSTILE.values())]
        (verdict,), _ = judge_all(server.url, responses, max_prompt_tokens=200_000)
        assert verdict.clusters == list(range(len(responses)))
        assert sorted(seen(server.asked[0]).values()) == sorted(responses)


def test_long_responses_are_shortened_and_counted():
    with serve(by_first_word) as server:
        responses = ["factor " * 4000, "formula", "factor " * 4000, "square " * 3000]
        (verdict,), judge = judge_all(server.url, responses, max_prompt_tokens=4000)
        assert verdict.clusters == [0, 1, 0, 2]
        assert (verdict.shortened, judge.stats.shortened, judge.stats.responses) == (3, 3, 4)
        shown = seen(server.asked[0]).values()
        assert sum("characters removed" in text for text in shown) == 2
        assert sum(len(text) for text in shown) < 8 * 4000
        body = server.asked[0]
        assert sum(judge._count(message["content"]) for message in body["messages"]) <= 4000


def test_a_group_that_cannot_be_held_is_refused_by_name():
    with serve(by_first_word) as server:
        (error,), _ = judge_all(server.url, [f"{i} " * 3000 for i in range(64)], max_prompt_tokens=2000)
        assert error.kind == "refused"
        assert error.message.startswith("max_prompt_tokens=2000 is too small")
        assert server.asked == []


def test_many_groups_at_once():
    async def main(url):
        judge = Judge(JudgeSettings(base_url=url, model="judge", concurrency=8))
        groups = [[f"a{p}", "b", f"a{p} b"] for p in range(30)]
        verdicts = await asyncio.gather(*(judge.cluster(QUESTION, group) for group in groups))
        await judge.close()
        return verdicts

    with serve(by_first_word) as server:
        assert all(verdict.clusters == [0, 1, 0] for verdict in asyncio.run(main(server.url)))
        assert server.most_in_flight <= 8


def test_check_asks_for_a_verdict():
    async def check(url):
        judge = Judge(JudgeSettings(base_url=url, model="judge", bad_answer_retries=0))
        try:
            await judge.check("algorithm.set_rl.signal.")
        finally:
            await judge.close()

    with serve(by_first_word) as server:
        asyncio.run(check(server.url))
        server.always = says("I do not do JSON.")
        with pytest.raises(EndpointError, match=r"algorithm\.set_rl\.signal\.model=judge cannot judge: .*not JSON"):
            asyncio.run(check(server.url))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"modell": 1}, r"^s\.modell is not a key of the judge; its keys are base_url, model, .*extra_body\.$"),
        ({"base_url": None}, r"^s\.base_url: "),
        ({"max_prompt_tokens": 10}, r"^s\.max_prompt_tokens: .* 256\.$"),
        ({"temperature": -1}, r"^s\.temperature: "),
        ({"max_strategy_chars": 1}, r"^s\.max_strategy_chars: "),
        ({"base_url": "http://u:p@h/v1"}, r"^s\.base_url must be a plain URL without user, password"),
    ],
)
def test_a_wrong_key_is_one_sentence_that_names_it(keys, message):
    with pytest.raises(ValueError, match=message):
        JudgeSettings.from_keys({"base_url": "http://h/v1", "model": "m", **keys}, "s.")


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match=r"^s\.model must be set\.$"):
        JudgeSettings.from_keys({"base_url": "http://h/v1"}, "s.")


@pytest.mark.parametrize("key", ["template", "tokenizer"])
def test_a_file_that_is_not_there_is_named(key, tmp_path):
    with pytest.raises(ValueError, match=f"^{key}="):
        Judge(JudgeSettings(**{"base_url": "http://h/v1", "model": "m", key: str(tmp_path / "none")}))
