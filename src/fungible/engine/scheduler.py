"""Continuous batching: one worker thread that keeps a runtime's slots busy.

A step admits waiting requests to free slots, runs a bounded number of pieces of the prompts that
are not finished, then adds one token to every answer (Orca, Yu et al., 2022; the bound is
Sarathi-Serve's chunked prefill, Agrawal et al., 2024). A prompt is cut at multiples of one length
from its first token, whatever its neighbours are and a slot holds of it already (`prefix.py`), so
an answer does not change with the load.
"""

import asyncio
import logging
import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from fungible.engine.generation import Generation, GenerationRequest, Mailbox, Output
from fungible.engine.metrics import EngineMetrics
from fungible.engine.prefix import SlotTable
from fungible.engine.runtimes.base import Logits, Runtime
from fungible.engine.sequence import Sequence
from fungible.engine.step_log import StepLog, StepRecorder
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import (
    ContextLengthError,
    EngineError,
    FungibleError,
    UnavailableError,
    UpstreamBusyError,
)

PREFILL_CHUNK = 128
# Pieces between two decode steps. More of them give first tokens sooner and fuller batches, and
# longer pauses in the answers that run already: half a second on two cores, when prompts wait.
_PIECES = 8
_SICK_AFTER = 3  # steps that failed in a row
_JOIN_S = 30.0
_log = logging.getLogger(__name__)


