"""Launches of models on a GPU, one run each: by rule, and in order where asked. No GPU is needed.

python bench/cuda_launches.py resnet50.onnx bert.onnx --batch 1,32 --precision fp32,fp16
python bench/cuda_launches.py bert.onnx --steps
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from athanor.compiler.device import place_on_device
from athanor.compiler.driver import plan_program
from athanor.compiler.program import Copy, KernelCall, Program, all_steps
from athanor.frontends.onnx.importer import import_model
from athanor.frontends.onnx.model_file import read_model
from athanor.targets import target_for_precision


def main() -> None:
    """Parse and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--arch", default="sm_90a", help="as in the target: sm_80,sm_90a")
    parser.add_argument("--precision", default="fp32,fp16")
    parser.add_argument("--steps", action="store_true", help="every launch in order")
    arguments = parser.parse_args()
    for path in arguments.models:
        for precision in arguments.precision.split(","):
            program, rules = placed(path, precision, arguments.arch)
            print(f"{path.stem}, {precision}: {summary(program, rules)}")
            if arguments.steps:
                print_steps(program, rules)


def placed(path: Path, precision: str, arch: str) -> tuple[Program, dict[str, str]]:
    """The program of a model, split between device and host, and the rule of each kernel."""
    target = target_for_precision(f"cuda -arch={arch}", precision)
    program, _ = plan_program(import_model(read_model(path), None, None), target, True, precision)
    return program, place_on_device(program, target).rules


def launches(program: Program, call: KernelCall) -> int:
    """Of one call of a kernel."""
    return len(program.device[call.kernel].launches)


def summary(program: Program, rules: dict[str, str]) -> str:
    """Launches in all and by rule, kernels of the host, copies."""
    count: Counter[str] = Counter()
    for step in all_steps(program.steps):
        if isinstance(step, KernelCall) and step.on_device:
            count[rules[step.kernel]] += launches(program, step)
        elif isinstance(step, KernelCall):
            count["host"] += 1
        elif isinstance(step, Copy):
            count["copy"] += 1
    parts = ", ".join(f"{rule} {number}" for rule, number in count.most_common())
    total = sum(number for rule, number in count.items() if rule not in ("host", "copy"))
    return f"{total} launches ({parts})"


def print_steps(program: Program, rules: dict[str, str]) -> None:
    """A line for each call: rule, launches, shape of the result, operands' types, kernel."""
    for step in all_steps(program.steps):
        if not isinstance(step, KernelCall):
            print(f"  {type(step).__name__}")
            continue
        rule = rules[step.kernel] if step.on_device else "host"
        number = launches(program, step) if step.on_device else 1
        (out, *_) = step.outputs
        shape = "x".join(map(str, out.shape))
        types = "".join({"float16": "h", "float32": "f"}.get(t.dtype, "?") for t in step.inputs)
        print(f"  {rule:16s} {number} {out.dtype} {shape:20s} {types:8s} {step.kernel}")


if __name__ == "__main__":
    main()
