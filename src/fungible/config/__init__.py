"""`fungible.toml` -> one frozen record -> one content hash."""

from fungible.config.check import check_config
from fungible.config.keys import KeySettings, expiry_of
from fungible.config.limits import LimitSettings, LimitsSettings, SharedLimitSettings
from fungible.config.load import load_config
from fungible.config.model import DEFAULT_HOME, Config, binding_of
from fungible.config.settings import (
    BackendSettings,
    ClickHouseSettings,
    ControlSettings,
    EngineSettings,
    GatewaySettings,
    IngestSettings,
    LedgerSettings,
    MigrationPolicy,
    ReaderSettings,
    RouteSettings,
)

__all__ = [
    "DEFAULT_HOME",
    "BackendSettings",
    "ClickHouseSettings",
    "Config",
    "ControlSettings",
    "EngineSettings",
    "GatewaySettings",
    "IngestSettings",
    "KeySettings",
    "LedgerSettings",
    "LimitSettings",
    "LimitsSettings",
    "MigrationPolicy",
    "ReaderSettings",
    "RouteSettings",
    "SharedLimitSettings",
    "binding_of",
    "check_config",
    "expiry_of",
    "load_config",
]
