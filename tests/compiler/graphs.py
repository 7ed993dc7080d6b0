"""Small Relax modules for tests of passes."""

from collections.abc import Callable

from tvm import relax, tirx
from tvm.ir import IRModule

Build = Callable[..., object]


def module(build: Build, **inputs) -> IRModule:
    """main(inputs...) that returns what `build(emit, *inputs)` returns.

    An input is a shape, or (shape, dtype); a string in a shape is a symbolic dimension.
    """
    symbols: dict[str, tirx.Var] = {}

    def dim(value):
        if isinstance(value, str):
            return symbols.setdefault(value, tirx.Var(value, "int64"))
        return value

    params = []
    for name, spec in inputs.items():
        shape, dtype = spec if spec and isinstance(spec[0], tuple) else (spec, "float32")
        params.append(relax.Var(name, relax.TensorType([dim(d) for d in shape], dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(builder.emit, *params))
        builder.emit_func_output(result)
    return builder.get()


def operators(mod: IRModule) -> list[str]:
    """Names of the operators that main calls, in order."""
    return [
        binding.value.op.name
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]
