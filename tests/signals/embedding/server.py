"""A `/v1/embeddings` server over real HTTP, with the real model behind it, that can be told to misbehave."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from tests.signals.embedding.models import minilm

MODEL = "all-MiniLM-L6-v2"


@dataclass
class Server:
    """inputs: of each request. fault: makes another answer of the right one, or None for the right one."""

    url: str
    inputs: list[list[str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    fault: Callable[[dict[str, Any]], Any] | None = None
    seconds: float = 0.0
    in_flight: int = 0
    most_in_flight: int = 0
    decimals: bool = False
    lists_models: bool = True


@contextmanager
def embedding_server() -> Iterator[Server]:
    app, lock = FastAPI(), threading.Lock()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    state = Server(f"http://127.0.0.1:{sock.getsockname()[1]}/v1")

    @app.get("/v1/models")
    def models() -> Any:
        if not state.lists_models:
            return Response(status_code=404)
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "tests"}]}

    @app.post("/v1/embeddings")
    def embeddings(body: dict[str, Any]) -> Response:
        texts = body["input"]
        with lock:
            state.inputs.append(texts)
            state.bodies.append(body)
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
        time.sleep(state.seconds)
        with lock:
            vectors = minilm().encode(texts, show_progress_bar=False, truncate_dim=body.get("dimensions"))
            state.in_flight -= 1
        data = [
            {"object": "embedding", "index": i, "embedding": vector.tolist() if state.decimals else packed(vector)}
            for i, vector in enumerate(vectors)
        ]
        right = {
            "object": "list",
            "model": body["model"],
            "data": data,
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        }
        made = state.fault(right) if state.fault else right
        return made if isinstance(made, Response) else JSONResponse(made)

    config = uvicorn.Config(app, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield state
    finally:
        server.should_exit = True
        thread.join(10)


def packed(vector: Any) -> str:
    """A vector as base64 of 32-bit floats, as OpenAI and vLLM send it."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").copy()
