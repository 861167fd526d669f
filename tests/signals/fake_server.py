"""An OpenAI-compatible server for faults: a real HTTP server in a thread that answers as a test tells it to."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

Answer = Callable[[dict[str, Any]], Response]


class FakeServer:
    """`then` holds what the next requests get, `always` what all others get; `asked` their bodies, `headers` theirs."""

    def __init__(self, always: Answer, models: list[str], key: str | None) -> None:
        self.always, self.models, self.key = always, models, key
        self.then: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.url = ""
        self.app = FastAPI()
        self.app.get("/v1/models")(self._list_models)
        self.app.post("/v1/chat/completions")(self._complete)

    def _refusal(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if self.key is None or given == f"Bearer {self.key}":
            return None
        # As some servers do: repeat the key.
        return JSONResponse({"error": {"message": f"Incorrect key provided: {given}", "code": "bad_key"}}, 401)

    async def _list_models(self, request: Request) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.models]
        return self._refusal(request) or JSONResponse({"object": "list", "data": data})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(time.monotonic())
        refusal = self._refusal(request)
        if refusal:
            return refusal
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.01)
            return (self.then.pop(0) if self.then else self.always)(body)
        finally:
            self.in_flight -= 1


def completion(content: str, finish_reason: str = "stop") -> Response:
    return JSONResponse(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [
                {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


def says(content: str) -> Answer:
    return lambda body: completion(content)


def fails(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda body: JSONResponse({"error": {"message": message, "code": code}}, status, headers=named)


def raw(text: str, media_type: str = "application/json") -> Answer:
    return lambda body: Response(text, media_type=media_type)


def half_a_body(body: dict[str, Any]) -> Response:
    async def some() -> Any:
        yield b'{"id": "x", "choi'

    return StreamingResponse(some(), media_type="application/json", headers={"content-length": "1000"})


def hangs(seconds: float) -> Answer:
    def answer(body: dict[str, Any]) -> Response:
        async def slowly() -> Any:
            # A byte now and then: a timeout between two bytes never sees this.
            for _ in range(int(seconds / 0.05)):
                yield b" "
                await asyncio.sleep(0.05)
            yield json.dumps({"choices": []}).encode()

        return StreamingResponse(slowly(), media_type="application/json")

    return answer


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def serve(
    always: Answer | None = None, *, models: list[str] | None = None, key: str | None = None
) -> Iterator[FakeServer]:
    fake = FakeServer(always or says("hello"), models or ["judge"], key)
    config = uvicorn.Config(fake.app, host="127.0.0.1", port=free_port(), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    fake.url = f"http://127.0.0.1:{config.port}/v1"
    try:
        yield fake
    finally:
        # Not waited for: it looks every 0.1 s, and there are many of these.
        server.force_exit = server.should_exit = True
