"""Reads as much of a statement as the HTTP interface must understand.

That is its first word, the format that it asks for, and where the rows of an INSERT begin;
everything else is the engine's to parse. Works on bytes: rows are not text.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

# A comment or a quoted text without an end is left as a single character.
_TOKEN = re.compile(
    rb"""
    (?P<space>\s+|--[^\n]*(?:\n|\Z)|\#[ !][^\n]*(?:\n|\Z)|/\*.*?\*/)
    |(?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`
        |\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>\d[\w.]*)
    |(?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_UNFINISHED = (b"'", b'"', b"`", b"/", b"$")
_READS = frozenset(
    {b"SELECT", b"WITH", b"FROM", b"SHOW", b"DESC", b"DESCRIBE", b"EXPLAIN", b"EXISTS", b"CHECK"}
)
_STREAMS = frozenset({b"SELECT", b"WITH", b"FROM"})
_NAMED = (b"INTO", b"TABLE", b"FUNCTION", b".")


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What the beginning of a request's text says.

    Attributes:
        sql: The statement; of an INSERT with rows, all before `FORMAT` or `VALUES`.
        format: As the statement asks, or empty.
        rows_at: Where the rows of an INSERT begin, in the text; -1 where there are none.
        reads: Whether it answers with rows.
        streams: Whether the engine can hand its answer out block by block.
    """

    sql: bytes
    format: str = ""
    rows_at: int = -1
    reads: bool = False
    streams: bool = False


class _Token(NamedTuple):
    kind: str
    text: bytes  # words in upper case
    start: int
    end: int
    depth: int


def read_statement(text: bytes, *, whole: bool) -> Statement | None:
    """The statement that `text` is or begins with; `None` while more of it must be seen.

    Args:
        text: What has come so far.
        whole: Whether nothing follows.
    """
    tokens = _tokens(text)
    first = next(tokens, None)
    while first is not None and first.text == b"(":
        first = next(tokens, None)
    if first is not None and first.text == b"INSERT" and (whole or first.end < len(text)):
        return _insert(text, tokens, whole)
    if not whole:
        return None
    word = first.text if first is not None else b""
    return Statement(
        sql=text,
        format=_asked_format(text),
        reads=word in _READS,
        streams=word in _STREAMS,
    )


def _insert(text: bytes, tokens: Iterator[_Token], whole: bool) -> Statement | None:
    before = b"INTO"
    for token in tokens:
        if token.end + 2 > len(text) and not whole:
            return None
        if token.kind == "other" and token.text in _UNFINISHED and not whole:
            return None
        if token.depth == 0 and token.kind == "word" and before not in _NAMED:
            if token.text in (b"SELECT", b"WITH", b"FROM", b"WATCH"):
                return Statement(sql=text, format=_asked_format(text)) if whole else None
            if token.text == b"VALUES":
                return Statement(sql=text[: token.start], format="Values", rows_at=token.end)
            if token.text == b"FORMAT":
                return _with_format(text, token.start, next(tokens, None), whole)
        before = token.text
    return Statement(sql=text, rows_at=len(text)) if whole else None


def _with_format(text: bytes, start: int, name: _Token | None, whole: bool) -> Statement | None:
    if name is None or name.kind != "word":
        return Statement(sql=text) if whole else None
    # After the name: blanks, at most one line end, then rows; as ClickHouse's own parser.
    at = name.end
    while at < len(text) and text[at] in b" \t\f":
        at += 1
    if at + 2 > len(text) and not whole:
        return None
    at += text[at : at + 1] == b"\r"
    at += text[at : at + 1] == b"\n"
    return Statement(sql=text[:start], format=text[name.start : name.end].decode(), rows_at=at)


def _asked_format(text: bytes) -> str:
    """The last top-level `FORMAT name` that ends the statement, or is followed by settings."""
    if b"format" not in text.lower():
        return ""
    tokens = [token for token in _tokens(text) if token.text != b";"]
    for at in range(len(tokens) - 2, -1, -1):
        word, name = tokens[at], tokens[at + 1]
        if word.text != b"FORMAT" or word.depth or word.kind != "word" or name.kind != "word":
            continue
        follows = tokens[at + 2].text if at + 2 < len(tokens) else b"SETTINGS"
        return text[name.start : name.end].decode() if follows == b"SETTINGS" else ""
    return ""


def _tokens(text: bytes) -> Iterator[_Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        kind = "quoted" if kind == "tag" else kind
        if kind == "space":
            continue
        word = match[0].upper() if kind == "word" else match[0]
        if word in (b")", b"]"):
            depth -= 1
        yield _Token(kind, word, match.start(), match.end(), depth)
        if word in (b"(", b"["):
            depth += 1
