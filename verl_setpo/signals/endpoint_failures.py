"""What can go wrong with a request to an endpoint, by kind and in one line that never shows the key."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import urllib.parse
from typing import Any, Literal

import openai
from pydantic import SecretStr

Kind = Literal["timeout", "connection", "rate_limit", "server", "refused", "bad_answer"]

MAX_MESSAGE = 300


class EndpointError(Exception):
    """A call that failed for good. `kind` is for counting, `message` one line for people, without keys.

    kind: timeout, connection, rate_limit, server (5xx), refused (another 4xx: to ask again does not help), bad_answer.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message
        self.retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def explain(error: Exception, url: str, limit_s: float, key: SecretStr | None) -> EndpointError:
    """What the openai library, or a body that is no JSON, raised in one request, as an error without the key.

    limit_s: the seconds that the request was given. key: taken out of what the server said.
    """
    if isinstance(error, openai.APIStatusError):
        status, text = error.status_code, one_line(error.message, key)
        kind: Kind = "server" if status >= 500 else "refused"
        if status == 429 and error.code != "insufficient_quota":  # that one no retry cures
            kind = "rate_limit"
        elif status == 408:
            kind = "timeout"
        failure = EndpointError(kind, f"{url} answered {status}: {text}")
        failure.retry_after_s = retry_after_s(error.response.headers)
        return failure
    if isinstance(error, (asyncio.TimeoutError, openai.APITimeoutError)):
        if cannot_connect(error):
            return EndpointError("connection", f"{url} cannot be reached (no connection in time)")
        return EndpointError("timeout", f"{url} did not answer within {max(limit_s, 0):.3g} s")
    if isinstance(error, openai.APIConnectionError):
        if cannot_connect(error):
            return EndpointError("connection", f"{url} cannot be reached ({one_line(str(error.__cause__), key)})")
        return EndpointError("connection", f"{url} broke off ({one_line(str(error.__cause__), key)})")
    return EndpointError("bad_answer", f"{url} sent no valid answer ({one_line(str(error), key)})")


def one_line(text: str, key: SecretStr | None) -> str:
    """One short line without the key: servers like to repeat it."""
    if key:
        secret = key.get_secret_value()
        for form in {secret, urllib.parse.quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            text = text.replace(form, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + "..."


def cannot_connect(error: BaseException) -> bool:
    """By name, since the openai library changed its HTTP library between its versions."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def retry_after_s(headers: Any) -> float | None:
    """Seconds that a server asks to wait: in milliseconds, seconds or as a date; None where it does not say."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                continue
        if seconds >= 0:  # neither negative nor NaN
            return seconds
    return None
