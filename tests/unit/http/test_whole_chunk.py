"""Chunks that come in a read of their own skip the parser; nothing else may change by that."""

import asyncio
import gzip
import itertools
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.http.connection import Connection
from fungible.http.errors import MalformedAnswerError
from fungible.http.whole_chunk import MOST_BYTES, framing

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Wire:
    """A transport that carries nothing."""

    def write(self, data: bytes) -> None:
        """Nobody hears it."""

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """There is nothing to drop."""


def said(reads: list[bytes]) -> tuple[bytes, Connection]:
    """What a connection makes of these reads, each in full before the next."""

    async def read() -> tuple[bytes, Connection]:
        one, took = Connection(10), list[bytes]()
        one.connection_made(cast("asyncio.BaseTransport", Wire()))
        one.send(b"")
        one.listen(took.append, lambda: None)
        for data in reads:
            one.data_received(data)
        one.close()
        return b"".join(took), one

    return asyncio.run(read())


def test_every_length_has_at_most_one_framing() -> None:
    for size in range(1, MOST_BYTES - 8):
        for form in (b"%x", b"%X"):
            read = form % size + b"\r\n" + b"-" * size + b"\r\n"
            begins, start = framing(len(read))
            assert read.startswith(begins)
            assert read[start:-2] == b"-" * size
    assert [n for n in range(30) if not framing(n)[0]] == [0, 1, 2, 3, 4, 5, 21]


pieces = st.lists(
    st.tuples(
        # Content that looks like framing, too.
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.text("0123af\r\n", min_size=1, max_size=60).map(str.encode),
        ),
        st.sampled_from([b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n"]),
    ),
    max_size=6,
)


@given(pieces, st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_wherever_it_is_cut_the_body_is_the_same(
    parts: list[tuple[bytes, bytes]], cuts: list[int], at_chunks: bool
) -> None:
    chunks = [form % len(part) + part + b"\r\n" for part, form in parts]
    stream = b"".join([HEAD, *chunks, b"0\r\n\r\n"])
    ends = {0, len(stream), *(cut for cut in cuts if cut < len(stream))}
    if at_chunks:
        at = len(HEAD)
        for chunk in [b"", *chunks]:
            at += len(chunk)
            ends.add(at)
    places = sorted(ends)
    reads = [stream[a:b] for a, b in itertools.pairwise(places)]
    body, connection = said(reads)
    assert body == b"".join(part for part, _ in parts)
    assert connection.complete
    assert connection.failure is None


@pytest.mark.parametrize("size", [b"+2", b" 2", b"0x2", b"2_", b"-2", b"zz"])
@pytest.mark.parametrize("before", [[HEAD], [HEAD, b"1\r\na\r\n"]])
def test_a_size_that_is_none_is_malformed(size: bytes, before: list[bytes]) -> None:
    _, connection = said([*before, size + b"\r\nok\r\n"])
    assert isinstance(connection.failure, MalformedAnswerError)


def test_digits_of_a_size_that_came_before_count() -> None:
    # The last read looks like a chunk of two bytes; it begins one of 0x12.
    body, connection = said([HEAD, b"1\r\n-\r\n1", b"2\r\nab\r\n"])
    assert (body, connection.failure) == (b"-ab\r\n", None)


def test_compressed_chunks_are_decoded() -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    packed = gzip.compress(b"a text" * 9)
    chunks = [b"%x\r\n%b\r\n" % (len(one), one) for one in (packed[:11], packed[11:])]
    body, connection = said([head, *chunks, b"0\r\n\r\n"])
    assert body == b"a text" * 9
    assert connection.complete


def test_who_refuses_a_chunk_ends_the_answer() -> None:
    async def read() -> tuple[int, Any]:
        one, ends, count = Connection(10), [], 0

        def take(_: bytes) -> None:
            nonlocal count
            count += 1
            if count == 2:
                raise LookupError

        one.connection_made(cast("asyncio.BaseTransport", Wire()))
        one.send(b"")
        one.listen(take, lambda: ends.append(one.failure))
        for data in (HEAD, b"1\r\na\r\n", b"1\r\nb\r\n", b"1\r\nc\r\n"):
            one.data_received(data)
        return count, ends

    count, ends = asyncio.run(read())
    assert count == 2
    assert [type(one) for one in ends] == [LookupError]
