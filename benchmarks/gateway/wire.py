"""The bytes that the measurements send and that their upstreams answer."""

import json

MODEL, STREAM_MODEL, KEY = "bench", "bench-stream", "sk-bench-0123456789abcdef0123456789abcdef"
# 1 role, 64 words, 1 finish and 1 usage event; `[DONE]` goes with the last.
CHUNKS = 67
_HEAD = {"id": "chatcmpl-0123456789abcdef", "created": 1_790_000_000, "model": "bench"}
_WORD = " tokens"
_USAGE = {
    "prompt_tokens": 256,
    "completion_tokens": 64,
    "total_tokens": 320,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}


def completion() -> bytes:
    """A whole chat completion of about 560 bytes."""
    message = {"role": "assistant", "content": "The answer is forty-two. " * 4}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return json.dumps(
        {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    ).encode()


def chunks() -> list[bytes]:
    """The events of a stream, `[DONE]` apart; the last one is the usage."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": _WORD} for _ in range(64)), {}]
    events = [
        {
            **_HEAD,
            "object": "chat.completion.chunk",
            "choices": [
                {
                    "index": 0,
                    "delta": delta,
                    "logprobs": None,
                    "finish_reason": None if delta else "stop",
                }
            ],
        }
        for delta in deltas
    ]
    events.append({**_HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})
    return [
        b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events
    ]


def request(*, stream: bool, size: int = 1000) -> bytes:
    """A chat request whose body has about `size` bytes."""
    words = "Tell me about the weather in the mountains. "
    filler = (words * (size // len(words) + 1))[: max(size - 170, 10)]
    body = {
        "model": STREAM_MODEL if stream else MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": filler},
        ],
        "max_tokens": 64,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()
