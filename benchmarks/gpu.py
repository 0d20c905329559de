"""One artifact on a CUDA card: parity with the CPU, tokens/s, and the share of its bandwidth.

    python benchmarks/gpu.py ARTIFACT [--variants f32,bf16] [--batches 1,8,32] [--out FILE.jsonl]

The peer is transformers on the same card with the same weights: as it comes (eager, its dynamic
cache), and tuned (static cache, which `generate` compiles). Needs jax with its CUDA plugin;
torch and transformers only for the peer; `--target iree:cuda:sm_90` IREE's runtime and modules
compiled before, or its compiler. Prints one JSON object per cell, as soon as it is measured.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fungible.engine.runtimes.base import Runtime

PROMPT = 128
STEPS = 128
ROUNDS = 5
CONTEXT = 256  # one attended window, so few sizes to compile
GREEDY_PROMPT, GREEDY = 32, 64
PEER_VARIANTS = {"f32", "bf16", "f16"}


def bandwidth() -> float:
    """Bytes per second of a copy on the card, read and written bytes both counted."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    size = 1 << 30
    source = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(source).block_until_ready()
    times = []
    for _ in range(10):
        started = time.perf_counter()
        copy(source).block_until_ready()
        times.append(time.perf_counter() - started)
    return 2 * size / min(times)


def greedy(runtime: "Runtime", slots: list[int], prompt: np.ndarray, steps: int) -> np.ndarray:
    """The next `steps` tokens in each slot, `(slots, steps)`; the slots are empty afterwards."""
    first = runtime.prefill(slots[0], prompt)
    for slot in slots[1:]:
        runtime.fork(slots[0], slot, len(prompt))
    tokens = np.full((len(slots), steps), int(first.argmax()), np.int64)
    for step in range(1, steps):
        tokens[:, step] = runtime.decode(slots, tokens[:, step - 1]).argmax(axis=-1)
    for slot in slots:
        runtime.release(slot)
    return tokens


def agreement(artifact: Path, runtime: "Runtime", tokens: np.ndarray, slots: int) -> dict[str, Any]:
    """Greedy tokens: of the reference on the CPU, alone on the card, and in a full batch there."""
    from fungible.contract.target import parse_target  # noqa: PLC0415
    from fungible.engine.runtimes.registry import open_runtime  # noqa: PLC0415

    cpu = open_runtime(
        artifact, "f32", parse_target("onnxruntime:cpu"), slots=1, context=CONTEXT, threads=8
    )
    prompt = tokens[:GREEDY_PROMPT]
    expected = greedy(cpu, [0], prompt, GREEDY)[0]
    cpu.close()
    alone = greedy(runtime, [0], prompt, GREEDY)[0]
    batch = greedy(runtime, list(range(slots)), prompt, GREEDY)

    def same(found: np.ndarray) -> int:
        differs = np.flatnonzero(found != expected)
        return int(differs[0]) if len(differs) else GREEDY

    return {
        "greedy_tokens": GREEDY,
        "same_as_cpu_f32": same(alone),
        "same_as_cpu_f32_in_batch": min(same(row) for row in batch),
    }


def ours(artifact: Path, variant: str, batches: list[int], target: str) -> Iterator[dict[str, Any]]:
    """Parity, prefill and decode of one variant on `target`."""
    from fungible.artifacts.manifest import load_manifest  # noqa: PLC0415
    from fungible.artifacts.parity import (  # noqa: PLC0415
        compare,
        parity_tokens,
        variant_logits,
    )
    from fungible.contract.target import parse_target  # noqa: PLC0415
    from fungible.engine.runtimes.registry import open_runtime  # noqa: PLC0415

    manifest = load_manifest(artifact)
    config = manifest.config
    tokens = parity_tokens(artifact, config)
    started = time.perf_counter()
    runtime = open_runtime(
        artifact, variant, parse_target(target), slots=max(batches), context=CONTEXT, threads=8
    )
    loaded = time.perf_counter() - started
    reference = variant_logits(artifact, "f32", config, tokens)
    parity = compare(reference, runtime.score(0, tokens), tokens)
    runtime.release(0)
    yield {
        "engine": f"fungible {target}",
        "variant": variant,
        "load_s": round(loaded, 2),
        "tokens": parity.tokens,
        "max_abs_diff": parity.max_abs_diff,
        "mean_kl": parity.mean_kl,
        "top1_agreement": parity.top1_agreement,
        "reference": "f32 in ONNX Runtime on the CPU of the same machine",
        **agreement(artifact, runtime, tokens, max(batches)),
    }
    weights = manifest.variants[variant].files[f"{variant}/model.safetensors"].size
    prompt = np.resize(tokens, PROMPT).astype(np.int64)
    for batch in batches:
        decode(runtime, prompt, batch)  # compiles this size
    if hasattr(runtime, "wait_until_compiled"):
        runtime.wait_until_compiled()
    for batch in batches:
        runs = [decode(runtime, prompt, batch) for _ in range(ROUNDS)]
        rates = [run["rate"] for run in runs]
        rate = statistics.median(rates)
        itemsize = 2 if variant in {"bf16", "f16"} else 4
        kv = 2 * config.layers * config.kv_heads * config.head_dim * itemsize
        per_step = weights + batch * (PROMPT + STEPS / 2) * kv
        yield {
            "engine": f"fungible {target}",
            "variant": variant,
            "batch": batch,
            "decode_tokens_per_s": round(rate),
            "range": [round(min(rates)), round(max(rates))],
            "step_ms": round(1000 * batch / rate, 3),
            "argmax_ms": round(1000 * statistics.median(run["argmax_s"] for run in runs), 3),
            "prefill_tokens_per_s": round(statistics.median(run["prefill"] for run in runs)),
            "bytes_per_step": round(per_step),
            "bytes_per_s": round(per_step * rate / batch),
        }
    runtime.close()


