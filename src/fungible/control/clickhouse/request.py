"""A request's query string and headers, sorted by what they are for."""

import re
import uuid
from collections.abc import Mapping

import msgspec

from fungible.control.clickhouse.failures import ClickHouseError

# What the HTTP interface itself acts on, or what makes no difference to an embedded engine.
_TRANSPORT = frozenset(
    {
        *("query", "query_id", "database", "default_format", "user", "password", "quota_key"),
        *("session_id", "session_timeout", "session_check", "close_session", "role"),
        *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level"),
        *("wait_end_of_query", "buffer_size", "client_protocol_version", "stacktrace"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
        *("cancel_http_readonly_queries_on_client_close", "http_make_head_request"),
        *("http_write_exception_in_output_format", "readonly", "log_comment"),
        # Inserts are synchronous: the embedded engine does not batch them.
        *("async_insert", "wait_for_async_insert", "async_insert_busy_timeout_ms"),
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SESSION_S, LONGEST_SESSION_S = 60, 3600


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, besides its statement.

    Attributes:
        settings: The engine's settings for this statement.
        params: Values of `{name:Type}`.
        readonly: 0 unless the client asked for 1 or 2.
        whole: Whether to answer only once the statement has ended.
    """

    query: str = ""
    query_id: str = ""
    database: str = ""
    format: str = ""
    session: str = ""
    session_s: int = SESSION_S
    session_check: bool = False
    session_close: bool = False
    readonly: int = 0
    whole: bool = False
    settings: dict[str, str] = {}
    params: dict[str, str] = {}


def read_ask(fields: Mapping[str, str], headers: Mapping[str, str]) -> Ask:
    """Sort a query string.

    Raises:
        ClickHouseError: A field is malformed, or asks for what there is not.
    """
    if _flag(fields, "compress") or _flag(fields, "decompress"):
        raise ClickHouseError(
            48,
            "compress=1 and decompress=1 (ClickHouse's own compressed blocks) are not served"
            " here: use Accept-Encoding and Content-Encoding (zstd, lz4, gzip)",
        )
    if fields.get("role"):
        raise ClickHouseError(511, "there are no roles here")
    settings = {name: value for name, value in fields.items() if name not in _TRANSPORT}
    params = {name[6:]: settings.pop(name) for name in list(settings) if name[:6] == "param_"}
    for name in settings:
        if not _NAME.fullmatch(name):
            raise ClickHouseError(115, f"{name[:64]!r} is not a setting", name="UNKNOWN_SETTING")
    return Ask(
        query=fields.get("query", ""),
        query_id=fields.get("query_id") or str(uuid.uuid4()),
        database=fields.get("database") or headers.get("x-clickhouse-database", ""),
        format=fields.get("default_format") or headers.get("x-clickhouse-format", ""),
        session=fields.get("session_id", ""),
        session_s=_session_s(fields.get("session_timeout", "")),
        session_check=_flag(fields, "session_check"),
        session_close=_flag(fields, "close_session"),
        readonly=_readonly(fields.get("readonly", "0")),
        whole=_flag(fields, "wait_end_of_query"),
        settings=settings,
        params=params,
    )


def _flag(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "0").lower() not in ("", "0", "false")


def _readonly(text: str) -> int:
    if text not in ("0", "1", "2"):
        raise ClickHouseError(36, f"readonly={text[:16]}: it is 0, 1 or 2")
    return int(text)


def _session_s(text: str) -> int:
    if not text:
        return SESSION_S
    if not text.isdecimal() or int(text) > LONGEST_SESSION_S:
        raise ClickHouseError(
            374, f"session_timeout={text[:16]}: whole seconds, at most {LONGEST_SESSION_S}"
        )
    return int(text)
