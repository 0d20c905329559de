"""The same weights in the formats that peers read, written once under `<peers>/models/`.

Source is the packaged GGUF and the artifact that was built from it. Nothing is quantised a
second time except where a peer can do no other, and its row's name says so:

| model | what |
|---|---|
| `gguf` | the packaged file itself (Q4_1, embedding Q8_0) |
| `gguf-f32`, `gguf-bf16`, `gguf-q8_0` | its dequantised weights, written again |
| `hf-f32`, `hf-bf16` | a Hugging Face directory of the same weights |
| `artifact-floats` | our artifact of `hf-f32`: 4-bit weights that are rounded again, as a peer's |
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from fungible.artifacts.build import build_artifact
from fungible.artifacts.checkpoint import locate
from fungible.artifacts.manifest import load_manifest
from fungible.artifacts.store import ArtifactStore
from fungible.artifacts.tensors import TensorFile

GGUF_TYPES = {
    "gguf-f32": gguf.GGMLQuantizationType.F32,
    "gguf-bf16": gguf.GGMLQuantizationType.BF16,
    "gguf-q8_0": gguf.GGMLQuantizationType.Q8_0,
}


def checkpoint(name: str, source: str, artifact: Path, models: Path) -> Path:
    """The path of a model of the table above; it is written if it is not there.

    Args:
        name: Its name in the table.
        source: What the artifact was built from: a `.gguf` file or `package:NAME`.
        artifact: The artifact's directory.
        models: Where the written models go.
    """
    if name == "gguf":
        return locate(source)
    digest = load_manifest(artifact).digest.removeprefix("sha256:")[:16]
    place = models / digest / name
    if name in GGUF_TYPES:
        final = place.with_suffix(".gguf")
        return _once(final, lambda path: _write_gguf(locate(source), GGUF_TYPES[name], path))
    if name == "hf-f32":
        return _once(place, lambda path: _write_hf(artifact, path, bf16=False))
    if name == "hf-bf16":
        return _once(place, lambda path: _write_hf(artifact, path, bf16=True))
    if name == "artifact-floats":
        floats = checkpoint("hf-f32", source, artifact, models)
        return build_artifact(str(floats), ArtifactStore(place), variants=("f32", "int4-ort"))
    raise ValueError(f"unknown model {name!r}")


def _once(final: Path, write: Callable[[Path], None]) -> Path:
    if not final.exists():
        partial = final.with_name(f".{final.name}.part")
        if partial.is_dir():
            shutil.rmtree(partial)
        final.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.rename(final)
    return final


def _write_gguf(source: Path, wanted: gguf.GGMLQuantizationType, path: Path) -> None:
    """The same metadata; matrices in the wanted type, vectors (norms) in float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        # The writer adds these itself.
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = _FILE_TYPES[wanted] if field.name == "general.file_type" else field.contents()
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        kind = wanted if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


def _write_hf(artifact: Path, path: Path, *, bf16: bool) -> None:
    """`config.json`, the tokenizer with its chat template, and one safetensors file."""
    path.mkdir()
    config = json.loads((artifact / "config.json").read_text())
    config["torch_dtype"] = "bfloat16" if bf16 else "float32"
    (path / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copyfile(artifact / "tokenizer.json", path / "tokenizer.json")
    template = (artifact / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").write_text(template)
    vocabulary = {
        token["id"]: token["content"]
        for token in json.loads((artifact / "tokenizer.json").read_text())["added_tokens"]
    }
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary[config["bos_token_id"]],
        "eos_token": vocabulary[config["eos_token_id"][0]],
        "chat_template": template,
        "model_max_length": config["max_position_embeddings"],
    }
    (path / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))
    weights = artifact / "f32" / "model.safetensors"
    if bf16:
        _write_bf16(weights, path / "model.safetensors")
    else:
        shutil.copyfile(weights, path / "model.safetensors")


def _write_bf16(source: Path, path: Path) -> None:
    """The tensors of a float32 safetensors file, rounded to the nearest bfloat16."""
    file = TensorFile(source)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, region in file.regions.items():
        shape = list(region.spec.shape)
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in file.regions:
            out.write(round_to_bf16(file.read(name)).tobytes())


def round_to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even; `values` are finite."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (bits >> 16) & 1
    return ((bits + 0x7FFF + even) >> 16).astype(np.uint16)
