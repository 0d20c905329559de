"""A small OpenAI-compatible server with one answer and its probabilities (simulated)."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(words: list[str]) -> dict[str, Any]:
    """A chat completion of these words, each a token."""
    entries = []
    for word in words:
        top = [
            {"token": token, "logprob": math.log(share), "bytes": list(token.encode())}
            for token, share in ((word, 0.9), (f"{word}-1", 0.06), (f"{word}-2", 0.04))
        ]
        entries.append({**top[0], "top_logprobs": top})
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(words)},
        "logprobs": {"content": entries},
        "finish_reason": "stop",
    }
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": len(words),
        "total_tokens": 5 + len(words),
    }
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": usage}


@contextmanager
def answering(text: str) -> Iterator[str]:
    """Its base URL up to `/v1`, while the block runs."""
    answer = json.dumps(completion(text.split())).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Tests print enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
