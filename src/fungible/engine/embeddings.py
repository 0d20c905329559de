"""Texts of many requests, embedded in batches of similar length by one worker thread.

There is no waiting for a batch to fill: while one is computed the next texts queue, and the
worker takes what there is. Oldest texts come first: those whose tokens fit a few batches are
sorted by length and cut into batches, so that short texts are not filled up to long ones and
long ones do not wait for ever.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.engine.embedding_metrics import EmbeddingMetrics
from fungible.engine.runtimes.encoder_base import Encoder
from fungible.errors import EngineError, FungibleError, UnavailableError, UpstreamBusyError

MOST_TEXTS = 256  # of a batch
# So many batches' worth of texts are sorted together.
_AHEAD = 4
Embeddings = NDArray[np.float32]


class BatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch and the queue may hold.

    Attributes:
        tokens: Texts times the longest of them, in one batch; a text alone may have more.
        waiting: Texts in the queue beyond which requests are turned away; a request that comes
            when nothing waits is always taken.
    """

    tokens: int
    waiting: int


class _Job:
    """One request."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Embeddings] = self.loop.create_future()
        self.submitted = time.monotonic()
        self.texts = texts
        self.rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        self.left = len(texts)
        self.ended = False

    def settle(self, outcome: Embeddings | FungibleError) -> None:
        """Wake the request, from any thread."""
        self.ended = True

        def wake() -> None:
            if self.future.done():
                return
            if isinstance(outcome, FungibleError):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(wake)


class _Text(msgspec.Struct, frozen=True):
    """One text of a job."""

    job: _Job
    index: int

    @property
    def tokens(self) -> Sequence[int]:
        """Its token ids."""
        return self.job.texts[self.index]


class Batcher:
    """Runs an encoder for many requests.

    Args:
        encoder: The worker thread calls it; `close` closes it.
        limits: See `BatchLimits`.

    Attributes:
        metrics: What `/metrics` shows.
    """

    def __init__(self, encoder: Encoder, limits: BatchLimits) -> None:
        self.metrics = EmbeddingMetrics()
        self._encoder = encoder
        self._limits = limits
        self._waiting: deque[_Text] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="embeddings", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    async def close(self) -> None:
        """Turn away what waits, finish the current batch, and close the encoder."""
        with self._wake:
            self._closing = True
            for text in self._waiting:
                self._fail(text.job, UnavailableError("the engine is shutting down"))
            self._waiting.clear()
            self._wake.notify()
        if self._worker.is_alive():
            await asyncio.to_thread(self._worker.join)
        self._encoder.close()

    async def embed(self, texts: Sequence[Sequence[int]]) -> Embeddings:
        """Embeddings float32 `(len(texts), hidden)` of texts of one token or more.

        Cancelling the call gives up those that are not in a batch yet.

        Raises:
            EngineError: The encoder failed.
            UnavailableError: The engine is shutting down.
            UpstreamBusyError: Too many texts wait already.
        """
        job = _Job(texts)
        with self._wake:
            if self._closing:
                raise UnavailableError("the engine takes no requests: it is shutting down")
            there = len(self._waiting)
            if there and there + len(texts) > self._limits.waiting:
                raise UpstreamBusyError(f"{there} texts wait already", hint="try again in a second")
            self._waiting.extend(_Text(job, index) for index in range(len(texts)))
            self.metrics.waiting.value = len(self._waiting)
            self._wake.notify()
        try:
            return await job.future
        finally:
            with self._wake:
                self._give_up(job)

    def _give_up(self, job: _Job) -> None:
        if not job.ended:
            job.ended = True
            self.metrics.finished["abort"].value += 1
        if job.left:
            self._waiting = deque(text for text in self._waiting if text.job is not job)
            self.metrics.waiting.value = len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                window = self._take_window()
            for batch in cut(window, self._limits.tokens):
                with self._wake:
                    there = [text for text in batch if not text.job.ended]
                    self._begin(there)
                if there:
                    self._run(there)

    def _take_window(self) -> list[_Text]:
        """The oldest texts, as many as a few batches hold."""
        room = _AHEAD * self._limits.tokens
        window: list[_Text] = []
        while self._waiting and (not window or room >= len(self._waiting[0].tokens)):
            text = self._waiting.popleft()
            room -= len(text.tokens)
            window.append(text)
        return window

    def _begin(self, batch: Sequence[_Text]) -> None:
        now = time.monotonic()
        self.metrics.waiting.value = len(self._waiting)
        self.metrics.running.value = len(batch)
        for text in batch:
            self.metrics.queue_time.observe(now - text.job.submitted)

    def _run(self, batch: Sequence[_Text]) -> None:
        ids, mask = fill([text.tokens for text in batch])
        started = time.monotonic()
        found: Embeddings | FungibleError
        try:
            found = self._encoder.encode(ids, mask)
        except FungibleError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # the worker must outlive a bad batch
            found = EngineError(f"unexpected: {error!r}")
        with self._wake:
            self._count(ids, mask, time.monotonic() - started)
            if isinstance(found, FungibleError):
                self.metrics.step_failures.value += 1
                for text in batch:
                    self._fail(text.job, found)
                return
            for text, row in zip(batch, found, strict=True):
                self._deliver(text, row)

    def _count(self, ids: NDArray[np.int64], mask: NDArray[np.int64], seconds: float) -> None:
        tokens = int(mask.sum())
        self.metrics.running.value = 0
        self.metrics.prompt_tokens.value += tokens
        self.metrics.padding.value += ids.size - tokens
        self.metrics.step_tokens.observe(tokens)
        self.metrics.step_texts.observe(len(ids))
        self.metrics.step_time.observe(seconds)

    def _deliver(self, text: _Text, row: NDArray[np.float32]) -> None:
        job = text.job
        job.rows[text.index] = row
        job.left -= 1
        if not job.left and not job.ended:
            self.metrics.finished["stop"].value += 1
            self.metrics.request_time.observe(time.monotonic() - job.submitted)
            job.settle(np.stack([one for one in job.rows if one is not None]))

    def _fail(self, job: _Job, error: FungibleError) -> None:
        if not job.ended:
            self.metrics.finished["error"].value += 1
            job.settle(error)


def cut(texts: Sequence[_Text], tokens: int) -> Iterator[list[_Text]]:
    """Batches of texts sorted by length, longest first, so that memory is asked for at once.

    Args:
        texts: To embed.
        tokens: Most of a batch: texts times the longest of them.
    """
    batch: list[_Text] = []
    for text in sorted(texts, key=lambda one: len(one.tokens), reverse=True):
        longest = len(batch[0].tokens) if batch else 0
        if batch and ((len(batch) + 1) * longest > tokens or len(batch) == MOST_TEXTS):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def fill(texts: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask `(B, S)` of texts, filled up on the right to the longest."""
    shape = len(texts), max(len(text) for text in texts)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for at, text in enumerate(texts):
        ids[at, : len(text)], mask[at, : len(text)] = text, 1
    return ids, mask
