"""ClickHouse's errors: what an answer says, and with which HTTP status.

Codes and names are ClickHouse's own, from its `ErrorCodes`; statuses follow its HTTP handler.
"""

import re

READONLY = 164
ACCESS_DENIED = 497
_NAMES = {
    36: "BAD_ARGUMENTS",
    48: "NOT_IMPLEMENTED",
    62: "SYNTAX_ERROR",
    81: "UNKNOWN_DATABASE",
    101: "UNEXPECTED_PACKET_FROM_CLIENT",
    164: "READONLY",
    191: "UNKNOWN_SETTING_VALUE",
    194: "REQUIRED_PASSWORD",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    354: "ZLIB_INFLATE_FAILED",
    372: "SESSION_NOT_FOUND",
    394: "QUERY_WAS_CANCELLED",
    373: "SESSION_IS_LOCKED",
    374: "INVALID_SESSION_TIMEOUT",
    396: "TOO_MANY_ROWS_OR_BYTES",
    452: "SETTING_CONSTRAINT_VIOLATION",
    497: "ACCESS_DENIED",
    511: "UNKNOWN_ROLE",
    516: "AUTHENTICATION_FAILED",
    1001: "STD_EXCEPTION",
}
_STATUS: dict[int, int] = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 43, 47, 53, 62, 69, 70, 72, 117, 130, 135), 400),
    **dict.fromkeys((158, 167, 168, 452, 456), 400),
    **dict.fromkeys((46, 50, 56, 60, 63, 73, 78, 81, 115, 372), 404),
    **dict.fromkeys((192, 193, 497, 511, 516), 403),
    194: 401,
    159: 408,
    223: 413,
    48: 501,
    **dict.fromkeys((202, 209), 503),
}
_ENGINE = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.DOTALL)
# The engine says some things twice, once around the other.
_AGAIN = re.compile(r"^(?:Code: \d+\. DB::Exception: )+")
_TAIL = re.compile(r"(?:\.? \(version [\d.]+\))?\.? ?\((?P<name>[A-Z][A-Z0-9_]+)\)\s*$")


class ClickHouseError(Exception):
    """An error as ClickHouse's clients understand it.

    Attributes:
        code: ClickHouse's number, such as 60 for an unknown table.
        message: What went wrong; no secret, no token.
        name: The name of `code`.
        status: Of the HTTP answer.
    """

    def __init__(self, code: int, message: str, *, name: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.name = name or _NAMES.get(code, "")
        self.status = status or _STATUS.get(code, 500)

    def text(self, version: str) -> str:
        """The body of an answer, in the words of ClickHouse's own server."""
        name = f" ({self.name})" if self.name else ""
        return f"Code: {self.code}. DB::Exception: {self.message}.{name} (version {version})\n"


def from_engine(error: Exception) -> ClickHouseError:
    """The error that the embedded engine raised, which has its code only in its text."""
    match = _ENGINE.search(str(error))
    if match is None:
        return ClickHouseError(1001, str(error)[:1000])
    message = _AGAIN.sub("", match[2])
    name = ""
    while tail := _TAIL.search(message):
        name = name or tail["name"]
        message = message[: tail.start()]
    return ClickHouseError(int(match[1]), message.strip().rstrip("."), name=name)
