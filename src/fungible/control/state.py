"""What control must not forget: versions of the route table, and migrations. SQLite.

Every edge of a migration is one transaction over the route table, the migration and an
outbox with its event. Files and the spool follow from there, again after a crash, so a
`kill -9` at any point loses nothing.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from fungible.config import Config
from fungible.contract.events import MigrationEvent
from fungible.control.files import write_atomic
from fungible.control.reconcile import reconcile
from fungible.errors import DiskError, InputError, RefusedError, UnavailableError
from fungible.migrate.routes import why_not
from fungible.migrate.states import Migration
from fungible.routing.table import Route, RouteTable, decode_table, initial_table

_SCHEMA = """
CREATE TABLE IF NOT EXISTS route_tables (version INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS migrations
    (migration_id TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, data BLOB NOT NULL);
"""
_SCHEMA_VERSION = 1
_FILE_ROUTES = "file_routes"


class ControlState:
    """Control's own database and the route file that gateways follow. Thread-safe; blocking.

    Args:
        config: Who may serve.
        clock: Unix time in nanoseconds.

    Raises:
        UnavailableError: The database is broken, locked, or of a newer release.
        DiskError: The disk refuses.
    """

    def __init__(self, config: Config, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._config = config
        self._clock = clock
        self._path = config.home_path() / "control.sqlite"
        self._routes_file = config.home_path() / "run" / "routes.json"
        self._written: int | None = None
        self._lock = threading.RLock()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            # Transactions are ours (`isolation_level=None`), threads are kept apart by the lock.
            self._db = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._check_schema()
        self._active = self._load_active()
        self._reconcile()

    def active(self) -> RouteTable:
        """The table that gateways follow."""
        return self._active

    def history(self, limit: int = 100) -> list[RouteTable]:
        """Route tables, newest first."""
        with self._lock, self._errors():
            rows = self._db.execute(
                "SELECT data FROM route_tables ORDER BY version DESC LIMIT ?", (limit,)
            ).fetchall()
        return [decode_table(data, str(self._path)) for (data,) in rows]

    def activate(self, routes: Mapping[str, Route], reason: str) -> RouteTable:
        """Serve by `routes` from now on, as a new version.

        Raises:
            RefusedError: A route gives weight to a backend that is not admitted.
        """
        with self._lock:
            table = self._next(routes, reason)
            with self._transaction():
                self._insert(table)
            self._serve_by(table)
            return table

    def activate_version(self, version: int, reason: str) -> RouteTable:
        """Serve by the routes of an earlier version again, as a new version.

        Raises:
            InputError: There is no such version.
            RefusedError: It gives weight to a backend that is not admitted now.
        """
        with self._lock, self._errors():
            row = self._db.execute(
                "SELECT data FROM route_tables WHERE version = ?", (version,)
            ).fetchone()
        if row is None:
            raise InputError(f"no route table version {version}", param="version")
        table = decode_table(row[0], str(self._path))
        return self.activate(table.routes, reason or f"version {version} again")

    def migrations(self) -> list[Migration]:
        """All migrations, newest first."""
        with self._lock, self._errors():
            rows = self._db.execute(
                "SELECT data FROM migrations ORDER BY created_ns DESC, migration_id DESC"
            ).fetchall()
        return [msgspec.json.decode(data, type=Migration) for (data,) in rows]

    def save(self, migration: Migration) -> None:
        """Keep what changed about a migration without an edge."""
        with self._lock, self._transaction():
            self._upsert(migration)

    def commit(
        self, migration: Migration, route: Route | None, event: Callable[[int], MigrationEvent]
    ) -> Migration:
        """Keep an edge: migration, route table (if `route`) and event, all or nothing.

        Raises:
            RefusedError: The route gives weight to a backend that is not admitted.
        """
        with self._lock:
            table = self._active
            if route is not None:
                routes = {**table.routes, route.model: route}
                reason = f"{migration.migration_id} {migration.state}: {migration.reason}"
                table = self._next(routes, reason)
            done = msgspec.structs.replace(migration, route_version=table.version)
            with self._transaction():
                if route is not None:
                    self._insert(table)
                self._upsert(done)
                record = msgspec.json.encode(event(table.version))
                self._db.execute("INSERT INTO outbox (data) VALUES (?)", (record,))
            if route is not None:
                self._serve_by(table)
            return done

    def publish(self, write: Callable[[MigrationEvent], None]) -> int:
        """Hand every event that waits to `write` (the spool), in order; how many there were.

        A crash in between hands an event over again: at least once, never lost.
        """
        with self._lock, self._errors():
            rows = self._db.execute("SELECT id, data FROM outbox ORDER BY id").fetchall()
            for number, data in rows:
                write(msgspec.json.decode(data, type=MigrationEvent))
                self._db.execute("DELETE FROM outbox WHERE id = ?", (number,))
        return len(rows)

    def refresh(self) -> None:
        """Take out backends whose admission expired, and repair the route file if need be."""
        with self._lock:
            routes = self._active.routes
            kept, changes = reconcile(self._config, routes, self._file_routes(), self._clock())
            if kept != routes:
                self.activate(kept, "; ".join(changes))
            if self._written != self._active.version:
                self._serve_by(self._active)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _check_schema(self) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found > _SCHEMA_VERSION:
            raise UnavailableError(
                f"{self._path} has schema version {found}, newer than this release",
                hint="upgrade fungible, or point it at another home",
            )
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _load_active(self) -> RouteTable:
        newest = self.history(limit=1)
        return newest[0] if newest else RouteTable(version=-1, routes={})

    def _file_routes(self) -> dict[str, Route]:
        with self._lock, self._errors():
            row = self._db.execute(
                "SELECT data FROM facts WHERE name = ?", (_FILE_ROUTES,)
            ).fetchone()
        return msgspec.json.decode(row[0], type=dict[str, Route]) if row else {}

    def _reconcile(self) -> None:
        """At start: the file may have been edited, verdicts may have expired."""
        routes, changes = reconcile(
            self._config, self._active.routes, self._file_routes(), self._clock()
        )
        said = msgspec.json.encode(initial_table(self._config).routes)
        with self._transaction():
            self._db.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET data = excluded.data",
                (_FILE_ROUTES, said),
            )
            if routes != self._active.routes or self._active.version < 0:
                table = self._next(routes, "; ".join(changes) or "no routes")
                self._insert(table)
                self._active = table
        self._serve_by(self._active)

    def _next(self, routes: Mapping[str, Route], reason: str) -> RouteTable:
        now = self._clock()
        self._check_admitted(routes, now)
        version = self._active.version + 1
        return RouteTable(version=version, routes=dict(routes), reason=reason, created_ns=now)

    def _check_admitted(self, routes: Mapping[str, Route], now_ns: int) -> None:
        for model, route in routes.items():
            for name, weight in route.weights.items():
                why = why_not(name, route, self._config, now_ns) if weight > 0 else None
                if why is not None:
                    raise RefusedError(
                        f"route {model!r} may not send traffic to {name}: {why}",
                        hint="judge it with `fungible eval gate`, then `fungible migrate start`",
                    )

    def _serve_by(self, table: RouteTable) -> None:
        self._active = table
        write_atomic(self._routes_file, msgspec.json.format(msgspec.json.encode(table)))
        self._written = table.version

    def _insert(self, table: RouteTable) -> None:
        self._db.execute(
            "INSERT INTO route_tables VALUES (?, ?)", (table.version, msgspec.json.encode(table))
        )

    def _upsert(self, migration: Migration) -> None:
        self._db.execute(
            "INSERT INTO migrations VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET data = excluded.data",
            (migration.migration_id, migration.created_ns, msgspec.json.encode(migration)),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "full" in str(error) or "readonly" in str(error):
                raise DiskError(
                    f"{self._path}: cannot write: {error}",
                    hint="free disk space or fix permissions",
                ) from error
            raise UnavailableError(
                f"{self._path}: {error}",
                hint="stop the other process that uses it, or restore it from a backup",
            ) from error
