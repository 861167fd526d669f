"""A served model: real HTTP, the real all-MiniLM-L6-v2 behind it, and servers that answer nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import Response

from tests.signals.embedding.models import FACTORING, MINILM, PROBABILITY, TRIANGLE, minilm
from tests.signals.embedding.server import MODEL, Server, embedding_server, packed, unpacked
from tests.tasks.hostile import HOSTILE_TEXTS
from verl_setpo.set_rl import cosine_kernel
from verl_setpo.signals.embedding import Embedded, EmbeddingError, build_embedder, read_embedder

SOLUTIONS = [*FACTORING, *TRIANGLE, *PROBABILITY]


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    minilm()
    with embedding_server() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """The module's server, as new."""
    shared.__dict__.update(Server(shared.url).__dict__)
    return shared


def run(work: Callable[[Any], Awaitable[Any]], server: Server, **keys: Any) -> Any:
    keys = {"base_url": server.url, "model": MODEL, "tokenizer": MINILM, "max_tokens": 256, "max_retries": 0, **keys}

    async def main() -> Any:
        embedder = build_embedder("endpoint", keys)
        try:
            return await work(embedder)
        finally:
            await embedder.close()

    return asyncio.run(main())


def embed(texts: list[str], server: Server, **keys: Any) -> Embedded:
    return run(lambda embedder: embedder.embed(texts), server, **keys)


def encoded(texts: list[str], **keys: Any) -> torch.Tensor:
    return torch.from_numpy(minilm().encode(texts, show_progress_bar=False, **keys))