def decode(runtime: "Runtime", prompt: np.ndarray, batch: int) -> dict[str, float]:
    """One prompt, then `STEPS` greedy tokens in each of `batch` slots; tokens/s of either part."""
    started = time.perf_counter()
    logits = runtime.prefill(0, prompt)
    prefill = PROMPT / (time.perf_counter() - started)
    slots = list(range(batch))
    for slot in slots[1:]:
        runtime.fork(0, slot, PROMPT)
    last = np.full(batch, int(logits.argmax()), np.int64)
    picking = 0.0
    started = time.perf_counter()
    for _ in range(STEPS):
        logits = runtime.decode(slots, last)
        picked = time.perf_counter()
        last = logits.argmax(axis=-1)
        picking += time.perf_counter() - picked
    rate = batch * STEPS / (time.perf_counter() - started)
    for slot in slots:
        runtime.release(slot)
    return {"rate": rate, "prefill": prefill, "argmax_s": picking / STEPS}


def transformers(artifact: Path, dtype: str, batches: list[int]) -> Iterator[dict[str, Any]]:
    """Greedy `generate` of the same weights, as it comes and tuned, the prompt's time taken off."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from fungible.artifacts.manifest import load_manifest  # noqa: PLC0415
    from fungible.artifacts.parity import parity_tokens  # noqa: PLC0415

    link = artifact / "f32" / "config.json"
    if not link.exists():
        link.unlink(missing_ok=True)  # one that leads nowhere, of an artifact moved here
        link.symlink_to((artifact / "config.json").resolve())
    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(link.parent, dtype=types[dtype]).to(device).eval()
    prompt = np.resize(parity_tokens(artifact, load_manifest(artifact).config), PROMPT)

    def timed(call: Callable[[], object]) -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for tuned in (False, True):
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": STEPS}
        options |= {"max_new_tokens": STEPS, "pad_token_id": 0}
        if tuned:
            options["cache_implementation"] = "static"
        for batch in batches:
            ids = torch.tensor(prompt, device=device)[None].repeat(batch, 1)
            mask = torch.ones_like(ids)
            generate = partial(model.generate, ids, attention_mask=mask, **options)
            with torch.inference_mode():
                for _ in range(3 if tuned else 1):
                    generate()
                forward = [timed(partial(model, ids, logits_to_keep=1)) for _ in range(1 + ROUNDS)]
                whole = [timed(generate) for _ in range(ROUNDS)]
            first = statistics.median(forward[1:])
            rates = [batch * (STEPS - 1) / (one - first) for one in whole]
            yield {
                "engine": "transformers, static cache, compiled" if tuned else "transformers",
                "variant": dtype,
                "batch": batch,
                "decode_tokens_per_s": round(statistics.median(rates)),
                "range": [round(min(rates)), round(max(rates))],
                "prompt_s": round(first, 5),
            }


def card() -> str:
    """Name, driver and memory of the cards, or that there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def facts() -> dict[str, Any]:
    """The card, the driver and the versions of every library that took part."""
    versions = {}
    for name in ("fungible", "jax", "jaxlib", "torch", "transformers", "onnxruntime", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        "card": card(),
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "prompt": PROMPT,
        "steps": STEPS,
    }


def measure(artifact: Path, cell: str, batches: list[int], target: str) -> Iterator[dict[str, Any]]:
    """The rows of one cell: `bandwidth`, `ours:VARIANT` or `peer:VARIANT`."""
    kind, _, variant = cell.partition(":")
    if kind == "bandwidth":
        yield {"copy_bytes_per_s": round(bandwidth())}
    elif kind == "ours":
        yield from ours(artifact, variant, batches, target)
    else:
        yield from transformers(artifact, variant, batches)


def main() -> None:
    """One child process per engine: the libraries must not share the card's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--variants", default="f32,bf16")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--target", default="xla:cuda", help="xla:cpu tries the script itself")
    parser.add_argument("--only", choices=["ours", "peer"], help="measure one side alone")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batches = [int(size) for size in arguments.batches.split(",")]
    if arguments.cell:
        for row in measure(arguments.artifact, arguments.cell, batches, arguments.target):
            print(json.dumps(row), flush=True)
        return
    rows: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        rows.append(row)
        copied = next((row["copy_bytes_per_s"] for row in rows if "copy_bytes_per_s" in row), None)
        if copied and "bytes_per_s" in row:
            row["share_of_bandwidth"] = round(row["bytes_per_s"] / copied, 4)
        print(json.dumps(row), flush=True)
        if arguments.out:
            arguments.out.write_text("".join(json.dumps(row) + "\n" for row in rows))

    tell(facts())
    variants = arguments.variants.split(",")
    cells = [f"ours:{name}" for name in variants]
    cells += [f"peer:{name}" for name in variants if name in PEER_VARIANTS]
    for name in ["bandwidth", *(cell for cell in cells if (arguments.only or "") in cell)]:
        command = [sys.executable, __file__, str(arguments.artifact), "--cell", name]
        command += ["--batches", arguments.batches, "--target", arguments.target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                if line.startswith("{"):
                    tell(json.loads(line))
        if child.returncode:
            tell({"cell": name, "error": f"exit status {child.returncode}"})


if __name__ == "__main__":
    main()
