"""Counters of an engine with an embedding model; vLLM's names where the meaning is the same."""

from fungible.contract.exposition import Histogram, Metric

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TOKENS = (*_SIZES, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)


class EmbeddingMetrics:
    """Everything that `/metrics` shows; the batcher writes it under its lock."""

    def __init__(self) -> None:
        self.running = Metric("vllm:num_requests_running", "gauge", "Texts in the current batch.")
        self.waiting = Metric("vllm:num_requests_waiting", "gauge", "Texts in the queue.")
        self.prompt_tokens = Metric("vllm:prompt_tokens_total", "counter", "Tokens embedded.")
        self.finished = {
            reason: Metric(
                "vllm:request_success_total",
                "counter",
                "Requests that ended, by reason.",
                f'finished_reason="{reason}"',
            )
            for reason in ("stop", "abort", "error")
        }
        self.queue_time = Histogram(
            "vllm:request_queue_time_seconds", "Submission to a text's batch.", _SECONDS
        )
        self.request_time = Histogram(
            "vllm:e2e_request_latency_seconds", "Submission to the last embedding.", _SECONDS
        )
        self.step_tokens = Histogram(
            "vllm:iteration_tokens_total", "Tokens of a batch, filling left out.", _TOKENS
        )
        self.step_texts = Histogram("fungible:embedding_batch_texts", "Texts of a batch.", _SIZES)
        self.step_time = Histogram("fungible:step_seconds", "Duration of a batch.", _SECONDS)
        self.padding = Metric(
            "fungible:embedding_padding_tokens_total", "counter", "Tokens filled up in batches."
        )
        self.step_failures = Metric(
            "fungible:step_failures_total", "counter", "Batches in which the runtime failed."
        )
