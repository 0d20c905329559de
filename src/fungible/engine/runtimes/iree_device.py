"""The devices that IREE reaches: how to compile for each, and how to open it."""

import hashlib
import mmap
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from iree import runtime as iree
from numpy.typing import NDArray

from fungible.contract.target import Target
from fungible.errors import InputError, UnavailableError


class DeviceKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of device.

    Attributes:
        driver: IREE's name of what drives it.
        flags: Of `iree-compile`; `{arch}` stands for the target's architecture.
        default_arch: Where the target names none; empty if it must name one.
        example: A full target.
    """

    driver: str
    flags: tuple[str, ...]
    default_arch: str = ""
    example: str


KINDS: Final = {
    "cpu": DeviceKind(
        driver="local-task",
        flags=(
            "--iree-hal-target-device=local",
            "--iree-hal-local-target-device-backends=llvm-cpu",
            "--iree-llvmcpu-target-cpu={arch}",
        ),
        default_arch="host",
        example="iree:cpu",
    ),
    "cuda": DeviceKind(
        driver="cuda",
        flags=("--iree-hal-target-device=cuda", "--iree-cuda-target={arch}"),
        example="iree:cuda:sm_90",
    ),
    "rocm": DeviceKind(
        driver="hip",
        flags=("--iree-hal-target-device=hip", "--iree-rocm-target={arch}"),
        example="iree:rocm:gfx942",
    ),
    "vulkan": DeviceKind(
        driver="vulkan",
        flags=("--iree-hal-target-device=vulkan", "--iree-vulkan-target={arch}"),
        example="iree:vulkan:ampere",
    ),
    "metal": DeviceKind(
        driver="metal",
        flags=("--iree-hal-target-device=metal",),
        default_arch="apple",
        example="iree:metal",
    ),
}
# IREE 3.13 has no table for these; the PTX of an older chip runs on a newer one.
_COMPILED_AS: Final = {"sm_90": "sm_89", "sm_90a": "sm_89", "sm_100": "sm_89", "sm_120": "sm_89"}
# Buffers that a device may use where they are start at a multiple of this.
_ALIGNMENT: Final = 64
_USAGE: Final = int(iree.BufferUsage.DEFAULT)
_ELEMENTS: Final = {
    "float32": (np.float32, iree.HalElementType.FLOAT_32),
    "float16": (np.float16, iree.HalElementType.FLOAT_16),
    "bfloat16": (np.uint16, iree.HalElementType.BFLOAT_16),
    "int32": (np.int32, iree.HalElementType.SINT_32),
    "int8": (np.int8, iree.HalElementType.SINT_8),
    "uint8": (np.uint8, iree.HalElementType.UINT_8),
}


def find_kind(target: Target) -> tuple[DeviceKind, str]:
    """The kind of a target's device, and the architecture to compile for.

    Raises:
        InputError: IREE has no such device, or the target must name an architecture.
    """
    kind = KINDS.get(target.device)
    if kind is None:
        examples = ", ".join(kind.example for kind in KINDS.values())
        raise InputError(f"target {target}: IREE has no such device", hint=f"known: {examples}")
    arch = target.arch or kind.default_arch
    if not arch:
        raise InputError(
            f"target {target}: IREE compiles for one architecture",
            hint=f"name it, for example {kind.example}",
        )
    return kind, _COMPILED_AS.get(arch, arch)


def code_name(target: Target) -> str:
    """A file name for what is compiled for a target; code for this CPU runs only on its like."""
    _, arch = find_kind(target)
    return f"{target.device}-{_host_fingerprint() if arch == 'host' else arch}"


def compiler_flags(target: Target) -> list[str]:
    """What `iree-compile` must be told."""
    kind, arch = find_kind(target)
    return [flag.format(arch=arch) for flag in kind.flags]


class Device:
    """An open device and the buffers on it.

    Args:
        target: `iree:DEVICE[:ARCH]`.
        threads: CPU threads; the first runtime of a process decides for all of them.

    Raises:
        UnavailableError: There is no such device here.
    """

    def __init__(self, target: Target, threads: int) -> None:
        kind, _ = find_kind(target)
        if kind.driver == "local-task":
            iree.flags.parse_flags(f"--task_topology_group_count={threads}")
        try:
            self.hal = iree.get_driver(kind.driver).create_default_device()
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0].rpartition("; ")[2]
            raise UnavailableError(
                f"{target}: IREE finds no such device: {reason}",
                hint="install the device's driver, or use iree:cpu",
            ) from error
        self.instance = iree.VmInstance()
        self._shares_memory = kind.driver == "local-task"
        memory = iree.MemoryType.DEVICE_LOCAL
        if self._shares_memory:
            memory |= iree.MemoryType.HOST_VISIBLE
        self._memory = int(memory)
        # IREE does not keep the memory that it was given.
        self._in_use: list[NDArray[Any]] = []

    def place(self, array: NDArray[Any], dtype: str) -> Any:  # noqa: ANN401
        """A buffer with this content, on a CPU the array's own memory where its start allows.

        Args:
            array: Contiguous and writable; elements of `dtype`, or of an integer of its size.
            dtype: The program's name of the type.
        """
        if not self._shares_memory or array.ctypes.data % _ALIGNMENT:
            return self.copy(array, dtype)
        element = int(_ELEMENTS[dtype][1])
        self._in_use.append(array)
        buffer = self.hal.allocator.import_host_allocation(array, self._memory, _USAGE)
        return iree.HalBufferView(buffer, list(array.shape), element)

    def copy(self, array: NDArray[Any], dtype: str) -> Any:  # noqa: ANN401
        """A buffer of its own with this content; see `place`."""
        element = int(_ELEMENTS[dtype][1])
        return self.hal.allocator.allocate_buffer_copy(
            self._memory, _USAGE, self.hal, array, element
        )

    def zeros(self, shape: Sequence[int], dtype: str) -> Any:  # noqa: ANN401
        """A buffer of zeros; on a CPU, pages that nothing writes cost no memory."""
        numpy_type = np.dtype(_ELEMENTS[dtype][0])
        size = int(np.prod(shape, dtype=np.int64)) * numpy_type.itemsize
        return self.place(np.frombuffer(mmap.mmap(-1, size), numpy_type).reshape(shape), dtype)

    def close(self) -> None:
        """Let go of the memory that buffers used in place; they must be gone."""
        self._in_use.clear()

    def fetch(self, view: Any) -> NDArray[Any]:  # noqa: ANN401
        """A copy of a buffer's content."""
        array = iree.DeviceArray(self.hal, view, implicit_host_transfer=True)
        return np.array(array.to_host())


def numpy_type(dtype: str) -> np.dtype[Any]:
    """How the elements of a program's type are held by numpy, which has no bfloat16."""
    return np.dtype(_ELEMENTS[dtype][0])


def _host_fingerprint() -> str:
    lines = ["", platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    lines += [line for line in text.splitlines() if line.startswith(("model name", "flags"))]
    return hashlib.sha256("\n".join(sorted(set(lines))).encode()).hexdigest()[:12]
