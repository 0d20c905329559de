"""An engine's application over a runtime without a model, for `/v1/completions`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from fungible.artifacts.manifest import Manifest
from fungible.engine.scheduler import Scheduler
from fungible.engine.server import build_app
from fungible.engine.tokenizer import ChatTokenizer
from support.asgi import Call
from support.engine_setup import EOS, script
from support.history_runtime import HistoryRuntime
from support.tiny_model import CONFIG, TOKENS

MANIFEST = Manifest(
    name="tiny",
    digest="sha256:abc",
    source="tiny",
    source_digest="sha256:def",
    recipe=1,
    licence="apache-2.0",
    created="2026-01-02T03:04:05+00:00",
    config=CONFIG,
    files={},
    variants={},
    versions={},
)


class CompletionsEngine:
    """An application and the runtime under it."""

    def __init__(self, app: Starlette, runtime: HistoryRuntime, scheduler: Scheduler) -> None:
        self.app, self.runtime, self.scheduler = app, runtime, scheduler

    def ask(self, **fields: Any) -> Call:
        """Send a completion request; a scripted model answers after the `~` in the prompt."""
        return self.post("/v1/completions", {"model": "tiny", "prompt": "hi ~", **fields})

    def post(self, path: str, body: object) -> Call:
        return Call(self.app, "POST", path, body)


@asynccontextmanager
async def completions_engine(
    tokenizer: ChatTokenizer,
    text: str | None = "Hello é",
    *,
    max_waiting: int = 128,
    context: int = 128,
    **options: Any,
) -> AsyncIterator[CompletionsEngine]:
    """A running engine.

    Args:
        text: What the model answers; `None` gives random-looking logits.
        options: `HistoryRuntime`'s.
    """
    next_token = None if text is None else script(text)
    runtime = HistoryRuntime(len(TOKENS), context=context, next_token=next_token, **options)
    scheduler = Scheduler(runtime, tokenizer, eos_ids=frozenset({EOS}), max_waiting=max_waiting)
    app = build_app(scheduler, tokenizer, MANIFEST, target="test:cpu", variant="f32")
    async with app.router.lifespan_context(app):
        try:
            yield CompletionsEngine(app, runtime, scheduler)
        finally:
            if options.get("gate") is not None:
                options["gate"].release(10_000)
