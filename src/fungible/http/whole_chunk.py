"""One read that is one chunk of a chunked body (RFC 9112, section 7.1), as nearly every token is.

What such a read must begin with follows from its length, so it is told apart by comparing and
needs no parser. Whatever looks otherwise is for the parser.
"""

import functools

# Longer reads are rare, and what is known of a length is kept.
MOST_BYTES = 4096


@functools.cache
def framing(length: int) -> tuple[tuple[bytes, ...], int]:
    """What `length` bytes that are one chunk begin with, and where its content begins then.

    The content ends two bytes before the read does. Nothing begins with none of an empty tuple:
    no chunk has that length.
    """
    for digits in (1, 2, 3):
        size = b"%x" % max(length - digits - 4, 0)
        if len(size) == digits and size != b"0":
            return (size + b"\r\n", size.upper() + b"\r\n"), digits + 2
    return (), 0
