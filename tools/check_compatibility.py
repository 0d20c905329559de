"""Does an artifact still load and compute the same when its libraries move one release?

Makes one environment for each of the two releases nearest to the installed ONNX Runtime and JAX
that this Python can have, runs the `f32` variant there, and compares with the installed ones:
ONNX Runtime on the parity text, JAX on one call of the exported StableHLO step. Needs `uv` and a
package index. Exits 1 when a release cannot load the artifact or differs.

    python tools/check_compatibility.py ARTIFACT [--dir DIR] [--json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARIES = ("onnxruntime", "jax")
# Beside the library itself; jaxlib and NumPy come with it.
NEEDS = {"onnxruntime": (), "jax": ("flatbuffers", "safetensors")}
STEP_TOKENS = 32
MAX_DIFF = 1e-3
TIMEOUT_S = 900


def nearest(library: str, pinned: str, python: str) -> list[str]:
    """The next release and the one before, or the two before where nothing newer exists."""
    after = resolve(f"{library}>{pinned}", python, "lowest-direct")
    before = resolve(f"{library}<{pinned}", python)
    earlier = resolve(f"{library}<{before}", python) if before and not after else ""
    return [found for found in (after, before, earlier) if found]


def resolve(requirement: str, python: str, resolution: str = "highest") -> str:
    """The version that `uv` would install; empty if there is none."""
    command = ["uv", "pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate", "-q"]
    done = subprocess.run(
        [*command, "--python-version", python, "--resolution", resolution],
        input=requirement, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip().partition("==")[2]


def environment(library: str, release: str, python: str, folder: Path) -> Path:
    """The interpreter of a fresh environment with that release."""
    home = folder / f"{library}-{release}"
    interpreter = home / "bin" / "python"
    run(["uv", "venv", "-q", "--clear", "--python", python, str(home)])
    wanted = [f"{library}=={release}", *NEEDS[library]]
    if library == "jax":
        wanted.append(f"jaxlib=={release}")
    run(["uv", "pip", "install", "-q", "--python", str(interpreter), *wanted])
    return interpreter


def run(command: list[str]) -> None:
    """Run to the end.

    Raises:
        RuntimeError: It failed; with the last lines that it wrote.
    """
    # The child must see its own packages only.
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=keep
    )
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.strip().splitlines()[-4:]))


def onnxruntime_logits(artifact: Path, tokens: "NDArray[np.int64]") -> "NDArray[np.float32]":
    """Logits of the `f32` graph after each token, from an empty cache."""
    import numpy as np  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(
        str(artifact / "f32" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    config, count = read_config(artifact), len(tokens)
    feeds = {
        "input_ids": tokens[None],
        "position_ids": np.arange(count)[None],
        "attention_mask": np.tril(np.ones((count, count), np.bool_))[None, None],
        "logits_index": np.arange(count),
    }
    empty = np.zeros((1, config["kv_heads"], 0, config["head_dim"]), np.float32)
    for layer in range(config["layers"]):
        feeds |= {f"past_key.{layer}": empty, f"past_value.{layer}": empty}
    return session.run(["logits"], feeds)[0]


def jax_logits(artifact: Path, tokens: "NDArray[np.int64]") -> "NDArray[np.float32]":
    """Logits of the exported step after the last of the first `STEP_TOKENS` tokens."""
    import numpy as np  # noqa: PLC0415
    from jax import export  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415

    folder = artifact / "f32"
    weights = load_file(folder / "model.safetensors")
    arguments = json.loads((folder / "stablehlo.json").read_text())["arguments"]
    config, tokens = read_config(artifact), tokens[:STEP_TOKENS].astype(np.int32)
    cache = np.zeros((1, config["kv_heads"], len(tokens), config["head_dim"]), np.float32)
    caches = (cache,) * config["layers"]
    stored = tuple(weights[one["name"]] for one in arguments if one["name"] in weights)
    row = np.zeros(1, np.int32)
    window = np.arange(len(tokens), dtype=np.int32)
    step = export.deserialize(bytearray((folder / "step.jax_export").read_bytes()))
    inputs = (tokens[None], row, row, row + np.int32(len(tokens)), window)
    return np.asarray(step.call(stored, caches, caches, *inputs)[0])


def read_config(artifact: Path) -> dict[str, int]:
    """The model's shape."""
    config: dict[str, int] = json.loads((artifact / "manifest.json").read_text())["config"]
    return config


def child(library: str, release: str, artifact: Path, folder: Path) -> None:
    """Compute and store the logits; runs in the environment under test, without Fungible."""
    if version(library) != release:
        sys.exit(f"{library} {version(library)} is installed here, not {release}")
    import numpy as np  # noqa: PLC0415

    compute = {"onnxruntime": onnxruntime_logits, "jax": jax_logits}[library]
    np.save(folder / "logits.npy", compute(artifact, np.load(folder / "tokens.npy")))


def check(library: str, artifact: Path, python: str, folder: Path) -> list[dict[str, Any]]:
    """One record per release; the installed one is the reference."""
    import numpy as np  # noqa: PLC0415

    def logits(interpreter: str | Path, release: str) -> "NDArray[np.float32]":
        script = [str(interpreter), str(Path(__file__).resolve()), str(artifact)]
        run([*script, "--child", library, "--release", release, "--dir", str(folder)])
        return np.load(folder / "logits.npy")

    pinned, rows = version(library), []
    expected = logits(sys.executable, pinned)
    for release in nearest(library, pinned, python):
        row = {"library": library, "installed": pinned, "release": release, "python": python}
        try:
            found = logits(environment(library, release, python, folder), release)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            rows.append(row | {"ok": False, "problem": str(error)})
            continue
        apart = float(np.abs(found - expected).max())
        same = float((found.argmax(-1) == expected.argmax(-1)).mean())
        ok = apart < MAX_DIFF and same == 1
        rows.append(row | {"ok": ok, "max_abs_diff": apart, "same_top_token": same})
    return rows


def check_all(artifact: Path, python: str, folder: Path) -> list[dict[str, Any]]:
    """The records of every library."""
    import numpy as np  # noqa: PLC0415

    from fungible.artifacts.manifest import load_manifest  # noqa: PLC0415
    from fungible.artifacts.parity import parity_tokens  # noqa: PLC0415

    np.save(folder / "tokens.npy", parity_tokens(artifact, load_manifest(artifact).config))
    return [row for name in LIBRARIES for row in check(name, artifact, python, folder)]


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path, help="directory of an artifact")
    parser.add_argument("--dir", type=Path, help="keep the environments here")
    parser.add_argument("--json", action="store_true", help="print the result as data")
    own = ".".join(platform.python_version_tuple()[:2])
    parser.add_argument("--python", default=own, help="version for the environments")
    parser.add_argument("--child", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--release", help=argparse.SUPPRESS)
    given = parser.parse_args()
    artifact = given.artifact.resolve()
    if given.child:
        child(given.child, given.release, artifact, given.dir)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.dir or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = check_all(artifact, given.python, folder)
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            numbers = (
                f"max |Δ| {row['max_abs_diff']:.2e}, same top token {row['same_top_token']:.1%}"
                if "max_abs_diff" in row
                else row.get("problem", "")
            )
            words = "ok" if row["ok"] else "FAILS"
            print(f"{row['library']} {row['installed']} -> {row['release']}: {words}, {numbers}")
    # Nothing to compare with is no evidence either.
    compared = {row["library"] for row in rows}
    return 0 if compared == set(LIBRARIES) and all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
