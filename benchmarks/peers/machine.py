"""What this machine is, what its memory can deliver, and what a token must read from it."""

import datetime as dt
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx

from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.tensors import TensorFile

_MB = 256  # per array and thread: far beyond any cache
_ROUNDS = 6
_PIECE = 1 << 16  # elements: temporaries of the triad stay in cache


def facts() -> dict[str, Any]:
    """Date, processor, memory, versions and the commit that is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "date": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "features": [flag for flag in wanted if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("fungible", "numpy", "onnxruntime")},
        "commit": _commit(),
    }


def load_1min() -> float:
    """The 1-minute load average."""
    return round(os.getloadavg()[0], 2)


def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def bandwidth(threads: int) -> dict[str, float]:
    """Memory bandwidth in GB/s with `threads` threads, the best of a few rounds.

    `read` streams one array (a dot product with a small one that stays in cache), as decoding
    streams the weights: it bounds tokens/s. `triad` is STREAM's a = b + s·c, counted as three
    arrays (McCalpin, 1995).
    """
    command = [sys.executable, "-m", "peers.machine", str(threads)]
    # One thread inside each product: the threads are ours.
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    place = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        command, cwd=place, env=os.environ | one, capture_output=True, text=True, check=True
    )
    read, triad = (float(word) for word in done.stdout.split())
    return {"read_gb_s": read, "triad_gb_s": triad}


def _best_rate(threads: int, work: Callable[[int], int]) -> float:
    """GB/s of `work`, which every thread does once a round and which returns its bytes."""
    best = 0.0
    for _ in range(_ROUNDS):
        done = [0] * threads

        def run(at: int, done: list[int] = done) -> None:
            done[at] = work(at)

        workers = [threading.Thread(target=run, args=(at,)) for at in range(threads)]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(done) / (time.perf_counter() - began) / 1e9)
    return best


def _measure(threads: int) -> tuple[float, float]:
    count = _MB * 1_000_000 // 4 // _PIECE * _PIECE
    b = [np.ones(count, np.float32) for _ in range(threads)]
    a = [np.zeros(count, np.float32) for _ in range(threads)]
    small = np.ones(_PIECE, np.float32)

    def read(at: int) -> int:
        rows = b[at].reshape(-1, _PIECE)
        for row in rows:
            np.dot(row, small)
        return int(b[at].nbytes)

    def triad(at: int) -> int:
        temporary = np.empty(_PIECE, np.float32)
        half = count // 2 // _PIECE * _PIECE
        for start in range(0, half, _PIECE):
            piece = slice(start, start + _PIECE)
            np.multiply(b[at][half + start : half + start + _PIECE], np.float32(3), out=temporary)
            np.add(b[at][piece], temporary, out=a[at][piece])
        return 3 * 4 * half

    return _best_rate(threads, read), _best_rate(threads, triad)


def bytes_per_token(weights: Path, config: ModelConfig, length: int, cache_bytes: int) -> int:
    """Bytes that one decode step reads: every weight once, and the cache of `length` tokens.

    An embedding table that is only looked up does not count; one that is the head as well does.
    """
    cache = 2 * config.layers * config.kv_heads * config.head_dim * length * cache_bytes
    return weight_bytes(weights) + cache


def weight_bytes(path: Path) -> int:
    """Bytes of the weights in a safetensors, GGUF or ONNX file that every token reads.

    Raises:
        ValueError: The file is of another kind.
    """
    if path.suffix == ".gguf":
        sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    elif path.suffix == ".safetensors":
        sizes = {name: region.length for name, region in TensorFile(path).regions.items()}
    elif path.suffix == ".onnx":
        sizes = _onnx_sizes(path)
    else:
        raise ValueError(f"{path}: cannot count the weights of such a file")
    has_head = any(name.startswith(("lm_head", "output.weight")) for name in sizes)
    looked_up = ("model.embed_tokens", "token_embd") if has_head else ()
    tables = ("cos_cache", "sin_cache", *looked_up)
    return sum(size for name, size in sizes.items() if not name.startswith(tables))


def _onnx_sizes(path: Path) -> dict[str, int]:
    graph = onnx.load(path, load_external_data=False).graph
    return {
        tensor.name: math.prod(tensor.dims)
        * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in graph.initializer
    }


if __name__ == "__main__":
    print(*(round(rate, 2) for rate in _measure(int(sys.argv[1]))))
