"""Whether a server can do what a run will ask of it, before the run starts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
from pydantic import SecretStr

from verl_setpo.signals.endpoint_failures import EndpointError, one_line
from verl_setpo.signals.endpoint_settings import CONNECT_TIMEOUT_S, EndpointSettings

Probe = Callable[[], Awaitable[Any]] | None


async def find_problem(
    url: str, client: openai.AsyncOpenAI, settings: EndpointSettings, prefix: str, key: SecretStr | None, probe: Probe
) -> EndpointError | None:
    """Ask a server once whether it is there, takes the key and serves the model: what is wrong, or None.

    prefix: of the config keys in the message. probe: a smallest request, for servers that do not list their models.
    """
    where = f"{prefix}base_url={url}"
    limit = min(settings.timeout_s, 2 * CONNECT_TIMEOUT_S)
    try:
        served = [model.id for model in (await asyncio.wait_for(_models(client), limit)).data]
    except openai.APIStatusError as error:
        if error.status_code in (401, 403):
            cure = "holds a wrong one" if key else "is not set, name the variable that holds it"
            return EndpointError("refused", f"{where} refuses the key: {prefix}api_key_env {cure}.")
        if error.status_code in (404, 405, 501):
            return await _probe(where, probe)
        return EndpointError(
            "server" if error.status_code >= 500 else "refused",
            f"{where} answers {error.status_code} ({one_line(error.message, key)}): is it this kind of server?",
        )
    except (asyncio.TimeoutError, openai.APIConnectionError) as error:
        cause = "no answer" if isinstance(error, asyncio.TimeoutError) else str(error.__cause__ or error)
        return EndpointError(
            "connection",
            f"{where} cannot be reached ({one_line(cause, key)}): is the server up, is this its address?",
        )
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):
        return EndpointError("bad_answer", f"{where} is not an OpenAI-compatible endpoint: does it lack /v1?")
    if settings.model not in served:
        names = ", ".join(one_line(str(name), key) for name in served[:8]) or "none"
        more = f" and {len(served) - 8} more" if len(served) > 8 else ""
        return EndpointError("refused", f"{prefix}model={settings.model} is not served by {url}; it has {names}{more}.")
    return None


async def _probe(where: str, probe: Probe) -> EndpointError | None:
    if probe is None:
        return EndpointError("refused", f"{where} lists no models (404): does it lack /v1?")
    try:
        await probe()
    except EndpointError as error:
        return EndpointError(error.kind, f"{where} does not serve this: {error.message}")
    return None


async def _models(client: openai.AsyncOpenAI) -> Any:
    return await client.models.list()
