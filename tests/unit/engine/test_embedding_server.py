"""`/v1/embeddings` as an application: who is turned away, who leaves, what fails."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fungible.artifacts.encoder_tokenizer import encoder_tokenizer
from fungible.artifacts.manifest import Manifest
from fungible.artifacts.model_config import EncoderConfig
from fungible.engine.embedding_server import build_embedding_app
from fungible.engine.embedding_text import EmbeddingTokenizer
from fungible.engine.embeddings import Batcher, BatchLimits
from fungible.errors import EngineError
from support.asgi import Call
from support.tiny_encoder import FIXTURE
from support.tiny_model import CONFIG

MANIFEST = Manifest(
    name="tiny",
    digest="sha256:abc",
    source="tiny",
    source_digest="sha256:def",
    recipe=1,
    licence="apache-2.0",
    created="2026-01-02T03:04:05+00:00",
    config=CONFIG,
    kind="encoder",
    encoder=EncoderConfig(),
    files={},
    variants={},
    versions={},
)


class GatedEncoder:
    """Embeds a text as its length, once its gate opens; the token 13 breaks it."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.rows = 0

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        self.begun.release()
        assert self.gate.acquire(timeout=20)
        if 13 in ids:
            raise EngineError("the device is out of memory")
        self.rows += len(ids)
        return mask.sum(1, keepdims=True).astype(np.float32)

    def close(self) -> None:
        pass


class Served:
    """The application and what is under it."""

    def __init__(self, app: Any, batcher: Batcher, encoder: GatedEncoder) -> None:
        self.app, self.batcher, self.encoder = app, batcher, encoder

    def embed(self, value: object, **fields: Any) -> Call:
        body = {"model": "tiny", "input": value, **fields}
        return Call(self.app, "POST", "/v1/embeddings", body)

    async def begun(self) -> None:
        """Wait until a batch stands at the gate."""
        assert await asyncio.to_thread(self.encoder.begun.acquire, timeout=20)

    async def waiting(self, count: int) -> None:
        """Wait until so many texts are in the queue."""
        async with asyncio.timeout(20):
            while self.batcher.metrics.waiting.value != count:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(directory: Path, *, waiting: int = 100) -> AsyncIterator[Served]:
    (directory / "tokenizer.json").write_bytes(encoder_tokenizer(FIXTURE, 45)[0])
    encoder = GatedEncoder()
    batcher = Batcher(encoder, BatchLimits(tokens=64, waiting=waiting))
    tokenizer = EmbeddingTokenizer(directory, vocab=45, context=40)
    app = build_embedding_app(batcher, tokenizer, MANIFEST)
    batcher.start()
    try:
        yield Served(app, batcher, encoder)
    finally:
        encoder.gate.release(1000)
        await batcher.close()


async def test_texts_have_start_and_end_and_tokens_are_as_they_are(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        one.encoder.gate.release(10)
        texts = await one.embed(["the sea", "x"]).done()
        assert [item["embedding"] for item in texts.json()["data"]] == [[4.0], [3.0]]
        tokens = await one.embed([5, 8]).done()
        assert [item["embedding"] for item in tokens.json()["data"]] == [[2.0]]
        assert tokens.json()["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
        assert tokens.headers["x-request-id"].startswith("req_")


async def test_a_full_queue_is_429(tmp_path: Path) -> None:
    async with served(tmp_path, waiting=2) as one:
        first = one.embed("x")
        await one.begun()
        second = one.embed(["x", "x"])
        await one.waiting(2)
        third = await one.embed("x").done()
        assert third.status == 429
        assert third.headers["retry-after"] == "1"
        one.encoder.gate.release(10)
        assert [(await call.done()).status for call in (first, second)] == [200, 200]


async def test_a_client_that_leaves_takes_its_texts_with_it(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        first = one.embed("x")
        await one.begun()
        gone, stays = one.embed(["x"] * 5), one.embed("the sea")
        await one.waiting(6)
        gone.leave()
        await gone.done()
        await one.waiting(1)
        one.encoder.gate.release(10)
        assert [(await call.done()).status for call in (first, stays)] == [200, 200]
        assert (gone.status, one.encoder.rows) == (0, 2)


async def test_a_batch_that_fails_is_an_error_of_the_engine(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        one.encoder.gate.release(10)
        failed = await one.embed([13]).done()
        assert (failed.status, failed.json()["error"]["code"]) == (500, "engine_error")
        assert "out of memory" in failed.json()["error"]["message"]
        assert (await one.embed([5]).done()).status == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "tiny"}'])
async def test_a_malformed_body_is_400(tmp_path: Path, body: bytes) -> None:
    async with served(tmp_path) as one:
        call = await Call(one.app, "POST", "/v1/embeddings", body).done()
        assert call.status == 400
        assert call.json()["error"]["type"] == "invalid_request_error"
