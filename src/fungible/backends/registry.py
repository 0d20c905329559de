"""Finds adapters by entry point: ours come through the same door as anybody's."""

from importlib.metadata import EntryPoint, entry_points

from fungible.backends.base import Backend
from fungible.config import BackendSettings
from fungible.errors import ConfigError, MissingExtraError

GROUP = "fungible.backends"


def kinds() -> dict[str, EntryPoint]:
    """Adapters that are installed, by kind; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def build_backend(name: str, settings: BackendSettings) -> Backend:
    """The adapter for one `[backend.NAME]`; it does no I/O before `start`.

    Raises:
        ConfigError: No installed package brings this kind.
        MissingExtraError: The adapter's own library is not installed.
    """
    known = kinds()
    if settings.kind not in known:
        raise ConfigError(
            f"backend.{name}.kind is {settings.kind!r}, which no installed package brings",
            hint=f"known kinds: {', '.join(sorted(known))}",
        )
    try:
        adapter = known[settings.kind].load()
    except ImportError as error:
        raise MissingExtraError(
            f"backend.{name}: kind {settings.kind!r} needs {error.name}",
            hint=f"pip install {error.name}",
        ) from error
    backend: Backend = adapter(name, settings)
    return backend
