"""Settings, keys and the check of an endpoint: what is wrong is said at the start, and no key is ever shown."""

from __future__ import annotations

import logging
import math
import os
import pickle
import traceback

import pytest
from pydantic import ValidationError

from tests.signals.endpoint_calls import chat, check, run, settings
from tests.signals.fake_server import fails, free_port, raw, serve
from verl_setpo.signals import endpoint as module
from verl_setpo.signals.endpoint import Endpoint, EndpointError

KEY = "sk-very/secret+9876543210"


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")  # as read from a file
    return KEY


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
