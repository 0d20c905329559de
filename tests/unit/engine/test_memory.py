"""What cannot fit into memory is refused before it is loaded."""

from pathlib import Path

import pytest

from fungible.engine.memory import (
    MemoryNeed,
    available_memory,
    cache_item,
    loaded_size,
    memory_need,
    require_memory,
)
from fungible.errors import UnavailableError
from support.tiny_model import CONFIG

GIB = 2**30


def test_the_need_grows_with_slots_and_context() -> None:
    token = 2 * CONFIG.layers * CONFIG.kv_heads * CONFIG.head_dim * 4
    need = memory_need(1000, CONFIG, slots=3, context=10, chunk=4)
    assert need == MemoryNeed(weights=1000, cache=30 * token, workspace=14 * token)
    assert need.total == 1000 + 44 * token
    item = cache_item("bf16", "openvino")
    assert memory_need(0, CONFIG, slots=3, context=10, chunk=4, item=item).cache == 15 * token
    assert {cache_item("bf16", "onnxruntime"), cache_item("int8", "openvino")} == {4}


def test_half_precision_weights_count_as_they_are_loaded() -> None:
    assert loaded_size(100, "bf16", "onnxruntime") == 200
    assert loaded_size(100, "f16", "xla") == 200
    assert loaded_size(100, "bf16", "iree") == 100
    assert loaded_size(100, "int8", "onnxruntime") == 100


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    need = MemoryNeed(weights=GIB, cache=8 * GIB, workspace=GIB)
    require_memory(need, 10 * GIB, slots=8, context=512)
    require_memory(need, None, slots=8, context=512)
    with pytest.raises(UnavailableError, match=r"10\.00 GiB .* 5\.00 GiB are available") as few:
        require_memory(need, 5 * GIB, slots=8, context=512)
    assert "--slots 3" in str(few.value.hint)
    with pytest.raises(UnavailableError) as none:
        require_memory(need, GIB, slots=8, context=512)
    assert "smaller variant" in str(none.value.hint)


def test_a_control_group_is_a_limit_like_the_machine(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert available_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 400000\n")
    assert available_memory(meminfo, tmp_path) == 900_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 5000 * 1024
    assert available_memory(tmp_path / "none", tmp_path) is None
