"""Follows the route table that control activates; a bad file changes nothing."""

import asyncio
import logging
import time

import msgspec

from fungible.config import Config
from fungible.errors import ConfigError
from fungible.routing.admission import admissible
from fungible.routing.table import Route, RouteTable, decode_table, initial_table

log = logging.getLogger(__name__)

POLL_S = 0.25


class RouteWatcher:
    """The active table, read again when `<home>/run/routes.json` changes.

    Weights of backends that are not admitted are taken out when a table is loaded, whoever
    wrote it: control refuses such tables, and this is the second lock on the same door.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._from_file = True
        self._path = config.home_path() / "run" / "routes.json"
        self._stamp: tuple[int, int] | None = None
        self._load(initial_table(config))
        self.refresh()

    def refresh(self) -> None:
        """Load the file if it is another one than before; drop what expired meanwhile."""
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._stamp = stamp
                self._load(decode_table(self._path.read_bytes(), str(self._path)))
                self._from_file = False
        except FileNotFoundError:
            pass
        except (OSError, ConfigError) as error:
            log.warning("route table kept at version %d: %s", self.table.version, error)
        if self._expires_ns is not None and time.time_ns() >= self._expires_ns:
            self._load(self._whole)

    def reconfigure(self, config: Config) -> None:
        """Follow the same table under another configuration.

        Routes that the table does not know yet are served as the file says.
        """
        self._config = config
        if self._from_file:
            self._load(initial_table(config))
            return
        missing = {
            model: route
            for model, route in initial_table(config).routes.items()
            if model not in self._whole.routes
        }
        routes = {**self._whole.routes, **missing}
        self._load(msgspec.structs.replace(self._whole, routes=routes))

    def _load(self, table: RouteTable) -> None:
        now = time.time_ns()
        self._whole = table
        self.table = admitted(table, self._config, now)
        ends = [
            admission.expires_ns
            for route in table.routes.values()
            for admission in route.admissions.values()
            if admission.expires_ns > now
        ]
        self._expires_ns = min(ends, default=None)

    async def follow(self) -> None:
        """Refresh for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            self.refresh()


def admitted(table: RouteTable, config: Config, now_ns: int) -> RouteTable:
    """The same table without weight, shadow or fallback for what may not have it."""
    routes = {}
    for model, route in table.routes.items():
        if model in config.route and route.reference in config.backend:
            routes[model] = _admitted_route(route, config, now_ns)
        else:
            log.warning("route %s of table %d is not configured here", model, table.version)
    return msgspec.structs.replace(table, routes=routes)


def _admitted_route(route: Route, config: Config, now: int) -> Route:
    weights = {}
    for name, weight in route.weights.items():
        reason = _objection(name, route, config, now)
        if reason is None:
            weights[name] = weight
        elif weight > 0:
            log.warning("route %s: %s; its share goes to the others", route.model, reason)
    fallback = [name for name in route.fallback if _objection(name, route, config, now) is None]
    shadow = route.shadow if route.shadow and route.shadow.backend in config.backend else None
    if sum(weights.values()) <= 0:
        weights = {route.reference: 1.0}
    return msgspec.structs.replace(route, weights=weights, fallback=fallback, shadow=shadow)


def _objection(name: str, route: Route, config: Config, now_ns: int) -> str | None:
    if name == route.reference:
        return None
    if name not in config.backend:
        return f"{name} is not configured here"
    return admissible(name, config.backend[name], route.admissions.get(name), now_ns)
