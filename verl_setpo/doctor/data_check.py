"""Can the data of a run be read, and do its prompts fit?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig
from verl.utils.tokenizer import normalize_token_ids

from verl_setpo.doctor.check import Check, sentence
from verl_setpo.doctor.data_rows import BrokenData, CannotRead, own_reader, sample
from verl_setpo.doctor.model_tokenizer import load_tokenizer

NAMES = {"train_files": "training data", "val_files": "validation data"}
_ANEW = "Write it anew with `verl-setpo data NAME --out FOLDER`, or copy it whole."


def data_checks(config: DictConfig, count: int) -> Iterator[Check]:
    """`count` rows of data.train_files and as many of data.val_files, their prompts in the model's tokens."""
    for key, name in NAMES.items():
        if config.data.get(key) is None:
            continue
        if own_reader(config) is not None:
            yield Check(name, "not done", f"data.custom_cls.path={own_reader(config)} reads it in its own way")
            continue
        try:
            rows, total = sample(config, count, key)
        except CannotRead as error:
            yield Check(name, "not done", str(error))
        except BrokenData as error:
            yield Check(name, "fail", f"data.{key}: {error}", _ANEW)
        else:
            yield _judged(config, key, rows, total)


def _judged(config: DictConfig, key: str, rows: list[dict[str, Any]], total: int) -> Check:
    name = NAMES[key]
    if not rows:
        return Check(name, "fail", f"data.{key} has no row", "Name files that have some.")
    without = next((row["at"] for row in rows if not row["raw_prompt"]), None)
    if without is not None:
        found = f"data.{key}: {without} has no {config.data.get('prompt_key', 'prompt')}"
        return Check(name, "fail", found, "Set data.prompt_key to the column that has the messages.")
    text = next((row["at"] for row in rows if not _is_messages(row["raw_prompt"])), None)
    if text is not None:
        found = f"data.{key}: the prompt of {text} is not a list of messages"
        return Check(name, "fail", found, 'Write each prompt as [{"role": "user", "content": "..."}].')
    if key == "train_files" and (few := _too_few(config, total)):
        return few
    try:
        tokenizer = load_tokenizer(config)
    except Exception as error:  # the hub, a broken folder: each raises its own
        found = f"{total:,} rows, whose prompts cannot be counted: the model's tokenizer cannot be had"
        return Check(name, "not done", f"{found} ({sentence(error)})")
    lengths = []
    for row in rows:
        try:
            lengths.append(tokens_of(config, tokenizer, row["raw_prompt"]))
        except Exception as error:  # a template raises what it likes
            found = f"data.{key}: the model's chat template fails at {row['at']} ({sentence(error)})"
            cure = "Name a model with a chat template that fits, or set actor_rollout_ref.model.custom_chat_template."
            return Check(name, "fail", found, cure)
    return _fitting(config, key, lengths, total)


def _too_few(config: DictConfig, total: int) -> Check | None:
    """A run that trains divides by the number of batches in an epoch (verl 0.9.1, trainer_base.py)."""
    batch, bound = config.data.train_batch_size, config.data.get("train_max_samples", -1)
    only_validates = config.trainer.get("val_only") and config.trainer.get("val_before_train", True)
    if only_validates or not isinstance(batch, int):
        return None
    if total < batch:
        found = f"data.train_files has {total:,} rows, fewer than the {batch:,} of data.train_batch_size"
        cure = f"Set data.train_batch_size to {total} or less, or write more rows."
        return Check(NAMES["train_files"], "fail", found, cure)
    if isinstance(bound, int) and 0 < bound < batch:
        found = f"data.train_max_samples={bound} leaves fewer rows than the {batch:,} of data.train_batch_size"
        return Check(NAMES["train_files"], "fail", found, f"Set data.train_batch_size to {bound} or less.")
    return None


def _is_messages(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() for message in prompt
    )


def tokens_of(config: DictConfig, tokenizer: Any, messages: Any) -> int:
    """As verl counts a prompt without pictures (verl 0.9.1, RLHFDataset.maybe_filter_out_long_prompts)."""
    more: dict[str, Any] = dict(config.data.get("apply_chat_template_kwargs") or {})
    for name in ("tokenize", "return_dict", "return_tensors"):
        more.pop(name, None)
    return len(normalize_token_ids(tokenizer.apply_chat_template(messages, add_generation_prompt=True, **more)))


def _fitting(config: DictConfig, key: str, lengths: list[int], total: int) -> Check:
    """With data.filter_overlong_prompts verl drops a prompt that is too long; without, its agent loop cuts off the
    prompt's beginning at rollout.prompt_length, whatever data.truncation says (verl 0.9.1, agent_loop.py)."""
    drops = bool(config.data.get("filter_overlong_prompts", True))
    limit, option = int(config.data.max_prompt_length), "data.max_prompt_length"
    if not drops and int(config.actor_rollout_ref.rollout.prompt_length) != limit:
        limit, option = int(config.actor_rollout_ref.rollout.prompt_length), "actor_rollout_ref.rollout.prompt_length"
    span = f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    found = f"{total:,} rows; {len(lengths)} prompts of {span} tokens, {option}={limit}"
    long = sum(length > limit for length in lengths)
    if not long:
        return _with_room(config, key, max(lengths), found)
    found = f"{found}: {long} are too long, and verl {'drops them' if drops else 'cuts off their beginning'}"
    cure = f"Set {option}={max(lengths)} or more" + (
        "." if drops else ", or drop them: data.filter_overlong_prompts=True."
    )
    return Check(NAMES[key], "fail" if drops and long == total else "note", found, cure)


def _with_room(config: DictConfig, key: str, prompt: int, found: str) -> Check:
    """verl lets vLLM write no more than rollout.max_model_len has room for (verl 0.9.1, vllm_async_server.py)."""
    rollout = config.actor_rollout_ref.rollout
    whole, response = rollout.get("max_model_len"), int(rollout.response_length)
    if whole is None or prompt + response <= int(whole):
        return Check(NAMES[key], "ok", found)
    found = f"{found}; actor_rollout_ref.rollout.max_model_len={whole} leaves a response {int(whole) - prompt} tokens"
    cure = f"Set it to {prompt + response} or more: data.max_response_length={response}."
    return Check(NAMES[key], "note", found, cure)
