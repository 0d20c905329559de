import concurrent.futures
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.contract.events import RECORDS, LeaseEvent, Record
from fungible.contract.ids import new_id
from fungible.contract.inference import usage_from_openai
from fungible.contract.openai import parse_chat
from fungible.contract.sse import EventBuffer, encode_frame, frame_data, split_frames
from fungible.contract.target import Target, parse_target
from fungible.errors import InputError, RequestError


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
        max_size=8,
    ),
    st.data(),
)
def test_frames_survive_any_chunking(texts: list[str], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(text.encode()) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    buffer, frames = EventBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += split_frames(buffer.feed(stream[start:end]))
    assert b"".join(frames) == stream
    assert [frame_data(frame) for frame in frames] == [text.encode() for text in texts]
    assert buffer.rest == b""


@pytest.mark.parametrize(
    ("frame", "data"),
    [
        (b"data:{}\n\n", b"{}"),
        (b": ping\n\n", None),
        (b"event: x\r\ndata: a\r\ndata: b\r\n\r\n", b"a\nb"),
    ],
)
def test_frame_data_of_other_peoples_dialects(frame: bytes, data: bytes | None) -> None:
    assert split_frames(EventBuffer().feed(frame)) == [frame]
    assert frame_data(frame) == data


def test_a_cut_stream_leaves_a_rest() -> None:
    buffer = EventBuffer()
    assert split_frames(buffer.feed(b'data: {"a"')) == []
    assert buffer.rest


@pytest.mark.parametrize("first", [b"data: a\n\n", b"data: a\r\n\r\n"])
@pytest.mark.parametrize("second", [b"data: b\n\n", b"data: b\r\n\r\n"])
def test_line_ends_may_change_within_a_stream(first: bytes, second: bytes) -> None:
    assert split_frames(EventBuffer().feed(first + second)) == [first, second]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_usage_leaves_sum_to_the_totals(prompt: int, out: int, cached: int, reasoning: int) -> None:
    usage = usage_from_openai(
        {
            "prompt_tokens": prompt,
            "completion_tokens": out,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    leaves = [usage.in_uncached, usage.in_cache_read, usage.out_visible, usage.out_reasoning]
    assert all(leaf is not None and leaf >= 0 for leaf in leaves)
    assert (usage.in_uncached or 0) + (usage.in_cache_read or 0) == prompt
    assert (usage.out_visible or 0) + (usage.out_reasoning or 0) == out


def test_unknown_usage_is_unknown_not_zero() -> None:
    usage = usage_from_openai({"prompt_tokens": 3})
    assert usage.in_uncached is None
    assert usage.source == "none"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b'{"model": 3, "messages": []}', "model"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": [{"role": "x"}]}', "messages[0].role"),
        (b'{"model": "m", "messages": [{"role": "user"}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "m", "messages": [{"role": "user"}], "temperature": 9}', "temperature"),
    ],
)
def test_bad_chat_bodies_name_the_field(body: bytes, field: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat(body)
    assert caught.value.param == field
    assert caught.value.to_openai()["error"]["type"] == "invalid_request_error"


def test_unknown_fields_are_kept() -> None:
    _, raw = parse_chat(b'{"model": "m", "messages": [{"role": "user"}], "top_k": 5}')
    assert raw["top_k"] == 5


@pytest.mark.parametrize("text", ["xla:cpu", "onnxruntime:cpu", "xla:tpu:v6e"])
def test_targets_round_trip(text: str) -> None:
    assert str(parse_target(text)) == text
    assert parse_target(text.split(":", maxsplit=1)[0]) == Target(
        runtime=text.split(":", maxsplit=1)[0]
    )


@pytest.mark.parametrize("text", ["", "abacus:cpu", "xla:cpu:a:b", "xla:", "xla:c pu"])
def test_bad_targets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="target"):
        parse_target(text)


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id("x_") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [one[:14] for one in ids] == sorted(one[:14] for one in ids)


def test_every_record_carries_its_own_tag() -> None:
    tags = {record.__struct_config__.tag for record in RECORDS}
    assert len(tags) == len(RECORDS)
    lease = LeaseEvent(lease_id="l", backend="b", accelerator="", started_ns=1, seen_ns=2)
    assert msgspec.json.decode(msgspec.json.encode(lease), type=Record) == lease  # type: ignore[arg-type]


def test_ids_of_one_millisecond_sort_by_time() -> None:
    ids = []
    for _ in range(50):
        ids.append(new_id())
        after = time.time_ns() + 1_000  # the fraction of the millisecond is told to 244 ns
        while time.time_ns() < after:
            pass
    assert ids == sorted(ids)


def test_ids_of_threads_never_repeat() -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(), range(5000)))
    assert len({one[20:] for one in ids}) == len(ids)  # the random part alone


FORKING = """
import os
from fungible.contract.ids import new_id
new_id()
child = os.fork()
if child:
    os.waitpid(child, 0)
print(*(new_id() for _ in range(20)), flush=True)
"""


def test_a_forked_child_makes_ids_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, timeout=60
    )
    ids = done.stdout.split()
    assert len({one[20:] for one in ids}) == len(ids) == 40
