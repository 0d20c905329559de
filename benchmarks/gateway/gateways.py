"""The gateways that are measured: how each is installed, configured and started."""

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path

from gateway import nginx, wire
from gateway.processes import Server, free_port, running
from peers.catalogue import OURS, Peer
from peers.environments import INSTALL_S, NotInstalledError, interpreter

LITELLM = Peer("", ("litellm[proxy]==1.108.7",))
TENSORZERO = Peer("", ("tensorzero==2026.6.0",))
PORTKEY = "1.15.2"
PEERS = ("litellm", "portkey", "tensorzero", "nginx")


@dataclass(frozen=True)
class Upstreams:
    """`host:port` of the instant upstream and of the one for streams."""

    whole: str
    streams: str


@dataclass(frozen=True)
class Gateway:
    """One that is running.

    Attributes:
        url: Where whole answers are asked for; `stream_url` the same for streams.
        headers: Of every request to it; `stream_headers` the same for streams.
    """

    name: str
    version: str
    server: Server
    url: str
    stream_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    stream_headers: Mapping[str, str] = field(default_factory=dict)
    spool: Path | None = None


_JSON = {"Content-Type": "application/json"}
_BEARER = {**_JSON, "Authorization": f"Bearer {wire.KEY}"}
_CHAT = "/v1/chat/completions"
_OURS = """
home = "{home}"
[gateway]
port = 0
[backend.whole]
url = "http://{whole}/v1"
max_concurrency = 20000
[backend.streams]
url = "http://{streams}/v1"
max_concurrency = 20000
options = {{ idle_timeout_s = 300 }}
[route.{model}]
reference = "whole"
[route.{stream_model}]
reference = "streams"
[key.bench]
hash = "{hash}"
owner = "bench"
customer = "acme"
feature = "overhead"
"""
_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/bench, api_base: "http://{whole}/v1", api_key: none}}
  - model_name: {stream_model}
    litellm_params: {{model: openai/bench, api_base: "http://{streams}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


@contextlib.contextmanager
def fungible(upstreams: Upstreams, home: Path, *extra: str) -> Iterator[Gateway]:
    """Ours: routing, a hashed key, metering and a row on disk for every attempt."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "fungible.toml"
    config.write_text(
        _OURS.format(
            home=home / "data",
            whole=upstreams.whole,
            streams=upstreams.streams,
            model=wire.MODEL,
            stream_model=wire.STREAM_MODEL,
            hash=hashlib.sha256(wire.KEY.encode()).hexdigest(),
        )
    )
    command = [
        sys.executable,
        "-m",
        "fungible",
        "gateway",
        "serve",
        "--config",
        str(config),
        *extra,
    ]
    with running(command, home / "log") as server:
        url = server.said["url"] + _CHAT
        spool = home / "data" / "spool"
        yield Gateway(OURS, package_version("fungible"), server, url, url, _BEARER, _BEARER, spool)


@contextlib.contextmanager
def litellm(upstreams: Upstreams, home: Path, peers: Path, install: bool) -> Iterator[Gateway]:
    """LiteLLM's proxy: one worker, a master key, no database."""
    python = interpreter("litellm", LITELLM, peers, install=install)
    home.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), home / "litellm.yaml"
    config.write_text(
        _LITELLM.format(
            model=wire.MODEL,
            stream_model=wire.STREAM_MODEL,
            whole=upstreams.whole,
            streams=upstreams.streams,
            key=wire.KEY,
        )
    )
    command = [python.parent / "litellm", "--config", config, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with running(command, home / "log", port=port, env=env, cwd=home) as server:
        url = f"http://127.0.0.1:{port}{_CHAT}"
        yield Gateway(
            "litellm", installed_version(python, "litellm"), server, url, url, _BEARER, _BEARER
        )


@contextlib.contextmanager
def portkey(upstreams: Upstreams, home: Path, peers: Path, install: bool) -> Iterator[Gateway]:
    """Portkey's gateway under Node; it takes the upstream from headers and checks no key."""
    script = portkey_script(peers, install=install)
    port = free_port()
    command = ["node", script, "--headless", f"--port={port}"]
    with running(command, home / "log", port=port) as server:
        url = f"http://127.0.0.1:{port}{_CHAT}"
        common = {**_BEARER, "x-portkey-provider": "openai"}
        to = {
            name: {**common, "x-portkey-custom-host": f"http://{place}/v1"}
            for name, place in (("whole", upstreams.whole), ("streams", upstreams.streams))
        }
        yield Gateway("portkey", PORTKEY, server, url, url, to["whole"], to["streams"])


@contextlib.contextmanager
def nginx_proxy(upstreams: Upstreams, home: Path, peers: Path, install: bool) -> Iterator[Gateway]:
    """A plain proxy: no keys, no routing, no records. The floor."""
    program = nginx.binary(peers, install=install)
    with nginx.proxy(program, home, upstreams.whole, upstreams.streams) as (port, server):
        root = f"http://127.0.0.1:{port}"
        version = nginx.PEER.requirements[0].partition("==")[2]
        yield Gateway(
            "nginx", version, server, root + _CHAT, f"{root}/streams{_CHAT}", _JSON, _JSON
        )


SERVED = {"litellm": litellm, "portkey": portkey, "nginx": nginx_proxy}


def portkey_script(peers: Path, *, install: bool) -> Path:
    """Where its server lies, installed by npm when it is first needed."""
    home = peers / "portkey"
    script = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if script.exists():
        return script
    if not install:
        raise NotInstalledError("not installed (run once without --no-install)")
    home.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--silent", "--no-audit", "--prefix", str(home)]
    try:
        done = subprocess.run(
            [*command, f"@portkey-ai/gateway@{PORTKEY}"],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"npm: {error}") from error
    if done.returncode or not script.exists():
        raise NotInstalledError(f"npm: {(done.stderr or done.stdout).strip()[-200:]}")
    return script


def installed_version(python: Path, package: str) -> str:
    """The version of a package in a peer's environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
