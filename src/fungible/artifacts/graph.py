"""Write ONNX graphs node by node; weights stay in safetensors files beside the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from fungible.artifacts.tensors import Region

# Opset 23 is the first with RMSNormalization and RotaryEmbedding; IR 11 belongs to it.
OPSET = 23
IR_VERSION = 11
_ELEMENT_TYPES = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "I8": TensorProto.INT8,
    "U8": TensorProto.UINT8,
}


class GraphWriter:
    """Nodes and initializers in the order in which they are added. Names are made here."""

    def __init__(self, weights_file: str) -> None:
        self._weights_file = weights_file
        self._nodes: list[Any] = []
        self._initializers: dict[str, TensorProto] = {}

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Add a node with one output; its name is returned."""
        name = output or f"{kind}_{len(self._nodes)}"
        return self.outputs(kind, inputs, [name], **attributes)[0]

    def outputs(
        self, kind: str, inputs: Sequence[str], names: Sequence[str], **attributes: object
    ) -> Sequence[str]:
        """Add a node with several outputs of these names, which are returned."""
        name = next(name for name in names if name)
        self._nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names

    def split(self, value: str, count: int, sizes: str, *, axis: int = -1) -> list[str]:
        """Split a value into `count` parts whose lengths are the tensor `sizes`."""
        names = [f"Split_{len(self._nodes)}_{part}" for part in range(count)]
        node = helper.make_node("Split", [value, sizes], names, name=names[0], axis=axis)
        self._nodes.append(node)
        return names

    def const(self, array: NDArray[Any] | list[int] | np.generic, name: str = "") -> str:
        """A small constant, kept inside the graph; lists are int64."""
        value = np.asarray(array)
        name = name or f"const_{len(self._initializers)}"
        self._initializers[name] = numpy_helper.from_array(value, name)
        return name

    def external(self, name: str, regions: Sequence[Region]) -> str:
        """A weight that lives in the safetensors file.

        Several regions that follow each other are stacked along the first axis.
        """
        first = regions[0]
        end = first.offset
        for region in regions:
            if region.offset != end or region.spec.shape[1:] != first.spec.shape[1:]:
                raise ValueError(f"{name}: the tensors are not neighbours in the file")
            end += region.length
        rows = sum(region.spec.shape[0] for region in regions)
        element = _ELEMENT_TYPES[first.spec.dtype]
        dims = (rows, *first.spec.shape[1:])
        return self._external(name, element, dims, first.offset, end - first.offset)

    def external_int4(self, name: str, region: Region, dims: tuple[int, int]) -> str:
        """A region of packed bytes as INT4 of shape `dims`, low four bits first."""
        return self._external(name, TensorProto.INT4, dims, region.offset, region.length)

    def _external(
        self, name: str, element: int, dims: Sequence[int], offset: int, length: int
    ) -> str:
        tensor = TensorProto(name=name, data_type=element, data_location=TensorProto.EXTERNAL)
        tensor.dims.extend(dims)
        place = {"location": self._weights_file, "offset": str(offset), "length": str(length)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        self._initializers[name] = tensor
        return name

    def model(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> ModelProto:
        """The finished model."""
        graph: GraphProto = helper.make_graph(
            self._nodes, name, inputs, outputs, list(self._initializers.values())
        )
        others = sorted({node.domain for node in self._nodes} - {""})
        opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(d, 1) for d in others)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fungible"
        )
