"""What the commands of `fungible artifact` share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from fungible.config import DEFAULT_HOME
from fungible.errors import MissingExtraError

_LIBRARIES = {"gguf", "google", "jax", "jaxlib", "numpy", "onnx", "onnxruntime", "tokenizers"}

home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    help="Directory with the artifact store.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as data.")


@contextmanager
def needs_build() -> Iterator[None]:
    """Say which extra is missing when a library that builds artifacts is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _LIBRARIES:
            raise
        raise MissingExtraError(
            f"this command needs {error.name}, which is not installed",
            hint="pip install 'fungible[build,onnxruntime]'",
        ) from error
