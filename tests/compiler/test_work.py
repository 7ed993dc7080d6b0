"""The operations and bytes of kernels, against what the operators ask for."""

import numpy as np
import onnx
import pytest

from athanor.compiler.extract import extract_program
from athanor.compiler.pipeline import run_graph_passes
from athanor.compiler.profiling.work import Work, kernel_work, step_work
from athanor.frontends.onnx.importer import import_model
from athanor.targets import find_target

TARGET = find_target("x86-64-v3")


def program_of(text, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in weights.items()
    )
    return extract_program(run_graph_passes(import_model(model).mod, TARGET))


def operations(program):
    return sum(kernel_work(func).operations for func in program.kernels.values())


@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "kernel", "size"),
    [
        (3, 20, 1, 3, 9),  # plain input, output channels that do not fill blocks
        (32, 32, 4, 1, 9),  # groups of half a block
        (24, 36, 3, 3, 8),
        (32, 32, 32, 5, 8),  # depthwise
        (64, 64, 1, 3, 30),  # by Winograd's method
    ],
)
def test_a_convolution_counts_what_the_model_asks_for(channels, outputs, groups, kernel, size):
    program = program_of(
        f"net (float[1, {channels}, {size}, {size}] x) => (float[1, {outputs}, h, w] y)"
        f" {{ y = Conv <group = {groups}> (x, weight) }}",
        weight=(outputs, channels // groups, kernel, kernel),
    )
    pixels = (size - kernel + 1) ** 2
    asked = 2 * pixels * outputs * (channels // groups) * kernel * kernel
    assert operations(program) == pytest.approx(asked, rel=0.01)


@pytest.mark.parametrize("rows", [1, 13, 50])
def test_a_product_counts_no_rows_past_the_end(rows):
    program = program_of(
        f"net (float[{rows}, 40] x) => (float[{rows}, 33] y) {{ y = MatMul (x, weight) }}",
        weight=(40, 33),
    )
    (func,) = program.kernels.values()
    assert kernel_work(func).operations == 2 * rows * 40 * 33


def test_products_of_symbolic_size_count_at_run_time():
    program = program_of(
        "net (float[rows, 40] x) => (float[rows, 33] y) { y = MatMul (x, weight) }",
        weight=(40, 33),
    )
    (step,) = program.timed_steps()
    work = step_work(step, program.kernels)
    assert "rows" in str(work.operations)
    assert "rows" in str(work.bytes)


def test_a_look_up_touches_no_more_than_it_reads():
    program = program_of(
        "net (float[1000, 16] table, int64[3] ids) => (float[3, 16] y) { y = Gather (table, ids) }"
    )
    (func,) = program.kernels.values()
    found = kernel_work(func)
    assert found.operations == 0
    assert 2 * 3 * 16 * 4 < found.bytes <= 2 * 3 * 16 * 4 + 3 * 8 * 2


def test_of_a_choice_the_dearer_side_counts():
    program = program_of(
        "net (float[10] x) => (float[10] y) { b = Relu (x) c = Exp (b) y = Mul (c, b) }"
    )
    (func,) = program.kernels.values()
    assert kernel_work(func) == Work(30, 80)


def test_what_a_condition_reads_counts():
    program = program_of("net (float[6, 5] x) => (int64[2, n] y) { y = NonZero (x) }")
    first = program.timed_steps()[0]
    assert step_work(first, program.kernels).bytes == 6 * 5 * 4 + 8  # all of x, and the count
