"""A step's program at concrete sizes, in the part of StableHLO that IREE compiles well.

XLA specialises the exported program itself. A compiler that takes StableHLO from outside needs
it done beforehand: symbolic sizes become numbers, and three operations are put differently.

- A `scatter` of windows (the cache's new keys and values) becomes one
  `dynamic_update_slice` per row: IREE has no such scatter, and updates a slice in place.
- A `gather` of whole windows (the cache's prefix) becomes one `dynamic_slice` per row.
- A batched `gather` (each row's last token) is kept apart from what follows: fused into the
  reduction after it, it asks Vulkan and Metal for shared memory of a type they do not have.

The first two differ where an index is out of bounds, which a caller must avoid: instead of writing
nothing, a row is moved so that it ends with the cache.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.extend import mlir as portable
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from fungible.artifacts.program import Argument, Program
from fungible.errors import ArtifactError


class StaticProgram:
    """Instances of one exported step.

    Args:
        folder: The variant's folder.
        program: Its description.

    Raises:
        ArtifactError: JAX cannot read the program; names the file.
    """

    def __init__(self, folder: Path, program: Program) -> None:
        path = folder / program.jax_export
        self._program = program
        try:
            self._exported = export.deserialize(bytearray(path.read_bytes()))
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
        except Exception as error:
            raise ArtifactError(
                f"{path}: JAX {jax.__version__} cannot read the program: {error}",
                hint=f"it was exported by JAX {program.jax_version}; build the artifact again",
            ) from error

    def at(self, sizes: Mapping[str, int]) -> bytes:
        """The program at these sizes: a StableHLO portable artifact with a flat `main`.

        Its arguments and results are those of the description, in order. Keys and values
        carry `tf.aliasing_output`: their buffers may become the results.

        Args:
            sizes: A number for each symbol of the program.
        """
        grouped = [self._shaped(group, sizes) for group in _groups(self._program)]

        def step(*arguments: Any) -> Any:  # noqa: ANN401
            return self._exported.call(*arguments)

        jitted = jax.jit(step, donate_argnums=(1, 2), keep_unused=True)
        flat = [shaped[0] for shaped in grouped[3:]]
        lowered = jitted.trace(*map(tuple, grouped[:3]), *flat).lower(
            lowering_platforms=tuple(self._exported.platforms)
        )
        symbolic: Any = lowered.compiler_ir("stablehlo")
        code = io.BytesIO()
        symbolic.operation.write_bytecode(code)
        refined = portable.refine_polymorphic_shapes(code.getvalue())
        with symbolic.context, ir.Location.unknown():
            module = ir.Module.parse(refined)
            _spell_out(module)
            return bytes(portable.serialize_portable_artifact(module, self._version()))

    def _shaped(
        self, group: Sequence[Argument], sizes: Mapping[str, int]
    ) -> list[jax.ShapeDtypeStruct]:
        return [
            jax.ShapeDtypeStruct(tuple(sizes.get(str(n), n) for n in item.shape), item.dtype)
            for item in group
        ]

    def _version(self) -> str:
        return self._program.stablehlo_version


def _groups(program: Program) -> list[list[Argument]]:
    """Weights, keys, values, and each further argument by itself."""
    names = [argument.name.partition(".")[0] for argument in program.arguments]
    first = names.index("keys")
    ends = [0, first, first + program.layers, first + 2 * program.layers]
    groups = [program.arguments[a:b] for a, b in pairwise(ends)]
    return groups + [[argument] for argument in program.arguments[ends[-1] :]]


def _spell_out(module: Any) -> None:  # noqa: ANN401
    for function in module.body.operations:
        for block in function.regions[0].blocks:
            for operation in list(block.operations):
                if operation.name == "stablehlo.scatter":
                    _replace(operation, _updated_by_row(operation))
                elif operation.name == "stablehlo.gather" and _reads_windows(operation):
                    _replace(operation, _read_by_row(operation))
                elif operation.name == "stablehlo.gather" and _is_batched(operation):
                    _keep_apart(operation)


def _replace(operation: Any, result: Any) -> None:  # noqa: ANN401
    operation.results[0].replace_all_uses_with(result)
    operation.operation.erase()


def _reads_windows(gather: Any) -> bool:  # noqa: ANN401
    """Whether it takes one slice of several positions per row of indices `[B, n]`."""
    operand, indices = (ir.RankedTensorType(value.type) for value in gather.operands)
    numbers = hlo.GatherDimensionNumbers(gather.attributes["dimension_numbers"])
    return (
        indices.rank == 2
        and numbers.index_vector_dim == 1
        and len(numbers.offset_dims) == operand.rank - 1
        and list(numbers.collapsed_slice_dims) == [0]
        and list(numbers.offset_dims) == list(range(1, operand.rank))
        and not list(numbers.operand_batching_dims)
        and operand.rank > 2
    )


def _is_batched(gather: Any) -> bool:  # noqa: ANN401
    numbers = hlo.GatherDimensionNumbers(gather.attributes["dimension_numbers"])
    return bool(list(numbers.operand_batching_dims))


def _keep_apart(gather: Any) -> None:  # noqa: ANN401
    with ir.InsertionPoint.after(gather):
        barrier = hlo.OptimizationBarrierOp([gather.results[0]])
    gather.results[0].replace_all_uses_except(barrier.results[0], barrier.operation)


def _read_by_row(gather: Any) -> Any:  # noqa: ANN401
    operand, indices = gather.operands
    numbers = hlo.GatherDimensionNumbers(gather.attributes["dimension_numbers"])
    sizes = list(ir.DenseI64ArrayAttr(gather.attributes["slice_sizes"]))
    with ir.InsertionPoint(gather):
        rows = [
            hlo.dynamic_slice(operand, starts, sizes)
            for starts in _starts(indices, list(numbers.start_index_map), len(sizes))
        ]
        return rows[0] if len(rows) == 1 else hlo.concatenate(rows, 0)


def _updated_by_row(scatter: Any) -> Any:  # noqa: ANN401
    result, indices, update = scatter.operands
    numbers = hlo.ScatterDimensionNumbers(scatter.attributes["scatter_dimension_numbers"])
    target, source = ir.RankedTensorType(result.type), ir.RankedTensorType(update.type)
    window = iter([source.shape[axis] for axis in numbers.update_window_dims])
    inserted = list(numbers.inserted_window_dims)
    sizes = [1 if axis in inserted else next(window) for axis in range(target.rank)]
    piece = ir.RankedTensorType.get(sizes, target.element_type)
    rest = list(source.shape[1:])
    with ir.InsertionPoint(scatter):
        named = list(numbers.scattered_dims_to_operand_dims)
        for row, starts in enumerate(_starts(indices, named, target.rank)):
            first, last = [row] + [0] * len(rest), [row + 1, *rest]
            new = hlo.slice(update, first, last, [1] * source.rank)
            result = hlo.dynamic_update_slice(result, hlo.reshape(piece, new), starts)
        return result


def _starts(indices: Any, named: list[int], rank: int) -> list[list[Any]]:  # noqa: ANN401
    """For each row of `indices [B, n]`: a scalar per axis, zero for those not in `named`."""
    kind = ir.RankedTensorType(indices.type)
    scalar = ir.RankedTensorType.get([], kind.element_type)
    number = ir.IntegerAttr.get(kind.element_type, 0)
    zero = hlo.constant(ir.DenseElementsAttr.get_splat(scalar, number))
    rows = []
    for row in range(kind.shape[0]):
        starts = [zero] * rank
        for column, axis in enumerate(named):
            cell = hlo.slice(indices, [row, column], [row + 1, column + 1], [1, 1])
            starts[axis] = hlo.reshape(scalar, cell)
        rows.append(starts)
    return rows
