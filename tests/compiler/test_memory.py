"""No two tensors that live at the same time share memory."""

import itertools
import random

import pytest
from tvm import tirx

from athanor.compiler.memory import ALIGNMENT, plan_memory
from athanor.compiler.program import Copy, KernelCall, Program, Tensor, step_reads, step_writes


def random_program(seed, symbolic=False):
    rng = random.Random(seed)
    n = tirx.Var("n", "int64")
    source = Tensor("x", "float32", (4,))
    source.input_index = 0
    known, steps = [source], []
    for number in range(rng.randint(1, 40)):
        size = rng.choice([0, 1, 3, 16, 17, 1000])
        shape = (n, size) if symbolic and rng.random() < 0.5 else (size,)
        made = Tensor(f"t{number}", rng.choice(["float32", "int8", "float64"]), shape)
        reads = rng.sample(known, min(len(known), rng.randint(1, 3)))
        steps.append(KernelCall("k", reads, [made], [], made.name))
        if rng.random() < 0.3:  # a view of what was just made
            made = Tensor(f"v{number}", made.dtype, made.shape, source=made)
        known.append(made)
    outputs = rng.sample(known, min(len(known), 2))
    return Program([n] if symbolic else [], [source], outputs, steps)


def lifetimes(program):
    spans = {}
    for number, step in enumerate(program.steps):
        for tensor in [*step_writes(step), *step_reads(step)]:
            root, _ = tensor.root()
            first, _ = spans.get(root, (number, number))
            spans[root] = (first, number)
    for output in program.outputs:
        root, _ = output.root()
        if root in spans:
            spans[root] = (spans[root][0], len(program.steps))
    return spans


@pytest.mark.parametrize("seed", range(60))
def test_live_tensors_do_not_overlap(seed):
    program = random_program(seed, symbolic=seed % 2 == 1)
    plan = plan_memory(program)
    spans = lifetimes(program)
    placed = list(plan.offsets)
    for i, a in enumerate(placed):
        assert plan.offsets[a] % ALIGNMENT == 0
        assert plan.offsets[a] + a.static_bytes <= plan.static_bytes
        for b in placed[i + 1 :]:
            together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            apart = (
                plan.offsets[a] + a.static_bytes <= plan.offsets[b]
                or plan.offsets[b] + b.static_bytes <= plan.offsets[a]
            )
            assert not together or apart, (a.name, b.name)
    slotted = list(plan.slot_of)
    for i, a in enumerate(slotted):
        for b in slotted[i + 1 :]:
            together = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            assert not together or plan.slot_of[a] != plan.slot_of[b]
    written = {t.root()[0] for step in program.steps for t in step_writes(step)}
    assert written == set(plan.offsets) | set(plan.slot_of) | set(plan.outputs)


def test_memory_is_reused():
    tensors = [Tensor(f"t{i}", "float32", (1000,)) for i in range(10)]
    source = Tensor("x", "float32", (1000,))
    source.input_index = 0
    chain = [source, *tensors]
    steps = [KernelCall("k", [a], [b], [], b.name) for a, b in itertools.pairwise(chain)]
    plan = plan_memory(Program([], [source], [tensors[-1]], steps))
    assert plan.static_bytes <= 2 * 4096
    assert plan.outputs == {tensors[-1]: 0}


def test_the_second_output_of_one_tensor_is_no_direct_output():
    source = Tensor("x", "float32", (8,))
    source.input_index = 0
    made = Tensor("y", "float32", (8,))
    steps = [KernelCall("k", [source], [made], [], "y")]
    plan = plan_memory(Program([], [source], [made, made, source], steps))
    assert plan.outputs == {made: 0}


def test_parts_of_a_concatenation_live_in_the_whole():
    source = Tensor("x", "float32", (8,))
    source.input_index = 0
    whole = Tensor("w", "float32", (16,))
    a = Tensor("a", "float32", (8,), source=whole, offset_bytes=0)
    b = Tensor("b", "float32", (8,), source=whole, offset_bytes=32)
    last = Tensor("l", "float32", (16,))
    steps = [
        KernelCall("k", [source], [a], [], "a"),
        Copy(source, b),
        KernelCall("k2", [whole], [last], [], "l"),
    ]
    plan = plan_memory(Program([], [source], [last], steps))
    assert list(plan.offsets) == [whole]
