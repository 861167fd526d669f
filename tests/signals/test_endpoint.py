"""Endpoints that are slow, broken, absent or refuse: what a call does then, and that no key is ever shown."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import pickle
import time
import traceback

import pytest
from fastapi import Response
from pydantic import ValidationError

from tests.signals.fake_server import fails, free_port, half_a_body, hangs, raw, serve
from verl_setpo.signals import endpoint as module
from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointSettings, EndpointStats
from verl_setpo.signals.endpoint_failures import retry_after_s

KEY = "sk-very/secret+9876543210"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")  # as read from a file
    return KEY


async def chat(client):
    answer = await client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "hi"}])
    if isinstance(answer, str):
        raise EndpointError("bad_answer", "text instead of a completion")
    return answer


def settings(url, **keys):
    return EndpointSettings(**{"base_url": url, "model": "judge", "timeout_s": 5, **keys})


def run(url, *, calls=1, **keys):
    """The answers (or EndpointErrors) of `calls` calls at once, and the endpoint they were made through."""

    async def main():
        endpoint = Endpoint(settings(url, **keys))
        try:
            results = await asyncio.gather(*(endpoint.call(chat) for _ in range(calls)), return_exceptions=True)
        finally:
            await endpoint.close()
        return results, endpoint

    results, endpoint = asyncio.run(main())
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, EndpointError):
            raise result
    return results, endpoint


def check(url, prefix="algorithm.set_rl.signal.", probe=None, **keys):
    async def main():
        endpoint = Endpoint(settings(url, **keys))
        try:
            await endpoint.check(prefix, probe)
        finally:
            await endpoint.close()

    asyncio.run(main())


def test_a_call_returns_what_the_request_returns_and_is_counted():
    with serve() as server:
        (answer,), endpoint = run(server.url)
    assert answer.choices[0].message.content == "hello"
    stats = endpoint.stats
    assert (stats.calls, stats.retries, dict(stats.failures)) == (1, 0, {})
    assert (stats.prompt_tokens, stats.completion_tokens) == (10, 5)
    assert 0 < stats.p50 == stats.p95 < 5


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([fails(500)], "server"),
        ([fails(503)] * 3, "server"),
        ([fails(429, retry_after="0")], "rate_limit"),
        ([fails(408)], "timeout"),
        ([half_a_body], "connection"),
        ([raw("<html>proxy</html>")], "bad_answer"),
        ([raw("<html>proxy</html>", "text/html")], "bad_answer"),
    ],
)
def test_what_may_pass_is_retried_and_what_stays_is_named(answers, kind):
    with serve() as server:
        server.then = list(answers)
        (answer,), endpoint = run(server.url)
        assert answer.choices[0].message.content == "hello"
        assert endpoint.stats.retries == len(answers) == len(server.asked) - 1
        server.always = answers[0]
        (error,), endpoint = run(server.url, max_retries=2)
    assert isinstance(error, EndpointError)
    assert error.kind == kind
    assert error.message.endswith("(after 3 tries)")
    assert dict(endpoint.stats.failures) == {kind: 1}


@pytest.mark.parametrize(
    "answer", [fails(400, "bad schema"), fails(404), fails(422), fails(429, code="insufficient_quota")]
)
def test_a_refusal_is_not_asked_again(answer):
    with serve(answer) as server:
        (error,), _ = run(server.url)
        assert error.kind == "refused"
        assert len(server.asked) == 1


def test_retry_after_is_honoured_and_bounded(monkeypatch):
    with serve() as server:
        server.then = [fails(429, retry_after="0.4")]
        run(server.url)
        assert server.times[1] - server.times[0] >= 0.4
        server.times.clear()
        monkeypatch.setattr(module, "MAX_RETRY_AFTER_S", 0.1)
        server.then = [fails(503, retry_after="Fri, 01 Jan 2100 00:00:00 GMT")]
        run(server.url)
        assert 0.1 <= server.times[1] - server.times[0] < 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "2", "retry-after-ms": "500"}, 0.5),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, math.inf),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after_s(headers) == seconds


def test_waits_grow_and_differ():
    first, second = (module.tenacity.RetryCallState(None, None, (), {}) for _ in range(2))
    second.attempt_number = 6
    endpoint = Endpoint(settings("http://localhost:1/v1"))
    assert endpoint._wait_s(second) > 10 * endpoint._wait_s(first) > 0
    assert endpoint._wait_s(first) != endpoint._wait_s(first)


def test_a_server_that_drips_bytes_times_out():
    with serve(hangs(5)) as server:
        start = time.monotonic()
        (error,), _ = run(server.url, timeout_s=0.3, max_retries=1)
    assert error.kind == "timeout"
    assert time.monotonic() - start < 3


def test_the_deadline_holds_for_all_retries_together():
    with serve(fails(500)) as server:
        start = time.monotonic()
        (error,), _ = run(server.url, deadline_s=0.5, max_retries=1000)
    assert error.kind == "server"
    assert time.monotonic() - start < 2
    with serve(hangs(5)) as server:
        start = time.monotonic()
        (error,), _ = run(server.url, deadline_s=0.5, timeout_s=60)
    assert error.kind == "timeout"
    assert time.monotonic() - start < 3


def test_nobody_there():
    (error,), endpoint = run(f"http://127.0.0.1:{free_port()}/v1", max_retries=1)
    assert error.kind == "connection"
    assert "cannot be reached" in error.message
    assert dict(endpoint.stats.failures) == {"connection": 1}


def test_of_two_urls_the_dead_one_is_skipped_and_two_alive_take_turns():
    with serve() as one, serve() as two:
        dead = f"http://127.0.0.1:{free_port()}/v1"
        results, endpoint = run([dead, one.url], calls=20, concurrency=1)
        assert not any(isinstance(result, EndpointError) for result in results)
        assert endpoint.stats.retries == 1
        one.asked.clear()
        run([one.url, two.url], calls=20)
        assert len(one.asked) == len(two.asked) == 10


def test_a_skipped_url_is_asked_again_later(monkeypatch):
    monkeypatch.setattr(module, "SKIP_DEAD_URL_S", 0.0)
    with serve() as alive:
        _, endpoint = run([f"http://127.0.0.1:{free_port()}/v1", alive.url], calls=10, concurrency=1)
    assert endpoint.stats.retries > 1


def test_concurrency_bounds_the_calls_in_flight():
    with serve() as server:
        run(server.url, calls=20, concurrency=3)
        assert server.most_in_flight <= 3


def test_limits_per_minute_hold_calls_back():
    async def main(url, **keys):
        endpoint = Endpoint(settings(url, **keys))
        calls = [endpoint.call(chat, tokens=600) for _ in range(3)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*calls), 0.7)
        await endpoint.close()

    with serve() as server:
        asyncio.run(main(server.url, requests_per_minute=2))
        assert len(server.asked) == 2
        asyncio.run(main(server.url, tokens_per_minute=1200))
        assert len(server.asked) == 4


def test_a_call_larger_than_the_limit_of_tokens_still_goes_out():
    async def main(url):
        endpoint = Endpoint(settings(url, tokens_per_minute=100))
        await asyncio.wait_for(endpoint.call(chat, tokens=5000), 5)
        await endpoint.close()

    with serve() as server:
        asyncio.run(main(server.url))


def test_check_passes_where_all_is_well(key):
    with serve(key=key) as server:
        check(server.url, api_key_env="JUDGE_KEY")


def test_check_says_what_is_wrong_in_one_sentence_with_the_key_to_change(key):
    with pytest.raises(EndpointError, match=r"algorithm\.set_rl\.signal\.base_url=.* cannot be reached") as error:
        check(f"http://127.0.0.1:{free_port()}/v1")
    assert error.value.kind == "connection"
    with serve(models=["a", "b"]) as server:
        with pytest.raises(
            EndpointError, match=r"algorithm\.set_rl\.signal\.model=judge is not served .* it has a, b\."
        ):
            check(server.url)
        with pytest.raises(EndpointError, match=r"base_url=.* lists no models .*/v1\?"):
            check(server.url.removesuffix("/v1"))
    with serve(key="another") as server:
        with pytest.raises(EndpointError, match=r"signal\.api_key_env holds a wrong one") as error:
            check(server.url, api_key_env="JUDGE_KEY")
        assert key not in str(error.value)
        with pytest.raises(EndpointError, match=r"signal\.api_key_env is not set"):
            check(server.url)


def test_a_server_that_lists_no_models_is_asked_for_the_smallest_real_thing():
    with serve() as server:
        server.app.router.routes[:] = [r for r in server.app.router.routes if getattr(r, "path", "") != "/v1/models"]
        check(server.url, probe=chat)
        server.always = fails(400, "no chat here")
        with pytest.raises(EndpointError, match="no chat here"):
            check(server.url, probe=chat)


def test_openais_own_key_goes_to_nobody_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve() as server:
        run(server.url)
        assert KEY not in str(server.headers)


def everything_about(error, endpoint):
    """All that a log, a traceback or a dashboard would show."""
    chain, seen = error, []
    while chain is not None:
        seen.append(repr(chain) + str(chain) + str(vars(chain)))
        chain = chain.__cause__ or chain.__context__
    return "".join(
        [
            *seen,
            *traceback.format_exception(error),
            *(repr(shown) for shown in (endpoint, endpoint.settings, endpoint.stats)),
            str(endpoint.settings.model_dump()),
            str(pickle.loads(pickle.dumps(error))),
        ]
    )


@pytest.mark.parametrize("answer", [None, fails(400, f"Authorization: Bearer {KEY}"), fails(500, KEY), raw(KEY)])
def test_no_key_in_what_is_raised_logged_or_shown(key, answer, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(answer, key="another" if answer is None else None) as server:
        (error,), endpoint = run(server.url, api_key_env="JUDGE_KEY", max_retries=1)
        assert server.headers[0]["authorization"] == f"Bearer {key}"
    shown = everything_about(error, endpoint) + caplog.text
    assert key not in shown
    assert "very/secret" not in shown
    assert error.__cause__ is None
    assert error.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@host:8000/v1",
        f"https://host/v1?key={KEY}",
        f"{KEY}@host",
        f"http://ho[st/v1#{KEY}",
        ["", KEY],
    ],
)
def test_a_url_with_a_key_is_refused_unseen(url):
    with pytest.raises(ValidationError, match="base_url") as error:
        settings(url)
    assert "secret" not in str(error.value) + repr(error.value)


@pytest.mark.parametrize("name", [KEY, "sk-1", ""])
def test_a_key_in_place_of_its_variable_is_refused_unseen(name):
    with pytest.raises(ValidationError, match="api_key_env must be the name of an environment variable") as error:
        settings("http://h/v1", api_key_env=name)
    assert not name or name not in str(error.value)


@pytest.mark.parametrize("value", [None, "  ", "sk-\x00secret", "sk-secret\nX-Header: 1", "schlüssel-secret"])
def test_a_key_that_cannot_be_one_is_refused_unseen(monkeypatch, value):
    monkeypatch.setattr(os, "environ", {} if value is None else {"OTHER_KEY": value})
    with pytest.raises(ValueError, match=r"^api_key_env names an environment variable") as error:
        Endpoint(settings("http://h/v1", api_key_env="OTHER_KEY"))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"base_url": []},
        {"base_url": "localhost:8000"},
        {"base_url": "ftp://h/v1"},
        {"base_url": "http://h:x/v1"},
        {"model": ""},
        {"timeout_s": 0},
        {"concurrency": 0},
        {"max_retries": -1},
        {"deadline_s": math.inf},
        {"modell": 1},
    ],
)
def test_wrong_settings_name_their_key(keys):
    with pytest.raises(ValidationError, match=next(iter(keys))):
        settings(**{"url": "http://h/v1", **keys})


def test_quantiles():
    stats = EndpointStats()
    assert math.isnan(stats.p50)
    stats.seconds.extend(range(1, 101))
    assert (stats.p50, stats.p95) == (51, 96)


def test_a_mistake_in_the_request_is_not_retried_or_hidden():
    async def main():
        endpoint = Endpoint(settings("http://localhost:1/v1"))

        async def wrong(client):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await endpoint.call(wrong)

    asyncio.run(main())


def test_a_call_that_is_given_up_is_counted():
    """As by a training step that waits no longer."""

    async def main(url):
        endpoint = Endpoint(settings(url))
        call = asyncio.create_task(endpoint.call(chat))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await endpoint.close()
        return endpoint.stats

    with serve(hangs(5)) as server:
        stats = asyncio.run(main(server.url))
    assert (stats.calls, stats.failures) == (1, {"given_up": 1})


def test_bytes_that_are_no_text_are_a_bad_answer():
    def bytes_(body):
        return Response(b'{"id": "\xff"}', media_type="application/json")

    async def main(url):
        endpoint = Endpoint(settings(url, max_retries=0))
        with pytest.raises(EndpointError) as caught:
            await endpoint.call(chat)
        await endpoint.close()
        return caught.value, endpoint.stats

    with serve(bytes_) as server:
        error, stats = asyncio.run(main(server.url))
    assert (error.kind, stats.failures) == ("bad_answer", {"bad_answer": 1})
