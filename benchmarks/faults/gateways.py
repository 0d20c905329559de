"""The gateways that the faults are shown to; each with one model a fault, and no second try."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.catalogue import FAULTS
from gateway.gateways import LITELLM, PORTKEY, installed_version, portkey_script
from gateway.processes import Server, free_port, running
from peers.catalogue import OURS
from peers.environments import interpreter

KEY = "sk-faults-0123456789abcdef0123456789abcdef"
FIRST_TOKEN_S, IDLE_S, TOTAL_S = 2.0, 1.0, 6.0
_CHAT = "/v1/chat/completions"


@dataclasses.dataclass(frozen=True)
class Place:
    """A gateway that is running."""

    name: str
    version: str
    url: str
    headers: dict[str, str]
    server: Server
    spool: Path | None = None


@contextlib.contextmanager
def upstream(home: Path) -> Iterator[str]:
    """The scriptable server in a process of its own; yields its base URL."""
    script = Path(__file__).with_name("upstream.py")
    with running([sys.executable, script], home / "upstream.log") as server:
        yield server.said["url"]


def our_config(url: str, home: Path) -> str:
    """A backend and a route for every fault: no fault can open another one's breaker."""
    parts = [
        f'home = "{home}"\n[gateway]\nport = 0\nfirst_token_timeout_s = {FIRST_TOKEN_S}\n'
        f"total_timeout_s = {TOTAL_S}\n"
    ]
    parts += [
        f'[backend."{name}"]\nurl = "{url}"\nmodel = "{name}"\n'
        f"options = {{ idle_timeout_s = {IDLE_S} }}\n"
        f'[route."{name}"]\nreference = "{name}"\nretries = 0\n'
        for name in FAULTS
    ]
    return "".join(parts)


@contextlib.contextmanager
def fungible(
    url: str, home: Path, more: str = "", before: Callable[[Path], None] | None = None
) -> Iterator[Place]:
    """Ours.

    Args:
        url: Of the scriptable server.
        home: Where its files go.
        more: Added to its configuration.
        before: Called with the configuration's path before the gateway starts.
    """
    home.mkdir(parents=True, exist_ok=True)
    config = home / "fungible.toml"
    config.write_text(our_config(url, home / "data") + more)
    if before is not None:
        before(config)
    command = [sys.executable, "-m", "fungible", "gateway", "serve", "--config", config]
    with running(command, home / "log") as server:
        yield Place(
            OURS,
            installed_version(Path(sys.executable), OURS),
            server.said["url"] + _CHAT,
            {},
            server,
            home / "data" / "spool",
        )


@contextlib.contextmanager
def litellm(url: str, home: Path, peers: Path, install: bool) -> Iterator[Place]:
    """LiteLLM's proxy with the same timeouts and no retries."""
    python = interpreter("litellm", LITELLM, peers, install=install)
    home.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), home / "litellm.json"
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": url,
                "api_key": "none",
                "timeout": TOTAL_S,
                "stream_timeout": FIRST_TOKEN_S,
                "max_retries": 0,
            },
        }
        for name in FAULTS
    ]
    settings = {
        "model_list": models,
        "general_settings": {"master_key": KEY},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    command = [python.parent / "litellm", "--config", config, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--telemetry", "False"]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with running(command, home / "log", port=port, env=env, cwd=home) as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        at = f"http://127.0.0.1:{port}{_CHAT}"
        yield Place("litellm", installed_version(python, "litellm"), at, headers, server)


@contextlib.contextmanager
def portkey(url: str, home: Path, peers: Path, install: bool) -> Iterator[Place]:
    """Portkey's gateway with a request timeout and no retries."""
    script, port = portkey_script(peers, install=install), free_port()
    command = ["node", script, "--headless", f"--port={port}"]
    headers = {
        "Authorization": "Bearer none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": url,
        "x-portkey-request-timeout": str(int(TOTAL_S * 1000)),
    }
    with running(command, home / "log", port=port) as server:
        yield Place("portkey", PORTKEY, f"http://127.0.0.1:{port}{_CHAT}", headers, server)


PEERS = {"litellm": litellm, "portkey": portkey}
