"""The chips that preflight knows: `chips.yaml`, dated, with a source for every figure."""

import datetime as dt
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from fungible.contract.accelerators import accelerator_named
from fungible.errors import ConfigError, InputError

Compiler = Literal["xla", "tpu", "iree"]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one chip costs for an hour, in USD: which price, of which day, and who says so."""

    usd_per_hour: float
    what: str
    date: dt.date | None = None
    source: str = ""


class Chip(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One target: how to compile for it, and what is publicly stated about it.

    Attributes:
        target: Canonical name, such as `xla:tpu:v6e`.
        accelerator: Its id among the contract's accelerators, whose figures count where the
            row has none of its own.
        chip: The product that the figures are of.
        compiler: `tpu` is XLA with libtpu, `xla` is XLA for this machine's CPU.
        topology: Name of the smallest slice that libtpu knows.
        topology_options: Further arguments of the topology.
        flags: What `iree-compile` is told about the target.
        devices: Devices that the compiler sees in one chip; they share its figures evenly.
        memory_gb: 10^9 bytes.
        bandwidth_gb_s: 10^9 bytes per second.
        peak_tflops: 10^12 dense operations per second by type: `f32`, `bf16`, `int8`.
        sources: Where the figures are published.
        price: An example of a public price.
        note: What a reader of the row must know.
    """

    target: str
    compiler: Compiler
    accelerator: str = ""
    chip: str = ""
    topology: str = ""
    topology_options: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    devices: int = 1
    memory_gb: float | None = None
    bandwidth_gb_s: float | None = None
    peak_tflops: dict[str, float | None] = {}
    sources: tuple[str, ...] = ()
    price: Price | None = None
    note: str = ""

    @property
    def is_host(self) -> bool:
        """Whether it is the machine that this runs on."""
        return self.target.endswith(":cpu")

    def memory_bytes(self) -> int | None:
        """Memory of one device; for the host its physical memory; `None` when unknown."""
        if self.is_host:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return None if self.memory_gb is None else int(self.memory_gb * 1e9 / self.devices)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    read: dt.date
    chips: list[Chip]


def load_chips(path: Path | None = None) -> list[Chip]:
    """The chips of `path`, or those that come with the package, in their order.

    Raises:
        ConfigError: The file cannot be read or is malformed; names the field.
    """
    source = path or resources.files("fungible.preflight").joinpath("chips.yaml")
    try:
        file = msgspec.yaml.decode(source.read_bytes(), type=_File)
        return [_with_facts(chip) for chip in file.chips]
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{source}: {error}", hint="see docs/concepts/preflight.md") from error
    except InputError as error:
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from error


def _with_facts(chip: Chip) -> Chip:
    """The row with what the contract states about its accelerator."""
    facts = accelerator_named(chip.accelerator)
    if facts is None:
        return chip
    return msgspec.structs.replace(
        chip,
        chip=chip.chip or facts.name,
        memory_gb=facts.memory_gb if chip.memory_gb is None else chip.memory_gb,
        bandwidth_gb_s=facts.bandwidth_gb_s if chip.bandwidth_gb_s is None else chip.bandwidth_gb_s,
        peak_tflops=chip.peak_tflops or dict(facts.peak_tflops),
        sources=(*chip.sources, *facts.sources),
    )


def select_chips(chips: Sequence[Chip], targets: str) -> list[Chip]:
    """The chips that a comma-separated list names; `all`, a full name or its beginning.

    `xla:tpu` selects every TPU, `iree:cuda:sm_90` one chip.

    Raises:
        InputError: A name selects nothing; lists what there is.
    """
    names = [name.strip().lower() for name in targets.split(",") if name.strip()]
    found = {name: [chip for chip in chips if _named(chip, name)] for name in names}
    for name, matches in found.items():
        if not matches:
            known = ", ".join(chip.target for chip in chips)
            raise InputError(f"--targets: {name!r} names no chip", hint=f"known: {known}")
    if not names:
        raise InputError("--targets is empty", hint="--targets all")
    wanted = {chip.target for matches in found.values() for chip in matches}
    return [chip for chip in chips if chip.target in wanted]


def parse_prices(chips: Sequence[Chip], prices: Sequence[str]) -> dict[str, Price]:
    """Target -> price, from `CHIP=USD_PER_HOUR`; CHIP is a target or its last part.

    Raises:
        InputError: One is malformed, negative, or names no chip or several.
    """
    found = {}
    for text in prices:
        name, _, amount = text.partition("=")
        matches = [
            chip.target for chip in chips if name in {chip.target, chip.target.rpartition(":")[2]}
        ]
        try:
            value = float(amount)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise InputError(f"--price {text!r} is not CHIP=USD_PER_HOUR", hint="--price v6e=2.70")
        if len(matches) != 1:
            what = f"names {len(matches)} of the chosen chips"
            known = ", ".join(chip.target for chip in chips)
            raise InputError(f"--price {text!r} {what}", hint=f"chosen: {known}")
        found[matches[0]] = Price(usd_per_hour=value, what="given with --price")
    return found


def _named(chip: Chip, name: str) -> bool:
    return name in {"all", chip.target} or chip.target.startswith(f"{name}:")
