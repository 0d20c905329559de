"""The file of chips, and how a user chooses and prices them."""

from pathlib import Path

import pytest

from fungible.contract.target import parse_target
from fungible.errors import ConfigError, InputError
from fungible.preflight.chips import Chip, load_chips, parse_prices, select_chips

CHIPS = load_chips()


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.target)
def test_every_figure_has_a_source(chip: Chip) -> None:
    figures = [chip.bandwidth_gb_s, chip.memory_gb, *chip.peak_tflops.values()]
    if any(figure is not None for figure in figures):
        assert chip.sources
        assert all(source.startswith("https://") for source in chip.sources)
    if chip.price is not None:
        assert chip.price.date is not None
        assert chip.price.source.startswith("https://")
    assert str(parse_target(chip.target)) == chip.target


def test_the_file_covers_what_is_promised() -> None:
    targets = [chip.target for chip in CHIPS]
    assert len(targets) == len(set(targets)) >= 9
    assert sum(chip.compiler == "tpu" for chip in CHIPS) >= 5


def test_memory_is_shared_by_the_devices_of_a_chip() -> None:
    (two,) = select_chips(CHIPS, "xla:tpu:tpu7x")
    assert two.devices == 2
    assert two.memory_bytes() == 103_100_000_000
    (host,) = select_chips(CHIPS, "xla:cpu")
    assert (host.memory_bytes() or 0) > 1e9


def test_targets_are_names_or_their_beginnings() -> None:
    assert select_chips(CHIPS, "all") == CHIPS
    tpus = [chip.target for chip in select_chips(CHIPS, " xla:tpu, XLA:CPU")]
    assert tpus == [f"xla:tpu:{name}" for name in ("v4", "v5e", "v5p", "v6e", "tpu7x")] + [
        "xla:cpu"
    ]
    with pytest.raises(InputError, match="'xla:tpu:v5' names no chip") as caught:
        select_chips(CHIPS, "xla:cpu,xla:tpu:v5")
    assert "xla:tpu:v5e" in caught.value.hint
    with pytest.raises(InputError, match="empty"):
        select_chips(CHIPS, " ,")


def test_prices_name_one_chip() -> None:
    prices = parse_prices(CHIPS, ["v6e=2.7", "iree:cuda:sm_90=3"])
    assert {name: price.usd_per_hour for name, price in prices.items()} == {
        "xla:tpu:v6e": 2.7,
        "iree:cuda:sm_90": 3.0,
    }
    for text, said in [
        ("v6e", "is not CHIP=USD_PER_HOUR"),
        ("v6e=-1", "is not CHIP=USD_PER_HOUR"),
        ("v6e=nan", "is not CHIP=USD_PER_HOUR"),
        ("v9=1", "names 0"),
        ("cpu=1", "names 2"),
    ]:
        with pytest.raises(InputError, match=said):
            parse_prices(CHIPS, [text])


def test_a_file_of_ones_own_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "chips.yaml"
    path.write_text("read: 2026-01-01\nchips: [{target: a, chip: b, compiler: gcc}]\n")
    with pytest.raises(ConfigError, match=r"chips\.yaml.*'gcc'.*chips\[0\]\.compiler"):
        load_chips(path)
    path.write_text("chips: [")
    with pytest.raises(ConfigError, match=r"chips\.yaml"):
        load_chips(path)
    path.write_text(
        "read: 2026-01-01\nchips:\n"
        "- {target: 'xla:tpu:v6e', accelerator: google-tpu-v6e, compiler: tpu, memory_gb: 1}\n"
    )
    (own,) = load_chips(path)
    assert (own.memory_gb, own.bandwidth_gb_s) == (1, 1638)
    path.write_text(path.read_text().replace("google-tpu-v6e", "google-tpu-v66"))
    with pytest.raises(ConfigError, match="unknown accelerator"):
        load_chips(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_chips(tmp_path / "none.yaml")
