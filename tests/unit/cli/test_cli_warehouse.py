"""What `fungible warehouse reader` prints goes into fungible.toml as it is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fungible.cli.warehouse import warehouse
from fungible.config import load_config
from fungible.control.clickhouse.users import Users
from fungible.errors import ConfigError


def test_what_is_printed_lets_a_reader_in(tmp_path: Path) -> None:
    arguments = ["reader", "--name", "bi", "--json"]
    line = json.loads(CliRunner().invoke(warehouse, arguments, catch_exceptions=False).stdout)
    path = tmp_path / "fungible.toml"
    path.write_text(line["toml"], encoding="utf-8")
    assert line["token"] not in line["toml"]
    readers = load_config(path).control.clickhouse.reader
    user = Users("owner", readers).authenticate({}, {"user": "bi", "password": line["token"]})
    assert user.reader == readers["bi"]


def test_people_see_the_token_alone_on_standard_output() -> None:
    result = CliRunner().invoke(warehouse, ["reader"], catch_exceptions=False)
    token = result.stdout.strip()
    assert token.startswith("fr-")
    assert token not in result.stderr
    assert "[control.clickhouse.reader.my-reader]" in result.stderr


@pytest.mark.parametrize("name", ["fungible", "a b", ""])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        CliRunner().invoke(warehouse, ["reader", "--name", name], catch_exceptions=False)


@pytest.mark.parametrize(
    "text",
    [
        "port = 70000",
        "max_queries = 0",
        "max_insert_bytes = 0",
        "reader.bi = { hash = 'x' }",
        f"reader.fungible = {{ hash = '{'0' * 64}' }}",
        f"reader.bi = {{ hash = '{'0' * 64}', max_result_rows = 0 }}",
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fungible.toml"
    path.write_text(f"[control.clickhouse]\n{text}\n", encoding="utf-8")
    field = text.partition(" ")[0]
    with pytest.raises(ConfigError, match=rf"control\.clickhouse\.{field}"):
        load_config(path)
