"""Real vLLM servers on the CPU, for the tests of the judge and of the embedder: one of each for all tests.

The judge is a tiny decoder with random weights: what it says is noise, so that a valid verdict is the work of the
structured output alone. The embedding model is the real all-MiniLM-L6-v2.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.signals.fake_server import free_port

START_SECONDS = 240
END_SECONDS = 15
JUDGE_CONTEXT = 16_384
COMPACT = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
"""Of --structured-outputs-config. Without it the grammar allows white space without end between the values."""

JUDGE_OPTIONS = [
    "--structured-outputs-config",
    COMPACT,
    # All prompts of a test in one step: where the prompt of a request with a seed and a temperature does not fit into
    # what is left of a step, vLLM 0.28 on CPUs ends with "CPU Generator does not use offset".
    "--max-num-batched-tokens",
    "65536",
]

# As Qwen's: each message between special tokens, which a hostile response would like to write itself.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # the tests need a core too
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker in one process: a third less to import
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "",
}


@dataclass(frozen=True)
class VllmServer:
    """A server that is up. url: with /v1. folder: of its model and tokenizer. pid: of its first process."""

    url: str
    model: str
    folder: str
    pid: int

    def tokenize(self, messages: list[dict[str, str]]) -> list[int]:
        """The prompt's tokens, as the server's own chat template and tokenizer make them."""
        body = json.dumps({"model": self.model, "messages": messages}).encode()
        request = urllib.request.Request(
            self.url.removesuffix("/v1") + "/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["tokens"]


@contextmanager
def serve_vllm(
    folder: Path, name: str, log: Path, *options: str, limit_s: float = START_SECONDS
) -> Iterator[VllmServer]:
    """Serve the model in `folder` as `name`; RuntimeError with the end of `log` where it does not start in time.

    The processes of the server have a session of their own, by which all of them are found and ended: vLLM's engine is
    a process that outlives a killed server.
    """
    port = free_port()
    address = ["--host", "127.0.0.1", "--port", str(port)]
    model = ["--model", str(folder), "--served-model-name", name, "--dtype", "float32", "--enforce-eager"]
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *address, *model, *options],
            env={**os.environ, **ENVIRONMENT},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log, limit_s)
        yield VllmServer(f"http://127.0.0.1:{port}/v1", name, str(folder), process.pid)
    finally:
        end_session(process)


def end_with_parent() -> None:
    """Let the kernel end the server where pytest itself is killed, e.g. by `timeout`, and `finally` never runs."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:  # not listening yet, or not healthy
            time.sleep(0.1)
    state = "is not up" if process.poll() is None else f"ended with {process.returncode}"
    raise RuntimeError(f"vLLM {state} after at most {limit_s:.0f} s:\n{log.read_text(errors='replace')[-4000:]}")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Ask all processes of the session to end, and end those that do not."""
    subprocess.run(["pkill", "-TERM", "--session", str(process.pid)], check=False)
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline and (process.poll() is None or session(process.pid)):
        time.sleep(0.1)
    subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
    process.wait()


def session(pid: int) -> list[int]:
    """The processes of the session that process `pid` leads."""
    found = subprocess.run(["pgrep", "--session", str(pid)], stdout=subprocess.PIPE, check=False)
    return [int(line) for line in found.stdout.split()]


def save_tiny_judge(folder: Path) -> None:
    """The package's tiny model, untrained, with a judge's chat template and a context that holds a judge's prompt."""
    from verl_setpo.tasks.tiny_model import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = JUDGE_CONTEXT
    model = build_model(tokenizer, layers=2)
    model.config.max_position_embeddings = JUDGE_CONTEXT  # rotary: no weight depends on it
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def judge_model(tmp_path_factory) -> Path:
    """A folder with the tiny judge."""
    folder = tmp_path_factory.mktemp("tiny_judge")
    save_tiny_judge(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_judge(judge_model, tmp_path_factory) -> Iterator[VllmServer]:
    """The tiny judge behind vLLM, with compact structured output."""
    log = tmp_path_factory.mktemp("vllm_judge") / "server.log"
    with serve_vllm(judge_model, "judge", log, *JUDGE_OPTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def vllm_embeddings(tmp_path_factory) -> Iterator[VllmServer]:
    """all-MiniLM-L6-v2 behind vLLM, which reads pooling, normalisation and the limit of 256 tokens from its folder."""
    from tests.signals.embedding.models import MINILM

    log = tmp_path_factory.mktemp("vllm_embeddings") / "server.log"
    with serve_vllm(Path(MINILM), "all-MiniLM-L6-v2", log, "--runner", "pooling") as server:
        yield server
