"""An LLM that clusters the responses of one prompt by strategy, all in one call (Poly-EPO, section 5.1)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from pydantic import Field, ValidationError

from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointSettings, tokens_used
from verl_setpo.signals.judge.budget import TokenCounter, TokenizerCount, estimate_tokens, fit
from verl_setpo.signals.judge.prompt import Prompt, PromptTemplate, Quoter
from verl_setpo.signals.judge.schema import Entry, max_answer_tokens, parse_answer, response_format

DEGENERATE = -1

_MESSAGE_TOKENS = 16
"""What a chat template adds to a message, at most."""


class JudgeSettings(EndpointSettings):
    """Where the judge is served, and how it judges.

    template: path of a jinja2 file in place of the built-in prompt (see `PromptTemplate`).
    max_prompt_tokens: beyond it responses are shortened. Together with `max_answer_tokens` (464 a response at 200
        strategy characters) it must fit the context that the server allows.
    tokenizer: name or path of the judge's, to count tokens exactly; None counts characters, and too many tokens.
    degenerate_cluster: the number that the judge gives to texts without a strategy (the paper's 100).
    bad_answer_retries: how often an answer that breaks the schema is asked for again, in a new order.
    seed: of the order and the ids in a prompt.
    cache_size: groups whose verdicts are kept.
    extra_body: further fields of the request, e.g. {"chat_template_kwargs": {"enable_thinking": false}} for a judge
        that would think aloud first.
    """

    # A whole group of answers in one, from a server that many groups ask at once, takes longer than a usual call.
    timeout_s: float = Field(180, gt=0, allow_inf_nan=False)
    deadline_s: float = Field(600, gt=0, allow_inf_nan=False)
    template: str | None = None
    max_prompt_tokens: int = Field(32_000, ge=256)
    tokenizer: str | None = None
    degenerate_cluster: int = Field(100, ge=0, le=1_000_000)
    temperature: float = Field(0.0, ge=0, le=2)
    max_strategy_chars: int = Field(200, ge=16, le=2000)
    bad_answer_retries: int = Field(2, ge=0)
    seed: int = 0
    cache_size: int = Field(4096, ge=0)
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any], prefix: str = "") -> JudgeSettings:
        """The settings of `keys`; ValueError is one sentence that names the first wrong key, after `prefix`."""
        try:
            return cls(**keys)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            key = prefix + str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise ValueError(f"{key} is not a key of the judge; its keys are {known}.") from None
            if first["type"] == "missing":
                raise ValueError(f"{key} must be set.") from None
            message = first["msg"].removeprefix("Value error, ")
            if message.startswith(f"{first['loc'][0]} "):
                raise ValueError(f"{prefix}{message}.") from None
            raise ValueError(f"{key}: {message}.") from None


@dataclass(frozen=True)
class Verdict:
    """What the judge says of N responses.

    clusters: N strategies, numbered by first appearance; -1 for a degenerate response.
    strategies: N short descriptions in the judge's words, "" where it was not asked.
    shortened: responses that it saw without their middle.
    prompt_tokens, completion_tokens: of all tries, as the server counts them; 0 when `cached`.
    seconds: from the question to the verdict. tries: answers asked for, 0 when none was needed.
    """

    clusters: list[int]
    strategies: list[str]
    shortened: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    tries: int = 0
    cached: bool = False

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class JudgeStats:
    """What a judge did, besides its `endpoint.stats`. bad_answers: those of the answers that broke the schema."""

    groups: int = 0
    cached: int = 0
    answers: int = 0
    bad_answers: int = 0
    responses: int = 0
    shortened: int = 0


@dataclass
class _Asked:
    """The judge's entry for each different response of a group, by its digest, and what it cost."""

    entries: dict[str, Entry] = field(default_factory=dict)
    shortened: frozenset[str] = frozenset()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 0


@dataclass
class _Group:
    """The different responses of a group that the judge sees, in a fixed order, and as it sees them."""

    question: str
    responses: list[str]
    key: str
    shown: list[str] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)


