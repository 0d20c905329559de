"""Pages of vLLM's metrics, made from known costs of steps and tokens."""

import random

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {prompt}.0
vllm:prompt_tokens_total{{engine="1",model_name="m"}} 5.0
vllm:generation_tokens_total{{engine="0",model_name="m"}} {generated}
vllm:iteration_tokens_total_bucket{{engine="0",le="+Inf"}} 9e9
vllm:iteration_tokens_total_sum{{engine="0"}} 1
vllm:iteration_tokens_total_count{{engine="0"}} {steps}
vllm:prefix_cache_hits_total{{engine="0"}} {hits}
python_gc_objects_collected_total{{generation="0"}} NaN
"""


def pages(count: int = 40, *, seed: int = 1, running: int = 8) -> str:
    """Ten milliseconds a step, 0.1 a prompt token that is run, one a token that is generated."""
    rng = random.Random(seed)
    at = 1_800_000_000.0
    totals = {"steps": 0, "prompt": 0, "generated": 0, "hits": 0}
    text = ""
    for _ in range(count):
        text += f"# scraped {at:.6f}\n" + PAGE.format(running=running, **totals)
        steps, run, hits = rng.randrange(100, 200), rng.randrange(5000), rng.randrange(3000)
        generated = rng.randrange(steps, 8 * steps)
        at += steps * 0.010 + run * 0.0001 + generated * 0.001
        totals["steps"] += steps
        totals["prompt"] += run + hits
        totals["hits"] += hits
        totals["generated"] += generated
    return text
