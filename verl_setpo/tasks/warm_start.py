"""Supervised start of a tiny model, so that RL begins with a policy that is diverse and often wrong.

It learns from answers sampled afresh for the training prompts: all correct answers of a prompt are about equally
likely. Training stops while the policy still makes mistakes; `wrong_share` adds mistakes on purpose. The held-out
prompts serve for the figures at the end only, not for training and not for stopping. Deterministic by seed for a
given number of threads.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from verl_setpo.tasks.tiny_model import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

IGNORED = -100  # label of tokens that are not learned: the prompt and padding
# Sequences that are sampled at once, so that memory does not grow with the number of prompts.
SAMPLE_BATCH = 4096


@dataclass(frozen=True)
class WarmStartConfig:
    """How to train. `DEFAULTS` holds the values that suit each task of this package.

    The learning rate rises over `warmup_steps` and falls to zero at `steps` by a cosine. Every `check_every` steps,
    64 training prompts are sampled 16 times each; training ends early when pass@1 there has reached `target`.
    `max_new_tokens` is what a sample may have: bytes of an answer, and one more for its end.
    """

    steps: int = 1800
    target: float = 0.5
    wrong_share: float = 0.0
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 20
    check_every: int = 200
    max_new_tokens: int = 32
    seed: int = 0


DEFAULTS = {
    "polynomial": WarmStartConfig(),
    "countdown": WarmStartConfig(steps=800, batch_size=64),
    # Between 2 % and 40 % correct lie 200 steps.
    "multiplication": WarmStartConfig(steps=3000, batch_size=64, max_new_tokens=96, check_every=50),
}


@dataclass(frozen=True)
class Prompt:
    """A row of a dataset of `task`, a module, with the tokens of its prompt."""

    task: Any
    ground_truth: str
    tokens: list[int]


@dataclass(frozen=True)
class SampleFigures:
    """What a policy's samples look like.

    pass_at_1: share of the samples that are correct.
    distinct_correct: different correct answers among the samples of a prompt, mean over the prompts; strategies, where
        the task has one answer and many ways to it.
    parsed: share of the samples that hold an answer at all.
    """

    pass_at_1: float
    distinct_correct: float
    parsed: float


def to_prompts(task: Any, rows: Sequence[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase") -> list[Prompt]:
    """Rows in verl's schema, with the tokens that verl's rollout will make of their prompts."""
    return [Prompt(task, row["reward_model"]["ground_truth"], prompt_ids(tokenizer, row["prompt"])) for row in rows]


@torch.no_grad()
def sample(
    model: "Qwen3ForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    num_samples: int,
    *,
    max_new_tokens: int = 32,
    seed: int = 0,
) -> list[list[str]]:
    """`num_samples` responses to each prompt, at temperature 1 from the whole distribution, as verl decodes them.

    The global random state of torch is left as it was.
    """
    pad = tokenizer.pad_token_id
    width = max(len(prompt.tokens) for prompt in prompts)
    prompts_at_once = max(1, SAMPLE_BATCH // num_samples)
    training = model.training
    model.eval()
    texts: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), prompts_at_once):
            chunk = prompts[start : start + prompts_at_once]
            ids = torch.tensor([[pad] * (width - len(prompt.tokens)) + prompt.tokens for prompt in chunk])
            # transformers types `self` as another class.
            sequences = cast(Any, model).generate(
                ids,
                attention_mask=(ids != pad).long(),
                num_return_sequences=num_samples,
                max_new_tokens=max_new_tokens,
                do_sample=True,
                top_k=0,
            )
            texts += tokenizer.batch_decode(sequences[:, width:], skip_special_tokens=True)
    model.train(training)
    return [texts[i : i + num_samples] for i in range(0, len(texts), num_samples)]


def measure(
    model: "Qwen3ForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    num_samples: int = 64,
    seed: int = 0,
    max_new_tokens: int = 32,
) -> SampleFigures:
    """Sample each prompt `num_samples` times and score the samples by the task's reward."""
    responses = sample(model, tokenizer, prompts, num_samples, max_new_tokens=max_new_tokens, seed=seed)
    correct, distinct, parsed = 0.0, 0, 0
    for prompt, texts in zip(prompts, responses, strict=True):
        task = prompt.task
        scores = [task.compute_score(task.DATA_SOURCE, text, prompt.ground_truth) for text in texts]
        correct += sum(score["acc"] for score in scores)
        distinct += len({score.get("strategy", score["pred"]) for score in scores if score["acc"]} - {""})
        parsed += sum(score["pred"] != "" for score in scores)
    total = len(prompts) * num_samples
    return SampleFigures(correct / total, distinct / len(prompts), parsed / total)


class _Batches:
    """Fresh batches of prompt, sampled answer and eos, padded on the right."""

    def __init__(self, prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", config: WarmStartConfig):
        self.tokenizer = tokenizer
        self.config = config
        self.rng = random.Random(config.seed)
        self.examples = [
            (prompt.tokens, prompt.task.Problem.from_ground_truth(prompt.ground_truth)) for prompt in prompts
        ]

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels, both (batch, length)."""
        chosen = self.rng.choices(self.examples, k=self.config.batch_size)
        answers = [problem.sample_answer(self.rng, self.config.wrong_share) for _, problem in chosen]
        ends = [[*answer, self.tokenizer.eos_token_id] for answer in self.tokenizer(answers).input_ids]
        length = max(len(tokens) + len(end) for (tokens, _), end in zip(chosen, ends, strict=True))
        ids, labels = [], []
        for (tokens, _), end in zip(chosen, ends, strict=True):
            padding = length - len(tokens) - len(end)
            ids.append([*tokens, *end, *[self.tokenizer.pad_token_id] * padding])
            labels.append([*[IGNORED] * len(tokens), *end, *[IGNORED] * padding])
        return torch.tensor(ids), torch.tensor(labels)


def train(
    model: "Qwen3ForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Prompt],
    config: WarmStartConfig,
    report: Callable[[str], None] = print,
) -> int:
    """Train the model in place on sampled answers to `prompts`, and return the number of steps done.

    `report` gets a line of progress about once a second, and one for each check of the target.
    """
    batches = _Batches(prompts, tokenizer, config)
    checked = random.Random(config.seed).sample(prompts, min(64, len(prompts)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, config))
    model.train()
    started = reported = time.monotonic()
    for step in range(1, config.steps + 1):
        ids, labels = batches.draw()
        logits = model(input_ids=ids).logits[:, :-1]
        learned = labels[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(logits[learned], labels[:, 1:][learned])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        now = time.monotonic()
        if now - reported >= 1.0 or step == config.steps:
            reported = now
            report(f"step {step}/{config.steps}: loss {loss.item():.3f}, {now - started:.0f} s")
        if step % config.check_every == 0 and step < config.steps:
            figures = measure(model, tokenizer, checked, 16, config.seed, config.max_new_tokens)
            report(f"step {step}: pass@1 {figures.pass_at_1:.3f} on training prompts (target {config.target})")
            if figures.pass_at_1 >= config.target:
                break
    model.eval()
    return step


def _learning_rate_factor(step: int, config: WarmStartConfig) -> float:
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
