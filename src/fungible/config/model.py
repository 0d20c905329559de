"""The whole configuration as one frozen record with one content hash.

The file says who may serve. Who does serve (the weights a migration moved) lives in
versioned route tables in control state, never here.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from fungible.config.keys import KeySettings
from fungible.config.limits import LimitsSettings, SharedLimitSettings
from fungible.config.settings import (
    BackendSettings,
    ControlSettings,
    GatewaySettings,
    IngestSettings,
    LedgerSettings,
    MigrationPolicy,
    RouteSettings,
)

DEFAULT_HOME = Path(".fungible")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `fungible.toml`. Names are the tables' keys."""

    home: str = str(DEFAULT_HOME)
    gateway: GatewaySettings = GatewaySettings()
    control: ControlSettings = ControlSettings()
    ledger: LedgerSettings = LedgerSettings()
    ingest: IngestSettings = IngestSettings()
    backend: dict[str, BackendSettings] = {}
    route: dict[str, RouteSettings] = {}
    key: dict[str, KeySettings] = {}
    limit: dict[str, SharedLimitSettings] = {}
    limits: LimitsSettings = LimitsSettings()
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
