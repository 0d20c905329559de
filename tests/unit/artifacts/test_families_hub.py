"""`hf:organisation/name`, against a server on this machine that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fungible.artifacts.hub import fetch
from fungible.errors import ArtifactError
from support.tiny_model import write_tiny_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Another process, because the hub's client reads its settings when it is imported.
OPEN = """
import sys
from fungible.artifacts.build import open_checkpoint
from fungible.errors import FungibleError
try:
    checkpoint = open_checkpoint(sys.argv[1])
    print(checkpoint.name, checkpoint.licence, checkpoint.read("model.norm.weight").shape)
except FungibleError as error:
    print(type(error).__name__, error, error.hint)
"""


class _Hub(BaseHTTPRequestHandler):
    directory: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.rpartition("/")[2]
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/tiny-org/tiny-llama"):
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"}
                for file in self.directory.iterdir()
            ]
            model = {"id": "tiny-org/tiny-llama", "sha": COMMIT, "siblings": []}
            status, content = 200, json.dumps(files if "/tree/" in path else model).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith(f"/tiny-org/tiny-llama/resolve/{COMMIT}/"):
            status, content = 200, (self.directory / name).read_bytes()
            headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        else:
            status, content = 404, b""
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    _Hub.directory = write_tiny_checkpoint(tmp_path / "upstream")
    (_Hub.directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (_Hub.directory / "pytorch_model.bin").write_bytes(b"not wanted")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(source: str, home: Path, **settings: str) -> str:
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k[:3] != "HF_"}
    environment = kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | settings
    command = [sys.executable, "-c", OPEN, source]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_is_downloaded_once_and_then_found_offline(endpoint: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    expected = "tiny-llama apache-2.0 (64,)"
    assert opened("hf:tiny-org/tiny-llama", home, HF_ENDPOINT=endpoint) == expected
    assert not list(home.rglob("pytorch_model.bin"))
    assert opened("hf:tiny-org/tiny-llama", home, HF_HUB_OFFLINE="1") == expected


def test_a_model_that_the_hub_lacks_is_named(endpoint: str, tmp_path: Path) -> None:
    said = opened("hf:tiny-org/other", tmp_path / "home", HF_ENDPOINT=endpoint)
    assert said.startswith("ArtifactError source hf:tiny-org/other: the hub has no such model")


def test_without_network_or_cache_the_error_says_what_to_do(tmp_path: Path) -> None:
    said = opened("hf:tiny-org/tiny-llama", tmp_path / "home", HF_HUB_OFFLINE="1")
    assert said.startswith("UnavailableError source hf:tiny-org/tiny-llama: cannot be downloaded")
    assert "give the path of a downloaded directory" in said


@pytest.mark.parametrize("reference", ["", "name", "a/b/c", "a/b@", "../etc@main"])
def test_a_malformed_reference_is_refused_before_anything_is_asked(reference: str) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        fetch(reference)
