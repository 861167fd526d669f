"""The LLM that rates diversity: asks a served model for the rating of `verl_setpo.evaluation.rating`."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from verl_setpo.evaluation.rating import TEMPLATE, parse_rating, rating_prompt
from verl_setpo.signals.endpoint import Endpoint, EndpointError, EndpointSettings
from verl_setpo.signals.judge.budget import TokenCounter, TokenizerCount, estimate_tokens, fit
from verl_setpo.signals.judge.prompt import Quoter


class RaterSettings(EndpointSettings):
    """Where the rating model is served, and how it is asked.

    max_prompt_tokens: beyond it responses are shortened. Together with `max_answer_tokens` it must fit the context that
        the server allows.
    tokenizer: name or path of the model's, to count tokens exactly; None counts characters, and too many tokens.
    bad_answer_retries: how often an answer without a clear grade is asked for again, in a new order.
    seed: of the order and the ids in a prompt, and of the server's sampling.
    extra_body: further fields of the request, e.g. {"chat_template_kwargs": {"enable_thinking": false}} for a model
        that would think aloud before the grade.
    """

    timeout_s: float = Field(180, gt=0, allow_inf_nan=False)
    deadline_s: float = Field(600, gt=0, allow_inf_nan=False)
    max_prompt_tokens: int = Field(32_000, ge=256)
    max_answer_tokens: int = Field(512, ge=16)
    tokenizer: str | None = None
    temperature: float = Field(0.0, ge=0, le=2)
    bad_answer_retries: int = Field(2, ge=0)
    seed: int = 0
    extra_body: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Rating:
    """What the model says of a group.

    score: 1 (nearly all on one path) to 5. answer: all that it wrote, for people to read; not to be trusted.
    shortened: responses that it saw without their middle. tries: answers asked for.
    """

    score: int
    answer: str
    shortened: int
    tries: int


class DiversityRater:
    """Rates groups of responses, one call each. Belongs to one event loop. ValueError names a key that is wrong."""

    def __init__(self, settings: RaterSettings) -> None:
        self.settings = settings
        self.endpoint = Endpoint(settings)
        self._count: TokenCounter = estimate_tokens
        self._quoter = Quoter()
        if settings.tokenizer is not None:
            tokenizer = TokenizerCount(settings.tokenizer)
            self._count, self._quoter = tokenizer, Quoter(tokenizer.special_tokens)

    async def rate(self, question: str, responses: Sequence[str]) -> Rating:
        """The rating of `responses` to `question`, the same responses in the same prompt each time.

        Raises:
            ValueError: too few responses.
            EndpointError: bad_answer after `bad_answer_retries`; refused where `max_prompt_tokens` cannot hold the
                group; others as `Endpoint.call`.
        """
        keys = self.settings
        shown, cut = self._fit(question, responses)
        digest = hashlib.sha256(json.dumps([question, *responses]).encode("ascii")).hexdigest()
        tries = 0
        while True:
            rng = random.Random(f"{keys.seed} {digest} {tries}")
            tries += 1
            answer = await self._ask(rating_prompt(question, shown, rng, self._quoter).messages)
            try:
                return Rating(parse_rating(answer), answer, sum(cut), tries)
            except EndpointError as error:
                if tries > keys.bad_answer_retries:
                    raise EndpointError("bad_answer", f"{error.message} ({tries} answers)") from None

    def _fit(self, question: str, responses: Sequence[str]) -> tuple[list[str], list[bool]]:
        """What the model will see of the responses, and which of them are shortened."""
        frame = TEMPLATE.render(question, [], random.Random(0), quoter=self._quoter)
        limit = self.settings.max_prompt_tokens
        used = sum(self._count(message["content"]) + 16 for message in frame.messages)  # 16: a chat template's own
        try:
            return fit(responses, limit - used, lambda text: self._count(self._quoter.line("wwwwwwww", text) + "\n"))
        except ValueError as error:
            raise EndpointError(
                "refused", f"max_prompt_tokens={limit} is too small: with its question it {error}"
            ) from None

    async def _ask(self, messages: list[dict[str, str]]) -> str:
        keys = self.settings
        body: dict[str, Any] = {
            "model": keys.model,
            "messages": messages,
            "temperature": keys.temperature,
            "max_tokens": keys.max_answer_tokens,
            "seed": keys.seed,
            "extra_body": keys.extra_body or None,
        }

        tokens = sum(self._count(message["content"]) for message in messages) + keys.max_answer_tokens
        completion = await self.endpoint.chat(body, tokens=tokens if keys.tokens_per_minute else 0)
        content = getattr(completion.choices[0].message, "content", None)
        return content if isinstance(content, str) else ""

    async def close(self) -> None:
        await self.endpoint.close()
