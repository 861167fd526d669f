"""The diversity rating: its prompt holds what it should, only a clear grade is one, and a real HTTP server is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.signals.fake_server import fails, raw, says, serve
from tests.signals.judge.hostile import HOSTILE
from verl_setpo.evaluation.rater import DiversityRater, RaterSettings, Rating
from verl_setpo.evaluation.rating import parse_rating, rating_prompt
from verl_setpo.signals import endpoint as endpoint_module
from verl_setpo.signals.endpoint import EndpointError

RESPONSES = [f"solution {i}" for i in range(16)]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.02)


def parts(messages: list[dict[str, str]]) -> tuple[str, str, list[str], list[str]]:
    """System message, question, solutions, and the lines after them, as they stand in the prompt."""
    system, user = (message["content"] for message in messages)
    lines = user.split("\n")
    start = next(i for i, line in enumerate(lines) if line.endswith("one JSON object per line:"))
    end = next(i for i, line in enumerate(lines) if line.startswith("End of the "))
    return system, json.loads(lines[1]), [json.loads(line)["solution"] for line in lines[start + 1 : end]], lines[end:]


def test_the_grades_of_16_solutions_are_those_of_the_paper() -> None:
    system, _, solutions, _ = parts(rating_prompt("What is 1 + 1?", RESPONSES, random.Random(0)).messages)
    assert "- 1: 13 or more are on it." in system
    assert "- 5: 3 or fewer are on it, and there are at least 4 paths." in system
    assert sorted(solutions) == sorted(RESPONSES)


def test_the_grades_leave_no_gap_and_each_can_be_reached() -> None:
    for count in range(6, 65):
        system = rating_prompt("q", ["r"] * count, random.Random(0)).messages[0]["content"]
        numbers = [[int(word) for word in line[4:].split() if word.isdigit()] for line in system.split("\n")[-5:]]
        (most,), (many, below_most), (some, below_many), (four, below_some, _), (few, _) = numbers
        assert (below_most, below_many, below_some, four) == (most - 1, many - 1, some - 1, few + 1)
        assert 1 <= few < four <= below_some < some <= below_many < many <= below_most < most <= count


def test_equal_responses_are_all_shown_and_too_few_are_refused() -> None:
    assert len(parts(rating_prompt("q", ["same"] * 16, random.Random(0)).messages)[2]) == 16
    with pytest.raises(ValueError, match="at least 6 responses, not 5"):
        rating_prompt("q", RESPONSES[:5], random.Random(0))


def test_hostile_responses_stay_within_their_quotes() -> None:
    harmless = parts(rating_prompt("q", ["x"] * len(HOSTILE), random.Random(0)).messages)
    for question in ("q", HOSTILE["closers"]):
        messages = rating_prompt(question, list(HOSTILE.values()), random.Random(0)).messages
        system, found, solutions, after = parts(messages)
        assert (system, found, after) == (harmless[0], question, harmless[3])
        assert sorted(solutions) == sorted(HOSTILE.values())
        assert not [mark for mark in ("<|", "</", "[INST]", "<tool", "｜") if mark in messages[1]["content"]]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("[[3]]", 3),
        ("[[1]] All factor.", 1),
        (" \n[[ 5 ]]\n\nFour paths: 3, 3, 5, 5.", 5),
        ("[[4]] one uses the matrix [[1,2],[3,4]], another f[[x]]", 4),
        ("[[2]][1] no other grade", 2),
    ],
)
def test_the_grade_that_comes_first_counts(answer: str, score: int) -> None:
    assert parse_rating(answer) == score


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "does not begin"),
        ("3", "does not begin"),
        ("[3]", "does not begin"),
        ("[[3]", "does not begin"),
        ("[[[3]]]", "does not begin"),
        ("The grade is [[3]].", "does not begin"),
        ("<think>[[3]]</think> [[3]]", "does not begin"),
        ("[[]]", "whole number"),
        ("[[score]]", "whole number"),
        ("[[0]]", "whole number"),
        ("[[6]]", "whole number"),
        ("[[13]]", "whole number"),
        ("[[-3]]", "whole number"),
        ("[[3.5]]", "whole number"),
        ("[[3/5]]", "whole number"),
        ("[[3 or 4]]", "whole number"),
        ("[[٣]]", "whole number"),
        ("[[３]]", "whole number"),
        ("[[3]] or rather [[4]]", "more than one"),
        ("[[3]][[3]]", "more than one"),
        ("[[3]] ... [[ 17 ]]", "more than one"),
        ("[[3]] ... [[4.5]]", "more than one"),
    ],
)
def test_anything_but_one_clear_grade_fails(answer: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message) as raised:
        parse_rating(answer)
    assert raised.value.kind == "bad_answer"


@given(st.text(st.sampled_from("[]0123456789 .\nax")))
@settings(max_examples=500, deadline=None)
def test_what_parses_begins_with_its_grade(answer: str) -> None:
    try:
        score = parse_rating(answer)
    except EndpointError:
        return
    assert answer.split("]]")[0].replace("[[", "").strip() == str(score)
    assert 1 <= score <= 5


@pytest.mark.timeout(10)
@pytest.mark.parametrize("text", ["[[" * 100_000, "[[" + " " * 200_000, "[[3]]" + "[[ " * 100_000, " " * 200_000])
def test_absurd_answers_cost_no_time(text: str) -> None:
    with contextlib.suppress(EndpointError):
        assert parse_rating(text) == 3


def rate(url: str, responses: list[str] = RESPONSES, **keys: Any) -> Rating:
    async def main() -> Rating:
        rater = DiversityRater(RaterSettings(base_url=url, model="judge", timeout_s=5, max_retries=1, **keys))
        try:
            return await rater.rate("Solve x^2 = 4.", responses)
        finally:
            await rater.close()

    return asyncio.run(main())


def test_one_call_gives_the_rating() -> None:
    with serve(says("[[4]] Three paths.")) as server:
        assert rate(server.url, max_answer_tokens=99) == Rating(4, "[[4]] Three paths.", shortened=0, tries=1)
        (body,) = server.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0, 99)
    assert sorted(parts(body["messages"])[2]) == sorted(RESPONSES)


def test_an_unclear_grade_is_asked_for_again_in_a_new_order() -> None:
    with serve(says("[[2]]")) as server:
        server.then = [says("about 3"), says("[[7]]")]
        assert (rate(server.url).score, len(server.asked)) == (2, 3)
        assert len({tuple(parts(body["messages"])[2]) for body in server.asked}) == 3
        rate(server.url)
        assert server.asked[3]["messages"] == server.asked[0]["messages"]  # a run can be repeated


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (says("no grade"), "bad_answer", r"does not begin with a grade such as \[\[3\]\] \(3 answers\)"),
        (raw('{"choices": [{"message": {"content": null}}]}'), "bad_answer", "does not begin"),
        (raw('"yes"'), "bad_answer", "not a chat completion"),
        (fails(400, "too long"), "refused", "answered 400: .*too long"),
        (fails(500), "server", "answered 500"),
    ],
)
def test_no_rating_is_an_error_and_never_a_grade(answer: Any, kind: str, message: str) -> None:
    with serve(answer) as server, pytest.raises(EndpointError, match=message) as raised:
        rate(server.url)
    assert raised.value.kind == kind


def test_long_responses_lose_their_middle_and_a_prompt_that_cannot_hold_them_is_refused() -> None:
    responses = [*RESPONSES[:8], *(f"start {i} " + "because x = 2, " * 2000 + f" end {i}" for i in range(8))]
    with serve(says("[[4]]")) as server:
        assert rate(server.url, responses, max_prompt_tokens=8000).shortened == 8
        solutions = parts(server.asked[0]["messages"])[2]
        assert sorted(text for text in solutions if len(text) < 100) == sorted(RESPONSES[:8])
        long = [text for text in solutions if "characters removed" in text]
        assert {(text.split()[1], text.split()[-1]) for text in long} == {(str(i), str(i)) for i in range(8)}
        with pytest.raises(EndpointError, match="max_prompt_tokens=1000 is too small"):
            rate(server.url, responses, max_prompt_tokens=1000)
        with pytest.raises(ValueError, match="at least 6 responses"):
            rate(server.url, RESPONSES[:3])
        assert len(server.asked) == 1


def test_neither_verl_nor_ray_is_imported() -> None:
    code = "import sys, verl_setpo.evaluation.rater; print(sorted({'verl', 'ray', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
