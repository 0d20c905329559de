"""What every driver shares: how it is told what to do and how it answers.

A driver is a script that runs in its peer's own environment. It reads one JSON object, the
job, from standard input, and answers with JSON objects, one a line, on standard output:

    {"event": "loaded", "seconds": …, "versions": {…}}
    {"event": "generated", "prefill_s": …, "decode_s": …, "prompt": n, "count": n,
     "tokens": [ids]}
    {"event": "serving", "url": "http://127.0.0.1:…/v1", "model": "…"}
    {"event": "done", "peak_rss": bytes}
    {"event": "failed", "reason": "…"}

What libraries print goes to standard error. Only the standard library is used here: this file
is imported in every peer's environment. A driver and all it started end when its
standard input closes.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

Job = dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """One greedy request, alone on the machine.

    Attributes:
        prefill_s: Seconds from the call to the first token.
        decode_s: Seconds for all tokens after the first.
        count: Tokens made, the first included.
        tokens: The same, where the library tells them.
    """

    prefill_s: float
    decode_s: float
    count: int
    tokens: list[int] = field(default_factory=list)


Generate = Callable[[list[int], int], Generated]


class StepClock:
    """Times a request token by token.

    `first` and `more` run the library; the first token is ready when `first` returns.
    """

    def __init__(self, first: Callable[[], int], more: Callable[[int], int]) -> None:
        self._first = first
        self._more = more

    def generate(self, count: int) -> Generated:
        """Run for `count` tokens."""
        began = time.perf_counter()
        tokens = [self._first()]
        ready = time.perf_counter()
        while len(tokens) < count:
            tokens.append(self._more(tokens[-1]))
        return Generated(ready - began, time.perf_counter() - ready, count, tokens)


def main(
    packages: tuple[str, ...],
    load: Callable[[Job], Generate],
    serve: Callable[[Job], tuple[str, str]] | None = None,
) -> None:
    """Do the job that standard input holds, and leave.

    Args:
        packages: Distributions whose versions are reported.
        load: Opens the job's model; returns what runs one request.
        serve: Starts an OpenAI-compatible server; its base URL and model name.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def send(event: str, **fields: object) -> None:
        answers.write(json.dumps({"event": event, **fields}) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        began = time.perf_counter()
        versions = {name: version(name) for name in packages}
        if job["mode"] == "serve":
            if serve is None:
                raise RuntimeError("the library has no server")
            url, model = serve(job)
            send("loaded", seconds=time.perf_counter() - began, versions=versions)
            send("serving", url=url, model=model)
            threading.Event().wait()
        generate = load(job)
        send("loaded", seconds=time.perf_counter() - began, versions=versions)
        _measure(job, generate, send)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        send("done", peak_rss=peak)
    except BaseException as error:  # noqa: BLE001  # the parent prints it as the row's reason
        send("failed", reason=f"{type(error).__name__}: {error}"[:2000])
    answers.close()
    _end_group()


def _measure(job: Job, generate: Generate, send: Callable[..., None]) -> None:
    """The first prompt warms up; every prompt differs from its first token, so caches miss."""
    warm_up, *prompts = job["prompts"]
    generate(warm_up, min(job["tokens"], 4))
    for prompt in prompts:
        one = generate(prompt, job["tokens"])
        send(
            "generated",
            prefill_s=one.prefill_s,
            decode_s=one.decode_s,
            prompt=len(prompt),
            count=one.count,
            tokens=one.tokens,
        )


def _leave_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    _end_group()


def _end_group() -> None:
    """End this process and its children: some leave workers behind, some hang while they close.

    The parent started this process as the leader of a group of its own.
    """
    if os.getpgid(0) != os.getpid():
        os._exit(0)
    os.killpg(os.getpid(), signal.SIGKILL)
