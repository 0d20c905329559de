"""The accelerators that there are: `accelerators.yaml`, dated, with a source for every figure.

What a backend runs on cannot be seen through an API, so the configuration declares it by an
id of this file, or by a name of one's own behind `custom:`.
"""

import datetime as dt
import difflib
import functools
from importlib import resources

import msgspec

from fungible.errors import InputError

CUSTOM = "custom:"


class Accelerator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is publicly stated about one chip.

    Attributes:
        id: As `backend.NAME.accelerator` says it, such as `aws-trainium2`.
        vendor: Who makes it; empty where that varies.
        family: Its line of products or its architecture.
        name: The product that the figures are of.
        reached: Kinds of backend that lead to it, in words.
        memory_gb: 10^9 bytes; `None` when unknown.
        bandwidth_gb_s: 10^9 bytes per second; `None` when unknown.
        peak_tflops: 10^12 dense operations per second by type: `f32`, `bf16`, `int8`.
        sources: Where the figures are published.
        read: Day on which they were read there.
        note: What a reader of the row must know.
    """

    id: str
    vendor: str
    family: str
    name: str
    reached: str
    memory_gb: float | None = None
    bandwidth_gb_s: float | None = None
    peak_tflops: dict[str, float] = {}
    sources: tuple[str, ...] = ()
    read: dt.date | None = None
    note: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    read: dt.date
    accelerators: list[Accelerator]


@functools.cache
def accelerators() -> dict[str, Accelerator]:
    """Every accelerator by its id, in the file's order."""
    source = resources.files("fungible.contract").joinpath("accelerators.yaml")
    file = msgspec.yaml.decode(source.read_bytes(), type=_File)
    return {one.id: msgspec.structs.replace(one, read=file.read) for one in file.accelerators}


def accelerator_named(name: str) -> Accelerator | None:
    """The facts behind a declared name; `None` for an empty or a `custom:` one.

    Raises:
        InputError: There is no such accelerator; the hint says what is near.
    """
    if not name or name.startswith(CUSTOM):
        return None
    known = accelerators()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(
        f"unknown accelerator {name!r}",
        hint=f"{meant}`fungible backend accelerators` lists them; {CUSTOM}NAME is one of your own",
    )
