"""vLLM on the CPU: its offline class for one stream, its API server for many."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from protocol import Generate, Generated, Job, main

START_S = 400.0


def settings(job: Job) -> None:
    """Set what vLLM reads before it is imported."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"


def load(job: Job) -> Generate:
    """One request at a time. A second run of one token less the rest tells prefill apart."""
    settings(job)
    from vllm import LLM, SamplingParams  # noqa: PLC0415  # after the environment is set

    model = LLM(
        job["model"],
        dtype="bfloat16" if job["precision"] == "bf16" else "float32",
        max_model_len=job["context"],
        max_num_seqs=1,
        enforce_eager=True,
        enable_prefix_caching=False,
    )

    def run(prompt: list[int], count: int) -> tuple[float, list[int]]:
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        began = time.perf_counter()
        output = model.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)[0]
        return time.perf_counter() - began, list(output.outputs[0].token_ids)

    def generate(prompt: list[int], count: int) -> Generated:
        prefill, _ = run(prompt, 1)
        whole, tokens = run(prompt, count)
        return Generated(prefill, whole - prefill, count, tokens)

    return generate


def serve(job: Job) -> tuple[str, str]:
    """`vllm serve` cannot find its own version in this distribution; its module can be run."""
    settings(job)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    dtype = "bfloat16" if job["precision"] == "bf16" else "float32"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", job["model"], "--served-model-name", "model", "--dtype", dtype]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", str(job["context"]), "--max-num-seqs", str(job["slots"])]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _wait(server, f"http://127.0.0.1:{port}/health")
    return f"http://127.0.0.1:{port}/v1", "model"


def _wait(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"vLLM's server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vLLM's server was not ready after {START_S:.0f} s")


if __name__ == "__main__":
    main(("vllm-cpu", "torch"), load, serve)
