"""The `traceparent` header of W3C Trace Context: which span a request comes from."""

import re

# version - trace id - parent id - flags; later versions may append more after another dash.
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def span_of(header: str | None) -> tuple[str, str]:
    """Trace and span id of the caller, in lower-case hexadecimal; both empty where none is named.

    A header that the specification says to ignore names none: it is never an error.
    """
    if header is None or (found := _HEADER.fullmatch(header.strip())) is None:
        return "", ""
    version, trace_id, span_id, more = found.groups()
    unfit = version == "ff" or (version == "00" and more is not None)
    if unfit or not trace_id.strip("0") or not span_id.strip("0"):
        return "", ""
    return trace_id, span_id
