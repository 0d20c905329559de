"""Local engines: how one is started, and engines that live only as long as one command."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from fungible.config import BackendSettings, Config, EngineSettings
from fungible.control.children import Child

ENGINE_START_S = 300.0
ENGINE_STOP_S = 10.0


def engine_arguments(
    backend: BackendSettings,
    engine: EngineSettings,
    *,
    base: Path,
    home: Path,
    step_log: Path | None = None,
) -> list[str]:
    """What follows `fungible` on the command line of an engine.

    Args:
        backend: Whose engine it is.
        engine: Its settings.
        base: Relative artifact paths are relative to it.
        home: Where the artifact store is.
        step_log: Where it records its steps, if it does.
    """
    beside = base / engine.artifact
    arguments = {
        "artifact": str(beside.absolute()) if beside.exists() else engine.artifact,
        "variant": engine.variant,
        "target": engine.target,
        "slots": str(engine.slots),
        "context": str(engine.context),
        "threads": str(engine.threads),
        "model-name": backend.model,
        "home": str(home),
    }
    flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
    if not engine.prefix_cache:
        flags.append("--no-prefix-cache")
    if step_log is not None:
        flags += ["--step-log", str(step_log)]
    return ["engine", "serve", *flags]


def step_log_path(home: Path, backend: str) -> Path:
    """Where the engine of a backend records its steps, for control to collect."""
    return home / "steps" / f"{backend}.jsonl"


@contextlib.asynccontextmanager
async def temporary_engines(
    config: Config,
    names: Sequence[str],
    *,
    base: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Config]:
    """The configuration with the addresses of engines that run for the block.

    Backends without an engine, and those whose engine runs already, are left as they are.

    Args:
        config: As loaded.
        names: Backends that are needed.
        base: Relative artifact paths are relative to it.
        progress: Called with the name of each backend whose engine is started.

    Raises:
        StartupError: An engine did not come up; the others are stopped again.
    """
    home = config.home_path().absolute()
    backends = dict(config.backend)
    async with contextlib.AsyncExitStack() as held:
        for name in dict.fromkeys(names):
            backend = backends[name]
            if backend.engine is None or backend.url:
                continue
            progress(name)
            arguments = engine_arguments(backend, backend.engine, base=base, home=home)
            child = Child(f"engine-{name}", arguments, home / "logs" / f"engine-{name}.log")
            ready = await child.start(ENGINE_START_S)
            held.push_async_callback(child.stop, ENGINE_STOP_S)
            backends[name] = msgspec.structs.replace(backend, url=f"{ready.url}/v1")
        yield msgspec.structs.replace(config, backend=backends)
