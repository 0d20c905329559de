"""The endpoint's small parts: users, codings, the heads of blocks, errors."""

import base64
import gzip
import hashlib
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fungible.config import ReaderSettings
from fungible.control.clickhouse.coding import Decoder, Encoder, best_coding
from fungible.control.clickhouse.failures import ClickHouseError, from_engine
from fungible.control.clickhouse.formats import head_of
from fungible.control.clickhouse.request import read_ask
from fungible.control.clickhouse.users import Users

UNDO = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "lz4": lz4.frame.decompress,
    "identity": bytes,
}
TOKEN = "fr-secret"
USERS = Users("owner's", {"bi": ReaderSettings(hash=hashlib.sha256(TOKEN.encode()).hexdigest())})


@pytest.mark.parametrize("coding", UNDO)
@given(pieces=st.lists(st.binary(max_size=500), max_size=5))
def test_codings_there_and_back(coding: str, pieces: list[bytes]) -> None:
    encoder = Encoder(coding)
    coded = b"".join([*map(encoder.add, pieces), encoder.end()])
    assert UNDO[coding](coded) == b"".join(pieces)
    decoder = Decoder(coding)
    plain = b"".join(decoder.add(coded[at : at + 7]) for at in range(0, len(coded), 7))
    decoder.end()
    assert plain == b"".join(pieces)


def test_a_body_that_is_not_in_its_coding_is_refused() -> None:
    for coding in ("gzip", "deflate", "zstd", "lz4"):
        with pytest.raises(ClickHouseError, match=f"not {coding}"):
            Decoder(coding).add(b"surely not compressed")
        short = Decoder(coding)
        encoder = Encoder(coding)
        short.add((encoder.add(b"x" * 100) + encoder.end())[:-3])
        with pytest.raises(ClickHouseError, match="ends inside"):
            short.end()
    with pytest.raises(ClickHouseError, match="'br'"):
        Decoder("br")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", "identity"),
        ("br, *", "identity"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("zstd;q=0, lz4", "lz4"),
        ("ZSTD;q=0.5", "zstd"),
    ],
)
def test_the_coding_of_an_answer(accepted: str, coding: str) -> None:
    assert best_coding(accepted) == coding


@pytest.mark.parametrize(
    ("name", "block", "head"),
    [
        ("Native", b"\x01", 0),
        ("CSV", b"1\n", 0),
        ("TabSeparatedWithNames", b"a\tb\n1\t2\n", 4),
        ("TSVWithNamesAndTypes", b"a\nInt8\n1\n", 7),
        ("CSVWithNames", b'"a\nb","c"\n1,2\n', 10),
        ("JSONCompactEachRowWithNamesAndTypes", b'["a"]\n["Int8"]\n[1]\n', 15),
        ("RowBinaryWithNamesAndTypes", b"\x01\x01a\x04Int8\x09", 8),
        ("RowBinaryWithNames", b"\x02\x01a\x01b\x09\x09", 5),
    ],
)
def test_the_names_in_front_of_a_block(name: str, block: bytes, head: int) -> None:
    cut = head_of(name)
    assert cut is not None
    assert cut(block) == head


@pytest.mark.parametrize("name", ["JSON", "Arrow", "ArrowStream", "Parquet", "Pretty", "XML"])
def test_formats_with_a_frame_are_made_in_one_piece(name: str) -> None:
    assert head_of(name) is None


def basic(name: str, password: str) -> dict[str, str]:
    text = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"authorization": f"Basic {text}"}


def test_users_come_in_three_ways() -> None:
    owner, reader = USERS.authenticate(basic("fungible", "owner's"), {}), None
    assert (owner.name, owner.reader) == ("fungible", None)
    for headers, fields in (
        (basic("bi", TOKEN), {}),
        ({"x-clickhouse-user": "bi", "x-clickhouse-key": TOKEN}, {}),
        ({}, {"user": "bi", "password": TOKEN}),
    ):
        reader = USERS.authenticate(headers, fields)
        assert reader.reader is not None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 194),
        (basic("fungible", ""), 194),
        (basic("fungible", "wrong"), 516),
        (basic("fungible", TOKEN), 516),
        (basic("bi", "owner's"), 516),
        (basic("nobody", "x"), 516),
        (basic("bi", "wröng"), 516),
        ({"authorization": "Basic !!"}, 516),
        ({"x-clickhouse-user": "bi", **basic("bi", TOKEN)}, 194),
    ],
)
def test_others_do_not(headers: dict[str, str], code: int) -> None:
    with pytest.raises(ClickHouseError) as raised:
        USERS.authenticate(headers, {})
    assert raised.value.code == code
    assert TOKEN not in raised.value.message


def test_fields_are_sorted_by_what_they_are_for() -> None:
    ask = read_ask(
        {
            "query": "SELECT {x:Int8}",
            "param_x": "1",
            "max_threads": "2",
            "wait_end_of_query": "1",
            "readonly": "1",
            "client_protocol_version": "54405",
        },
        {},
    )
    assert (ask.params, ask.settings, ask.readonly) == ({"x": "1"}, {"max_threads": "2"}, 1)
    assert ask.whole
    assert len(ask.query_id) == 36
    for fields, code in (
        ({"compress": "1"}, 48),
        ({"decompress": "true"}, 48),
        ({"role": "r"}, 511),
        ({"readonly": "3"}, 36),
        ({"session_timeout": "4000"}, 374),
        ({"a b": "1"}, 115),
    ):
        with pytest.raises(ClickHouseError) as raised:
            read_ask(fields, {})
        assert raised.value.code == code


def test_the_engines_words_become_a_code_a_name_and_a_status() -> None:
    once = "Code: 164. DB::Exception: "
    twice = f"{once}{once}No. (READONLY) (version 26.9.2.1). (READONLY)"
    error = from_engine(RuntimeError(f"Streaming query failed: {twice}"))
    assert (error.code, error.name, error.message, error.status) == (164, "READONLY", "No", 500)
    assert error.text("26.9") == "Code: 164. DB::Exception: No. (READONLY) (version 26.9)\n"
    assert from_engine(RuntimeError("std::bad_alloc")).code == 1001
