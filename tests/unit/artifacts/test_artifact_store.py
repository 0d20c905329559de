"""Finding artifacts by path, digest and name."""

from pathlib import Path

import msgspec
import pytest

from fungible.artifacts.manifest import Manifest, load_manifest, write_manifest
from fungible.artifacts.model_config import ModelConfig
from fungible.artifacts.store import ArtifactStore
from fungible.errors import ArtifactError, DiskError

CONFIG = ModelConfig(
    layers=1, hidden=2, intermediate=2, heads=1, kv_heads=1, head_dim=2, vocab=4, context=8,
    rope_theta=1e4, norm_eps=1e-5, tied_embeddings=True,
)  # fmt: skip


def put(store: Path, digits: str, name: str, created: str) -> Path:
    directory = store / digits
    directory.mkdir(parents=True)
    manifest = Manifest(
        name=name, digest=f"sha256:{digits:0<64}", source="x", source_digest="sha256:0", recipe=1,
        licence="unknown", created=created, config=CONFIG, files={}, variants={}, versions={},
    )  # fmt: skip
    write_manifest(directory, manifest)
    assert load_manifest(directory) == manifest
    return directory


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    put(tmp_path, "aaaabbbb1", "one", "2026-01-01T00:00:00+00:00")
    put(tmp_path, "aaaabbbb2", "one", "2026-02-01T00:00:00+00:00")
    put(tmp_path, "cccc00001", "two", "2026-01-15T00:00:00+00:00")
    return ArtifactStore(tmp_path)


def test_the_newest_is_first(store: ArtifactStore) -> None:
    assert [path.name for path, _ in store.list()] == ["aaaabbbb2", "cccc00001", "aaaabbbb1"]
    assert ArtifactStore(store.root / "nothing").list() == []


@pytest.mark.parametrize(
    ("ref", "found"),
    [("one", "aaaabbbb2"), ("two", "cccc00001"), ("sha256:aaaabbbb1", "aaaabbbb1")],
)
def test_resolve(store: ArtifactStore, ref: str, found: str) -> None:
    assert store.resolve(ref) == store.root / found
    assert store.resolve(str(store.root / found)) == store.root / found


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("three", "artifact 'three'"),
        ("sha256:aaaabbbb", "ambiguous"),
        ("sha256:cccc", "ambiguous"),
        ("sha256:dddd0000", "not in the store"),
    ],
)
def test_a_reference_that_does_not_name_one_artifact(
    store: ArtifactStore, ref: str, says: str
) -> None:
    with pytest.raises(ArtifactError, match=says):
        store.resolve(ref)


def test_what_another_version_made_is_left_out_and_named(store: ArtifactStore) -> None:
    path = store.root / "cccc00001" / "manifest.json"
    written = msgspec.json.decode(path.read_bytes())
    del written["recipe"]
    path.write_bytes(msgspec.json.encode(written))
    assert [path.name for path, _ in store.list()] == ["aaaabbbb2", "aaaabbbb1"]
    (error,) = store.unreadable()
    assert "cccc00001/manifest.json" in error.message
    assert "`recipe`" in error.message
    assert "build the artifact again" in error.hint
    assert store.resolve("one").name == "aaaabbbb2"
    with pytest.raises(ArtifactError) as caught:
        store.resolve("two")
    assert "cccc00001/manifest.json" in caught.value.hint
    with pytest.raises(ArtifactError, match="recipe"):
        load_manifest(store.resolve(str(path.parent)))


def test_a_build_larger_than_the_disk_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="MB are free") as caught:
        ArtifactStore(tmp_path).require_space(10**18)
    assert caught.value.hint
