"""AWS's wire from the other side: signatures recomputed, bodies judged by the service model.

Written from AWS's descriptions of SigV4, of REST-JSON and of the binary event stream, so that
it does not agree with the client by sharing its code. Only the service models are botocore's.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import json
import re
import struct
from typing import Any
from urllib.parse import quote, unquote

import botocore.session
from botocore.validate import ParamValidator


def check_signature(
    path: str, headers: dict[str, str], body: bytes, *, secret: str, service: str
) -> None:
    """Raise `AssertionError` unless the `Authorization` header is right for this POST."""
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
        r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
        headers.get("authorization", ""),
    )
    assert found, "no SigV4 authorization"
    _, day, region, signed_service, names, signature = found.groups()
    assert signed_service == service
    signed = names.split(";")
    assert {"host", "x-amz-date"} <= set(signed)
    # Every service but S3 encodes the path that is on the wire once more.
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/-_.~"),
            "",
            *(f"{name}:{' '.join(headers[name].split())}" for name in signed),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    to_sign = "\n".join(
        [
            "AWS4-HMAC-SHA256",
            headers["x-amz-date"],
            f"{day}/{region}/{service}/aws4_request",
            hashlib.sha256(canonical.encode()).hexdigest(),
        ]
    )
    key = f"AWS4{secret}".encode()
    for word in (day, region, service, "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    wanted = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    assert hmac.compare_digest(wanted, signature), "the signature does not match"


@functools.cache
def service_model(name: str) -> Any:
    return botocore.session.Session().get_service_model(name)


def check_request(
    service: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[str, dict[str, Any]]:
    """The operation and its parameters; `AssertionError` where the service model disagrees."""
    model = service_model(service)
    for name in model.operation_names:
        operation = model.operation_model(name)
        uri = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", operation.http["requestUri"])
        found = re.fullmatch(uri, path)
        if found and operation.http["method"] == "POST":
            break
    else:
        raise AssertionError(f"{service} has no {path}")
    given: dict[str, Any] = {key: unquote(value) for key, value in found.groupdict().items()}
    shape = operation.input_shape
    for member, kind in shape.members.items():
        if kind.serialization.get("location") == "header":
            value = headers.get(kind.serialization["name"].lower())
            given |= {member: value} if value is not None else {}
    payload = shape.serialization.get("payload")
    if payload:
        given[payload] = body
    else:
        decoded = json.loads(body)
        given |= {key: _typed(shape.members.get(key), value, key) for key, value in decoded.items()}
    report = ParamValidator().validate(given, shape)
    assert not report.has_errors(), report.generate_report()
    return name, given


def _typed(shape: Any, value: Any, where: str) -> Any:
    """JSON as the model's types: base64 decoded, enumerations and patterns checked."""
    assert shape is not None, f"unknown member {where}"
    if shape.type_name == "structure":
        if getattr(shape, "is_document_type", False):
            return value
        assert isinstance(value, dict), f"{where} is no structure"
        known = shape.members
        return {key: _typed(known.get(key), item, f"{where}.{key}") for key, item in value.items()}
    if shape.type_name == "list":
        assert isinstance(value, list), f"{where} is no list"
        return [_typed(shape.member, item, f"{where}[{at}]") for at, item in enumerate(value)]
    if shape.type_name == "blob":
        return base64.b64decode(value, validate=True)
    if shape.type_name == "string":
        assert isinstance(value, str), f"{where} is no string"
        assert not shape.enum or value in shape.enum, f"{where}: {value!r} is not in {shape.enum}"
        pattern = shape.metadata.get("pattern")
        assert not pattern or re.fullmatch(pattern, value), f"{where}: {value!r}"
        most = shape.metadata.get("max")
        assert most is None or len(value) <= most, f"{where} is longer than {most}"
    return value


def encode_event(kind: str, payload: bytes, *, exception: bool = False) -> bytes:
    """One message: prelude with its CRC, headers of strings, payload, CRC of all of it."""
    named = ":exception-type" if exception else ":event-type"
    words = {":message-type": "exception" if exception else "event", named: kind}
    words[":content-type"] = "application/json"
    headers = b""
    for name, value in words.items():
        headers += bytes([len(name)]) + name.encode()
        headers += b"\x07" + struct.pack("!H", len(value)) + value.encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack("!I", binascii.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", binascii.crc32(message))
