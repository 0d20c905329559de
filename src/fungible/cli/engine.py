"""`fungible engine`: serve one artifact on one target."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fungible.artifacts.manifest import Manifest, load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.cli.serve import bind, run_server
from fungible.config import DEFAULT_HOME, EngineSettings
from fungible.contract.target import parse_target
from fungible.errors import ArtifactError, MissingExtraError

if TYPE_CHECKING:
    from starlette.applications import Starlette

_LIBRARIES = {"jinja2", "numpy", "safetensors", "tokenizers"}
_COUNT = click.IntRange(min=1)


@click.group()
def engine() -> None:
    """Serve one artifact on one target."""


@engine.command()
@click.option("--artifact", required=True, help="Path, sha256:… or name of an artifact.")
@click.option("--variant", default="f32", show_default=True, help="Precision to serve.")
@click.option("--target", default="onnxruntime:cpu", show_default=True, help="RUNTIME:DEVICE.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; 0 picks a free one.")
@click.option(
    "--slots", type=_COUNT, default=8, show_default=True, help="Requests decoded at once."
)
@click.option("--context", type=_COUNT, default=1024, show_default=True, help="Prompt plus answer.")
@click.option("--threads", type=_COUNT, default=2, show_default=True, help="CPU threads of a step.")
@click.option(
    "--queue", type=_COUNT, default=128, show_default=True, help="Requests that may wait."
)
@click.option(
    "--prefix-cache/--no-prefix-cache",
    default=True,
    show_default=True,
    help="Start prompts from what slots hold of them already.",
)
@click.option(
    "--step-log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append a record of every step to this file (models that generate text).",
)
@click.option(
    "--model-name", default="", help="What clients ask for; default: the artifact's name."
)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    help="Directory with the artifact store.",
)
@click.option("--json", "as_json", is_flag=True, help="Errors as JSON on stdout, too.")
def serve(
    *,
    artifact: str,
    variant: str,
    target: str,
    host: str,
    port: int,
    slots: int,
    context: int,
    threads: int,
    queue: int,
    prefix_cache: bool,
    step_log: Path | None,
    model_name: str,
    home: Path,
    as_json: bool,
) -> None:
    """Serve the OpenAI contract from ARTIFACT until SIGINT or SIGTERM.

    Prints one line of JSON with the address when it is ready.
    """
    del as_json  # read by the error reporter
    settings = EngineSettings(
        artifact=artifact,
        target=str(parse_target(target)),
        variant=variant,
        slots=slots,
        context=context,
        threads=threads,
        prefix_cache=prefix_cache,
    )
    directory = ArtifactStore(home / "artifacts").resolve(artifact)
    sock = bind(host, port)  # before the model is loaded: a taken port fails at once
    with sock:
        app = _load(directory, settings, queue, model_name, step_log)
        run_server(app, sock, name="engine")


def _load(
    directory: Path, settings: EngineSettings, queue: int, model_name: str, step_log: Path | None
) -> "Starlette":
    """The application with its model in memory."""
    manifest = load_manifest(directory)
    if settings.variant not in manifest.variants:
        raise ArtifactError(
            f"{directory}: no variant {settings.variant!r}",
            hint=f"it has: {', '.join(manifest.variants)}",
        )
    context = min(settings.context, manifest.config.context)
    if context < settings.context:
        click.echo(f"note: context is {context}, the most the model was trained for", err=True)
    load = _load_encoder if manifest.kind == "encoder" else _load_decoder
    options: dict[str, Any] = {"context": context, "queue": queue, "name": model_name}
    try:
        return load(directory, manifest, settings, log=step_log, **options)
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        raise MissingExtraError(
            f"serving needs {error.name}, which is not installed",
            hint="pip install 'fungible[engine,onnxruntime]'",
        ) from error


def _load_decoder(
    directory: Path,
    manifest: Manifest,
    settings: EngineSettings,
    *,
    context: int,
    queue: int,
    name: str,
    log: Path | None,
) -> "Starlette":
    """The application of a model that generates text."""
    from fungible.engine.runtimes.registry import open_runtime  # noqa: PLC0415  # numpy
    from fungible.engine.scheduler import Scheduler  # noqa: PLC0415  # numpy, tokenizers
    from fungible.engine.server import build_app  # noqa: PLC0415  # numpy, tokenizers
    from fungible.engine.step_log import StepLog  # noqa: PLC0415  # not needed by every command
    from fungible.engine.tokenizer import ChatTokenizer  # noqa: PLC0415  # tokenizers, jinja2

    _check_memory(manifest, settings, context)
    steps = None if log is None else StepLog(log)  # a bad path fails before the loading
    tokenizer = ChatTokenizer(directory, manifest.config)
    runtime = open_runtime(
        directory,
        settings.variant,
        parse_target(settings.target),
        slots=settings.slots,
        context=context,
        threads=settings.threads,
    )
    scheduler = Scheduler(
        runtime,
        tokenizer,
        eos_ids=frozenset(manifest.config.eos_ids),
        max_waiting=queue,
        prefix_cache=settings.prefix_cache,
        step_log=steps,
    )
    return build_app(
        scheduler,
        tokenizer,
        manifest,
        model_name=name,
        target=settings.target,
        variant=settings.variant,
    )


def _load_encoder(
    directory: Path,
    manifest: Manifest,
    settings: EngineSettings,
    *,
    context: int,
    queue: int,
    name: str,
    log: Path | None,
) -> "Starlette":
    """The application of an embedding model."""
    from fungible.engine.embedding_server import load_embedding_app  # noqa: PLC0415  # numpy

    if log is not None:
        click.echo("note: an embedding model has no steps; --step-log is left out", err=True)
    return load_embedding_app(
        directory,
        manifest,
        parse_target(settings.target),
        variant=settings.variant,
        slots=settings.slots,
        context=context,
        threads=settings.threads,
        queue=queue,
        model_name=name,
    )


def _check_memory(manifest: Manifest, settings: EngineSettings, context: int) -> None:
    """Refuse what cannot fit into this machine's memory; a device's own is not known here."""
    from fungible.engine.memory import (  # noqa: PLC0415  # numpy, through the model's shape
        available_memory,
        cache_item,
        loaded_size,
        memory_need,
        require_memory,
    )
    from fungible.engine.scheduler import PREFILL_CHUNK  # noqa: PLC0415  # numpy, tokenizers

    target = parse_target(settings.target)
    if target.device != "cpu":
        return
    size = manifest.variants[settings.variant].size
    need = memory_need(
        loaded_size(size, settings.variant, target.runtime),
        manifest.config,
        slots=settings.slots,
        context=context,
        chunk=PREFILL_CHUNK,
        item=cache_item(settings.variant, target.runtime),
    )
    require_memory(need, available_memory(), slots=settings.slots, context=context)
