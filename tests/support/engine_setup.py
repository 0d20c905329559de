"""Tokenisers, scripts and schedulers over a runtime without a model."""

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fungible.engine.scheduler import Scheduler
from fungible.engine.step_log import StepLog
from fungible.engine.tokenizer import ChatTokenizer
from support.history_runtime import HistoryRuntime, NextToken
from support.tiny_model import CHAT_TEMPLATE, TOKENS, tiny_tokenizer

EOS = 2
SCRIPT_START = TOKENS.index("~")  # a scripted runtime answers after the first of these


def write_tokenizer(directory: Path, *, template: str = CHAT_TEMPLATE) -> None:
    """The tiny model's tokenizer files."""
    (directory / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    (directory / "chat_template.jinja").write_text(template)


def byte_tokens(text: str) -> list[int]:
    """The text as single-byte tokens, so that every character of more bytes is split."""
    spelled = tiny_tokenizer().pre_tokenizer.pre_tokenize_str(text)
    return [TOKENS.index(char) for piece, _ in spelled for char in piece]


def script(text: str, *, tail: int = 0) -> NextToken:
    """The model answers `text`, one byte a token, then ends.

    Args:
        tail: Tokens of the prompt after the first `SCRIPT_START`.
    """
    tokens = byte_tokens(text)

    def next_token(history: list[int]) -> int:
        said = len(history) - history.index(SCRIPT_START) - 1 - tail
        return tokens[said] if said < len(tokens) else EOS

    return next_token


class Running:
    """A started scheduler with its runtime."""

    def __init__(self, scheduler: Scheduler, runtime: HistoryRuntime) -> None:
        self.scheduler = scheduler
        self.runtime = runtime


@asynccontextmanager
async def running(
    tokenizer: ChatTokenizer,
    *,
    slots: int = 4,
    context: int = 64,
    next_token: NextToken | None = None,
    gate: threading.Semaphore | None = None,
    fault: Callable[[str, int], None] | None = None,
    max_waiting: int = 128,
    prefill_chunk: int = 128,
    eos_ids: Sequence[int] = (EOS,),
    prefix_cache: bool = True,
    step_log: StepLog | None = None,
) -> AsyncIterator[Running]:
    """A scheduler at work; its gate, if there is one, is opened at the end."""
    runtime = HistoryRuntime(
        len(TOKENS), slots=slots, context=context, next_token=next_token, gate=gate, fault=fault
    )
    scheduler = Scheduler(
        runtime,
        tokenizer,
        eos_ids=frozenset(eos_ids),
        max_waiting=max_waiting,
        prefill_chunk=prefill_chunk,
        prefix_cache=prefix_cache,
        step_log=step_log,
    )
    scheduler.start()
    try:
        yield Running(scheduler, runtime)
    finally:
        if gate is not None:
            gate.release(10_000)
        await scheduler.close()
