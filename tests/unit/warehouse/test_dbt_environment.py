"""Where dbt's environment is made, whatever folder a command was called in."""

from pathlib import Path

import pytest

from fungible.warehouse import environment
from fungible.warehouse.environment import OWN_DBT, find_dbt, find_project


def test_a_relative_home_is_the_callers_not_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def install(place: Path, project: Path) -> None:
        assert (project / "uv.lock").is_file()
        made.append(place)
        place.mkdir()

    monkeypatch.delenv(OWN_DBT, raising=False)
    monkeypatch.setattr(environment, "_install", install)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    dbt = find_dbt(Path("home/warehouse"), find_project(), said.append)
    assert made == [dbt.parents[1]]
    assert dbt.is_relative_to(tmp_path)
    assert find_dbt(Path("home/warehouse"), find_project(), said.append) == dbt
    assert len(made) == len(said) == 1
