"""The declared accelerators: every figure has a source, and a wrong name is caught at once."""

import datetime as dt
import re
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from fungible.backends.registry import kinds
from fungible.config import load_config
from fungible.contract.accelerators import Accelerator, accelerator_named, accelerators
from fungible.errors import ConfigError, InputError

ALL = list(accelerators().values())


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.id)
def test_every_figure_has_a_source_and_a_day(one: Accelerator) -> None:
    assert one.read is not None
    assert one.read >= dt.date(2026, 11, 25)
    if one.memory_gb or one.bandwidth_gb_s or one.peak_tflops:
        assert one.sources
    assert all(source.startswith("https://") for source in one.sources)
    assert set(re.findall(r"\b[a-z_]+\b", one.reached)) & set(kinds()), one.reached
    assert re.fullmatch(r"[a-z0-9-]+", one.id)


def test_no_id_is_there_twice() -> None:
    text = resources.files("fungible.contract").joinpath("accelerators.yaml").read_text("utf-8")
    assert text.count("  - id: ") == len(ALL)


def test_every_vendor_of_the_mission_is_there() -> None:
    assert {"AMD", "AWS", "Google", "Microsoft", "NVIDIA"} <= {one.vendor for one in ALL}


def test_names() -> None:
    found = accelerator_named("google-tpu-v6e")
    assert found is not None
    assert found.family == "TPU"
    assert accelerator_named("") is None
    assert accelerator_named("custom:my-fpga") is None
    with pytest.raises(InputError, match="'aws-tranium2'") as caught:
        accelerator_named("aws-tranium2")
    assert "did you mean aws-trainium2" in caught.value.hint
    with pytest.raises(InputError) as caught:
        accelerator_named("xyzzy")
    assert "did you mean" not in caught.value.hint
    assert "custom:NAME" in caught.value.hint


def test_the_configuration_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "fungible.toml"
    path.write_text('[backend.b]\nkind = "null"\naccelerator = "nvidia-h101"\n', encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"backend\.b\.accelerator: unknown .*nvidia-h101"
    ) as caught:
        load_config(path)
    assert "nvidia-h100" in caught.value.hint
    path.write_text(path.read_text().replace("nvidia-h101", "custom:x"), encoding="utf-8")
    assert load_config(path).backend["b"].accelerator == "custom:x"


def test_facts_are_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(ALL[0]))["id"] == ALL[0].id
