"""What commands need that send requests themselves: configuration, spool, dispatcher."""

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fungible.config import Config, load_config
from fungible.errors import ConfigError, InputError, UnavailableError
from fungible.ledger.spool import SpoolWriter
from fungible.routing.dispatch import Dispatcher

Result = TypeVar("Result")


class Setting:
    """A checked configuration and a spool of this process's own."""

    def __init__(self, config: Config, spool: SpoolWriter) -> None:
        self.config = config
        self.spool = spool

    async def use(self, work: Callable[[Dispatcher], Awaitable[Result]]) -> Result:
        """Run `work` with a started dispatcher, and close it."""
        dispatcher = Dispatcher(config=self.config, spool=self.spool)
        await dispatcher.start()
        try:
            return await work(dispatcher)
        finally:
            await dispatcher.close()


@contextmanager
def dispatching(config_path: Path, purpose: str) -> Iterator[Setting]:
    """A setting for the block; its spool is sealed at the end."""
    config = _running(load_config(config_path))
    name, bound = f"{purpose}-{os.getpid()}", config.ledger.max_spool_bytes
    spool = SpoolWriter(config.spool_path(), name, max_bytes=bound)
    try:
        yield Setting(config, spool)
    finally:
        spool.close()


def resolve_model(
    config: Config, model: str, reference: str, backends: Sequence[str]
) -> tuple[str, str]:
    """The model (the only route's by default) and the reference (the route's by default).

    Raises:
        ConfigError: A name is not in the configuration.
        InputError: There are several routes and no `--model`.
        UnavailableError: A backend's local engine is not running.
    """
    model, reference = name_model(config, model, reference, backends)
    for name in (*backends, reference):
        if config.backend[name].engine is not None and not config.backend[name].url:
            raise UnavailableError(
                f"backend {name!r} has a local engine, which is not running",
                hint="start everything with `fungible up`",
            )
    return model, reference


def name_model(
    config: Config, model: str, reference: str, backends: Sequence[str]
) -> tuple[str, str]:
    """The same, whether or not local engines are running."""
    if not model:
        if len(config.route) != 1:
            raise InputError(
                "several models are configured" if config.route else "no route is configured",
                hint=f"pass --model: {', '.join(sorted(config.route)) or 'after adding a route'}",
            )
        model = next(iter(config.route))
    if model not in config.route:
        known = ", ".join(sorted(config.route)) or "none"
        raise ConfigError(f"unknown model {model!r}", hint=f"routes: {known}")
    reference = reference or config.route[model].reference
    for name in (*backends, reference):
        if name not in config.backend:
            known = ", ".join(sorted(config.backend)) or "none"
            raise ConfigError(f"unknown backend {name!r}", hint=f"declared: {known}")
    return model, reference


def _running(config: Config) -> Config:
    """The configuration with the addresses of engines that `fungible up` has started."""
    waiting = any(backend.engine and not backend.url for backend in config.backend.values())
    resolved = config.home_path() / "run" / "config.json"
    return load_config(resolved) if waiting and resolved.is_file() else config
