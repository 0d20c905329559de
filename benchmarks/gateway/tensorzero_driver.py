"""Asks an embedded TensorZero as fast as it answers. Runs in TensorZero's environment."""

import asyncio
import json
import resource
import sys
import time

from tensorzero import AsyncTensorZeroGateway


def cpu_s() -> float:
    """User plus system time of this process in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def one(client, job, *, stream):  # noqa: ANN001, ANN201
    """One answer, read to its end."""
    system, user = job["messages"]
    answer = await client.inference(
        model_name=job["stream_model" if stream else "model"],
        input={"system": system["content"], "messages": [user]},
        params={"chat_completion": {"max_tokens": 64}},
        stream=stream,
    )
    if stream:
        count = 0
        async for _ in answer:
            count += 1
        assert count >= 60, count


async def round_us(client, job, seconds, *, stream):  # noqa: ANN001, ANN201
    """CPU µs per request of one round."""
    count, end, before = 0, time.monotonic() + seconds, cpu_s()

    async def worker():  # noqa: ANN202
        nonlocal count
        while time.monotonic() < end:
            await one(client, job, stream=stream)
            count += 1

    await asyncio.gather(*(worker() for _ in range(job["connections"])))
    return (cpu_s() - before) / count * 1e6


async def main():  # noqa: ANN201
    """Warm up, then the rounds."""
    job = json.loads(sys.stdin.read())
    client = await AsyncTensorZeroGateway.build_embedded(config_file=job["config"])
    found = {}
    for stream, name in ((False, "request_us"), (True, "stream_us")):
        await round_us(client, job, 1.0, stream=stream)
        found[name] = [
            await round_us(client, job, job["seconds"], stream=stream) for _ in range(job["rounds"])
        ]
    found["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps(found))


asyncio.run(main())
