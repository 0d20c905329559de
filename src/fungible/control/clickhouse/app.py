"""The ASGI application at the endpoint's own port: ClickHouse's HTTP interface."""

import logging
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from fungible.config import ClickHouseSettings
from fungible.control.clickhouse.body import Body
from fungible.control.clickhouse.engine import ClientGoneError, Engine
from fungible.control.clickhouse.exchange import SEND_S, Exchange
from fungible.control.clickhouse.failures import READONLY, ClickHouseError
from fungible.control.clickhouse.request import read_ask
from fungible.control.clickhouse.runs import Run
from fungible.control.clickhouse.sessions import Sessions
from fungible.control.clickhouse.users import Users
from fungible.ledger.clients import Address

log = logging.getLogger(__name__)
_ALIVE = ("/ping", "/replicas_status")


class Endpoint:
    """Answers ClickHouse's clients from an embedded ledger.

    Args:
        address: Of the ledger, which this process has open.
        settings: `[control.clickhouse]`.
        token: Password of the user `fungible`.
    """

    def __init__(self, address: Address, settings: ClickHouseSettings, token: str) -> None:
        self._engine = Engine(address, settings.max_queries)
        self._settings = settings
        self._users = Users(token, settings.reader)
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, self._engine)
        try:
            await self._answer(scope, exchange)
        except ClickHouseError as error:
            await exchange.fail(error)
        except ClientGoneError:
            return
        except TimeoutError:
            log.info("a client neither wrote nor read for %g s", SEND_S)

    def close(self) -> None:
        """End sessions, and statements when they are done."""
        self._sessions.close()
        self._engine.close()

    async def _answer(self, scope: Scope, exchange: Exchange) -> None:
        fields = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD")
        if path in _ALIVE or (reads and path == "/" and "query" not in fields):
            await exchange.reply(200, b"Ok.\n", {"content-type": "text/plain; charset=UTF-8"})
        elif path != "/":
            raise ClickHouseError(36, "there is nothing here but / and /ping", status=404)
        elif not reads and method != "POST":
            raise ClickHouseError(36, "the method is GET or POST", status=405)
        else:
            await self._run(exchange, fields, reads=reads)

    async def _run(self, exchange: Exchange, fields: dict[str, str], *, reads: bool) -> None:
        headers = exchange.headers
        user = self._users.authenticate(headers, fields)
        if headers.get("content-type", "").startswith("multipart/"):
            raise ClickHouseError(48, "multipart bodies (external tables) are not served here")
        ask = read_ask(fields, headers)
        exchange.query_id = ask.query_id
        coding = headers.get("content-encoding", "")
        body = Body(exchange.receive, coding, self._settings.max_insert_bytes)
        prefix = ask.query.encode() + b"\n" if ask.query else b""
        statement, rows = await body.statement(prefix)
        # As with a server: what is asked by GET changes nothing.
        readonly = reads or ask.readonly > 0 or user.reader is not None
        if statement.rows_at >= 0 and readonly:
            raise ClickHouseError(READONLY, "Cannot execute query in readonly mode")
        async with self._engine.lane() as lane:
            with self._sessions.lend(user.name, ask) as session:
                run = Run(self._engine.address, user, ask, statement, session)
                if statement.rows_at >= 0:
                    await exchange.insert(lane, run, rows, body)
                    return
                await exchange.select(
                    lane, run, readonly=readonly, has_rows=statement.reads, whole=ask.whole
                )
