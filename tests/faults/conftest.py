"""One gateway and one scriptable model server for the whole folder."""

from collections.abc import Iterator

import pytest

from faults import gateways
from support.fault_suite import Suite, admit, second_tries


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    home = tmp_path_factory.mktemp("faults")
    with (
        gateways.upstream(home) as url,
        gateways.fungible(url, home / "ours", second_tries(), admit) as place,
    ):
        yield Suite(place)