class Judge:
    """Clusters responses by strategy. Belongs to one event loop. ValueError names a key that is wrong."""

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.stats = JudgeStats()
        self.endpoint = Endpoint(settings)
        self._template = PromptTemplate(settings.template)
        self._count: TokenCounter = estimate_tokens
        self._quoter = Quoter()
        if settings.tokenizer is not None:
            tokenizer = TokenizerCount(settings.tokenizer)
            self._count, self._quoter = tokenizer, Quoter(tokenizer.special_tokens)
        self._cache: LRUCache[str, _Asked] = LRUCache(max(settings.cache_size, 1))

    async def cluster(self, question: str, responses: Sequence[str]) -> Verdict:
        """Which of the N `responses` to `question` share a strategy.

        Each different response is sent once, and equal ones share its verdict. A blank one is degenerate without being
        asked about. A lone response is asked about like any other, since it too may be degenerate, which decides
        whether its group has a strategy at all.

        Raises:
            EndpointError: bad_answer after `bad_answer_retries`; refused where `max_prompt_tokens` cannot hold the
                group; others as `Endpoint.call`.
        """
        start = time.monotonic()
        self.stats.groups += 1
        self.stats.responses += len(responses)
        # Sorted, so that the order of arrival changes neither the cache's key nor the prompt.
        group = self._group(question, sorted({response for response in responses if not _is_blank(response)}))
        asked = self._cache.get(group.key)
        cached = asked is not None
        if asked is None:
            asked = await self._ask(group) if group.responses else _Asked()
            if self.settings.cache_size:
                self._cache[group.key] = asked
        self.stats.cached += cached and bool(group.responses)
        return self._verdict(responses, asked, cached, time.monotonic() - start)

    def _group(self, question: str, responses: list[str]) -> _Group:
        parts = [self.settings.model, self._template.source, question, *responses]
        return _Group(question, responses, hashlib.sha256(json.dumps(parts).encode()).hexdigest())

    def _verdict(self, responses: Sequence[str], asked: _Asked, cached: bool, seconds: float) -> Verdict:
        digests = [_digest(response) for response in responses]
        entries = [asked.entries.get(digest) for digest in digests]
        numbers: dict[int, int] = {}
        clusters = [
            DEGENERATE
            if entry is None or entry.cluster_id == self.settings.degenerate_cluster
            else numbers.setdefault(entry.cluster_id, len(numbers))
            for entry in entries
        ]
        shortened = sum(digest in asked.shortened for digest in digests)
        self.stats.shortened += shortened
        return Verdict(
            clusters=clusters,
            strategies=[entry.strategy if entry else "" for entry in entries],
            shortened=shortened,
            prompt_tokens=0 if cached else asked.prompt_tokens,
            completion_tokens=0 if cached else asked.completion_tokens,
            seconds=seconds,
            tries=0 if cached else asked.tries,
            cached=cached,
        )

    async def _ask(self, group: _Group) -> _Asked:
        # In a thread: counting the tokens of a large group takes longer than an event loop may stand still.
        await asyncio.to_thread(self._fit, group)
        asked = _Asked()
        while True:
            # From the group's content, so that a run can be repeated whatever order its groups come in.
            rng = random.Random(f"{self.settings.seed} {group.key} {asked.tries}")
            prompt = self._render(group.question, group.shown, rng)
            asked.tries += 1
            completion = await self._complete(prompt)
            prompt_tokens, completion_tokens = tokens_used(completion)
            asked.prompt_tokens += prompt_tokens
            asked.completion_tokens += completion_tokens
            try:
                entries = self._read(completion, prompt)
                break
            except EndpointError as error:
                self.stats.bad_answers += 1
                if asked.tries > self.settings.bad_answer_retries:
                    raise EndpointError("bad_answer", f"{error.message} ({asked.tries} answers)") from None
        digests = [_digest(response) for response in group.responses]
        asked.entries = {digests[i]: entries[name] for name, i in zip(prompt.ids, prompt.order, strict=True)}
        asked.shortened = frozenset(digest for digest, cut in zip(digests, group.cut, strict=True) if cut)
        return asked

    def _fit(self, group: _Group) -> None:
        """Set what the judge will see of the responses, within `max_prompt_tokens`."""
        frame = self._prompt_tokens(self._render(group.question, [], random.Random(0)))
        name = "wwwwwwww"  # no id is longer, but for texts that hold all shorter ones
        limit = self.settings.max_prompt_tokens
        try:
            group.shown, group.cut = fit(
                group.responses, limit - frame, lambda text: self._count(self._quoter.line(name, text) + "\n")
            )
        except ValueError as error:
            raise EndpointError(
                "refused", f"max_prompt_tokens={limit} is too small: with its question it {error}"
            ) from None

    def _render(self, question: str, responses: Sequence[str], rng: random.Random) -> Prompt:
        return self._template.render(
            question,
            responses,
            rng,
            quoter=self._quoter,
            degenerate_cluster=self.settings.degenerate_cluster,
            max_strategy_chars=self.settings.max_strategy_chars,
        )

    def _prompt_tokens(self, prompt: Prompt) -> int:
        return sum(self._count(message["content"]) + _MESSAGE_TOKENS for message in prompt.messages)

    async def _complete(self, prompt: Prompt) -> Any:
        """The server's answer, a chat completion with a message."""
        keys = self.settings
        max_tokens = max_answer_tokens(len(prompt.ids), keys.max_strategy_chars)
        body: dict[str, Any] = {
            "model": keys.model,
            "messages": prompt.messages,
            "response_format": response_format(prompt.ids, keys.degenerate_cluster, keys.max_strategy_chars),
            "temperature": keys.temperature,
            "max_tokens": max_tokens,
            "seed": keys.seed,
            "extra_body": keys.extra_body or None,
        }

        # Only a provider's limit needs the count.
        tokens = self._prompt_tokens(prompt) + max_tokens if keys.tokens_per_minute else 0
        completion = await self.endpoint.chat(body, tokens=tokens)
        self.stats.answers += 1
        return completion

    def _read(self, completion: Any, prompt: Prompt) -> dict[str, Entry]:
        """The judge's entries by id; EndpointError (bad_answer) for what is not exactly as asked."""
        choice = completion.choices[0]
        content = getattr(choice.message, "content", None)
        if getattr(choice, "finish_reason", None) == "length":
            raise EndpointError("bad_answer", "the judge's answer was cut off at max_tokens")
        if not isinstance(content, str):
            raise EndpointError("bad_answer", "the judge's answer is empty")
        return parse_answer(content, prompt.ids, self.settings.max_strategy_chars)

    async def check(self, prefix: str = "") -> None:
        """`Endpoint.check`, and whether the judge gives a verdict at all; EndpointError is one sentence."""
        await self.endpoint.check(prefix)
        group = self._group("What is 1 + 1?", ["Counting on from one gives 2."])
        try:
            await self._ask(group)
        except EndpointError as error:
            raise EndpointError(
                error.kind, f"{prefix}model={self.settings.model} cannot judge: {error.message}"
            ) from None

    async def close(self) -> None:
        await self.endpoint.close()


def _is_blank(text: str) -> bool:
    """Nothing that can be seen."""
    return not any(c.isprintable() and not c.isspace() for c in text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
