"""Figures from cells: medians, paired ratios, bounds, and the chart."""

from xml.etree import ElementTree as ET

import pytest

from peers.catalogue import ENGINES, PEERS, Engine
from peers.measure import DRIVERS, Cell
from peers.plot import decode_svg
from peers.report import bars, rows

OURS = Engine("fungible onnxruntime int8", "fungible", "8/4-bit", "artifact", {"variant": "int8"})
TRADED = Engine(
    "fungible onnxruntime int4-ort", "fungible", "8/4-bit", "artifact", {"variant": "int4-ort"}
)
SLOW = Engine("llama.cpp q8_0", "llamacpp", "8/4-bit", "gguf-q8_0")
FAST = Engine("ORT-GenAI int4", "ortgenai", "8/4-bit", "hf-f32")
VLLM = Engine("vLLM bf16", "vllm", "bf16", "hf-bf16", served=True)
HALF = Engine("fungible onnxruntime bf16", "fungible", "bf16", "artifact", {"variant": "bf16"})


def bare(engine: Engine, number: int, decode: float, prefill: float = 1000.0) -> Cell:
    return Cell(engine.name, "bare", number, 1.0, prefill=[prefill] * 3, decode=[decode] * 3)


def served(engine: Engine, number: int, rate: float, ttft: list[float]) -> Cell:
    load = {"tokens_per_s": rate, "total_tokens_per_s": 3 * rate, "ttft_ms": ttft}
    return Cell(engine.name, "served", number, 1.0, loads={16: load}, peak_pss=5_000_000)


def test_a_ratio_pairs_the_cells_of_a_round() -> None:
    # A busy third round slows both: medians over all rounds would hide nothing here, but the
    # range of the paired ratio stays narrow.
    cells = [bare(OURS, n, rate) for n, rate in ((1, 100.0), (2, 110.0), (3, 20.0))]
    cells += [bare(FAST, n, rate) for n, rate in ((1, 200.0), (2, 200.0), (3, 40.0))]
    cells += [bare(SLOW, n, 90.0) for n in (1, 2, 3)]
    found = {bar.what: bar for bar in bars([OURS, FAST, SLOW], cells)}
    decode = found["8/4-bit decode"]
    assert (decode.ours, decode.peer) == (OURS.name, FAST.name)
    assert decode.ratio.median == pytest.approx(0.5)
    assert (decode.ratio.low, decode.ratio.high) == pytest.approx((0.5, 0.55))
    assert not decode.met


def test_a_round_that_one_side_lacks_is_left_out_of_the_ratio() -> None:
    cells = [bare(OURS, 1, 100.0), bare(OURS, 2, 1.0), bare(FAST, 1, 100.0)]
    (decode, _) = bars([OURS, FAST], cells)
    assert decode.ratio.median == 1.0
    assert decode.ratio.rounds == 1
    assert decode.met


def test_the_variant_with_own_operators_is_judged_apart_from_the_portable_graphs() -> None:
    cells = [bare(OURS, 1, 80.0), bare(TRADED, 1, 300.0), bare(FAST, 1, 200.0)]
    found = {(bar.what, bar.peer): bar for bar in bars([OURS, TRADED, FAST], cells)}
    assert found["8/4-bit decode", FAST.name].ours == OURS.name
    assert found["decode", FAST.name].ours == TRADED.name
    assert found["decode", FAST.name].ratio.median == pytest.approx(1.5)


def test_times_to_first_token_are_inverted_so_that_more_is_better() -> None:
    cells = [served(HALF, 1, 300.0, [10.0, 500.0]), served(VLLM, 1, 200.0, [10.0, 1000.0])]
    found = {bar.what: bar for bar in bars([HALF, VLLM], cells)}
    assert found["bf16 TTFT p99 at 16"].ratio.median == pytest.approx(2.0)
    assert found["tokens/s at 16"].ratio.median == pytest.approx(1.5)
    assert found["tokens/s at 16"].required == 1.0


def test_cells_that_failed_count_for_nothing_but_keep_their_reason() -> None:
    failed = Cell(OURS.name, "bare", 2, 1.0, decode=[1.0], error="ended with status 1")
    cells = [bare(OURS, 1, 100.0), failed]
    (row,) = rows([OURS], cells, {}, 40.0)
    assert row.decode is not None
    assert row.decode.rounds == 1
    assert row.errors == {"bare": "ended with status 1"}


def test_a_row_knows_its_bound_and_how_much_of_the_reference_it_says() -> None:
    reference = bare(Engine("transformers f32", "transformers", "f32", "hf-f32"), 1, 20.0)
    reference.tokens = [5, 6, 7, 8]
    mine = bare(OURS, 1, 100.0)
    mine.tokens = [5, 6, 9, 8]
    (row,) = rows([OURS], [reference, mine], {OURS.name: 200_000_000}, read_gb_s=40.0)
    assert row.bound == pytest.approx(200.0)
    assert row.fraction == pytest.approx(0.5)
    assert row.same_tokens == 2


def test_served_figures_pool_the_times_of_all_rounds() -> None:
    cells = [served(VLLM, 1, 100.0, [1.0] * 60), served(VLLM, 2, 120.0, [2.0] * 40)]
    (row,) = rows([VLLM], cells, {}, 40.0)
    one = row.served[16]
    assert (one.tokens_per_s.low, one.tokens_per_s.high) == (100.0, 120.0)
    assert (one.ttft_p50_ms, one.ttft_p99_ms, one.requests) == (1.0, 2.0, 100)
    assert row.served_peak_mb == 5


def test_every_row_of_the_catalogue_has_a_peer_with_a_driver_and_a_name_of_its_own() -> None:
    assert len({engine.name for engine in ENGINES}) == len(ENGINES)
    for engine in ENGINES:
        assert (DRIVERS / PEERS[engine.peer].driver).is_file()
    assert {"fungible", "llamacpp", "ortgenai", "openvino", "transformers", "vllm"} == set(PEERS)


def test_the_chart_is_one_file_that_shows_every_measured_engine() -> None:
    cells = [bare(OURS, 1, 100.0), bare(FAST, 1, 200.0), bare(FAST, 2, 210.0)]
    engines = [OURS, FAST, SLOW]
    svg = decode_svg(rows(engines, cells, {OURS.name: 100_000_000}, 40.0), "A <title>", "note")
    root = ET.fromstring(svg)
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert OURS.name in texts
    assert FAST.name in texts
    assert SLOW.name not in texts  # it has no figures
    assert any("25% of bound" in text for text in texts)
    assert "href" not in svg
    # The bars are drawn to one scale.
    bars_ = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("rx")]
    widths = sorted(float(rect.get("width", "0")) for rect in bars_)
    assert widths[1] / widths[0] == pytest.approx(2.05, rel=0.01)
