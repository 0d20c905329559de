"""What the parent asks of a worker process, and what it answers."""

from typing import Literal

import msgspec

from fungible.preflight.counts import StepShape


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One compilation.

    Attributes:
        compiler: `tpu`, `xla` (this machine's CPU) or `iree`; `static` only makes the form
            of the program that IREE reads.
        folder: The variant's folder.
        shape: Sizes of the step.
        topology: Name of a TPU topology, and further arguments of it.
        flags: For `iree-compile`.
        module: Where the static program is, or is to be written.
    """

    compiler: Literal["tpu", "xla", "iree", "static"]
    folder: str
    shape: StepShape
    topology: str = ""
    topology_options: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    module: str = ""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on the device, as the compiler says; `None` where it does not say.

    Attributes:
        arguments: Weights, caches and inputs, with the padding of the device's layout.
        results: Results that do not reuse an argument's memory.
        temporary: What the step needs while it runs.
        code: The compiled program.
    """

    arguments: int | None = None
    results: int | None = None
    temporary: int | None = None
    code: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job: `why` is empty when it compiled; `seconds` is the compiler's time."""

    why: str = ""
    seconds: float = 0.0
    memory: Memory = Memory()
