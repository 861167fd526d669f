"""Calls to OpenAI-compatible endpoints (vLLM, SGLang, hosted ones): bounded, retried, and never showing a key."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import re
import time
import urllib.parse
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import openai
import tenacity
from aiolimiter import AsyncLimiter
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

Kind = Literal["timeout", "connection", "rate_limit", "server", "refused", "bad_answer"]
T = TypeVar("T")

logger = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
MAX_RETRY_AFTER_S = 60.0
SKIP_DEAD_URL_S = 15.0
CONNECT_TIMEOUT_S = 10.0
MAX_MESSAGE = 300
WARN_EVERY_S = 60.0


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


class EndpointSettings(BaseModel):
    """Where a model is served and how hard it may be asked.

    base_url: one or several, e.g. http://node1:8000/v1; calls take turns. Must not hold a key: configs are printed.
    model: its name as the server lists it.
    api_key_env: name of the environment variable with the key; None where no key is needed. The variable must be set
        on every node that calls; the key itself has no place in a config.
    timeout_s: seconds for one request. deadline_s: seconds for a call from its first request on, retries and their
        waits included; time in the queue (`concurrency`, limits per minute) comes before it.
    max_retries: further requests after a failed one. concurrency: calls in flight at once, over all URLs.
    requests_per_minute, tokens_per_minute: the provider's limits; None for none.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    base_url: str | list[str]
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    timeout_s: float = Field(60, gt=0, allow_inf_nan=False)
    deadline_s: float = Field(300, gt=0, allow_inf_nan=False)
    max_retries: int = Field(5, ge=0)
    concurrency: int = Field(64, ge=1)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)

    @field_validator("base_url")
    @classmethod
    def _check_urls(cls, value: str | list[str]) -> str | list[str]:
        urls = [value] if isinstance(value, str) else value
        if not urls:
            raise ValueError("base_url is empty")
        for url in urls:
            try:
                parts = urllib.parse.urlsplit(url)
                host, _ = parts.hostname, parts.port
            except ValueError:
                host, parts = None, urllib.parse.urlsplit("")
            if "@" in url or "?" in url or "#" in url:
                # Not shown, not even in part: it is where keys are.
                raise ValueError(
                    "base_url must be a plain URL without user, password or query, since configs are printed and "
                    "logged; put the key into an environment variable and its name into api_key_env"
                )
            if parts.scheme not in ("http", "https") or not host:
                raise ValueError("base_url must look like http://host:8000/v1")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("api_key_env must be the name of an environment variable, never the key itself")
        return value

    @property
    def urls(self) -> list[str]:
        return [self.base_url] if isinstance(self.base_url, str) else list(self.base_url)

    def read_key(self) -> SecretStr | None:
        """The key, or None where none is needed; ValueError where its variable is not set or cannot be a header."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        # Not every name is repeated: it may be a key that looks like one.
        shown = f" ({self.api_key_env})" if re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)+", self.api_key_env) else ""
        if not key:
            raise ValueError(
                f"api_key_env names an environment variable{shown} that is not set, or empty, on this node"
            )
        if not key.isascii() or not key.isprintable():
            raise ValueError(
                f"api_key_env names an environment variable{shown} whose value has characters no key can have"
            )
        return SecretStr(key)


@dataclass
class EndpointStats:
    """What an endpoint did since it was made.

    calls: finished ones, failed or not. retries: further requests. failures: failed calls by `EndpointError.kind`.
    seconds: of the latest successful calls, from first request to answer, retries included.
    prompt_tokens, completion_tokens: as the server counts them.
    """

    calls: int = 0
    retries: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def p50(self) -> float:
        return self._quantile(0.5)

    @property
    def p95(self) -> float:
        return self._quantile(0.95)

    def _quantile(self, q: float) -> float:
        """Nearest rank, in seconds; NaN before the first success."""
        ordered = sorted(self.seconds)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def tokens_used(result: object) -> tuple[int, int]:
    """Tokens of prompt and answer, as the server counts them in `usage`; 0 where it does not say."""
    usage = getattr(result, "usage", None)
    prompt, answer = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return prompt if isinstance(prompt, int) else 0, answer if isinstance(answer, int) else 0


@dataclass
class _Server:
    url: str
    client: openai.AsyncOpenAI
    skip_until: float = 0.0


class Endpoint:
    """A served model behind one or several URLs: bounded, rate-limited, retried. Belongs to one event loop.

    ValueError where the key cannot be read.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.stats = EndpointStats()
        self._key = settings.read_key()
        self._servers = [_Server(url, self._client(url)) for url in settings.urls]
        self._turn = random.randrange(len(self._servers))  # many processes must not all begin at the first URL
        self.trouble: EndpointError | None = None  # of the last request, None where it was answered
        self._warned = -WARN_EVERY_S
        self._places = asyncio.Semaphore(settings.concurrency)
        rpm, tpm = settings.requests_per_minute, settings.tokens_per_minute
        self._requests = AsyncLimiter(rpm, 60) if rpm else None
        self._tokens = AsyncLimiter(tpm, 60) if tpm else None

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.model} at {', '.join(self.settings.urls)})"

    def _client(self, url: str) -> openai.AsyncOpenAI:
        seconds = self.settings.timeout_s
        timeout = openai.Timeout(seconds, connect=min(CONNECT_TIMEOUT_S, seconds))
        places = self.settings.concurrency
        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(max_connections=places, max_keepalive_connections=places)
        return openai.AsyncOpenAI(
            base_url=url,
            # Without a key the library would send OPENAI_API_KEY to whatever server this is.
            api_key=self._key.get_secret_value() if self._key else "none",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits, timeout=timeout),
        )

    async def call(self, request: Callable[[openai.AsyncOpenAI], Awaitable[T]], *, tokens: int = 0) -> T:
        """What `request` returns, given the client of the server whose turn it is.

        `request` is called again for each retry. An `EndpointError` that it raises itself is treated like one of the
        library's: retried, unless it is "refused".

        Args:
            tokens: what the request will cost of `tokens_per_minute`, prompt and answer.

        Raises:
            EndpointError: after `max_retries`, at `deadline_s`, or at once when the server refuses.
        """
        async with self._places:
            await self._wait_for_limits(tokens)
            start, tries = time.monotonic(), 0

            async def attempt() -> T:
                nonlocal tries
                tries += 1
                if tries > 1:
                    self.stats.retries += 1
                    await self._wait_for_limits(tokens)
                return await self._ask(
                    self._next_server(), request, start + self.settings.deadline_s - time.monotonic()
                )

            try:
                result: T = await self._retrying()(attempt)
            except EndpointError as error:
                error_ = error
            except asyncio.CancelledError:
                self.stats.calls += 1
                self.stats.failures["given_up"] += 1
                raise
            else:
                self.stats.calls += 1
                self.stats.seconds.append(time.monotonic() - start)
                prompt_tokens, completion_tokens = tokens_used(result)
                self.stats.prompt_tokens += prompt_tokens
                self.stats.completion_tokens += completion_tokens
                return result
        self.stats.calls += 1
        self.stats.failures[error_.kind] += 1
        # A new one, raised outside of `except`: no chain to the library's errors, whose requests hold the key.
        raise EndpointError(error_.kind, f"{error_.message}{f' (after {tries} tries)' if tries > 1 else ''}")

    def _retrying(self) -> tenacity.AsyncRetrying:
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, EndpointError) and e.kind != "refused"),
            stop=tenacity.stop_after_attempt(self.settings.max_retries + 1)
            | tenacity.stop_before_delay(self.settings.deadline_s),
            wait=self._wait_s,
            reraise=True,
        )

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next request."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, EndpointError):
            now = time.monotonic()
            if (
                error.kind == "connection"
                and len(self._servers) > 1
                and any(s.skip_until <= now for s in self._servers)
            ):
                return 0.0  # another server is there to be asked
            if error.retry_after_s is not None:
                # Spread a little, or all who were told the same second come back in it.
                return min(error.retry_after_s, MAX_RETRY_AFTER_S) + random.uniform(0, FIRST_WAIT_S)
        wait = tenacity.wait_exponential(FIRST_WAIT_S, MAX_WAIT_S) + tenacity.wait_random(0, FIRST_WAIT_S)
        return wait(state)

    async def _wait_for_limits(self, tokens: int) -> None:
        if self._requests:
            await self._requests.acquire()
        if self._tokens and tokens > 0:
            # More than a minute's worth could never be had at once.
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))

    def _next_server(self) -> _Server:
        """In turn; one that could not be reached is skipped for a while, unless none is left."""
        now, count = time.monotonic(), len(self._servers)
        for _ in range(count):
            self._turn = (self._turn + 1) % count
            if self._servers[self._turn].skip_until <= now:
                return self._servers[self._turn]
        return min(self._servers, key=lambda server: server.skip_until)

    async def _ask(
        self, server: _Server, request: Callable[[openai.AsyncOpenAI], Awaitable[T]], seconds_left: float
    ) -> T:
        """One request; whatever the library raises becomes an EndpointError."""
        limit = min(self.settings.timeout_s, seconds_left)
        try:
            if limit <= 0:
                raise asyncio.TimeoutError
            # The library's timeout is between two bytes; a server that sends one now and then would hold us for ever.
            answer = await asyncio.wait_for(_run(request, server.client), limit)
            self.trouble = None
            return answer
        except EndpointError as error:
            self._note(error)
            raise
        except (asyncio.TimeoutError, openai.OpenAIError, ValueError, RecursionError) as error:
            # Besides its own, the library lets pass what a body that is no JSON raises.
            if _cannot_connect(error):
                server.skip_until = time.monotonic() + SKIP_DEAD_URL_S
            failure = self._explain(error, server.url, limit)
        self._note(failure)
        raise failure

    def _note(self, failure: EndpointError) -> None:
        """Keep what is wrong and, now and then, say it: retries could otherwise go on for minutes unseen."""
        self.trouble = failure
        if time.monotonic() - self._warned >= WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.warning("verl_setpo: a request failed, and may be tried again: %s", failure)

    def _explain(self, error: Exception, url: str, limit_s: float) -> EndpointError:
        if isinstance(error, openai.APIStatusError):
            status, text = error.status_code, self._clean(error.message)
            kind: Kind = "server" if status >= 500 else "refused"
            if status == 429 and error.code != "insufficient_quota":  # that one no retry cures
                kind = "rate_limit"
            elif status == 408:
                kind = "timeout"
            failure = EndpointError(kind, f"{url} answered {status}: {text}")
            failure.retry_after_s = _retry_after_s(error.response.headers)
            return failure
        if isinstance(error, (asyncio.TimeoutError, openai.APITimeoutError)):
            if _cannot_connect(error):
                return EndpointError("connection", f"{url} cannot be reached (no connection in time)")
            return EndpointError("timeout", f"{url} did not answer within {max(limit_s, 0):.3g} s")
        if isinstance(error, openai.APIConnectionError):
            if _cannot_connect(error):
                return EndpointError("connection", f"{url} cannot be reached ({self._clean(str(error.__cause__))})")
            return EndpointError("connection", f"{url} broke off ({self._clean(str(error.__cause__))})")
        return EndpointError("bad_answer", f"{url} sent no valid answer ({self._clean(str(error))})")

    def _clean(self, text: str) -> str:
        """One short line without the key: servers like to repeat it."""
        if self._key:
            key = self._key.get_secret_value()
            for form in {key, urllib.parse.quote(key, safe=""), json.dumps(key)[1:-1]}:
                text = text.replace(form, "***")
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + "..."

    async def check(
        self, prefix: str = "", probe: Callable[[openai.AsyncOpenAI], Awaitable[Any]] | None = None
    ) -> None:
        """Ask every server, once, whether it is there, takes the key, and serves the model.

        Args:
            prefix: of the config keys in the message, e.g. "algorithm.set_rl.signal.".
            probe: the smallest request of the kind that will be made, for servers that do not list their models.

        Raises:
            EndpointError: one sentence that names the config key to change.
        """
        for server in self._servers:
            problem = await self._find_problem(server, prefix, probe)
            if problem:
                raise problem

    async def _find_problem(
        self, server: _Server, prefix: str, probe: Callable[[openai.AsyncOpenAI], Awaitable[Any]] | None
    ) -> EndpointError | None:
        where = f"{prefix}base_url={server.url}"
        limit = min(self.settings.timeout_s, 2 * CONNECT_TIMEOUT_S)
        try:
            served = [model.id for model in (await asyncio.wait_for(_run(_models, server.client), limit)).data]
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                cure = "holds a wrong one" if self._key else "is not set, name the variable that holds it"
                return EndpointError("refused", f"{where} refuses the key: {prefix}api_key_env {cure}.")
            if error.status_code in (404, 405, 501):
                return await self._probe(server, where, probe)
            return EndpointError(
                "server" if error.status_code >= 500 else "refused",
                f"{where} answers {error.status_code} ({self._clean(error.message)}): is it this kind of server?",
            )
        except (asyncio.TimeoutError, openai.APIConnectionError) as error:
            cause = "no answer" if isinstance(error, asyncio.TimeoutError) else str(error.__cause__ or error)
            return EndpointError(
                "connection",
                f"{where} cannot be reached ({self._clean(cause)}): is the server up, is this its address?",
            )
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            return EndpointError("bad_answer", f"{where} is not an OpenAI-compatible endpoint: does it lack /v1?")
        if self.settings.model not in served:
            names = ", ".join(self._clean(str(name)) for name in served[:8]) or "none"
            more = f" and {len(served) - 8} more" if len(served) > 8 else ""
            return EndpointError(
                "refused", f"{prefix}model={self.settings.model} is not served by {server.url}; it has {names}{more}."
            )
        return None

    async def _probe(
        self, server: _Server, where: str, probe: Callable[[openai.AsyncOpenAI], Awaitable[Any]] | None
    ) -> EndpointError | None:
        if probe is None:
            return EndpointError("refused", f"{where} lists no models (404): does it lack /v1?")
        try:
            await self._ask(server, probe, self.settings.timeout_s)
        except EndpointError as error:
            return EndpointError(error.kind, f"{where} does not serve this: {error.message}")
        return None

    async def close(self) -> None:
        """Close all connections. Calls in flight fail."""
        await asyncio.gather(*(server.client.close() for server in self._servers), return_exceptions=True)


async def _run(request: Callable[[openai.AsyncOpenAI], Awaitable[T]], client: openai.AsyncOpenAI) -> T:
    return await request(client)


async def _models(client: openai.AsyncOpenAI) -> Any:
    return await client.models.list()


def _cannot_connect(error: BaseException) -> bool:
    """By name, since the openai library changed its HTTP library between its versions."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _retry_after_s(headers: Any) -> float | None:
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
