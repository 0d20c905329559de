"""Whether a model and its slots fit into memory, told before anything is loaded.

The estimate is what is known without loading: the variant's files, as large in memory as on disk
(twice that where a CPU runtime widens half-precision weights to float32), and the keys and
values of every slot when it is full. What a library needs beside that
differs, so the estimate is a floor: what does not fit by it does not fit.
"""

from pathlib import Path

import msgspec

from fungible.artifacts.model_config import ModelConfig
from fungible.errors import UnavailableError

_FLOAT32 = 4
_UNLIMITED = 1 << 60  # version 1 of control groups says "no limit" by a huge number
_CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


class MemoryNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes: of the weights, of the slots' keys and values, and of a prompt's step."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace


def loaded_size(size: int, variant: str, runtime: str) -> int:
    """Bytes that a variant's files of `size` bytes take once loaded on a CPU.

    Half-precision weights become float32 in every runtime but IREE: measured with the packaged
    model, 601 MB of private memory in ONNX Runtime for 274 MB of `bf16` files.
    """
    widened = variant in {"bf16", "f16"} and runtime != "iree"
    return 2 * size if widened else size


def cache_item(variant: str, runtime: str) -> int:
    """Bytes of one number in the keys and values; OpenVINO keeps those of `bf16` as they are."""
    return 2 if (runtime, variant) == ("openvino", "bf16") else _FLOAT32


def memory_need(
    weights: int,
    config: ModelConfig,
    *,
    slots: int,
    context: int,
    chunk: int,
    item: int = _FLOAT32,
) -> MemoryNeed:
    """What serving takes at least.

    Args:
        weights: Bytes of the variant's weights.
        config: The model's shape.
        slots: Requests held at once.
        context: Tokens per slot.
        chunk: Prompt tokens of one step.
        item: Bytes of one number in the keys and values.
    """
    token = 2 * config.layers * config.kv_heads * config.head_dim * item
    # A prompt's step reads a copy of its slot, and holds its own new keys and values.
    return MemoryNeed(
        weights=weights, cache=slots * context * token, workspace=(context + chunk) * token
    )


def require_memory(need: MemoryNeed, available: int | None, *, slots: int, context: int) -> None:
    """Refuse what cannot fit.

    Args:
        need: What serving takes.
        available: Bytes; `None` where the system does not say.
        slots: Requests held at once, for the hint.
        context: Tokens per slot, likewise.

    Raises:
        UnavailableError: It needs more than there is; says what to make smaller.
    """
    if available is None or need.total <= available:
        return
    beside = available - need.weights - need.workspace
    fit = beside * slots // need.cache if beside > 0 else 0
    if fit:
        hint = f"use --slots {fit} or fewer, or a --context below {context}"
    elif beside > 0:
        hint = f"use a smaller --context than {context} with --slots 1"
    else:
        hint = "serve a smaller variant, or free memory: the weights alone do not fit"
    raise UnavailableError(
        f"serving needs about {_size(need.total)} of memory ({_size(need.weights)} weights, "
        f"{_size(need.cache)} for {slots} slots of {context} tokens, {_size(need.workspace)} for a "
        f"step), but {_size(available)} are available",
        hint=hint,
    )


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that this process may still take; `None` where the system does not say."""
    found = [_machine(meminfo), *(_group(cgroup, *names) for names in _CGROUPS)]
    known = [one for one in found if one is not None]
    return min(known) if known else None


def _machine(meminfo: Path) -> int | None:
    kib = _field(meminfo, "MemAvailable:")
    return None if kib is None else kib * 1024


def _group(root: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    """What the control group leaves; pages of files that nobody uses do not count as used."""
    try:
        limit = int((root / limit_name).read_text())
        used = int((root / used_name).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    if limit >= _UNLIMITED:
        return None
    reclaimable = _field((root / limit_name).with_name("memory.stat"), cache_name) or 0
    return max(limit - used + reclaimable, 0)


def _field(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if words and words[0] == name:
                return int(words[1])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
