"""Batches of texts from many requests: order, bounds, cancellation and failure."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fungible.engine.embeddings import Batcher, BatchLimits, fill
from fungible.engine.metrics import render
from fungible.errors import EngineError, UnavailableError, UpstreamBusyError

Tokens = Sequence[int]


class SumEncoder:
    """An embedding is a text's sum and its length; a gate may hold each batch back."""

    def __init__(
        self,
        gate: threading.Semaphore | None = None,
        fault: Callable[[NDArray[np.int64]], None] | None = None,
    ) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.begun = threading.Semaphore(0)
        self.closed = False
        self._gate = gate
        self._fault = fault

    def encode(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        self.begun.release()
        if self._gate is not None:
            assert self._gate.acquire(timeout=20)
        if self._fault is not None:
            self._fault(ids)
        self.shapes.append(ids.shape)
        assert (ids[mask == 0] == 0).all()
        return np.stack([(ids * mask).sum(1), mask.sum(1)], axis=1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def running(
    encoder: SumEncoder, *, tokens: int = 64, waiting: int = 1000
) -> AsyncIterator[Batcher]:
    batcher = Batcher(encoder, BatchLimits(tokens=tokens, waiting=waiting))
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


def wanted(texts: Sequence[Tokens]) -> list[list[float]]:
    return [[sum(text), len(text)] for text in texts]


async def busy(batcher: Batcher, encoder: SumEncoder) -> asyncio.Task[NDArray[np.float32]]:
    """A request whose batch waits at the gate."""
    task = asyncio.create_task(batcher.embed([[1]]))
    assert await asyncio.to_thread(encoder.begun.acquire, timeout=20)
    return task


_TEXTS = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=40), min_size=1, max_size=30)


@given(requests=st.lists(_TEXTS, min_size=1, max_size=5), tokens=st.integers(1, 100))
def test_every_text_gets_its_own_embedding_in_bounded_batches(
    requests: list[list[list[int]]], tokens: int
) -> None:
    encoder = SumEncoder()

    async def run() -> list[NDArray[np.float32]]:
        async with running(encoder, tokens=tokens, waiting=10**6) as batcher:
            return await asyncio.gather(*(batcher.embed(texts) for texts in requests))

    found = asyncio.run(run())
    assert [rows.tolist() for rows in found] == [wanted(texts) for texts in requests]
    assert all(rows == 1 or rows * longest <= tokens for rows, longest in encoder.shapes)
    assert sum(rows for rows, _ in encoder.shapes) == sum(map(len, requests))


async def test_what_queues_is_sorted_by_length_across_requests() -> None:
    gate = threading.Semaphore(0)
    encoder = SumEncoder(gate)
    async with running(encoder, tokens=40) as batcher:
        first = await busy(batcher, encoder)
        long, short = [3] * 20, [2] * 5
        others = [asyncio.create_task(batcher.embed([long, short] * 2)) for _ in range(2)]
        await asyncio.sleep(0)
        gate.release(100)
        await asyncio.gather(first, *others)
        # Four long texts in pairs, then the four short ones together: nothing is filled up.
        assert encoder.shapes == [(1, 1), (2, 20), (2, 20), (4, 5)]
        assert batcher.metrics.padding.value == 0
        assert batcher.metrics.prompt_tokens.value == 1 + 4 * 20 + 4 * 5


async def test_a_full_queue_turns_requests_away_until_it_is_worked_off() -> None:
    gate = threading.Semaphore(0)
    encoder = SumEncoder(gate)
    async with running(encoder, waiting=3) as batcher:
        first = await busy(batcher, encoder)
        second = asyncio.create_task(batcher.embed([[1]] * 5))  # nothing waits: taken
        await asyncio.sleep(0)
        with pytest.raises(UpstreamBusyError, match="5 texts wait"):
            await batcher.embed([[1]])
        gate.release(100)
        await asyncio.gather(first, second)
        assert (await batcher.embed([[7]])).tolist() == [[7, 1]]


async def test_a_cancelled_request_leaves_the_queue() -> None:
    gate = threading.Semaphore(0)
    encoder = SumEncoder(gate)
    async with running(encoder) as batcher:
        first = await busy(batcher, encoder)
        gone = asyncio.create_task(batcher.embed([[5]] * 4))
        stays = asyncio.create_task(batcher.embed([[6]]))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.metrics.waiting.value == 1
        gate.release(100)
        await first
        assert (await stays).tolist() == [[6, 1]]
        assert encoder.shapes == [(1, 1), (1, 1)]
        assert batcher.metrics.finished["abort"].value == 1


@pytest.mark.parametrize("error", [EngineError("no memory"), ValueError("odd")])
async def test_a_batch_that_fails_fails_its_own_requests_only(error: Exception) -> None:
    def fault(ids: NDArray[np.int64]) -> None:
        if 13 in ids:
            raise error

    async with running(SumEncoder(fault=fault), tokens=4) as batcher:
        with pytest.raises(EngineError, match=str(error)):
            await batcher.embed([[13, 1, 1], [1], [1], [1], [1]])
        assert (await batcher.embed([[2]])).tolist() == [[2, 1]]
        assert batcher.metrics.step_failures.value == 1
        assert batcher.metrics.waiting.value == 0


async def test_closing_turns_away_what_waits() -> None:
    gate = threading.Semaphore(0)
    encoder = SumEncoder(gate)
    async with running(encoder) as batcher:
        first = await busy(batcher, encoder)
        late = asyncio.create_task(batcher.embed([[1]]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        gate.release(100)
        with pytest.raises(UnavailableError, match="shutting down"):
            await late
        assert (await first).tolist() == [[1, 1]]
        await closing
        assert encoder.closed
        with pytest.raises(UnavailableError):
            await batcher.embed([[1]])


async def test_metrics_have_the_names_of_vllm() -> None:
    async with running(SumEncoder()) as batcher:
        await batcher.embed([[1, 2], [3]])
        page = render(batcher.metrics, 'a "model"').decode()
    assert 'vllm:prompt_tokens_total{model_name="a \\"model\\""} 3' in page
    assert 'finished_reason="stop"} 1' in page
    assert "vllm:e2e_request_latency_seconds_count" in page


def test_texts_are_filled_up_on_the_right() -> None:
    ids, mask = fill([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
