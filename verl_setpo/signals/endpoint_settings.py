"""The settings of an OpenAI-compatible endpoint. A key is never in them: they hold the name of its variable."""

from __future__ import annotations

import os
import re
import urllib.parse

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

CONNECT_TIMEOUT_S = 10.0


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
