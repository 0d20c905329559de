"""A running control process with its ClickHouse endpoint, and ways to ask it."""

import base64
import hashlib
import http.client
import json
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec

from fungible.config import ClickHouseSettings, ReaderSettings
from support.control_setup import config_in, write_config
from support.processes import Server

READER_TOKEN = "fr-test-reader"
MAX_INSERT_BYTES = 3_000_000


class Answer(NamedTuple):
    """What came back; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        """ClickHouse's number of the error; 0 without one."""
        return int(self.headers.get("x-clickhouse-exception-code", 0))


class ClickHouseServer:
    """Control in `home`, as a context manager."""

    def __init__(self, home: Path) -> None:
        reader = ReaderSettings(
            hash=hashlib.sha256(READER_TOKEN.encode()).hexdigest(), max_result_rows=10_000
        )
        settings = ClickHouseSettings(
            reader={"bi": reader}, max_queries=4, max_insert_bytes=MAX_INSERT_BYTES
        )
        config = config_in(home)
        control = msgspec.structs.replace(config.control, clickhouse=settings)
        self.home = home
        self._path = write_config(msgspec.structs.replace(config, control=control))

    def __enter__(self) -> "ClickHouseServer":
        self._server = Server("control", "serve", "--config", str(self._path))
        self._server.start()
        address = json.loads((self.home / "run" / "control.json").read_text())
        self.url = address["clickhouse"]
        self.port = urlsplit(self.url).port or 0
        self.token = (self.home / "run" / "control.token").read_text()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Stop it; its exit code."""
        return self._server.stop()

    @property
    def login(self) -> dict[str, Any]:
        """Arguments of clickhouse-connect's clients."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": "fungible",
            "password": self.token,
            "database": "fungible",
        }

    @property
    def reader_login(self) -> dict[str, Any]:
        """The same for the reader."""
        return self.login | {"username": "bi", "password": READER_TOKEN}

    def ask(
        self,
        sql: str | bytes = b"",
        *,
        user: tuple[str, str] | None = None,
        method: str = "POST",
        path: str = "/",
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> Answer:
        """One exchange, by hand: `sql` is the body, `fields` the query string."""
        name, password = user or ("fungible", self.token)
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        sent = {"Authorization": f"Basic {basic}", **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            where = f"{path}?{urlencode(fields)}" if fields else path
            connection.request(method, where, body=sql or None, headers=sent)
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()
