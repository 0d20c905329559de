"""`@clickhouse/client`, the newest that npm has, against a running control (run with --compat)."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.clickhouse_server import ClickHouseServer

SCRIPT = """
import { createClient } from '@clickhouse/client'
const found = {}
const options = { url: process.env.ENDPOINT, username: 'fungible', password: process.env.TOKEN,
                  database: 'fungible', log: { level: 127 } }
for (const on of [true, false]) {
  const client = createClient({ ...options, compression: { request: on, response: on } })
  found.ping = (await client.ping()).success
  await client.command({ query: 'CREATE OR REPLACE TABLE js (id UInt8, s String) ENGINE = Memory' })
  await client.insert({ table: 'js', values: [{ id: 1, s: 'é' }], format: 'JSONEachRow' })
  const rows = await client.query({ query: 'SELECT s FROM js WHERE id = {n:UInt64}',
                                    query_params: { n: 1 }, format: 'JSON' })
  found.rows = (await rows.json()).data
  found.streamed = 0
  const all = await client.query({ query: 'SELECT number FROM numbers(300000)',
                                   format: 'JSONCompactEachRow' })
  for await (const part of all.stream()) found.streamed += part.length
  try { await client.query({ query: 'SELECT * FROM nosuch' }) }
  catch (error) { found.error = [error.code, error.type] }
  try {
    const failing = 'SELECT throwIf(number = 3000000) FROM numbers(4000000)'
    const late = await client.query({ query: failing, format: 'JSONCompactEachRow' })
    for await (const part of late.stream()) {}
  } catch (error) { found.late = error.code }
  await client.close()
}
const session = createClient({ ...options, session_id: 'js' })
await session.command({ query: 'CREATE TEMPORARY TABLE mine (a Int8)' })
await session.insert({ table: 'mine', values: [{ a: 3 }], format: 'JSONEachRow' })
const sum = await session.query({ query: 'SELECT sum(a) AS a FROM mine', format: 'JSONEachRow' })
found.session = await sum.json()
await session.close()
console.log(JSON.stringify(found))
"""


@pytest.mark.compat
def test_the_node_client(tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    script = tmp_path / "client.mjs"
    script.write_text(SCRIPT)
    install = [npm, "install", "--no-audit", "--no-fund", "@clickhouse/client"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    with ClickHouseServer(tmp_path / "home") as server:
        env = {**os.environ, "ENDPOINT": server.url, "TOKEN": server.token}
        run = subprocess.run(
            [node, script.name],
            check=False,
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "ping": True,
        "rows": [{"s": "é"}],
        "streamed": 300_000,
        "error": ["60", "UNKNOWN_TABLE"],
        "late": "395",
        "session": [{"a": 3}],
    }
