"""Endpoints that are slow, broken, absent or refuse: what a call does then."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from fastapi import Response

from tests.signals.endpoint_calls import chat, run, settings
from tests.signals.fake_server import fails, free_port, half_a_body, hangs, raw, serve
from verl_setpo.signals import endpoint as module
from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointStats
from verl_setpo.signals.endpoint_failures import retry_after_s


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)


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
    assert time.monotonic() - start < 5


def test_the_deadline_holds_for_all_retries_together():
    with serve(fails(500)) as server:
        start = time.monotonic()
        (error,), _ = run(server.url, deadline_s=1, max_retries=1000)
    assert error.kind == "server"
    assert 1 < len(server.asked) < 1000
    assert time.monotonic() - start < 10
    with serve(hangs(5)) as server:
        start = time.monotonic()
        (error,), _ = run(server.url, deadline_s=0.5, timeout_s=60)
    assert error.kind == "timeout"
    assert time.monotonic() - start < 5


def test_a_last_try_that_the_deadline_cuts_off_does_not_hide_what_the_server_said():
    with serve(hangs(5)) as server:
        server.then = [fails(503)]
        (error,), endpoint = run(server.url, deadline_s=2, timeout_s=60)
    assert error.kind == "server"
    assert "answered 503" in error.message
    assert "after 2 tries" in error.message
    assert dict(endpoint.stats.failures) == {"server": 1}


def test_a_last_try_that_hangs_for_all_of_its_time_is_what_is_said():
    with serve(hangs(5)) as server:
        server.then = [fails(503)]
        (error,), _ = run(server.url, deadline_s=60, timeout_s=1, max_retries=1)
    assert error.kind == "timeout"


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
