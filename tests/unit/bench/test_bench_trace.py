import subprocess
import sys
from pathlib import Path

import pytest

from fungible.bench.arrivals import burstiness, gamma_offsets, offsets
from fungible.bench.trace import load_trace, parse_trace, synthesise
from fungible.errors import ConfigError, InputError

REPO = Path(__file__).resolve().parents[3]
ROW = b'{"timestamp": 0, "input_length": 5, "output_length": 2}\n'


def test_bundled_trace_is_what_its_seed_makes() -> None:
    tool = REPO / "tools/make_everyday_trace.py"
    result = subprocess.run(
        [sys.executable, tool, "--check"], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_bundled_trace_has_the_shape_its_notice_says() -> None:
    trace = load_trace("everyday")
    assert len(trace.rows) == 40
    assert all(20 <= row.input_length <= 80 for row in trace.rows)
    assert all(8 <= row.output_length <= 32 for row in trace.rows)
    assert trace.block == 16
    assert burstiness(offsets(trace)) > 1.2
    assert 15 < offsets(trace)[-1] < 30


def test_a_prompt_is_as_long_as_it_was_and_shares_what_it_shared() -> None:
    trace = load_trace("everyday")
    prompts = [synthesise(trace, row) for row in trace.rows]
    for row, prompt in zip(trace.rows, prompts, strict=True):
        assert len(prompt.split()) == row.input_length
    first = next(row for row in trace.rows if len(row.hash_ids) > 2)
    second = next(
        row for row in trace.rows if row is not first and row.hash_ids[:2] == first.hash_ids[:2]
    )
    one, two = synthesise(trace, first).split(), synthesise(trace, second).split()
    shared = min(2 * trace.block, len(one), len(two))
    assert one[:shared] == two[:shared]
    assert one[shared:] != two[shared:] or len(one) != len(two)
    assert synthesise(trace, first) == synthesise(trace, first)


def test_rows_without_hashes_have_words_of_their_own() -> None:
    later = ROW.replace(b": 0,", b": 7,")
    trace = parse_trace(ROW + later, "t", "t")
    assert synthesise(trace, trace.rows[0]) != synthesise(trace, trace.rows[1])


def test_offsets_start_at_nothing_and_scale() -> None:
    later = ROW.replace(b": 0,", b": 1500,")
    start = ROW.replace(b": 0,", b": 500,")
    trace = parse_trace(start + later, "t", "t")
    assert offsets(trace) == [0.0, 1.0]
    assert offsets(trace, 4) == [0.0, 0.25]


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_speed_must_be_positive(speed: float) -> None:
    with pytest.raises(InputError, match="speed"):
        offsets(load_trace("everyday"), speed)


def test_burstiness() -> None:
    assert burstiness([0, 1, 2, 3]) == 0
    assert burstiness([5.0]) == 0
    poisson = gamma_offsets(4000, rate=5, cv=1, seed=1)
    assert burstiness(poisson) == pytest.approx(1, abs=0.08)
    assert poisson[-1] == pytest.approx(800, rel=0.08)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no requests"),
        (b"{", "t:1"),
        (b'{"timestamp": 0, "input_length": 5}', "t:1.*output_length"),
        (ROW + ROW.replace(b"5", b"0"), "t:2: input_length is 0"),
        (ROW + ROW.replace(b"2}", b"-2}"), "t:2: output_length is -2"),
        (ROW.replace(b": 0", b": 9") + ROW, "t:2: timestamp 0.0 is before"),
        (ROW.replace(b"5", b'"five"'), "t:1.*input_length"),
    ],
)
def test_malformed_trace_names_line_and_field(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_trace(data, "t", "t")


def test_unknown_trace_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_trace("nowhere")
    assert "everyday" in caught.value.hint
