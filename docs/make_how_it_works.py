"""Fills the IR into docs/how-it-works.md.

    python docs/make_how_it_works.py            rewrite the blocks
    python docs/make_how_it_works.py --check    exit 1 where they are no longer what is generated

A block stands between `<!-- ir: NAME -->` and `<!-- end -->`; `stages()` makes them all.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper

from athanor.compiler.extract import extract_program
from athanor.compiler.host import Signature, print_host
from athanor.compiler.memory import plan_memory
from athanor.compiler.pipeline import graph_passes
from athanor.frontends.onnx.importer import import_model
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.targets.rules import schedule

PAGE = Path(__file__).with_name("how-it-works.md")
TARGET = TARGETS["x86-64-v3"]  # named, so that the page does not depend on the machine
BLOCK = re.compile(r"<!-- ir: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
LLVM_LINES = 30


def small_model() -> onnx.ModelProto:
    """A model of two nodes: y = relu(x @ weight + bias), for any number of rows."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.random((64, 32), np.float32), "weight"),
        numpy_helper.from_array(rng.random(32, np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["product"], name="dense"),
        helper.make_node("Relu", ["product"], ["y"], name="activation"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 32])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stages() -> dict[str, tuple[str, str]]:
    """The blocks by name: language of the code fence, and text."""
    model = small_model()
    found = {"onnx": ("text", _without_weights(onnx.printer.to_text(model)))}
    imported = import_model(model)
    found["imported"] = ("python", _script(imported.mod))

    mod = imported.mod
    passes = graph_passes(TARGET)
    names = [str(step.info.name) for step in passes]
    legalize = names.index("LegalizeOps")
    with TARGET.tvm:
        mod = tvm.transform.Sequential(passes[:legalize])(mod)
        found["optimized"] = ("python", _script(mod))
        known = {var.name_hint for var in mod.get_global_vars()}
        mod = passes[legalize](mod)
        new = [func for var, func in mod.functions_items() if var.name_hint not in known]
        found["legalized"] = ("python", "\n\n".join(_script(func) for func in new))
        mod = tvm.transform.Sequential(passes[legalize + 1 :])(mod)
    found["fused"] = ("python", _script(mod))
    found["passes"] = ("text", "\n".join(names))

    program = extract_program(mod)
    (name,) = program.kernels
    scheduled, rule = schedule(program.kernels[name], TARGET)
    found["scheduled"] = ("python", f"# by {rule}\n{_script(scheduled.mod['main'])}")
    kernel = build_kernels({name: lower_kernel(name, scheduled.mod["main"], TARGET)}, TARGET)
    found["llvm"] = ("llvm", _hot_block(kernel.llvm_ir()))
    host = print_host(program, plan_memory(program), Signature(("x",), ("y",)))
    found["host"] = ("c", host[host.index("extern int") :])
    return found


def _without_weights(text: str) -> str:
    return re.sub(r"\{[^{}]*\d[^{}]*,[^{}]*\}", "{...}", text)


def _script(node: tvm.IRModule | tvm.ir.BaseFunc) -> str:
    """TVMScript without the lines that are there to make it importable."""
    lines = node.script(show_meta=False).splitlines()
    return "\n".join(x for x in lines if not x.startswith(("# from", "# Metadata"))).strip()


def _hot_block(text: str) -> str:
    """The basic block with most arithmetic, without debug information, cut after LLVM_LINES."""
    text = re.sub(r",? ![a-z.]+ !\d+| *#dbg_.*\n", "", text)
    block = max(
        text.split("\n\n"), key=lambda part: part.count("fmuladd") + part.count("@llvm.fma")
    )
    lines = block.splitlines()
    more = len(lines) - LLVM_LINES
    return "\n".join([*lines[:LLVM_LINES], *([f"; ... {more} more lines"] if more > 0 else [])])


def fill(page: str) -> str:
    """The page with every block as it is generated now."""
    blocks = stages()

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        language, text = blocks[name]
        body = "\n".join(line.rstrip() for line in text.strip().splitlines())
        return f"<!-- ir: {name} -->\n```{language}\n{body}\n```\n<!-- end -->"

    return BLOCK.sub(block, page)


def main() -> int:
    """Rewrite or check; the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page)
    if "--check" not in sys.argv:
        PAGE.write_text(filled, encoding="utf-8")
        return 0
    if filled != page:
        print(f"{PAGE} is out of date; run: python docs/make_how_it_works.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
