"""Target strings: `RUNTIME:DEVICE[:ARCH]`, parsed here and nowhere else."""

import re

import msgspec

from fungible.errors import InputError

RUNTIMES = ("onnxruntime", "openvino", "xla", "iree")
_PART = re.compile(r"[a-z0-9][a-z0-9_.-]*")


class Target(msgspec.Struct, frozen=True, order=True):
    """Where an artifact runs, such as `onnxruntime:cpu` or `xla:tpu:v6e`.

    Attributes:
        runtime: The library that runs it, one of `RUNTIMES`.
        device: The kind of device, as the runtime names it (`cpu`, `cuda`, `tpu`).
        arch: The chip generation (`v6e`, `gfx942`), or which device of its kind, or empty.
    """

    runtime: str
    device: str = "cpu"
    arch: str = ""

    def __str__(self) -> str:
        parts = [self.runtime, self.device, self.arch]
        return ":".join(part for part in parts if part)


def parse_target(text: str) -> Target:
    """The target that `text` names; the device defaults to `cpu`.

    Raises:
        InputError: The text is malformed or names an unknown runtime.
    """
    parts = text.strip().lower().split(":")
    if not 1 <= len(parts) <= 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InputError(
            f"target {text!r} is not RUNTIME:DEVICE[:ARCH]",
            hint="for example onnxruntime:cpu or xla:cpu",
        )
    if parts[0] not in RUNTIMES:
        raise InputError(
            f"target {text!r} names an unknown runtime {parts[0]!r}",
            hint=f"known runtimes: {', '.join(RUNTIMES)}",
        )
    return Target(*parts)
