"""The OTLP/HTTP receiver: `POST /v1/traces`, as any OpenTelemetry exporter or collector sends it.

Model calls become facts in the spool before the answer; everything else is skipped. Says how
many spans it refused, and why, as the protocol's partial success.
"""

import asyncio
import hashlib
import hmac
import zlib

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fungible.config import Config
from fungible.errors import AuthError, DiskError
from fungible.ingest.gateways import is_gateway
from fungible.ingest.intake import SAMPLE_CHARS, Intake
from fungible.ingest.source import Item
from fungible.ingest.traces import read_traces
from fungible.ledger.spool import SpoolWriter

MAX_BODY = 16 << 20
MAX_DECODED = 64 << 20
MOST_AT_ONCE = 4
SOURCE = "otlp"
_JSON, _PROTOBUF = "application/json", "application/x-protobuf"


class TraceReceiver:
    """Takes spans for one control process.

    Args:
        config: Says which attributes name a customer, who may send, and how much may wait.
        token: Control's own, which is always good.
    """

    def __init__(self, config: Config, token: str) -> None:
        self._attributes = config.ingest.attributes
        self._gateways = config.ingest.gateways
        self._hashes = [config.ingest.token_hash, hashlib.sha256(token.encode()).hexdigest()]
        # A writer of its own: what strangers send is bounded, control's own rows are not.
        bound = config.ledger.max_spool_bytes
        self._spool = SpoolWriter(config.spool_path(), SOURCE, max_bytes=bound)
        self._busy = asyncio.Semaphore(MOST_AT_ONCE)
        self.routes: list[BaseRoute] = [Route("/v1/traces", self._traces, methods=["POST"])]

    def close(self) -> None:
        """Seal what was taken; nothing can be taken afterwards."""
        self._spool.close()

    async def _traces(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        binary = kind != _JSON
        try:
            self._admit(request)
            if kind not in (_JSON, _PROTOBUF):
                return _refused(415, f"content type {kind or '(none)'} is not OTLP's", binary)
            async with self._busy:
                body = await _body(request)
                if isinstance(body, str):
                    return _refused(413 if "larger" in body else 400, body, binary)
                return await asyncio.to_thread(self._take, body, binary)
        except AuthError as error:
            return _refused(401, error.message, binary)
        except DiskError as error:
            return _refused(503, error.message, binary)

    def _admit(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).hexdigest()
        known = [hmac.compare_digest(digest, one) for one in self._hashes]
        if scheme.lower() != "bearer" or not any(known):
            raise AuthError("this needs control's bearer token, or the one of ingest.token_hash")

    def _take(self, body: bytes, binary: bool) -> Response:
        digest = hashlib.sha256(body).hexdigest()
        intake = Intake(self._spool, stream="traces", source=SOURCE, digest=digest)
        item = Item(place=digest[:12], data=body)
        outcomes = list(read_traces(item, self._attributes, SOURCE, binary=binary))
        if len(outcomes) == 1 and outcomes[0].reason and outcomes[0].place == item.place:
            return _refused(400, outcomes[0].reason, binary)
        for one in outcomes:
            if one.reason:
                sample = one.sample[: 4 * SAMPLE_CHARS].decode("utf-8", "replace")
                intake.reject(one.place, one.reason, sample)
            elif one.fact is not None and not is_gateway(one.fact.server, self._gateways):
                intake.take(one.fact)
        intake.flush()
        receipt = intake.receipt()
        return _accepted(receipt.rejected, next(iter(receipt.reasons), ""), binary)


async def _body(request: Request) -> bytes | str:
    """The decoded body, or what is wrong with it."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip"):
        return f"content encoding {encoding} is not known here; send gzip"
    parts: list[bytes] = []
    held = 0
    decoder = zlib.decompressobj(31) if encoding == "gzip" else None
    try:
        async for chunk in request.stream():
            held += len(chunk)
            if held > MAX_BODY:
                return f"the body is larger than {MAX_BODY} bytes"
            parts.append(chunk)
        data = b"".join(parts)
        if decoder is not None:
            data = decoder.decompress(data, MAX_DECODED + 1)
            if len(data) <= MAX_DECODED and not decoder.eof:
                return "the compressed body is cut off"
    except zlib.error as error:
        return f"the compressed body is damaged: {error}"
    return data if len(data) <= MAX_DECODED else f"the body is larger than {MAX_DECODED} bytes"


def _accepted(rejected: int, reason: str, binary: bool) -> Response:
    """`ExportTraceServiceResponse`."""
    if binary:
        inner = b"\x08" + _varint(rejected) + b"\x12" + _text(reason) if rejected else b""
        return Response(
            b"\x0a" + _varint(len(inner)) + inner if inner else b"", media_type=_PROTOBUF
        )
    partial = {"rejectedSpans": str(rejected), "errorMessage": reason}
    body = {"partialSuccess": partial} if rejected else {}
    return Response(msgspec.json.encode(body), media_type=_JSON)


def _refused(status: int, message: str, binary: bool) -> Response:
    """`google.rpc.Status`, as the protocol wants errors said."""
    headers = {"retry-after": "5"} if status == 503 else {}
    if binary:
        data = b"\x12" + _text(message)
        return Response(data, status, headers=headers, media_type=_PROTOBUF)
    body = msgspec.json.encode({"message": message})
    return Response(body, status, headers=headers, media_type=_JSON)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
