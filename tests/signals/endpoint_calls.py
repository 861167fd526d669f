"""Calls of a chat endpoint, and its check at the start, as tests make them."""

from __future__ import annotations

import asyncio

from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointSettings


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
