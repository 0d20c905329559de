"""The HTTP side of an engine with an embedding model: `POST /v1/embeddings` over one batcher."""

import asyncio
import base64
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fungible.artifacts.manifest import Manifest
from fungible.contract.embeddings import (
    EmbeddingItem,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
    parse_embedding,
    read_inputs,
)
from fungible.contract.exposition import CONTENT_TYPE
from fungible.contract.openai import ModelCard, ModelList
from fungible.contract.target import Target
from fungible.engine.embedding_text import EmbeddingTokenizer
from fungible.engine.embeddings import Batcher, BatchLimits
from fungible.engine.exchange import RequestIds, read_body
from fungible.engine.http_answers import ERROR_HANDLERS, json_answer, refusals
from fungible.engine.metrics import render
from fungible.engine.runtimes.encoder_base import open_encoder
from fungible.errors import UnknownModelError, UnsupportedError

_GENERATION = ("/v1/chat/completions", "/v1/completions")


def load_embedding_app(
    artifact: Path,
    manifest: Manifest,
    target: Target,
    *,
    variant: str,
    slots: int,
    context: int,
    threads: int,
    queue: int,
    model_name: str,
) -> Starlette:
    """The application with its model in memory.

    Args:
        artifact: Artifact directory.
        manifest: Its manifest, of an encoder.
        target: Runtime and device.
        variant: A variant that the manifest lists.
        slots: A batch has at most as many tokens as so many texts of the longest kind.
        context: Most tokens of one text.
        threads: CPU threads of one batch.
        queue: Texts that may wait.
        model_name: What clients call the model; empty takes the artifact's name.

    Raises:
        FungibleError: The artifact or the target cannot be opened.
    """
    tokenizer = EmbeddingTokenizer(artifact, vocab=manifest.config.vocab, context=context)
    encoder = open_encoder(artifact, variant, target, threads=threads)
    batcher = Batcher(encoder, BatchLimits(tokens=slots * context, waiting=queue))
    return build_embedding_app(
        batcher,
        tokenizer,
        manifest,
        model_name=model_name,
        target=str(target),
        variant=variant,
    )


def build_embedding_app(
    batcher: Batcher,
    tokenizer: EmbeddingTokenizer,
    manifest: Manifest,
    *,
    model_name: str = "",
    target: str = "",
    variant: str = "",
) -> Starlette:
    """The application; it starts the batcher with its lifespan and closes it at its end."""
    model = model_name or manifest.name
    created = int(dt.datetime.fromisoformat(manifest.created).timestamp())

    async def models(_: Request) -> Response:
        return json_answer(ModelList(data=[ModelCard(id=model, created=created)]))

    async def health(_: Request) -> Response:
        facts = {"status": "ok", "model": model, "artifact": manifest.digest}
        return json_answer(facts | {"variant": variant, "target": target})

    async def metrics(_: Request) -> Response:
        return Response(render(batcher.metrics, model), media_type=CONTENT_TYPE)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            await batcher.close()

    embeddings = EmbeddingsEndpoint(batcher, tokenizer, model, manifest.config.hidden)
    return Starlette(
        routes=[
            Route("/v1/embeddings", embeddings, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/metrics", metrics),
            *refusals(
                _GENERATION,
                "this is an embedding model and generates no text",
                "send texts to /v1/embeddings",
            ),
        ],
        exception_handlers=ERROR_HANDLERS,
        middleware=[Middleware(RequestIds)],
        lifespan=lifespan,
    )


class EmbeddingsEndpoint:
    """Answers embedding requests.

    Args:
        model: The one name that requests may ask for.
        width: Numbers of an embedding.
    """

    def __init__(
        self, batcher: Batcher, tokenizer: EmbeddingTokenizer, model: str, width: int
    ) -> None:
        self._batcher = batcher
        self._tokenizer = tokenizer
        self._model = model
        self._width = width

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a client that leaves takes its texts out of the queue."""
        asked = parse_embedding(await read_body(Request(scope, receive)))
        self._check(asked)
        inputs = read_inputs(asked.input)
        texts = await asyncio.to_thread(
            self._tokenizer.read, inputs, truncate=asked.truncate_prompt_tokens
        )
        work = asyncio.create_task(self._batcher.embed(texts))
        watcher = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((work, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return
            found = work.result()
        finally:
            work.cancel()
            watcher.cancel()
        answer = self._answer(asked, found, sum(map(len, texts)))
        await json_answer(answer)(scope, receive, send)

    def _check(self, asked: EmbeddingRequest) -> None:
        if asked.model != self._model:
            raise UnknownModelError(
                f"model {asked.model!r} is not served here",
                hint=f"this engine serves {self._model!r}",
                param="model",
            )
        if asked.dimensions not in (None, self._width):
            raise UnsupportedError(
                f"dimensions is {asked.dimensions}; this model's embeddings have {self._width} "
                "numbers and were not trained to be cut",
                hint="leave dimensions out",
                param="dimensions",
            )

    def _answer(
        self, asked: EmbeddingRequest, found: NDArray[np.float32], tokens: int
    ) -> EmbeddingList:
        packed = asked.encoding_format == "base64"
        return EmbeddingList(
            data=[
                EmbeddingItem(index=at, embedding=_packed(row) if packed else row.tolist())
                for at, row in enumerate(found)
            ],
            model=self._model,
            usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
        )


def _packed(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
