"""Where artifacts live: one directory per artifact, found by digest, name or path.

A build happens in a temporary directory inside the store and is renamed into place at its
end, so a directory with a manifest was complete once. One process builds at a time.
"""

import contextlib
import errno
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fungible.artifacts.manifest import MANIFEST, Manifest, load_manifest
from fungible.errors import ArtifactError, DiskError

_BUILDING = ".build-"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHORT = 16


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write below `path` into a `DiskError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in _DISK_FULL
        hint = "free some space, or choose another --home" if full else ""
        where = error.filename or path
        raise DiskError(f"{where}: {error.strerror or error}", hint=hint) from error


class ArtifactStore:
    """A directory of artifacts; it is made when something is first written to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def list(self) -> list[tuple[Path, Manifest]]:
        """Every artifact, newest first; those of `unreadable` are left out."""
        return _scan(self.root)[0]

    def unreadable(self) -> Sequence[ArtifactError]:
        """Why each of the other directories is no artifact: made by another version, or damaged."""
        return _scan(self.root)[1]

    def resolve(self, ref: str) -> Path:
        """The directory of the artifact that `ref` names.

        `ref` is a path, `sha256:` with at least 8 digits of the digest, or a name; of
        several artifacts with the same name, the newest.

        Raises:
            ArtifactError: Nothing or more than one digest matches; lists what there is.
        """
        if (Path(ref) / MANIFEST).is_file():
            return Path(ref)
        artifacts, errors = _scan(self.root)
        if ref.startswith("sha256:"):
            matches = [path for path, manifest in artifacts if manifest.digest.startswith(ref)]
            if len(ref) < len("sha256:") + 8 or len(matches) > 1:
                raise ArtifactError(f"artifact {ref!r} is ambiguous", hint="give more digits")
        else:
            matches = [path for path, manifest in artifacts if manifest.name == ref][:1]
        if not matches:
            known = ", ".join(f"{m.name} ({m.digest[:23]})" for _, m in artifacts) or "none yet"
            skipped = "".join(f"; not readable: {error.message}" for error in errors)
            raise ArtifactError(
                f"artifact {ref!r}: no directory with a manifest, and not in the store {self.root}",
                hint=f"in the store: {known}{skipped}; `fungible artifact build` makes one",
            )
        return matches[0]

    def find(self, source_digest: str, recipe: int, variants: Sequence[str]) -> Path | None:
        """An artifact of the same checkpoint and recipe that has at least these variants.

        One whose manifest is malformed or whose files are not all there does not count.
        """
        for path in _directories(self.root):
            manifest = _complete(path)
            if (
                manifest is not None
                and (manifest.source_digest, manifest.recipe) == (source_digest, recipe)
                and set(variants) <= set(manifest.variants)
            ):
                return path
        return None

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """An empty directory to build in; it and its content are gone when the block ends.

        What a killed build left behind is removed first.
        """
        with disk_errors(self.root):
            for left in self.root.glob(f"{_BUILDING}*"):
                shutil.rmtree(left)
            directory = self.root / f"{_BUILDING}now"
            directory.mkdir()
        try:
            with disk_errors(self.root):
                yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to build; waits for another process that holds it."""
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("ab")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def adopt(self, directory: Path, manifest: Manifest) -> Path:
        """Move a finished build to its place; if it is there already and whole, keep that."""
        final = self.root / manifest.digest.removeprefix("sha256:")[:_SHORT]
        if _complete(final) is None:
            shutil.rmtree(final, ignore_errors=True)
            directory.rename(final)
        return final

    def require_space(self, needed: int) -> None:
        """Raise `DiskError` when the store's disk has less than `needed` bytes free."""
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise DiskError(
                f"{self.root}: the build needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
                hint="free some space, or choose another --home",
            )


def _scan(root: Path) -> tuple[list[tuple[Path, Manifest]], list[ArtifactError]]:
    """The artifacts of a store, newest first, and why other directories are none."""
    found, errors = [], []
    for path in _directories(root):
        try:
            found.append((path, load_manifest(path)))
        except ArtifactError as error:
            errors.append(error)
    newest = sorted(found, key=lambda pair: (pair[1].created, pair[1].digest), reverse=True)
    return newest, errors


def _directories(root: Path) -> list[Path]:
    found = [path.parent for path in root.glob(f"*/{MANIFEST}")]
    return sorted(path for path in found if not path.name.startswith(_BUILDING))


def _complete(directory: Path) -> Manifest | None:
    """The manifest, if it is readable and every file is there in its size."""
    try:
        manifest = load_manifest(directory)
        whole = all(
            (directory / path).stat().st_size == entry.size
            for path, entry in manifest.all_files().items()
        )
    except (ArtifactError, OSError):
        return None
    return manifest if whole else None