class Scheduler:
    """Runs generations on one runtime.

    `start` and everything but the worker belong to one event loop. The worker owns the
    runtime from `start` to `close`, which closes it.

    Args:
        eos_ids: Tokens that end an answer.
        max_waiting: Requests that may wait for a slot; more are refused.
        prefill_chunk: Prompts are cut into pieces of so many tokens.
        prefill_budget: Most prompt tokens run between two decode steps; default: eight pieces.
        prefix_cache: Start prompts from what slots hold of them already.
        step_log: Records every step; closed with the scheduler.
    """

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: ChatTokenizer,
        *,
        eos_ids: frozenset[int],
        max_waiting: int = 128,
        prefill_chunk: int = PREFILL_CHUNK,
        prefill_budget: int | None = None,
        prefix_cache: bool = True,
        step_log: StepLog | None = None,
    ) -> None:
        self.metrics = EngineMetrics()
        self.limits = runtime.limits
        self._runtime = runtime
        self._tokenizer = tokenizer
        self._eos_ids = eos_ids
        self._max_waiting = max_waiting
        self._chunk = prefill_chunk
        self._budget = prefill_budget or _PIECES * prefill_chunk
        self._wake = threading.Condition()
        self._waiting: deque[Generation] = deque()
        self._active: dict[int, Sequence] = {}
        self._slots = SlotTable(runtime, piece=prefill_chunk, reuse=prefix_cache)
        self._recorder = StepRecorder(step_log)
        self._mail = Mailbox()
        self._failures = 0
        self._closing = False
        self._dead: FungibleError | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the worker; answers are delivered to the running event loop."""
        self._mail.open()
        self._thread.start()

    async def close(self) -> None:
        """Fail what is unfinished, end the worker and close the runtime."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.ident is None:
            self._close_all()
        else:
            await asyncio.to_thread(self._thread.join, _JOIN_S)

    @property
    def capacity(self) -> int:
        """Requests that it can hold at once, in its slots and waiting for one."""
        return self.limits.slots + self._max_waiting

    def problem(self) -> str:
        """Why the engine cannot work at the moment, or nothing."""
        if self._dead is not None:
            return self._dead.message
        if self._failures >= _SICK_AFTER:
            return f"the last {self._failures} steps failed"
        return ""

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            ContextLengthError: The prompt leaves no room for an answer.
            UpstreamBusyError: The queue is full.
            UnavailableError: The engine has stopped.
        """
        context = self.limits.context
        if len(request.prompt) >= context:
            raise ContextLengthError(
                f"the prompt is {len(request.prompt)} tokens long; the context holds {context}, "
                "prompt and answer together",
                hint="shorten the messages, or serve with a larger --context",
                param="messages",
            )
        generation = Generation(request)
        with self._wake:
            if self._dead is not None or self._closing:
                reason = self._dead.message if self._dead else "it is shutting down"
                raise UnavailableError(f"the engine takes no requests: {reason}")
            idle = self.limits.slots - len(self._active)  # who comes for these hardly waits
            if len(self._waiting) >= self._max_waiting + idle:
                raise UpstreamBusyError(
                    f"{len(self._waiting)} requests wait already", hint="try again in a second"
                )
            self._waiting.append(generation)
            self._wake.notify()
        return generation

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                self._step()
            self._dead = EngineError("the engine is shutting down")
        except Exception as error:  # noqa: BLE001  # told to every request and to /health
            _log.exception("the engine's worker ended")
            self._dead = EngineError(f"the engine stopped: {error}", hint="restart it")
        finally:
            self._abandon()
            self._close_all()

    def _close_all(self) -> None:
        self._runtime.close()
        self._recorder.close()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not (self._closing or self._waiting or self._active):
                self._wake.wait()
            return not self._closing

    def _step(self) -> None:
        started = time.monotonic()
        self._reap()
        self._slots.recycle()
        prefilled = decoded = 0
        trusted = True
        try:
            self._admit(started)
            prefilled = self._prefill()
            decoded = self._decode()
            self._failures = 0 if prefilled or decoded else self._failures
        except Exception as error:  # noqa: BLE001  # told to every request in the slots
            _log.exception("a step failed")
            self._fail_active(error)
            trusted = False
        self._mail.post()
        self._slots.recycle(trusted=trusted)
        self._count(started, prefilled, decoded)

    def _reap(self) -> None:
        for sequence in [one for one in self._active.values() if one.generation.cancelled]:
            self._finish(sequence, sequence.cancelled(), "abort")
        with self._wake:
            gone = [one for one in self._waiting if one.cancelled]
            for generation in gone:
                self._waiting.remove(generation)
        for generation in gone:
            self._mail.put(generation, Output(text="", finish_reason="cancelled"))
            self.metrics.finished["abort"].value += 1

    def _admit(self, now: float) -> None:
        with self._wake:
            waiting = list(self._waiting)
        coming = [one.prompt for one in self._active.values() if one.prefilling]
        for generation in waiting:
            if not self._slots.free:
                return
            request = generation.request
            prompt = np.array(request.prompt, dtype=np.int64)
            scored = request.prompt_logprobs is not None  # needs the logits of every token
            placement = self._slots.place(prompt, coming, reuse=not scored)
            if placement is None:
                continue
            self._slots.take(placement)  # if it fails, the request goes on waiting
            with self._wake:
                self._waiting.remove(generation)
            try:
                self._start(generation, placement.slot, placement.reused)
            except Exception as error:  # noqa: BLE001  # such as a constraint that cannot start
                self._mail.put(generation, EngineError(f"the answer cannot start: {error}"))
                self._slots.end(placement.slot)
                continue
            coming.append(prompt)
            self.metrics.queue_time.observe(now - generation.submitted)
            if not scored:
                self.metrics.prefix_queries.value += len(prompt)
                self.metrics.prefix_hits.value += placement.reused

    def _start(self, generation: Generation, slot: int, cached: int) -> None:
        request = generation.request
        room = self.limits.context - len(request.prompt)
        self._active[slot] = Sequence(
            generation,
            slot,
            min(request.max_tokens or room, room),
            self._tokenizer.stream(continues=request.continues),
            eos_ids=self._eos_ids,
            cached=cached,
        )

    def _prefill(self) -> int:
        """Run at least one piece of a prompt if there is one; prompt tokens run."""
        spent = 0
        for sequence in [one for one in self._active.values() if one.prefilling]:
            while sequence.prefilling:
                piece = sequence.prompt[sequence.prefilled : sequence.prefilled + self._chunk]
                if spent and spent + len(piece) > self._budget:
                    return spent
                logits = self._run_piece(sequence, piece)
                spent += len(piece)
            self._take(sequence, logits)
            self._mail.post()  # its first token waits for no other prompt
        return spent

    def _run_piece(self, sequence: Sequence, piece: NDArray[np.int64]) -> Logits:
        """Run a piece of a prompt; the logits after its last token."""
        started = time.monotonic()
        if sequence.scoring:
            scores = self._runtime.score(sequence.slot, piece)
            sequence.score(scores)
            logits: Logits = scores[-1]
        else:
            logits = self._runtime.prefill(sequence.slot, piece)
        self.metrics.prefill_time.value += time.monotonic() - started
        self._slots.append(sequence.slot, piece, prefill=not sequence.scoring)
        sequence.prefilled += len(piece)
        kv = self._slots.held(sequence.slot)
        self._recorder.note(sequence.slot, sequence.request_id, kv=kv, prefill=len(piece))
        return logits

    def _decode(self) -> int:
        """Add a token to every answer whose prompt is through; tokens added."""
        batch = [one for _, one in sorted(self._active.items()) if not one.prefilling]
        if not batch:
            return 0
        tokens = np.array([one.last_token for one in batch], dtype=np.int64)
        started = time.monotonic()
        logits = self._runtime.decode([one.slot for one in batch], tokens)
        self.metrics.decode_time.value += time.monotonic() - started
        for row, sequence in enumerate(batch):
            self._slots.append(sequence.slot, tokens[row : row + 1])
            self._recorder.note(
                sequence.slot, sequence.request_id, kv=self._slots.held(sequence.slot), decode=1
            )
            self._take(sequence, logits[row])
        return len(batch)

    def _take(self, sequence: Sequence, logits: Logits) -> None:
        """Sample a sequence's next token and post what is due."""
        try:
            sampled = sequence.choose(logits)
        except FungibleError as error:
            self._finish(sequence, error, "error")
            return
        now = time.monotonic()
        if sequence.produced:
            self.metrics.inter_token.observe(now - sequence.last_time)
        else:
            self.metrics.first_token.observe(now - sequence.generation.submitted)
        sequence.last_time = now
        output = sequence.accept(sampled)
        self.metrics.generation_tokens.value += 1
        if output is None:
            return
        if output.finish_reason is None:
            self._mail.put(sequence.generation, output)
        else:
            self.metrics.request_time.observe(now - sequence.generation.submitted)
            self._finish(sequence, output, output.finish_reason)

    def _finish(self, sequence: Sequence, last: Output | FungibleError, reason: str) -> None:
        self._mail.put(sequence.generation, last)
        self.metrics.finished[reason].value += 1
        del self._active[sequence.slot]
        self._slots.end(sequence.slot)

    def _fail_active(self, error: Exception) -> None:
        """A step failed: what is in the slots cannot be trusted any more, so empty them."""
        self._failures += 1
        self._recorder.discard()
        self.metrics.step_failures.value += 1
        reason = error.message if isinstance(error, FungibleError) else repr(error)
        failure = EngineError(f"the runtime failed: {reason}", hint="send the request again")
        failure.__cause__ = error
        for sequence in list(self._active.values()):
            self._finish(sequence, failure, "error")

    def _abandon(self) -> None:
        """Fail everything that is left."""
        assert self._dead is not None  # noqa: S101  # set by every way out of the worker
        with self._wake:
            left = [*self._waiting]
            self._waiting.clear()
        left += [sequence.generation for sequence in self._active.values()]
        self._active.clear()
        for generation in left:
            self._mail.put(generation, self._dead)
        self._mail.post()

    def _count(self, started: float, prefilled: int, decoded: int) -> None:
        metrics = self.metrics
        seconds = time.monotonic() - started
        if prefilled or decoded:
            self._recorder.finish(started, seconds)
            metrics.steps_dropped.value = self._recorder.dropped
            metrics.step_time.observe(seconds)
            metrics.step_tokens.observe(prefilled + decoded)
            metrics.prompt_tokens.value += prefilled
        metrics.running.value = len(self._active)
        metrics.waiting.value = len(self._waiting)
        metrics.cache_usage.value = self._slots.total() / (self.limits.slots * self.limits.context)
