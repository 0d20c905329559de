"""`hf:organisation/name[@revision]`: a model's files from the Hugging Face hub."""

import re
from pathlib import Path

from fungible.errors import ArtifactError, MissingExtraError, UnavailableError

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights, configuration, tokenizer, chat template and model card; not other formats of the same.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "vocab.txt", "README.md"]
# Second copies of the weights that some repositories hold.
_UNWANTED = ["*/*.safetensors", "consolidated*"]


def fetch(reference: str) -> Path:
    """The directory with the files of `organisation/name[@revision]`, downloaded where needed.

    Files are kept in the hub's own cache (`HF_HOME`); `HF_ENDPOINT` names another hub, `HF_TOKEN`
    opens gated models, and with `HF_HUB_OFFLINE=1` only the cache is used.

    Raises:
        ArtifactError: The reference is malformed, there is no such model, or it is gated.
        MissingExtraError: The package `huggingface_hub` is not installed.
        UnavailableError: The hub cannot be reached, and the cache has not all files.
    """
    source = f"source hf:{reference}"
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ArtifactError(f"{source}: malformed", hint="write hf:ORGANISATION/NAME[@REVISION]")
    try:
        import huggingface_hub as hub  # noqa: PLC0415  # an extra
        from huggingface_hub import errors  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            f"{source}: the package huggingface_hub is not installed",
            hint="pip install 'fungible[hub]'",
        ) from error
    try:
        path = hub.snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except errors.HFValidationError as error:
        raise ArtifactError(f"{source}: malformed: {error}") from error
    except errors.GatedRepoError as error:
        raise ArtifactError(
            f"{source}: the model is gated",
            hint="accept its licence on the hub and set HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ArtifactError(
            f"{source}: the hub has no such model or revision",
            hint="check the name; a private model needs HF_TOKEN",
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UnavailableError(
            f"{source}: cannot be downloaded: {error}",
            hint="check the network and free space, or give the path of a downloaded directory",
        ) from error
    return Path(path)


def model_name(directory: Path) -> str:
    """What to call the model in `directory`: its name on the hub, or the directory's own."""
    whole = directory.resolve()
    # The hub's cache: models--ORGANISATION--NAME/snapshots/COMMIT.
    cached = whole.parent.name == "snapshots" and whole.parent.parent.name.startswith("models--")
    return (whole.parent.parent.name.rpartition("--")[2] if cached else whole.name).lower()
