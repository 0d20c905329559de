"""The engine's HTTP side: the OpenAI contract over one scheduler."""

import contextlib
import datetime as dt
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fungible.artifacts.manifest import Manifest
from fungible.contract.exposition import CONTENT_TYPE
from fungible.contract.openai import ModelCard, ModelList
from fungible.engine.chat import ChatEndpoint
from fungible.engine.completions import CompletionsEndpoint
from fungible.engine.exchange import RequestIds
from fungible.engine.http_answers import ERROR_HANDLERS, json_answer, refusals
from fungible.engine.scheduler import Scheduler
from fungible.engine.tokenize import TokenizeEndpoints
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import UnavailableError


def build_app(
    scheduler: Scheduler,
    tokenizer: ChatTokenizer,
    manifest: Manifest,
    *,
    model_name: str = "",
    target: str = "",
    variant: str = "",
) -> Starlette:
    """The application; it starts the scheduler with its lifespan and closes it at its end.

    Args:
        scheduler: Not started yet.
        tokenizer: The artifact's.
        manifest: Says what `/v1/models` and `/health` tell about the artifact.
        model_name: What clients call the model; empty takes the artifact's name.
        target: Where the model runs, for `/health`.
        variant: Which precision runs, for `/health`.
    """
    model = model_name or manifest.name

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        try:
            yield
        finally:
            await scheduler.close()

    chat = ChatEndpoint(scheduler, tokenizer, model)
    completions = CompletionsEndpoint(scheduler, tokenizer, model)
    text = TokenizeEndpoints(tokenizer, model, scheduler.limits)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/tokenize", text.tokenize, methods=["POST"]),
            Route("/detokenize", text.detokenize, methods=["POST"]),
            *_facts(scheduler, manifest, model, target=target, variant=variant),
            *refusals(
                ("/v1/embeddings",),
                "this model generates text and has no embeddings",
                "send embeddings to an engine that serves an embedding model",
            ),
        ],
        exception_handlers=ERROR_HANDLERS,
        middleware=[Middleware(RequestIds)],
        lifespan=lifespan,
    )


def _facts(
    scheduler: Scheduler, manifest: Manifest, model: str, *, target: str, variant: str
) -> list[Route]:
    """What runs here, and how it fares."""
    created = int(dt.datetime.fromisoformat(manifest.created).timestamp())

    async def models(_: Request) -> Response:
        return json_answer(ModelList(data=[ModelCard(id=model, created=created)]))

    async def health(_: Request) -> Response:
        if problem := scheduler.problem():
            raise UnavailableError(f"the engine cannot answer: {problem}")
        facts = {"status": "ok", "model": model, "artifact": manifest.digest}
        return json_answer(facts | {"variant": variant, "target": target})

    async def metrics(_: Request) -> Response:
        return Response(scheduler.metrics.render(model), media_type=CONTENT_TYPE)

    return [Route("/v1/models", models), Route("/health", health), Route("/metrics", metrics)]
