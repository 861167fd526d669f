"""Calls to OpenAI-compatible endpoints (vLLM, SGLang, hosted ones): bounded, retried, and never showing a key."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import openai
import tenacity
from aiolimiter import AsyncLimiter

from verl_setpo.signals.endpoint_check import find_problem
from verl_setpo.signals.endpoint_failures import EndpointError, cannot_connect, explain
from verl_setpo.signals.endpoint_settings import CONNECT_TIMEOUT_S, EndpointSettings
from verl_setpo.signals.endpoint_stats import EndpointStats, tokens_used

__all__ = ["Endpoint", "EndpointError", "EndpointSettings", "EndpointStats", "tokens_used"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
MAX_RETRY_AFTER_S = 60.0
SKIP_DEAD_URL_S = 15.0
WARN_EVERY_S = 60.0


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
            before: EndpointError | None = None

            async def attempt() -> T:
                nonlocal tries, before
                tries += 1
                if tries > 1:
                    self.stats.retries += 1
                    await self._wait_for_limits(tokens)
                seconds_left = start + self.settings.deadline_s - time.monotonic()
                try:
                    return await self._ask(self._next_server(), request, seconds_left)
                except EndpointError as error:
                    # Cut off by the deadline, a last try says nothing of the server; the one before it does.
                    if error.kind != "timeout" or seconds_left >= self.settings.timeout_s or before is None:
                        before = error
                    raise before from None

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

    async def chat(self, body: dict[str, Any], *, tokens: int = 0) -> Any:
        """The chat completion that the server answers `body` with: one that has a message. Otherwise as `call`."""

        async def request(client: openai.AsyncOpenAI) -> Any:
            completion = await client.chat.completions.create(**body)
            # The library hands on whatever JSON, or even text, came with status 200.
            choices = getattr(completion, "choices", None)
            if not isinstance(choices, list) or not choices or getattr(choices[0], "message", None) is None:
                raise EndpointError("bad_answer", "the server sent something that is not a chat completion")
            return completion

        return await self.call(request, tokens=tokens)

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
            if cannot_connect(error):
                server.skip_until = time.monotonic() + SKIP_DEAD_URL_S
            failure = explain(error, server.url, limit, self._key)
        self._note(failure)
        raise failure

    def _note(self, failure: EndpointError) -> None:
        """Keep what is wrong and, now and then, say it: retries could otherwise go on for minutes unseen."""
        self.trouble = failure
        if time.monotonic() - self._warned >= WARN_EVERY_S:
            self._warned = time.monotonic()
            logger.warning("verl_setpo: a request failed, and may be tried again: %s", failure)

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
            ask = partial(self._ask, server, probe, self.settings.timeout_s) if probe else None
            problem = await find_problem(server.url, server.client, self.settings, prefix, self._key, ask)
            if problem:
                raise problem

    async def close(self) -> None:
        """Close all connections. Calls in flight fail."""
        await asyncio.gather(*(server.client.close() for server in self._servers), return_exceptions=True)


async def _run(request: Callable[[openai.AsyncOpenAI], Awaitable[T]], client: openai.AsyncOpenAI) -> T:
    return await request(client)
