"""Two ports, two planes: the data port knows no path of control's, control answers no stranger."""

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest
from starlette.routing import Route

from fungible.config import KeySettings
from fungible.control import auth
from fungible.control.api import api_routes
from fungible.dashboard.app import routes_from
from fungible.gateway.auth import KeyRing
from support.control_setup import config_in, write_config
from support.processes import Server, ask

KEY = "fk-planes"


def paths_of(routes: list[Any]) -> list[tuple[str, str]]:
    """Method and path, with a name where the path wants one."""
    return [
        (method, route.path.replace("{migration_id}", "mig_1"))
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
        if method != "HEAD"
    ]


API = paths_of(api_routes(cast("Any", None), "unused"))
PAGE = paths_of(list(routes_from(cast("Any", None))))
GUARDED = [(method, path) for method, path in API if path != "/health"]


class Planes:
    """Both processes over one configuration with one key."""

    def __init__(self, gateway: str, control: str, token: str) -> None:
        self.gateway = gateway
        self.control = control
        self.token = token


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planes]:
    home = tmp_path_factory.mktemp("planes")
    team = KeySettings(hash=hashlib.sha256(KEY.encode()).hexdigest())
    config = msgspec.structs.replace(config_in(home), key={"team": team})
    path = str(write_config(config))
    with (
        Server("control", "serve", "--config", path) as control,
        Server("gateway", "serve", "--config", path) as gateway,
    ):
        yield Planes(gateway.url, control.url, (home / "run" / "control.token").read_text())


def test_the_lists_are_not_empty() -> None:
    assert len(GUARDED) >= 9
    assert ("GET", "/api/live") in PAGE


@pytest.mark.parametrize(("method", "path"), [*GUARDED, *PAGE])
def test_the_data_port_has_no_path_of_control(planes: Planes, method: str, path: str) -> None:
    status, body = ask(planes.gateway, method, path, {}, token=KEY)
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")
    assert ask(planes.gateway, method, path, {}, token=planes.token)[0] == 401
    assert ask(planes.gateway, method, path, {})[0] == 401


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("token", ["", "wrong", KEY, "wröng"])
def test_control_answers_nobody_without_its_token(
    planes: Planes, method: str, path: str, token: str
) -> None:
    status, body = ask(planes.control, method, path, {}, token=token)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_control_answers_with_its_token(planes: Planes, method: str, path: str) -> None:
    assert ask(planes.control, method, path, {}, token=planes.token)[0] not in (401, 500)


def test_the_contract_is_not_on_the_control_port(planes: Planes) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/models"):
        assert ask(planes.control, "POST", path, {}, token=planes.token)[0] == 404


def test_secrets_are_compared_in_constant_time() -> None:
    assert "hmac.compare_digest" in inspect.getsource(auth.require_token)
    assert "hmac.compare_digest" in inspect.getsource(KeyRing.authenticate)