def close_to(vectors: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(vectors, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("decimals", [False, True], ids=["base64", "decimals"])
def test_vectors_are_those_of_the_served_model(server, decimals):
    server.decimals = decimals
    got = embed(SOLUTIONS, server)
    close_to(got.vectors, encoded(SOLUTIONS))
    assert (got.vectors.dtype, got.truncated, got.asked) == (torch.float32, 0, 6)
    assert server.inputs == [SOLUTIONS]
    assert server.bodies[0]["encoding_format"] == "base64"


def test_a_paraphrase_is_nearer_than_other_mathematics(server):
    kernel_NN = cosine_kernel(embed(SOLUTIONS, server).vectors[None])[0]
    assert min(kernel_NN[0, 1], kernel_NN[2, 3], kernel_NN[4, 5]) > kernel_NN[:2, 2:].max() + 0.1


def test_batches_go_out_in_parallel_and_come_back_in_order(server):
    server.seconds = 0.2
    texts = [f"{text} Step {i}." for i in range(4) for text in SOLUTIONS]
    got = embed(texts, server, batch_tokens=200, batch_texts=5)
    close_to(got.vectors, encoded(texts))
    assert sorted(text for batch in server.inputs for text in batch) == sorted(texts)
    assert max(len(batch) for batch in server.inputs) == 5
    assert all(sum(len(minilm().tokenizer(t)["input_ids"]) for t in batch) <= 200 for batch in server.inputs)
    assert server.most_in_flight > 2


def test_concurrency_bounds_the_requests_in_flight(server):
    server.seconds = 0.05
    embed(SOLUTIONS, server, batch_texts=1, concurrency=2)
    assert (len(server.inputs), server.most_in_flight) == (6, 2)


def test_several_servers_share_the_work(server):
    with embedding_server() as second:
        close_to(embed(SOLUTIONS, server, base_url=[server.url, second.url], batch_texts=1).vectors, encoded(SOLUTIONS))
        assert (len(server.inputs), len(second.inputs)) == (3, 3)


def test_a_long_text_is_sent_as_its_head_and_tail(server):
    text = "First we guess. " + "Then we try again. " * 300 + "So x = 2."
    got = embed([text, "short"], server, prompt="Instruct: compare\nQuery:")
    assert got.truncated == 1
    [[sent, short]] = server.inputs
    assert short == "Instruct: compare\nQuery:short"
    assert sent.startswith("Instruct: compare\nQuery:First we guess.")
    assert sent.endswith("So x = 2.")
    assert 250 <= len(minilm().tokenizer(sent)["input_ids"]) <= 256


def test_without_a_tokenizer_bytes_are_counted(server):
    got = embed(["x" * 300, "y" * 252], server, tokenizer=None)
    assert (got.truncated, got.tokens) == (1, 512)


def test_hostile_texts_go_over_the_wire(server):
    got = embed(list(HOSTILE_TEXTS.values()), server, max_tokens=48)
    assert got.vectors.isfinite().all()
    assert all(text.strip() for batch in server.inputs for text in batch)


def test_dimensions_are_asked_for(server):
    close_to(embed(SOLUTIONS, server, dimensions=32).vectors, encoded(SOLUTIONS)[:, :32])
    assert server.bodies[0]["dimensions"] == 32


def test_check_asks_once_and_tells_the_dimension(server):
    async def work(embedder: Any) -> tuple[int, Embedded]:
        await embedder.check()
        return embedder.dimension, await embedder.embed(["", ""])

    dimension, got = run(work, server)
    assert (dimension, got.asked, len(server.inputs)) == (384, 0, 1)
    assert torch.equal(got.vectors, torch.zeros(2, 384))


def test_check_of_a_server_that_lists_no_models_asks_for_an_embedding(server):
    """As text-embeddings-inference."""
    server.lists_models = False
    run(lambda embedder: embedder.check(), server)
    server.fault = lambda right: Response(status_code=404)
    with pytest.raises(EmbeddingError, match=r"algorithm\.set_rl\.signal\.base_url=.* does not serve this"):
        run(lambda embedder: embedder.check(), server)


def test_usage_of_the_server_is_counted(server):
    async def work(embedder: Any) -> Any:
        await embedder.embed(SOLUTIONS)
        return embedder.endpoint.stats

    stats = run(work, server)
    assert (stats.calls, stats.prompt_tokens) == (1, 7)


def test_answers_out_of_order_are_put_in_order(server):
    server.fault = lambda right: {**right, "data": right["data"][::-1]}
    close_to(embed(SOLUTIONS, server).vectors, encoded(SOLUTIONS))


def changed(position: int, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    """A fault: one embedding of the right answer with other fields."""

    def fault(right: dict[str, Any]) -> dict[str, Any]:
        right["data"][position] |= fields
        return right

    return fault


def with_number(number: float) -> Callable[[dict[str, Any]], Any]:
    def fault(right: dict[str, Any]) -> dict[str, Any]:
        vector = unpacked(right["data"][1]["embedding"])
        vector[7] = number
        right["data"][1]["embedding"] = packed(vector)
        return right

    return fault


def raw(content: str, media_type: str) -> Callable[[dict[str, Any]], Any]:
    return lambda right: Response(content, media_type=media_type)


FAULTS = {
    "NaN": with_number(float("nan")),
    "infinity": with_number(float("inf")),
    "one dimension less": changed(0, embedding=packed(np.ones(383))),
    "a number too large for a float": changed(0, embedding=[1e39] * 384),
    "no numbers": changed(0, embedding=["x"] * 384),
    "null": changed(0, embedding=None),
    "nested": changed(0, embedding=[[1.0]] * 384),
    "empty vectors": lambda right: {**right, "data": [{**row, "embedding": ""} for row in right["data"]]},
    "not base64": changed(0, embedding="?" * 2048),
    "cut base64": changed(0, embedding=packed(np.ones(384))[:-5]),
    "bytes that are no floats": changed(0, embedding="AAAA"),
    "one too few": lambda right: {**right, "data": right["data"][:-1]},
    "one too many": lambda right: {**right, "data": [*right["data"], {**right["data"][0], "index": 6}]},
    "one of them twice": lambda right: {**right, "data": [*right["data"], right["data"][0]]},
    "an index twice": changed(0, index=1),
    "an index too high": changed(5, index=6),
    "an index that is no number": changed(0, index="0"),
    "no index": lambda right: {**right, "data": [{"embedding": row["embedding"]} for row in right["data"]]},
    "no data": lambda right: {"object": "list"},
    "data that is no list": lambda right: {**right, "data": {"0": 1}},
    "rows that are no objects": lambda right: {**right, "data": [1, 2, 3, 4, 5, 6]},
    "a list": lambda right: [],
    "null in place of it all": raw("null", "application/json"),
    "half of it": raw('{"object": "list", "data": [', "application/json"),
    "a web page": raw("<html>Welcome</html>", "text/html"),
    "nothing": raw("", "application/json"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_garbage_is_a_bad_answer(server, fault):
    server.fault = fault
    with pytest.raises(EmbeddingError) as error:
        embed(SOLUTIONS, server)
    assert error.value.kind == "bad_answer"
    assert server.url in error.value.message
    assert "\n" not in error.value.message


def test_another_model_behind_one_of_the_urls_is_a_bad_answer(server):
    with embedding_server() as second:
        second.fault = lambda r: {**r, "data": [{**row, "embedding": packed(np.ones(8))} for row in r["data"]]}
        with pytest.raises(EmbeddingError, match=r"bad_answer: .* dimensions.*: is it one model\?"):
            embed(SOLUTIONS, server, base_url=[server.url, second.url], batch_texts=1)


def test_another_dimension_in_a_later_call_is_a_bad_answer(server):
    async def work(embedder: Any) -> None:
        await embedder.embed(["first"])
        server.fault = lambda r: {**r, "data": [{**row, "embedding": packed(np.ones(8))} for row in r["data"]]}
        await embedder.embed(["second"])

    with pytest.raises(EmbeddingError, match=r"bad_answer: .* gave vectors of 8 dimensions after 384"):
        run(work, server)


def test_a_bad_answer_is_asked_for_again(server):
    right = FAULTS["NaN"]
    server.fault = lambda answer: right(answer) if len(server.inputs) == 1 else answer
    close_to(embed(SOLUTIONS, server, max_retries=1).vectors, encoded(SOLUTIONS))
    assert len(server.inputs) == 2


def test_a_server_that_refuses_is_an_error_of_that_kind(server):
    server.fault = lambda right: Response('{"error": {"message": "too long"}}', 400, media_type="application/json")
    with pytest.raises(EmbeddingError, match="too long") as error:
        embed(SOLUTIONS, server, max_retries=3)
    assert error.value.kind == "refused"
    assert len(server.inputs) == 1


def test_check_names_the_key_of_a_model_that_is_not_served(server):
    with pytest.raises(
        EmbeddingError, match=r"algorithm\.set_rl\.signal\.model=other is not served .* it has all-Mini"
    ):
        run(lambda embedder: embedder.check(), server, model="other")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model": "m"}, r"signal\.base_url is missing: set it\.$"),
        ({"base_url": "http://h/v1"}, r"signal\.model is missing: set it\.$"),
        ({"base_url": "h:80", "model": "m"}, r"signal\.base_url must look like http://host:8000/v1\.$"),
        ({"base_url": [], "model": "m"}, r"signal\.base_url is empty\.$"),
        ({"base_url": 3, "model": "m"}, r"signal\.base_url: Input should be a valid string\.$"),
        (
            {"base_url": "http://h/v1", "model": "m", "batch_texts": 0},
            r"signal\.batch_texts: Input should be greater than or equal to 1 \(found 0\)\.$",
        ),
        (
            {"base_url": "http://h/v1", "model": "m", "device": "cpu"},
            r"signal\.device is not a key of this embedder; its keys are .*base_url.*$",
        ),
    ],
)
def test_a_wrong_key_is_one_sentence(keys, sentence):
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\." + sentence):
        read_embedder("endpoint", keys)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"max_tokens": None}, r"signal\.max_tokens must be set"),
        ({"tokenizer": "/no/such"}, r"signal\.tokenizer=/no/such cannot be loaded"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, r"signal\.api_key_env names .* \(NO_SUCH_VARIABLE\) that is not set"),
    ],
)
def test_what_cannot_be_built_names_the_key(keys, sentence):
    with pytest.raises(ValueError, match=r"^algorithm\.set_rl\." + sentence):
        build_embedder("endpoint", {"base_url": "http://h/v1", "model": "m", **keys})


@pytest.mark.parametrize("key", ["base_url", "api_key_env"])
def test_a_secret_in_the_wrong_place_is_not_repeated(key):
    keys = {"base_url": "http://h/v1", "model": "m"} | {key: "http://me:hush@host/v1"}
    with pytest.raises(ValueError, match=key) as error:
        read_embedder("endpoint", keys)
    assert "hush" not in str(error.value)


def test_the_key_is_sent_and_in_no_error(server, monkeypatch):
    monkeypatch.setenv("EMBEDDING_KEY", "hush-hush")
    server.fault = lambda right: Response("hush-hush is wrong", 401)
    with pytest.raises(EmbeddingError) as error:
        embed(SOLUTIONS, server, api_key_env="EMBEDDING_KEY")
    assert "hush-hush" not in str(error.value)
    assert (error.value.__cause__, error.value.__context__) == (None, None)
