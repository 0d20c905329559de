"""One call, its price and its bill, in October 2026: small enough to be reckoned by hand.

A million input tokens at 2.00 USD a million, a hundred thousand output tokens at 8.00: 2.80 USD.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = "dt=2026-10-20/hour=09"
TRACE_ID, SPAN_ID = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13"
PRICES = (
    "key,unit,leaf,price,currency,valid_from,valid_to,issuer,sku,source,note\n"
    "hosted/large,1M_tokens,input,2.00,USD,2026-01-01,,hosted,in,contract-9,\n"
    "hosted/large,1M_tokens,output,8.00,USD,2026-01-01,,hosted,out,contract-9,\n"
)


def response() -> dict[str, Any]:
    """The call as another gateway recorded it."""
    return {
        "issuer": "hosted",
        "started_at": "2026-10-20T09:15:00Z",
        "ended_at": "2026-10-20T09:15:40Z",
        "trace_id": TRACE_ID,
        "span_id": SPAN_ID,
        "response": {
            "id": "chatcmpl-october",
            "object": "chat.completion",
            "created": 1792487700,
            "model": "large",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": ""},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 1_000_000,
                "completion_tokens": 100_000,
                "total_tokens": 1_100_000,
            },
        },
    }


def spans() -> dict[str, Any]:
    """The same call as OpenTelemetry traced it: who asked, and when the first token came."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": {"stringValue": "chat"},
        "gen_ai.provider.name": {"stringValue": "hosted"},
        "gen_ai.request.model": {"stringValue": "large"},
        "gen_ai.response.id": {"stringValue": "chatcmpl-october"},
        "gen_ai.response.time_to_first_chunk": {"doubleValue": 0.5},
        "enduser.id": {"stringValue": "acorn"},
    }
    start = 1_792_487_700 * 10**9
    span = {
        "traceId": TRACE_ID,
        "spanId": SPAN_ID,
        "name": "chat large",
        "kind": 3,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 40 * 10**9),
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
    }
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


def invoice(output: str) -> str:
    """The bill, with an amount for output tokens."""
    head = "issuer,invoice,line,sku,category,billed,currency,start,end\n"
    period = "2026-10-20,2026-10-21"
    return (
        f"{head}hosted,oct-1,1,in,usage,2.00,USD,{period}\n"
        f"hosted,oct-1,2,out,usage,{output},USD,{period}\n"
    )


def put(path: Path, content: object) -> None:
    """A file of the inbox."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
