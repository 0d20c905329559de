"""The ledger's packaged DDL, and how it is written for replicated servers.

The files in `ddl/` are written for one machine. For a cluster the engines become their
`Replicated…` kind and each statement runs `ON CLUSTER`; both are done here and nowhere else.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Literal

import msgspec

from fungible.errors import ConfigError

Engine = Literal["plain", "replicated"]
# `{shard}`, `{replica}`, `{database}` and `{table}` are macros that each server fills in.
REPLICA_PATH = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"
BOOKKEEPING = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (version Int64, name String,"
    " applied_at DateTime64(3, 'UTC') DEFAULT now64(3))\nENGINE = MergeTree ORDER BY version"
)
_NOTE = "INSERT INTO schema_migrations (version, name) VALUES"
_VERSION = re.compile(r"(\d{4})_\w+\.sql")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_ENGINE = re.compile(r"\bENGINE\s*=\s*(?!Replicated)(\w*MergeTree)\b[ \t]*(\(([^()]*)\))?")
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window\b")
_NAME = r"(?:`[^`]+`|[\w.]+)"
_KINDS = r"(?:TABLE|VIEW|MATERIALIZED VIEW|DICTIONARY|DATABASE|FUNCTION)"
_HEAD = re.compile(
    rf"^(?:CREATE(?:\s+OR\s+REPLACE)?|ALTER|DROP|TRUNCATE)\s+{_KINDS}"
    rf"(?:\s+IF(?:\s+NOT)?\s+EXISTS)?\s+{_NAME}"
    rf"|^(?:RENAME|EXCHANGE)\s+TABLES?\s[^;]*",
    re.MULTILINE | re.IGNORECASE,
)
_DDL = re.compile(r"(?:CREATE|ALTER|DROP|TRUNCATE|RENAME|EXCHANGE)\b", re.IGNORECASE)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tables will live.

    Attributes:
        engine: `replicated` writes `Replicated…MergeTree`; needs a server with a Keeper.
        cluster: Name of the cluster on which each statement runs; empty is the one server.
    """

    engine: Engine = "plain"
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.cluster and not re.fullmatch(r"[\w.{}-]+", self.cluster):
            raise ConfigError(
                f"{self.cluster!r} is not the name of a cluster",
                hint="names are letters, digits, _ . - or a macro such as {cluster}",
            )


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One numbered migration, as packaged."""

    version: int
    name: str
    sql: str

    def rendered(self, layout: Layout) -> str:
        """Its text for `layout`, comments included."""
        return render(self.sql, layout)


def steps() -> dict[int, Step]:
    """Packaged migrations by version."""
    found = {}
    for entry in files("fungible.ledger").joinpath("ddl").iterdir():
        if match := _VERSION.fullmatch(entry.name):
            version = int(match[1])
            text = entry.read_text(encoding="utf-8")
            found[version] = Step(version=version, name=entry.name, sql=text)
    return dict(sorted(found.items()))


def render(sql: str, layout: Layout) -> str:
    """DDL written for one machine, as `layout` needs it.

    Raises:
        ConfigError: A statement defines something, and where its name ends is not known.
    """
    if layout.engine == "replicated":
        sql = _ENGINE.sub(_replicated, sql)
        sql = _WINDOW.sub("replicated_deduplication_window", sql)
    if not layout.cluster:
        return sql
    for statement in statements(sql):
        if _DDL.match(statement) and not _HEAD.match(statement):
            raise ConfigError(f"cannot run ON CLUSTER: {statement.splitlines()[0]}")
    return _HEAD.sub(lambda head: f"{head[0].rstrip()} ON CLUSTER `{layout.cluster}`", sql)


def statements(text: str) -> Iterator[str]:
    """The statements of a file without comments on lines of their own."""
    for part in _COMMENT.sub("", text).split(";"):
        if statement := part.strip():
            yield statement


def script(layout: Layout) -> str:
    """Everything that a new ledger needs, as one file for an administrator to run.

    It also notes which steps were applied, so that `Store.migrate` has nothing left to do.
    """
    parts = [f"{render(BOOKKEEPING, layout)};"]
    for step in steps().values():
        note = f"{_NOTE} ({step.version}, '{step.name}');"
        parts.append(f"-- {step.name}\n{step.rendered(layout).strip()}\n\n{note}")
    return "\n\n".join(parts)


def _replicated(engine: re.Match[str]) -> str:
    kind, _, arguments = engine.groups()
    more = f", {arguments.strip()}" if arguments and arguments.strip() else ""
    return f"ENGINE = Replicated{kind}({REPLICA_PATH}{more})"
