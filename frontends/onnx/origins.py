"""Which nodes the values of a graph come from, written into main for those who come after.

Two attributes of main, so that every pass keeps them without knowing of them: ORIGINS, the nodes
that each binding computes, by the binding's name; READERS, for each node those that read it, for
passes merge nodes into the ones behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax

ORIGINS = "athanor.origins"
READERS = "athanor.readers"


def mark_origins(mod: tvm.IRModule, origins: Mapping[str, Sequence[str]]) -> tvm.IRModule:
    """The module with both attributes on main; origins: nodes by name of the binding."""
    # nodes of the values that depend on an input; those of constants say little of a kernel
    nodes: dict[relax.Expr, Sequence[str]] = {param: () for param in mod["main"].params}
    readers: dict[str, dict[str, None]] = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            own = origins.get(binding.var.name)
            operands = [v for v in relax.analysis.free_vars(binding.value) if v in nodes]
            if not operands:
                continue
            read = [node for var in operands for node in nodes[var]]
            nodes[binding.var] = read if own is None else own  # a tuple, an element of one
            for node in own or ():
                for earlier in read:
                    if earlier != node:
                        readers.setdefault(earlier, {})[node] = None
    main = mod["main"].with_attr(ORIGINS, {name: list(found) for name, found in origins.items()})
    mod["main"] = main.with_attr(READERS, {node: list(found) for node, found in readers.items()})
    return mod
