"""The process that runs vLLM: `python -m verl_setpo.evaluate.engine FD` takes one job and gives samples as they finish.

A process of its own: what an engine leaves behind in memory, on the GPU or as children ends with it. It takes one
model, or checkpoints of one, whose weights it loads one after another: that is quicker than another engine. The job is
one line of JSON on stdin, what comes back are lines of JSON on the descriptor FD; stdout and stderr are vLLM's. When
stdin ends, its parent has gone, and this process ends itself and its children at once.

    job    {"dtype", "engine", "chat_template_kwargs", "trust_remote_code", "sampling", "models":
            [{"path", "sets": [{"messages": {row: [...]}, "wanted": [[row, sample, seed], ...]}]}]}
    back   for each model {"ready": its number}, then {"set", "row", "sample", "input", "output", "finish_reason",
           "num_tokens"} for each sample, and at the end {"done": true}; or {"refused": "one sentence"} for what is
           wrong with the job, or {"error": ...}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

CPU_ENVIRONMENT = {
    # As a verl rollout on the CPU has them (verl_setpo.platforms.cpu), without verl, which takes seconds to import.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_PLUGINS": "",
    "TORCH_COMPILE_DISABLE": "1",
}


class RefusedError(ValueError):
    """The job cannot be done; the message is one sentence for the user."""


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(int(sys.argv[1]), "w", encoding="ascii", buffering=1) as channel:

        def send(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")

        try:
            for message in samples(job):
                send(message)
            send({"done": True})
        except RefusedError as error:
            send({"refused": str(error)})
        except Exception as error:
            import traceback

            traceback.print_exc()
            cause = (str(error).strip() or "no message").splitlines()[0]
            send({"error": f"vLLM stopped with {type(error).__name__}: {cause}"})
    # Not by the interpreter's end: threads of vLLM may wait for one another there.
    sys.stdout.flush()
    os._exit(0)


def _end_with_parent() -> None:
    # Not sys.stdin: its lock would be taken while the interpreter ends.
    while os.read(0, 1):
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def samples(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do the job; see the top of this file.

    Raises:
        RefusedError: a model without a chat template, or prompts that leave no room for a response.
    """
    import torch

    on_cpu = torch.version.cuda is None and torch.version.hip is None
    if on_cpu:
        for name, value in CPU_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    # In this process: scheduling is then the same each time, and one process less has to be ended.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

    from transformers import AutoTokenizer

    first = job["models"][0]["path"]
    tokenizer = AutoTokenizer.from_pretrained(first, trust_remote_code=job["trust_remote_code"])
    # Of all checkpoints before the first sample, so that prompts which do not fit are refused at once.
    prompts = [[_prompts(tokenizer, one["messages"], job) for one in model["sets"]] for model in job["models"]]
    longest = max(len(ids) for of_model in prompts for by_row in of_model for ids in by_row.values())
    engine = _engine(job, longest, on_cpu)
    for number, model in enumerate(job["models"]):
        if number:
            engine.collective_rpc("load_checkpoint", args=(model["path"],))
            engine.reset_prefix_cache()  # it holds what the weights before made of the same prompts
        yield {"ready": number}
        yield from _draw(engine, tokenizer, model, prompts[number], job["sampling"])


def _prompts(tokenizer: Any, messages: dict[str, list[dict[str, str]]], job: dict[str, Any]) -> dict[str, list[int]]:
    return {row: token_ids(tokenizer, of_row, job) for row, of_row in messages.items()}


def _draw(
    engine: Any, tokenizer: Any, model: dict[str, Any], prompts: list[dict[str, list[int]]], sampling: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    wanted = (
        (number, row, sample, seed) for number, one in enumerate(model["sets"]) for row, sample, seed in one["wanted"]
    )
    texts: dict[tuple[int, int], str] = {}
    for number, row, sample, output in _generate(engine, wanted, prompts, sampling):
        if (number, row) not in texts:
            texts[number, row] = str(tokenizer.decode(prompts[number][str(row)], skip_special_tokens=True))
        yield {
            "set": number,
            "row": row,
            "sample": sample,
            "input": texts[number, row],
            # As verl's validation decodes, so that the reward sees the same text.
            "output": tokenizer.decode(list(output.token_ids), skip_special_tokens=True),
            "finish_reason": output.finish_reason,
            "num_tokens": len(output.token_ids),
        }


def token_ids(tokenizer: Any, messages: list[dict[str, str]], job: dict[str, Any]) -> list[int]:
    """The tokens of a prompt as verl's agent loop makes them: by the chat template, with the generation prompt.

    Raises:
        RefusedError: the tokenizer has no chat template, or one that does not take these messages.
    """
    path = job["models"][0]["path"]
    if not tokenizer.chat_template:
        raise RefusedError(
            f"{path} has no chat template, without which verl does not train it either: save one with its tokenizer."
        )
    try:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False, **job["chat_template_kwargs"]
        )
    except Exception as error:  # a template can raise what it likes
        raise RefusedError(f"The chat template of {path} refuses a prompt: {error}") from error
    return [int(token) for token in ids]


def _engine(job: dict[str, Any], longest_prompt: int, on_cpu: bool) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    path, max_tokens = job["models"][0]["path"], job["sampling"]["max_tokens"]
    options: dict[str, Any] = {
        "model": path,
        "dtype": job["dtype"],
        "trust_remote_code": job["trust_remote_code"],
        "disable_log_stats": True,
        "seed": 0,
        "worker_extension_cls": "verl_setpo.platforms.vllm_reload.CheckpointWorkerExtension",
    }
    if on_cpu:
        # A prompt in two parts cannot be drawn from by a seed of its own: vLLM then rewinds the seed's generator by an
        # offset, which only a GPU's has, and ends with "CPU Generator does not use offset".
        options |= {"enforce_eager": True, "enable_chunked_prefill": False}
    options |= job["engine"]
    takes = EngineArgs(**options).create_model_config().max_model_len
    if longest_prompt + max_tokens > takes:
        raise RefusedError(
            f"--max-tokens {max_tokens} and the longest prompt, of {longest_prompt} tokens, are more than the {takes} "
            f"tokens that {path} takes: give --max-tokens {max(takes - longest_prompt, 0)} or less."
        )
    # No longer than needed, so that the cache holds many.
    options.setdefault("max_model_len", longest_prompt + max_tokens)
    return LLMEngine.from_engine_args(EngineArgs(**options))


def _generate(
    engine: Any,
    wanted: Iterator[tuple[int, int, int, int]],
    prompts: list[dict[str, list[int]]],
    sampling: dict[str, Any],
) -> Iterator[tuple[int, int, int, Any]]:
    """Set, row and sample of each response, and the response, as they finish.

    Twice as many as vLLM runs at a time are in its hands, so that it never waits for us, and memory does not grow with
    the number of samples.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    in_flight = 2 * engine.vllm_config.scheduler_config.max_num_seqs
    names: dict[str, tuple[int, int, int]] = {}
    while True:
        while len(names) < in_flight:
            following = next(wanted, None)
            if following is None:
                break
            number, row, sample, seed = following
            name = f"{number}-{row}-{sample}"
            params = SamplingParams(
                **sampling, n=1, seed=seed, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
            )
            engine.add_request(name, {"prompt_token_ids": prompts[number][str(row)]}, params)
            names[name] = (number, row, sample)
        if not names:
            return
        for output in engine.step():
            if output.finished:
                yield *names.pop(output.request_id), output.outputs[0]


if __name__ == "__main__":
    main()
