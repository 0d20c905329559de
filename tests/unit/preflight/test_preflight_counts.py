"""What a step must do, and the bound that a chip's figures put on it."""

import math
from pathlib import Path

import msgspec
import pytest

from fungible.artifacts.program import Argument, Program, load_program
from fungible.artifacts.tensors import TensorFile
from fungible.errors import InputError
from fungible.preflight.chips import Chip
from fungible.preflight.counts import (
    cache_bytes,
    caches,
    count_step,
    decode_shape,
    number_kinds,
    prefill_shape,
    weight_bytes,
)
from fungible.preflight.roofline import bound_step, floor_usd_per_mtok
from support.tiny_model import CONFIG

# By hand, for the tiny model: 2 layers of 64, 4 query and 2 key heads of 16, 160 in between.
LAYER = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160
HEAD = 64 * CONFIG.vocab
ROW = 2 * 2 * 2 * 16 * 4  # bytes of one position: keys and values, 2 layers, 2 heads of 16


@pytest.fixture(scope="module")
def program(tiny_f32: Path) -> Program:
    return load_program(tiny_f32 / "f32")


def retyped(program: Program, dtype: str, *, caches_too: bool = True) -> Program:
    def change(each: Argument) -> Argument:
        stored = all(isinstance(size, int) for size in each.shape)
        cached = each.name.startswith(("keys.", "values."))
        changed = each.dtype == "float32" and (stored or (cached and caches_too))
        return msgspec.structs.replace(each, dtype=dtype) if changed else each

    arguments = [change(each) for each in program.arguments]
    return msgspec.structs.replace(program, arguments=arguments)


def test_weights_are_the_bytes_of_the_file(tiny_f32: Path, program: Program) -> None:
    regions = TensorFile(tiny_f32 / "f32" / "model.safetensors").regions.values()
    assert weight_bytes(program) == sum(region.length for region in regions)
    assert weight_bytes(retyped(program, "bfloat16")) * 2 == weight_bytes(program)


def test_cache_grows_with_slots_and_positions(program: Program) -> None:
    assert cache_bytes(program, 1, 1) == ROW
    assert cache_bytes(program, 8, 100) == 800 * ROW


def test_decode_counts(program: Program) -> None:
    count = count_step(CONFIG, program, decode_shape(3, 100))
    attention = 4 * 2 * 4 * 16 * 100
    assert count.tokens == 3
    assert count.flops == 3 * (2 * (2 * LAYER + HEAD) + attention)
    assert count.bytes == weight_bytes(program) + 3 * 101 * ROW


def test_prefill_counts_the_head_once_a_row(program: Program) -> None:
    count = count_step(CONFIG, program, prefill_shape(8, 200))
    assert count.tokens == 128
    attended = sum(range(73, 201))
    assert count.flops == 128 * 2 * 2 * LAYER + 2 * HEAD + 4 * 2 * 4 * 16 * attended


def test_a_window_bounds_what_its_layers_read(program: Program) -> None:
    config = msgspec.structs.replace(CONFIG, window=10, windowed=(True, False))
    whole = count_step(CONFIG, program, decode_shape(1, 100))
    windowed = count_step(config, program, decode_shape(1, 100))
    assert whole.flops - windowed.flops == 4 * 4 * 16 * 90
    assert whole.bytes - windowed.bytes == ROW // 2 * 90


def test_an_embedding_beside_a_head_is_not_streamed(program: Program) -> None:
    embedding = next(each for each in program.arguments if "embed_tokens" in each.name)
    head = msgspec.structs.replace(embedding, name="lm_head.weight")
    untied = msgspec.structs.replace(program, arguments=[head, *program.arguments])
    shape = decode_shape(1, 10)
    assert count_step(CONFIG, untied, shape).bytes == count_step(CONFIG, program, shape).bytes
    assert weight_bytes(untied) > weight_bytes(program)


def test_programs_that_cannot_be_counted_are_refused(program: Program) -> None:
    with pytest.raises(InputError, match="float8"):
        weight_bytes(retyped(program, "float8"))
    without = msgspec.structs.replace(program, results=program.results[:1])
    with pytest.raises(InputError, match="no cache"):
        caches(without)


CHIP = Chip(
    target="xla:test",
    chip="a chip",
    compiler="xla",
    bandwidth_gb_s=1.0,
    peak_tflops={"f32": None, "bf16": 0.001, "int8": None},
)


def test_bound_is_the_slower_of_memory_and_arithmetic(program: Program) -> None:
    count = count_step(CONFIG, program, decode_shape(1, 10))
    kinds = number_kinds(program)
    assert kinds == {"f32"}
    bound = bound_step(CHIP, count, kinds)
    assert bound is not None
    # A peak in bfloat16 stands in where none in float32 is published.
    assert bound.limit == "memory"
    assert math.isclose(bound.tokens_per_s, 1e9 / count.bytes)
    slow = msgspec.structs.replace(CHIP, peak_tflops={"f32": 1e-6})
    bound = bound_step(slow, count, kinds)
    assert bound is not None
    assert bound.limit == "compute"
    assert math.isclose(bound.tokens_per_s, 1e6 / count.flops)


def test_what_is_not_published_is_never_made_up(program: Program) -> None:
    count = count_step(CONFIG, program, decode_shape(64, 10))
    no_bandwidth = msgspec.structs.replace(CHIP, bandwidth_gb_s=None)
    assert bound_step(no_bandwidth, count, {"f32"}) is None
    # The peak of one of the types is unknown: only memory can bound.
    kinds = number_kinds(retyped(program, "int8", caches_too=False))
    assert kinds == {"f32", "int8"}
    bound = bound_step(msgspec.structs.replace(CHIP, peak_tflops={"f32": 1e-9}), count, kinds)
    assert bound is not None
    assert bound.limit == "memory"


def test_devices_share_a_chip_and_its_price(program: Program) -> None:
    count = count_step(CONFIG, program, decode_shape(1, 10))
    whole, half = CHIP, msgspec.structs.replace(CHIP, devices=2)
    one, two = bound_step(whole, count, {"f32"}), bound_step(half, count, {"f32"})
    assert one is not None
    assert two is not None
    assert math.isclose(one.tokens_per_s, 2 * two.tokens_per_s)
    assert math.isclose(floor_usd_per_mtok(whole, one, 3.6), floor_usd_per_mtok(half, two, 3.6))
    assert math.isclose(floor_usd_per_mtok(whole, one, 3.6), 1000 / one.tokens_per_s)
