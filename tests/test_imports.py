"""Imports point one way, and a process that only runs models imports neither TVM nor onnx."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What a folder may not import. All may import athanor.errors, the errors that users see.
FORBIDDEN = {
    "runtime": (
        "tvm",
        "tvm_ffi",
        "onnx",
        "athanor.compiler",
        "athanor.frontends",
        "athanor.schedules",
        "athanor.targets",
    ),
    "frontends": ("athanor.compiler", "athanor.schedules", "athanor.targets", "athanor.runtime"),
    "schedules": ("onnx", "athanor.compiler", "athanor.frontends", "athanor.runtime"),
    "targets": ("onnx", "athanor.compiler", "athanor.frontends", "athanor.runtime"),
    "tuning": ("athanor.compiler.commands", "athanor.compiler.cli"),
}


def imports_of(path):
    """(line, imported module) of every import in a file, also inside functions."""
    package = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ["athanor", *package][: len(package) + 2 - node.level]
                base = ".".join([*parent, *([base] if base else [])])
            yield node.lineno, base
            # `from athanor import compiler` imports athanor.compiler
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def within(module, package):
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, module in imports_of(path)
        if any(within(module, package) for package in FORBIDDEN[folder])
    ]
    assert wrong == []


def test_peers_are_imported_in_one_place_only():
    """ONNX Runtime and OpenVINO are optional: nothing but the comparison may need them."""
    peers = ROOT / "compiler" / "commands" / "peers.py"
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for folder in ("compiler", *FORBIDDEN)
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != peers
        for line, module in imports_of(path)
        if module.split(".")[0] in ("onnxruntime", "openvino", "torch", "transformers", "sklearn")
    ]
    assert wrong == []


def modules_after(code):
    """Names of the top-level modules that a fresh process has after `code`."""
    code += "\nimport sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


COMPILER_MODULES = {"tvm", "tvm_ffi", "onnx", "click", "rich", "onnxruntime", "openvino"}


def test_import_athanor_imports_no_compiler():
    assert not modules_after("import athanor") & {*COMPILER_MODULES, "numpy"}


def test_load_and_run_import_no_compiler(digits_artifact):
    code = f"""
import athanor, numpy
model = athanor.load({str(digits_artifact)!r}, threads=1)
outputs = model.run({{"image": numpy.zeros((2, 1, 8, 8), numpy.float32)}})
assert outputs["probabilities"].shape == (2, 10)
"""
    modules = modules_after(code)
    assert "numpy" in modules
    assert not modules & COMPILER_MODULES


@pytest.mark.parametrize("command", [["run"], ["inspect"], ["inspect", "--json"]])
def test_run_and_inspect_commands_import_no_compiler(digits_artifact, command):
    code = f"""
from athanor.compiler.cli import run_command
assert run_command({[*command, str(digits_artifact)]!r}) == 0
"""
    assert not modules_after(code) & {"tvm", "tvm_ffi", "onnx", "onnxruntime", "openvino"}
