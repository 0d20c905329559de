"""The peer: LiteLLM's table of spend logs in a PostgreSQL that is started for this run.

Columns and indexes are those of LiteLLM's published Prisma schema; rows are loaded by COPY,
which is faster than the inserts that LiteLLM itself makes.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spend import questions

_SCHEMA = """
CREATE TABLE "LiteLLM_SpendLogs" (
    request_id text PRIMARY KEY, call_type text NOT NULL, api_key text NOT NULL DEFAULT '',
    spend double precision NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0,
    prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0,
    "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL,
    "completionStartTime" timestamp(3), model text NOT NULL DEFAULT '', model_id text DEFAULT '',
    model_group text DEFAULT '', custom_llm_provider text DEFAULT '', api_base text DEFAULT '',
    "user" text DEFAULT '', metadata jsonb DEFAULT '{}', cache_hit text DEFAULT '',
    cache_key text DEFAULT '', request_tags jsonb DEFAULT '[]', team_id text, end_user text,
    requester_ip_address text, session_id text, status text, messages jsonb DEFAULT '{}',
    response jsonb DEFAULT '{}', proxy_server_request jsonb DEFAULT '{}');
CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime");
CREATE INDEX ON "LiteLLM_SpendLogs" ("startTime", request_id);
CREATE INDEX ON "LiteLLM_SpendLogs" (end_user);
CREATE INDEX ON "LiteLLM_SpendLogs" (session_id);
"""
_COPY = (
    'COPY "LiteLLM_SpendLogs" (request_id, call_type, api_key, spend, total_tokens,'
    ' prompt_tokens, completion_tokens, "startTime", "endTime", "completionStartTime", model,'
    ' model_id, model_group, custom_llm_provider, api_base, "user", metadata, cache_hit,'
    " cache_key, request_tags, team_id, end_user, requester_ip_address, session_id, status)"
    " FROM STDIN (FORMAT csv)"
)


class PeerError(Exception):
    """PostgreSQL is not there, or refused."""


class Postgres:
    """A running server; every call is one `psql`."""

    def __init__(self, bin_dir: Path, port: int, user: str) -> None:
        self._command = [
            *(bin_dir / "psql", "-h", "127.0.0.1", "-p", port, "-U", user, "-d", "postgres"),
            *("-v", "ON_ERROR_STOP=1", "-qAt"),
        ]

    def run(self, sql: str, stdin: Path | None = None) -> str:
        """One or more statements; what they print."""
        with stdin.open("rb") if stdin else contextlib.nullcontext() as file:
            done = subprocess.run(
                [*map(str, self._command), "-c", sql],
                stdin=file or subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise PeerError(done.stderr.strip()[:500])
        return done.stdout

    def load(self, files: Sequence[Path]) -> float:
        """The table with its indexes, filled; seconds, without the vacuum after it."""
        self.run(_SCHEMA)
        began = time.perf_counter()
        for path in files:
            self.run(_COPY, path)
        took = time.perf_counter() - began
        self.run('VACUUM ANALYZE "LiteLLM_SpendLogs"')
        return took

    def ask(self, params: Mapping[str, object], rounds: int) -> dict[str, list[float]]:
        """Milliseconds of each question as the server measures them, `rounds` times."""
        found: dict[str, list[float]] = {}
        for name, text in questions.PEER.items():
            sql = text.format(**params)
            self.run(sql)
            for _ in range(rounds):
                said = self.run(f"EXPLAIN (ANALYZE, TIMING OFF, SUMMARY) {sql}")
                line = next(row for row in said.splitlines() if row.startswith("Execution Time"))
                found.setdefault(name, []).append(round(float(line.split()[2]), 2))
        return found

    def total(self, from_s: int) -> str:
        """What all customers spent, to compare both sides."""
        sql = (
            'SELECT round(sum(spend)::numeric, 4) FROM "LiteLLM_SpendLogs"'
            f" WHERE \"startTime\" >= to_timestamp({from_s}) AT TIME ZONE 'UTC'"
        )
        return self.run(sql).strip()

    def disk(self) -> dict[str, int]:
        """Bytes of the table and of its indexes."""
        name = '"LiteLLM_SpendLogs"'
        sizes = self.run(
            f"SELECT pg_table_size('{name}') || ' ' || pg_indexes_size('{name}')"
        ).split()
        return {"table": int(sizes[0]), "indexes": int(sizes[1])}


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Postgres]:
    """A server on loopback with its data in `folder`; as `postgres` when we are root.

    Raises:
        PeerError: It is not installed, or does not start.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise PeerError("PostgreSQL is not installed: apt-get install postgresql")
    bin_dir = found[-1].parent
    root = os.getuid() == 0
    user = "postgres" if root else pwd.getpwuid(os.getuid()).pw_name
    data = folder / "postgres"
    data.mkdir(mode=0o700)
    if root:
        shutil.chown(data, "postgres", "postgres")
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []
    port = _free_port()
    options = (
        f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
        "-c shared_buffers=2GB -c work_mem=256MB -c maintenance_work_mem=512MB "
        "-c max_wal_size=8GB -c checkpoint_timeout=15min -c jit=on"
    )
    control = [*as_user, str(bin_dir / "pg_ctl"), "-D", str(data), "-w"]
    _do([*as_user, str(bin_dir / "initdb"), "-D", str(data), "-A", "trust", "--no-sync"])
    _do([*control, "-l", str(data / "log"), "-o", options, "start"])
    try:
        yield Postgres(bin_dir, port, user)
    finally:
        _do([*control, "-m", "fast", "stop"])


def _do(command: list[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", check=False
    )
    if done.returncode:
        raise PeerError(f"{command[-1]}: {done.stderr.decode().strip()[:500]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
