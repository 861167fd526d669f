"""A judge behind a real vLLM with structured output by xgrammar. Its model has random weights.

Noise that comes as a valid verdict shows that the schema is enforced; that no verdict is believed that is not exactly
as asked is shown by raw answers of the same server.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.signals.judge.hostile import HOSTILE
from tests.signals.vllm_server import JUDGE_CONTEXT, serve_vllm, session
from verl_setpo.signals.endpoint import EndpointError
from verl_setpo.signals.judge import DEGENERATE, Judge, JudgeSettings

pytestmark = pytest.mark.slow

QUESTION = "Solve x^2 - 5x + 6 = 0."
GROUPS = [[f"{method} {i}" for i in range(size)] for method, size in (("factor", 1), ("formula", 3), ("square", 8))]
# Few, so that a call takes a second.
CHARS = 16


class Watched(Judge):
    """A judge that keeps its prompts and the server's answers to them."""

    def __init__(self, settings):
        super().__init__(settings)
        self.seen = []

    async def _complete(self, prompt):
        completion = await super()._complete(prompt)
        self.seen.append((prompt, completion))
        return completion


def judge_at_once(server, groups, **keys):
    """Verdicts (or EndpointErrors) on all groups, asked at the same time, without retries; the judge; the seconds."""

    async def main():
        settings = {"base_url": server.url, "model": server.model, "max_strategy_chars": CHARS, "max_retries": 0}
        judge = Watched(JudgeSettings(**{**settings, "bad_answer_retries": 0, "cache_size": 0, **keys}))
        start = time.monotonic()
        results = await asyncio.gather(*(judge.cluster(QUESTION, group) for group in groups), return_exceptions=True)
        seconds = time.monotonic() - start
        await judge.close()
        return results, judge, seconds

    return asyncio.run(main())


def raw_entries(prompt, completion):
    """The server's answer by response, in the order of the sorted group; as lenient as JSON can be read."""
    pairs = json.loads(completion.choices[0].message.content, object_pairs_hook=list, strict=False)
    assert tuple(name for name, _ in pairs) == prompt.ids
    entries = {i: dict(entry) for i, (_, entry) in zip(prompt.order, pairs, strict=True)}
    return [entries[i] for i in sorted(entries)]


