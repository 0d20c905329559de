"""The control API from outside: what it answers, whom it lets in, and how it says no."""

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.control_setup import config_in, write_config
from support.processes import FUNGIBLE, Server, ask


class Api:
    """A running control process and its token."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        self.token = (home / "run" / "control.token").read_text()

    def post(self, path: str, body: object = None, token: str | None = None) -> tuple[int, Any]:
        return ask(self.url, "POST", path, body, token=self.token if token is None else token)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("control")
    path = str(write_config(config_in(home)))
    with Server("control", "serve", "--config", path) as server:
        yield Api(home, server.url)


def test_health_says_what_runs(api: Api) -> None:
    status, body = ask(api.url, "GET", "/health")
    assert (status, body["status"], body["route_version"]) == (200, "ok", 0)
    assert body["loops"].keys() == {"ship", "reprice", "migrate", "steps"}
    address = json.loads((api.home / "run" / "control.json").read_text())
    assert (address["url"], address["pid"]) == (api.url, body["pid"])


def test_the_page_is_served_beside_the_api(api: Api) -> None:
    status, body = ask(api.url, "GET", "/api/live")
    assert status == 200, body


def test_the_token_is_for_this_user_only(api: Api) -> None:
    mode = (api.home / "run" / "control.token").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/sql", {"query": "SELECT 1"}),
        ("/api/routes/activate", {"version": 0}),
        ("/api/migrations", {"model": "assistant", "candidate": "cand"}),
        ("/api/migrations/plan", {"model": "assistant", "candidate": "cand"}),
        ("/api/migrations/mig_1/rollback", {}),
    ],
)
@pytest.mark.parametrize("token", ["", "wrong", "wröng"])
def test_changes_and_sql_need_the_token(api: Api, path: str, body: object, token: str) -> None:
    status, said = api.post(path, body, token=token)
    assert status == 401
    assert said["error"]["code"] == "invalid_api_key"


def test_sql_answers_with_columns_types_and_exact_decimals(api: Api) -> None:
    query = "SELECT toDecimal128('0.100000000000000001', 18) AS cost, 1 AS n, 'x' AS name"
    status, body = api.post("/api/sql", {"query": query})
    assert status == 200
    assert body["columns"] == ["cost", "n", "name"]
    assert body["types"][0] == "Decimal(38, 18)"
    assert body["rows"] == [["0.100000000000000001", 1, "x"]]


def test_sql_takes_parameters_and_a_row_limit(api: Api) -> None:
    query = "SELECT number FROM numbers({n:UInt64})"
    _, body = api.post("/api/sql", {"query": query, "params": {"n": 10}, "max_rows": 3})
    assert (len(body["rows"]), body["truncated"]) == (3, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"query": "SELEC 1"}, "Syntax error"),
        ({"query": ""}, "empty"),
        ({"query": "DROP TABLE attempt_events"}, "read"),
        ({"query": "INSERT INTO benches (run_id) VALUES ('x')"}, "read"),
        ({"query": "SELECT 1", "max_rows": 0}, "max_rows"),
        ({"query": 1}, "$.query"),
        ({"sql": "SELECT 1"}, "sql"),
        (b"not json", "request body"),
        (b"", "request body"),
        (b'{"query": "\xff"}', "request body"),
        (b" " * 1_100_000, "larger than"),
    ],
)
def test_bad_sql_is_one_clear_error(api: Api, body: object, said: str) -> None:
    status, answer = api.post("/api/sql", body)
    assert status == 400
    assert said in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/migrations", {"model": "ghost", "candidate": "cand"}, 404, "no route"),
        ("/api/migrations", {"model": "assistant", "candidate": "x"}, 400, "does not list"),
        ("/api/migrations", {"model": "assistant"}, 400, "candidate"),
        ("/api/migrations/mig_none/rollback", None, 404, "no migration"),
        ("/api/routes/activate", {"version": 99}, 400, "version 99"),
        ("/api/routes/activate", {"version": "x"}, 400, "$.version"),
    ],
)
def test_bad_changes_are_one_clear_error(
    api: Api, path: str, body: object, status: int, said: str
) -> None:
    got, answer = api.post(path, body)
    assert got == status
    assert said in answer["error"]["message"]


def test_unknown_paths_and_methods_have_the_same_kind_of_body(api: Api) -> None:
    for method, path, expected in (("GET", "/nope", 404), ("DELETE", "/api/routes", 405)):
        status, answer = ask(api.url, method, path)
        assert status == expected
        assert path in answer["error"]["message"]
    status, answer = ask(api.url, "GET", "/api/migrations/mig_none", token=api.token)
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")


def test_an_older_version_can_be_activated_again(api: Api) -> None:
    status, table = api.post("/api/routes/activate", {"version": 0, "reason": "drill"})
    assert (status, table["reason"]) == (200, "drill")
    _, history = ask(api.url, "GET", "/api/routes/history", token=api.token)
    assert history["data"][0]["version"] == table["version"]
    _, active = ask(api.url, "GET", "/api/routes", token=api.token)
    assert active == table


def test_a_second_control_in_the_same_home_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fungible.cli.control.TAKEOVER_S", 0.2)
    from click.testing import CliRunner  # noqa: PLC0415

    from fungible.cli.control import control  # noqa: PLC0415
    from fungible.errors import UnavailableError  # noqa: PLC0415

    arguments = ["serve", "--config", str(api.home / "config.json")]
    result = CliRunner().invoke(control, arguments)
    assert isinstance(result.exception, UnavailableError)
    assert "control runs already" in result.exception.message


def test_sql_from_the_command_line_goes_through_control(api: Api) -> None:
    done = subprocess.run(
        [*FUNGIBLE, "cost", "sql", "SELECT 41 + 1", "--json", "--config",
         str(api.home / "config.json")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == [[42]]
