"""`fungible.toml` -> one frozen record -> one content hash.

The file says who may serve. Who does serve (the weights a migration moved) lives in
versioned route tables in control state, never here.
"""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from fungible.contract.target import parse_target
from fungible.errors import ConfigError, InputError

DEFAULT_HOME = Path(".fungible")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The data plane's address and limits (seconds, bytes)."""

    host: str = "127.0.0.1"
    port: int = 8080
    first_token_timeout_s: float = 60.0
    total_timeout_s: float = 300.0
    max_body_bytes: int = 10_000_000


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The control process's address."""

    host: str = "127.0.0.1"
    port: int = 8081


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows go. An empty `dsn` means the embedded engine under the home directory.

    `prices` is a CSV or YAML price sheet, relative to the configuration file.
    """

    dsn: str = ""
    prices: str = ""


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A local engine that `fungible up` starts for a backend.

    Attributes:
        artifact: Path of an artifact directory, or the digest (`sha256:…`) of one in the store.
        slots: Requests decoded at once.
        context: Longest prompt plus answer, in tokens.
        prefix_cache: Start prompts from what slots hold of them already.
    """

    artifact: str
    target: str = "onnxruntime:cpu"
    variant: str = "f32"
    slots: int = 8
    context: int = 1024
    threads: int = 2
    prefix_cache: bool = True


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place that can serve a model.

    Attributes:
        kind: Entry point of group `fungible.backends`, such as `openai_http` or `null`.
        url: Base URL up to and including `/v1`; filled in for backends with an `engine`.
        model: The name the upstream knows the model by; empty keeps the client's.
        api_key_env: Environment variable that holds the upstream's key.
        accelerator: What it runs on, such as `cpu-x86`, `nvidia-h100`, `aws-trainium2`.
        price: Key of the price sheet; empty means the backend's own name.
        options: Settings of the adapter itself.
    """

    kind: str = "openai_http"
    url: str = ""
    model: str = ""
    api_key_env: str = ""
    accelerator: str = ""
    region: str = ""
    price: str = ""
    max_concurrency: int = 64
    engine: EngineSettings | None = None
    options: dict[str, Any] = {}


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may serve a model.

    `weights` are the starting shares; a backend that is only listed in `backends` has 0.
    `fallback` names backends tried in order when the chosen one fails before its first token.
    """

    reference: str
    backends: list[str] = []
    weights: dict[str, float] = {}
    fallback: list[str] = []
    retries: int = 1


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key, by its SHA-256 only. `models` empty means all; `expires` is an ISO date."""

    hash: str
    owner: str = ""
    customer: str = ""
    feature: str = ""
    models: list[str] = []
    expires: str = ""


class MigrationPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a migration moves on, and when it turns back. Fixed before it starts.

    Attributes:
        shadow_share: Share of requests copied to the candidate while it is in shadow.
        shadow_margin: Largest loss of online health that still counts as held, in score points.
        shadow_min_pairs: Pairs to see before any promotion out of shadow.
        canary_steps: Shares of traffic that the candidate gets, one step after the other.
        canary_margin: The same as `shadow_margin` for the attempts of real traffic.
        canary_min_attempts: Attempts of the candidate to see at each step.
        promote_at: E-value at which the candidate has held (20: wrong at most 1 time in 20).
        rollback_at: E-value at which it has not.
        trip_after: Failures of the candidate in a row that end a migration at once.
        max_pairs: Pairs per stage without a decision before it turns back.
        max_stage_s: Seconds per stage without a decision before it turns back.
    """

    shadow_share: float = 1.0
    shadow_margin: float = 0.05
    shadow_min_pairs: int = 60
    canary_steps: tuple[float, ...] = (0.25, 0.5)
    canary_margin: float = 0.10
    canary_min_attempts: int = 15
    promote_at: float = 20.0
    rollback_at: float = 20.0
    trip_after: int = 5
    max_pairs: int = 2000
    max_stage_s: float = 86_400.0


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `fungible.toml`. Names are the tables' keys."""

    home: str = str(DEFAULT_HOME)
    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = ControlSettings()
    ledger: LedgerSettings = LedgerSettings()
    backend: dict[str, BackendSettings] = {}
    route: dict[str, RouteSettings] = {}
    key: dict[str, KeySettings] = {}
    migration: MigrationPolicy = MigrationPolicy()

    def content_hash(self) -> str:
        """16 hexadecimal digits over the canonical JSON of every setting.

        The address that a local engine picked is left out: it changes at every start.
        """
        backends = {
            name: msgspec.structs.replace(backend, url="") if backend.engine else backend
            for name, backend in self.backend.items()
        }
        same = msgspec.structs.replace(self, backend=backends)
        data = msgspec.json.encode(same, order="deterministic")
        return hashlib.sha256(data).hexdigest()[:16]

    def bindings(self) -> dict[str, str]:
        """What a verdict on each backend speaks for, by name; see `binding_of`."""
        return {name: binding_of(name, backend) for name, backend in self.backend.items()}

    def home_path(self) -> Path:
        """Directory of everything that Fungible writes."""
        return Path(self.home)

    def spool_path(self) -> Path:
        """Directory with one folder per writing process."""
        return self.home_path() / "spool"

    def ledger_dsn(self) -> str:
        """The ledger's DSN, embedded by default."""
        return self.ledger.dsn or f"chdb:///{(self.home_path() / 'ledger').absolute()}"


