"""Counters of the engine in Prometheus text format (version 0.0.4).

Names are vLLM's where the meaning is the same, so that its dashboards and autoscalers work
here unchanged; what vLLM does not have is named `fungible:…`. One thread writes a metric;
any thread may read.
"""

from collections.abc import Iterator

from fungible.contract.exposition import Histogram, Metric, labelled

_LATENCY = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PER_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class EngineMetrics:
    """Everything that `/metrics` shows; the scheduler's worker writes it."""

    def __init__(self) -> None:
        self.running = Metric("vllm:num_requests_running", "gauge", "Requests that hold a slot.")
        self.waiting = Metric("vllm:num_requests_waiting", "gauge", "Requests in the queue.")
        self.cache_usage = Metric(
            "vllm:kv_cache_usage_perc", "gauge", "Key/value cache in use; 1 is all of it."
        )
        self.prefix_queries = Metric(
            "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked for in the slots."
        )
        self.prefix_hits = Metric(
            "vllm:prefix_cache_hits_total", "counter", "Prompt tokens found there, so not run."
        )
        self.prompt_tokens = Metric("vllm:prompt_tokens_total", "counter", "Prompt tokens run.")
        self.generation_tokens = Metric(
            "vllm:generation_tokens_total", "counter", "Tokens generated."
        )
        self.finished = {
            reason: Metric(
                "vllm:request_success_total",
                "counter",
                "Requests that ended, by reason.",
                f'finished_reason="{reason}"',
            )
            for reason in ("stop", "length", "abort", "error")
        }
        self.first_token = Histogram(
            "vllm:time_to_first_token_seconds", "Submission to first token.", _LATENCY
        )
        self.inter_token = Histogram(
            "vllm:inter_token_latency_seconds", "One token to the next.", _PER_TOKEN
        )
        self.queue_time = Histogram(
            "vllm:request_queue_time_seconds", "Submission to slot.", _LATENCY
        )
        self.request_time = Histogram(
            "vllm:e2e_request_latency_seconds", "Submission to last token.", _LATENCY
        )
        self.step_tokens = Histogram(
            "vllm:iteration_tokens_total", "Prompt and generated tokens a step.", _TOKENS
        )
        self.step_time = Histogram("fungible:step_seconds", "Duration of a step.", _PER_TOKEN)
        self.prefill_time = Metric(
            "fungible:prefill_seconds_total", "counter", "Time in the runtime on prompts."
        )
        self.decode_time = Metric(
            "fungible:decode_seconds_total", "counter", "Time in the runtime on generated tokens."
        )
        self.step_failures = Metric(
            "fungible:step_failures_total", "counter", "Steps in which the runtime failed."
        )
        self.steps_dropped = Metric(
            "fungible:step_log_dropped_total", "counter", "Steps that the step log left out."
        )

    def render(self, model: str) -> bytes:
        """The whole page."""
        return render(self, model)


def render(metrics: object, model: str) -> bytes:
    """The page of an object whose attributes are metrics, or dictionaries of them."""
    common = labelled(model_name=model)
    lines: list[str] = []
    named = ""
    for metric in _all(metrics):
        if metric.name != named:
            named = metric.name
            lines += [f"# HELP {named} {metric.help}", f"# TYPE {named} {metric.kind}"]
        lines += metric.samples(common)
    return "\n".join([*lines, ""]).encode()


def _all(metrics: object) -> Iterator[Metric | Histogram]:
    for value in vars(metrics).values():
        if isinstance(value, dict):
            yield from value.values()
        else:
            yield value
