"""One artifact on a CUDA card: parity with the CPU, tokens/s, and the share of its bandwidth.

    python benchmarks/gpu.py ARTIFACT [--variants f32,bf16] [--batches 1,8,32] [--out FILE.jsonl]

The peer is transformers on the same card with the same weights: as it comes (eager, its dynamic
cache), and tuned (static cache, `torch.compile(mode="reduce-overhead")`). Needs jax with its
CUDA plugin; torch and transformers only for the peer. Prints one JSON object per cell.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = 128
STEPS = 128
ROUNDS = 5
CONTEXT = 256  # one attended window, so few sizes to compile


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
    }
    weights = manifest.variants[variant].files[f"{variant}/model.safetensors"].size
    prompt = np.resize(tokens, PROMPT).astype(np.int64)
    for batch, rounds in [(size, 1) for size in batches] + [(size, ROUNDS) for size in batches]:
        rates, prefills = [], []  # the first pass compiles every size, and is not reported
        for _ in range(rounds):
            started = time.perf_counter()
            logits = runtime.prefill(0, prompt)
            prefills.append(PROMPT / (time.perf_counter() - started))
            slots = list(range(batch))
            for slot in slots[1:]:
                runtime.fork(0, slot, PROMPT)
            last = np.full(batch, int(logits.argmax()), np.int64)
            started = time.perf_counter()
            for _ in range(STEPS):
                last = runtime.decode(slots, last).argmax(axis=-1)
            rates.append(batch * STEPS / (time.perf_counter() - started))
            for slot in slots:
                runtime.release(slot)
        if rounds == 1:
            continue
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
            "prefill_tokens_per_s": round(statistics.median(prefills)),
            "bytes_per_step": round(per_step),
            "bytes_per_s": round(per_step * rate / batch),
        }
    runtime.close()


def transformers(artifact: Path, dtype: str, batches: list[int]) -> Iterator[dict[str, Any]]:
    """Greedy `generate` of the same weights, as it comes and tuned."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    from fungible.artifacts.manifest import load_manifest  # noqa: PLC0415
    from fungible.artifacts.parity import parity_tokens  # noqa: PLC0415

    folder = artifact / "f32"
    link = folder / "config.json"
    if not link.exists():
        link.symlink_to(artifact / "config.json")
    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=types[dtype]).cuda().eval()
    prompt = np.resize(parity_tokens(artifact, load_manifest(artifact).config), PROMPT)
    for tuned in (False, True):
        options: dict[str, Any] = {"do_sample": False, "min_new_tokens": STEPS}
        options |= {"max_new_tokens": STEPS, "pad_token_id": 0}
        if tuned:
            options["cache_implementation"] = "static"
        for batch in batches:
            ids = torch.tensor(prompt, device="cuda")[None].repeat(batch, 1)
            mask = torch.ones_like(ids)
            rates = []
            with torch.inference_mode():
                for round_ in range(ROUNDS + (3 if tuned else 1)):
                    torch.cuda.synchronize()
                    started = time.perf_counter()
                    model.generate(ids, attention_mask=mask, **options)
                    torch.cuda.synchronize()
                    if round_ >= (3 if tuned else 1):
                        rates.append(batch * STEPS / (time.perf_counter() - started))
            yield {
                "engine": "transformers, static cache, compiled" if tuned else "transformers",
                "variant": dtype,
                "batch": batch,
                "decode_tokens_per_s": round(statistics.median(rates)),
                "range": [round(min(rates)), round(max(rates))],
                "note": "prompt included: generate() does not time it apart",
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


def main() -> None:
    """One child process per engine: the libraries must not share the card's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--variants", default="f32,bf16")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--target", default="xla:cuda", help="xla:cpu tries the script itself")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cell", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    batches = [int(size) for size in arguments.batches.split(",")]
    if arguments.cell:
        kind, _, variant = arguments.cell.partition(":")
        if kind == "bandwidth":
            print(json.dumps({"copy_bytes_per_s": round(bandwidth())}), flush=True)
            return
        artifact = arguments.artifact
        cells = (
            ours(artifact, variant, batches, arguments.target)
            if kind == "ours"
            else transformers(artifact, variant, batches)
        )
        for cell in cells:
            print(json.dumps(cell), flush=True)
        return
    variants = arguments.variants.split(",")
    names = ["bandwidth", *(f"ours:{v}" for v in variants), *(f"peer:{v}" for v in variants)]
    rows: list[dict[str, Any]] = [facts()]
    for name in names:
        command = [sys.executable, __file__, str(arguments.artifact), "--cell", name]
        done = subprocess.run(
            [*command, "--batches", arguments.batches, "--target", arguments.target],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode:
            rows.append({"cell": name, "error": f"exit status {done.returncode}"})
        print(f"{name}: done", file=sys.stderr, flush=True)
    copied = next((row["copy_bytes_per_s"] for row in rows if "copy_bytes_per_s" in row), None)
    for row in rows:
        if copied and "bytes_per_s" in row:
            row["share_of_bandwidth"] = round(row["bytes_per_s"] / copied, 4)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