def binding_of(name: str, backend: BackendSettings) -> str:
    """Hash of what a verdict speaks for: artifact, variant, target, engine configuration.

    A backend without a local engine is bound by its URL, upstream model and options. The
    address a local engine happens to listen on is left out; everything else counts.
    """
    parts: dict[str, Any] = {"kind": backend.kind, "model": backend.model}
    if backend.engine is not None:
        parts["engine"] = msgspec.to_builtins(backend.engine)
    else:
        parts |= {"name": name, "url": backend.url, "options": backend.options}
    data = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(data).hexdigest()[:16]


def load_config(path: Path) -> Config:
    """The checked configuration from TOML, or from JSON as `fungible up` resolves it.

    Relative paths in it are relative to the file.

    Raises:
        ConfigError: The file is missing or malformed; names the file and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file", hint="run `fungible quickstart`, or pass --config"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", hint="see docs/reference/config.md") from error
    check_config(config, str(path))
    home = path.parent / config.home
    prices = str(path.parent / config.ledger.prices) if config.ledger.prices else ""
    ledger = msgspec.structs.replace(config.ledger, prices=prices)
    return msgspec.structs.replace(config, home=str(home), ledger=ledger)


def check_config(config: Config, where: str) -> None:
    """Raise `ConfigError` where names do not resolve or values cannot work."""
    for table in ("backend", "route", "key"):
        for name in getattr(config, table):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{where}: {table}.{name}: names are letters, digits and . _ -")
    for name, backend in config.backend.items():
        _check_backend(f"{where}: backend.{name}", backend)
    for model, route in config.route.items():
        _check_route(f"{where}: route.{model}", route, config)
    _check_migration(f"{where}: migration", config.migration)
    for name, key in config.key.items():
        if not re.fullmatch(r"[0-9a-f]{64}", key.hash):
            raise ConfigError(
                f"{where}: key.{name}.hash is not a SHA-256 in hexadecimal",
                hint="make one with `fungible key new`",
            )


def _check_backend(where: str, backend: BackendSettings) -> None:
    if backend.engine is not None:
        try:
            parse_target(backend.engine.target)
        except InputError as error:
            raise ConfigError(f"{where}.engine: {error.message}", hint=error.hint) from error
    elif backend.kind == "openai_http" and not re.match(r"https?://", backend.url):
        raise ConfigError(f"{where}.url must be http:// or https://, or give it an engine")
    if backend.max_concurrency < 1:
        raise ConfigError(f"{where}.max_concurrency must be at least 1")


def _check_route(where: str, route: RouteSettings, config: Config) -> None:
    for name in {route.reference, *route.backends, *route.weights, *route.fallback}:
        if name not in config.backend:
            known = ", ".join(sorted(config.backend)) or "none"
            raise ConfigError(f"{where}: unknown backend {name!r}", hint=f"declared: {known}")
    if any(weight < 0 for weight in route.weights.values()):
        raise ConfigError(f"{where}.weights must not be negative")


def _check_migration(where: str, policy: MigrationPolicy) -> None:
    for name in ("shadow_margin", "canary_margin"):
        if not 0.0 < getattr(policy, name) < 1.0:
            raise ConfigError(f"{where}.{name} must be between 0 and 1")
    if not 0.0 < policy.shadow_share <= 1.0:
        raise ConfigError(f"{where}.shadow_share must be above 0 and at most 1")
    steps = policy.canary_steps
    if not steps or list(steps) != sorted(set(steps)) or not (steps[0] > 0 and steps[-1] < 1):
        raise ConfigError(
            f"{where}.canary_steps must grow and lie between 0 and 1",
            hint="for example [0.25, 0.5]; the last step is always 1",
        )
    for name in ("promote_at", "rollback_at"):
        if getattr(policy, name) <= 1.0:
            raise ConfigError(f"{where}.{name} must be above 1")
    for name in ("shadow_min_pairs", "canary_min_attempts", "trip_after", "max_pairs"):
        if getattr(policy, name) < 1:
            raise ConfigError(f"{where}.{name} must be at least 1")
    if policy.max_stage_s <= 0:
        raise ConfigError(f"{where}.max_stage_s must be above 0")
