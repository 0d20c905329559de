"""The program that copies the start of one slot to another, written as StableHLO text."""

from collections.abc import Mapping, Sequence
from typing import Final

from fungible.artifacts.program import Program

_TYPES: Final = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def fork_program(program: Program, sizes: Mapping[str, int], window: int) -> bytes:
    """`main(caches…, source, slot)`: the caches with `window` positions of a slot copied.

    Args:
        program: Says what keys and values are: `(N, kv_heads, C, head_dim)` each.
        sizes: A number for each symbol of their shapes.
        window: Positions to copy, from the first.
    """
    caches = [item for item in program.arguments if item.name.startswith(("keys.", "values."))]
    arguments, types, lines, results = [], [], [], []
    for index, cache in enumerate(caches):
        whole = [sizes.get(str(size), size) for size in cache.shape]
        part = [1, whole[1], window, whole[3]]
        element = _TYPES[cache.dtype]
        kind, piece = _tensor(whole, element), _tensor(part, element)
        starts = f"({kind}, tensor<i32>, tensor<i32>, tensor<i32>, tensor<i32>) -> {piece}"
        updates = f"({kind}, {piece}, {', '.join(['tensor<i32>'] * 4)}) -> {kind}"
        numbers = ", ".join(map(str, part))
        arguments.append(f"%c{index}: {kind} {{tf.aliasing_output = {index} : i32}}")
        types.append(kind)
        results.append(f"%n{index}")
        lines += [
            f"%p{index} = stablehlo.dynamic_slice %c{index}, %source, %zero, %zero, %zero, "
            f"sizes = [{numbers}] : {starts}",
            # Without it IREE makes one copy of the two, which it cannot translate for GPUs.
            f"%q{index} = stablehlo.optimization_barrier %p{index} : {piece}",
            f"%n{index} = stablehlo.dynamic_update_slice %c{index}, %q{index}, %slot, %zero, "
            f"%zero, %zero : {updates}",
        ]
    body = "\n    ".join(lines)
    return f"""module @fork {{
  func.func public @main({", ".join(arguments)}, %source: tensor<i32>, %slot: tensor<i32>)
      -> ({", ".join(types)}) {{
    %zero = stablehlo.constant dense<0> : tensor<i32>
    {body}
    return {", ".join(results)} : {", ".join(types)}
  }}
}}
""".encode()


def _tensor(shape: Sequence[int | str], element: str) -> str:
    return f"tensor<{'x'.join(map(str, shape))}x{element}>"
