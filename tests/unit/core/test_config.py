from pathlib import Path

import msgspec
import pytest

from fungible.config import EngineSettings, binding_of, load_config
from fungible.errors import ConfigError

GOOD = """
[backend.a]
url = "http://127.0.0.1:1/v1"
[backend.b]
engine = { artifact = "x", target = "xla:cpu" }
[route.assistant]
reference = "a"
backends = ["b"]
[ledger]
prices = "prices.csv"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fungible.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.home_path() == tmp_path / ".fungible"
    assert config.ledger.prices == str(tmp_path / "prices.csv")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[backend.a", "not valid TOML"),
        (GOOD + "[gateway]\nprot = 1", "prot"),
        (GOOD.replace('reference = "a"', 'reference = "zz"'), "zz"),
        (GOOD.replace("xla:cpu", "abacus:cpu"), "abacus"),
        (GOOD.replace("http://127", "ftp://127"), "backend.a"),
        (GOOD + '[key.k]\nhash = "abc"', "key.k"),
        (GOOD + '[backend."a b"]\nkind = "null"', "a b"),
        (GOOD + "[gateway]\nport = 'x'", "gateway.port"),
        (GOOD.replace("[ledger]", "[ledger]\nmax_spool_bytes = 9"), "ledger.max_spool_bytes"),
        (GOOD.replace("[ledger]", "[ledger]\non_disk_full = 'hope'"), "ledger.on_disk_full"),
    ],
)
def test_bad_configuration_names_the_place(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(ConfigError, match=r"fungible\.toml") as caught:
        load_config(write(tmp_path, text))
    assert names in caught.value.message


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert "quickstart" in caught.value.hint


def test_resolved_json_is_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    path = tmp_path / "config.json"
    path.write_bytes(msgspec.json.encode(config))
    assert load_config(path).content_hash() == config.content_hash()


def test_binding_follows_what_a_verdict_speaks_for(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    local = config.backend["b"]
    assert local.engine is not None
    moved = msgspec.structs.replace(local, url="http://127.0.0.1:9/v1")
    other = msgspec.structs.replace(
        local, engine=EngineSettings(artifact="x", target="xla:cpu", variant="int8")
    )
    assert binding_of("b", moved) == binding_of("b", local)
    assert binding_of("b", other) != binding_of("b", local)


def test_hash_ignores_the_address_an_engine_picked(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    backend = msgspec.structs.replace(config.backend["b"], url="http://127.0.0.1:9/v1")
    resolved = msgspec.structs.replace(config, backend=config.backend | {"b": backend})
    assert resolved.content_hash() == config.content_hash()