@pytest.fixture(scope="module")
def vocabulary(judge_model):
    """The judge's tokens: text to number."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(judge_model).get_vocab()


def test_every_group_gets_a_verdict_although_the_model_is_noise(vllm_judge):
    verdicts, judge, _ = judge_at_once(vllm_judge, GROUPS)
    for group, verdict in zip(GROUPS, verdicts, strict=True):
        assert len(verdict.clusters) == len(group)
        assert all(0 < len(strategy) <= CHARS for strategy in verdict.strategies)
        assert verdict.tries == 1
    assert (judge.stats.answers, judge.stats.bad_answers) == (3, 0)
    for prompt, completion in judge.seen:
        assert completion.choices[0].finish_reason == "stop"
        assert {tuple(entry) for entry in raw_entries(prompt, completion)} == {("strategy", "cluster_id")}


def test_a_verdict_is_what_the_server_said_of_each_response(vllm_judge, vocabulary):
    """Sampled, so that entries differ, from printable ASCII characters, so that all of them are short, valid JSON."""
    printable = [*map(chr, range(33, 127)), "Ġ", "<|im_end|>"]  # Ġ is the space of byte-level tokenizers
    body = {"allowed_token_ids": [vocabulary[text] for text in printable]}
    keys = {"temperature": 1, "extra_body": body, "degenerate_cluster": 5}  # as likely as other numbers
    clusters = set()
    for seed in range(4):
        (verdict,), judge, _ = judge_at_once(vllm_judge, [GROUPS[2]], seed=seed, **keys)
        entries = raw_entries(*judge.seen[0])
        assert verdict.strategies == [" ".join(entry["strategy"].split()) for entry in entries]
        assert len(set(verdict.strategies)) > 4
        said = [entry["cluster_id"] for entry in entries]
        kept = list(dict.fromkeys(number for number in said if number != 5))
        assert verdict.clusters == [DEGENERATE if number == 5 else kept.index(number) for number in said]
        clusters.update(verdict.clusters)
    assert {DEGENERATE, 0, 1} <= clusters


def test_what_the_grammar_lets_through_is_a_verdict_or_a_counted_bad_answer(vllm_judge):
    """xgrammar (0.2.8) lets control characters through in a string with maxLength, and four bytes for a character."""
    groups = [[f"{i}", f"{i} too"] for i in range(8)]
    for seed in range(3):
        results, judge, _ = judge_at_once(vllm_judge, groups, temperature=1, seed=seed)
        errors = [result for result in results if isinstance(result, Exception)]
        for error in errors:
            assert isinstance(error, EndpointError)
            assert error.kind == "bad_answer"
            assert "control character" in error.message or "cut off" in error.message
        assert (judge.stats.answers, judge.stats.bad_answers) == (len(groups), len(errors))
        for prompt, completion in judge.seen:
            if completion.choices[0].finish_reason == "stop":
                raw_entries(prompt, completion)


@pytest.mark.parametrize("counts", ["estimate", "tokenizer"])
def test_hostile_responses_get_a_verdict_and_write_no_special_token(vllm_judge, vocabulary, counts):
    # The estimate is meant for larger vocabularies than bytes, of which it finds half.
    limits = {"estimate": {"max_prompt_tokens": 6_000}, "tokenizer": {"tokenizer": vllm_judge.folder}}
    keys = {"max_prompt_tokens": 12_000, **limits[counts]}
    groups = [[text, "factor it"] for text in HOSTILE.values()]
    verdicts, judge, _ = judge_at_once(vllm_judge, groups, **keys)
    assert [len(verdict.clusters) for verdict in verdicts] == [2] * len(groups)
    assert (judge.stats.answers, judge.stats.bad_answers) == (len(groups), 0)

    def special(messages):
        tokens = vllm_judge.tokenize(messages)
        return [tokens.count(vocabulary[token]) for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]

    # Those of the chat template are all there are: of system, user and the answer to come.
    assert [special(prompt.messages) for prompt, _ in judge.seen] == [[3, 2, 0]] * len(groups)
    assert special([{"role": "user", "content": HOSTILE["chatml"]}]) == [4, 3, 0]  # what quoting prevents


def test_four_thousand_repetitions_are_cut_to_the_limit_as_the_server_counts(vllm_judge):
    limit = 6_000
    group = [HOSTILE["repeats"], "factor it", HOSTILE["repeats"] + "So 4."]
    (verdict,), judge, _ = judge_at_once(
        vllm_judge, [group], tokenizer=vllm_judge.folder, max_prompt_tokens=limit, timeout_s=60
    )
    assert len(verdict.clusters) == 3
    assert (verdict.shortened, judge.stats.bad_answers) == (2, 0)
    assert 0.95 * limit < verdict.prompt_tokens <= limit


def test_tokens_are_counted_by_the_server(vllm_judge):
    (verdict,), judge, _ = judge_at_once(vllm_judge, GROUPS[1:2])
    ((prompt, completion),) = judge.seen
    assert verdict.prompt_tokens == len(vllm_judge.tokenize(prompt.messages))
    # A token for each byte of the answer, and the end.
    assert verdict.completion_tokens == len(completion.choices[0].message.content.encode()) + 1
    stats = judge.endpoint.stats
    assert (stats.prompt_tokens, stats.completion_tokens) == (verdict.prompt_tokens, verdict.completion_tokens)


def test_many_groups_at_once(vllm_judge):
    groups = [[f"a{i}", "b", f"c{i}"] for i in range(32)]
    verdicts, judge, seconds = judge_at_once(vllm_judge, groups, concurrency=16)
    assert [len(verdict.clusters) for verdict in verdicts] == [3] * len(groups)
    assert (judge.stats.answers, judge.stats.bad_answers) == (len(groups), 0)
    assert sum(judge.endpoint.stats.seconds) > 4 * seconds  # of 16 at a time


def test_a_group_beyond_the_servers_context_is_refused_with_its_reason_and_not_asked_again(vllm_judge):
    keys = {"tokenizer": vllm_judge.folder, "max_prompt_tokens": 2 * JUDGE_CONTEXT, "max_retries": 3}
    (error,), judge, _ = judge_at_once(vllm_judge, [[HOSTILE["repeats"]]], **keys)
    assert isinstance(error, EndpointError)
    assert error.kind == "refused"
    assert f"maximum context length is {JUDGE_CONTEXT} tokens" in error.message
    assert judge.endpoint.stats.retries == 0


def check(server, **keys):
    async def main():
        judge = Judge(JudgeSettings(**{"base_url": server.url, "model": server.model, **keys}))
        try:
            await judge.check("algorithm.set_rl.signal.")
        finally:
            await judge.close()

    asyncio.run(main())


def test_check_passes_with_the_settings_that_a_user_has(vllm_judge):
    check(vllm_judge)


def test_check_names_the_key_of_a_wrong_model(vllm_judge):
    with pytest.raises(EndpointError) as error:
        check(vllm_judge, model="jugde")
    assert error.value.kind == "refused"
    assert error.value.message == (
        f"algorithm.set_rl.signal.model=jugde is not served by {vllm_judge.url}; it has judge."
    )


def test_without_compact_output_white_space_uses_up_the_answer(judge_model, tmp_path):
    """Why a server for the judge needs disable_any_whitespace; and a server leaves no process behind."""
    with serve_vllm(judge_model, "judge", tmp_path / "log") as server:
        assert len(session(server.pid)) > 1
        results, judge, _ = judge_at_once(server, GROUPS)
        with pytest.raises(EndpointError, match=r"model=judge cannot judge: .* cut off at max_tokens \(3 answers\)"):
            check(server, max_strategy_chars=CHARS)
    assert [error.message for error in results] == ["the judge's answer was cut off at max_tokens (1 answers)"] * 3
    assert judge.stats.bad_answers == 3
    for _, completion in judge.seen:
        assert completion.choices[0].message.content.endswith(" " * 50)
    assert session(server.pid) == []


def test_a_server_that_does_not_start_says_why(judge_model, tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"(?s)vLLM ended with 2 .*unrecognized arguments: --no-such-option"),
        serve_vllm(judge_model, "judge", tmp_path / "log", "--no-such-option"),
    ):
        pass
