import numpy as np
import pytest
from tvm import tirx, topi

from athanor.schedules.compute.matmul import (
    batch_matmul,
    few_rows_matmul,
    matmul_dots,
    matmul_packed,
    matmul_panel,
    pack_matmul_weight,
    run_time_panel,
    tile_rows,
    worth_dots,
)
from athanor.schedules.rules.cpu_matmul import CPUMatmul
from athanor.targets import TARGETS

from .scheduled import NATIVE, check, loops, placeholder, prim_func, random


def test_packing_pads_the_last_panel():
    panel = matmul_panel(NATIVE)
    weight = random(3, 2 * panel - 1)
    packed = pack_matmul_weight(weight, False, NATIVE)
    assert packed.shape == (2, 3, panel)
    np.testing.assert_array_equal(packed[0], weight[:, :panel])
    np.testing.assert_array_equal(packed[1, :, :-1], weight[:, panel:])
    assert not packed[1, :, -1].any()
    np.testing.assert_array_equal(pack_matmul_weight(weight.T.copy(), True, NATIVE), packed)


def test_panels_are_narrow_where_that_leaves_less_of_them_empty():
    panel, lanes = matmul_panel(NATIVE), NATIVE.lanes(32)
    assert matmul_panel(NATIVE, panel + 2) == matmul_panel(NATIVE, 1) == lanes
    assert matmul_panel(NATIVE, panel + lanes + 1) == matmul_panel(NATIVE) == panel


def test_panels_are_narrow_where_little_is_summed_up():
    panel, lanes = matmul_panel(NATIVE), NATIVE.lanes(32)
    assert matmul_panel(NATIVE, 1000, 3) == (16 if lanes == 16 else panel)
    assert matmul_panel(NATIVE, 1000, 65) == matmul_panel(NATIVE, 1000) == panel


@pytest.mark.parametrize(("m", "k", "n"), [(5, 700, 1), (3, 1001, 2)])
def test_few_columns_are_dot_products(m, k, n):
    assert worth_dots(k, n, NATIVE) and not worth_dots(16, n, NATIVE)
    array, weight = random(m, k), random(k, n)
    inputs = [placeholder("a", m, k), placeholder("rows", n, k)]
    func = prim_func(inputs, [matmul_dots(*inputs)])
    check(func, "CPUReduction", [array, weight.T.copy()], [array @ weight])


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_register_tile_fits(name):
    target = TARGETS[name]
    panel = matmul_panel(target)
    vectors = panel // target.lanes(32)
    for rows in (None, *range(1, 200)):
        tile = tile_rows(rows, panel)
        assert tile * vectors + vectors + 1 <= target.vector_registers
        assert rows is None or tile <= rows


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.parametrize("columns", [None, 1, 16, 50, 64, 65, 96, 128, 200])
def test_panels_of_the_run_pad_no_more_than_narrow_ones(name, columns):
    target = TARGETS[name]
    panel = run_time_panel(target, columns)
    if columns is None:
        assert panel == 16
        return
    if panel < 16:
        assert columns <= panel == target.lanes(32) // 2
        return
    assert -(-columns // panel) * panel == -(-columns // 16) * 16
    vectors = max(1, panel // target.lanes(32))
    for rows in (1, 5, 50, 128, 200):
        tile = tile_rows(rows, panel, 64)
        assert panel == 16 or tile * vectors + vectors + 1 <= target.vector_registers


@pytest.mark.parametrize("name", sorted(TARGETS))
@pytest.mark.parametrize("columns", [1, 3, 8, 9])
def test_few_columns_take_half_a_vector(name, columns):
    target = TARGETS[name]
    panel = matmul_panel(target, columns, 100)
    if target.lanes(32) == 16:
        assert (panel == 8) == (columns <= 8)
    for rows in (1, 5, 8, 40, 4000):
        tile = tile_rows(rows, panel, 100, target)
        vectors = -(-panel // target.lanes(32))
        assert tile <= rows and tile * vectors + vectors + 1 <= target.vector_registers


@pytest.mark.parametrize("rows", [5, 16, 50])
@pytest.mark.parametrize("columns", [1, 3, 8])
def test_half_panels(rows, columns):
    a, b = random(3, rows, 33), random(3, 33, columns)
    inputs = [placeholder("a", *a.shape), placeholder("b", *b.shape)]
    panel = run_time_panel(NATIVE, columns)
    out = batch_matmul(*inputs, False, False, panel, tile_rows(rows, panel, 33, NATIVE))
    check(prim_func(inputs, [out]), "CPUMatmul", [a, b], [a @ b])


@pytest.mark.parametrize("rows", [1, 3, 50])
@pytest.mark.parametrize("columns", [50, 64, 120])
def test_wide_panels_of_the_run(rows, columns):
    a, b = random(3, rows, 33), random(3, 33, columns)
    inputs = [placeholder("a", *a.shape), placeholder("b", *b.shape)]
    out = batch_matmul(*inputs, False, False, run_time_panel(NATIVE, columns))
    check(prim_func(inputs, [out]), "CPUMatmul", [a, b], [a @ b])


@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@pytest.mark.parametrize("lead, k, n", [((), 33, 300), ((3,), 5, 17), ((2, 3), 20, 64)])
def test_few_rows_read_the_right_operand_where_it_lies(lead, rows, k, n):
    a, b, bias = random(*lead, rows, k), random(*lead, k, n), random(n)
    inputs = [placeholder(x, *array.shape) for x, array in zip("abc", (a, b, bias), strict=True)]
    out = topi.nn.relu(topi.add(few_rows_matmul(*inputs[:2]), inputs[2]))
    wanted = np.maximum(a.astype("float64") @ b + bias, 0).astype("float32")
    check(prim_func(inputs, [out]), "CPUConv2dPlain", [a, b, bias], [wanted])


SHAPES = [
    *[((m,), 33, 40) for m in (1, 2, 3, 5, 6, 7, 13)],
    *[((1,), 1, 1), ((4,), 1, 17), ((9,), 5, 1), ((2, 3, 4), 8, 16)],
    *[((1, 50), 64, 96), ((50,), 100, 100)],
]


@pytest.mark.parametrize("lead, k, n", SHAPES)
def test_packed(lead, k, n):
    a, w, bias = random(*lead, k), random(k, n), random(n)
    packed = pack_matmul_weight(w, False, NATIVE)
    inputs = [placeholder("a", *lead, k), placeholder("w", *packed.shape), placeholder("bias", n)]
    out = topi.nn.relu(topi.add(matmul_packed(inputs[0], inputs[1], n), inputs[2]))
    wanted = np.maximum(a.astype("float64") @ w + bias, 0).astype("float32")
    check(prim_func(inputs, [out]), "CPUMatmul", [a, packed, bias], [wanted])


@pytest.mark.parametrize("m", [1, 5, 6, 29])
@pytest.mark.parametrize("lead", [(), (1,), (3,)])
def test_packed_symbolic_rows(lead, m):
    a, w = random(m, *lead, 20), random(20, 35)
    packed = pack_matmul_weight(w, False, NATIVE)
    inputs = [
        placeholder("a", tirx.Var("m", "int64"), *lead, 20),
        placeholder("w", *packed.shape),
    ]
    func = prim_func(inputs, [matmul_packed(*inputs, 35)])
    check(func, "CPUMatmul", [a, packed], [a @ w], {"m": m})


def test_epilogue_is_computed_at_the_tile():
    packed = pack_matmul_weight(random(64, 96), False, NATIVE)
    a, w, r = (
        placeholder("a", 2, 30, 64),
        placeholder("w", *packed.shape),
        placeholder("r", 2, 30, 96),
    )
    out = topi.nn.relu(topi.add(topi.multiply(matmul_packed(a, w, 96), topi.exp(r)), r))
    sch = CPUMatmul().apply(prim_func([a, w, r], [out]), NATIVE)
    assert sch is not None
    script = sch.mod.script()
    assert script.count("T.sblock(") == 4  # root, start, update, store
    assert loops(sch.mod, "vectorized") == 3


@pytest.mark.parametrize("rows", [5, 30])
def test_a_value_that_is_read_twice_is_still_folded_in(rows):
    """GELU and SiLU read x once for the factor and once for the function."""
    array, weight, bias = random(rows, 64), random(64, 96), random(96)
    packed = pack_matmul_weight(weight, False, NATIVE)
    inputs = [placeholder("a", rows, 64), placeholder("w", *packed.shape), placeholder("b", 96)]
    x = topi.add(matmul_packed(inputs[0], inputs[1], 96), inputs[2])
    out = topi.multiply(x, topi.sigmoid(topi.multiply(x, x)))
    product = array @ weight + bias
    wanted = product / (1 + np.exp(-product * product))
    mod = check(prim_func(inputs, [out]), "CPUMatmul", [array, packed, bias], [wanted])
    assert mod.script().count("T.sblock(") == 4  # root, start, update, store


def test_a_value_that_is_also_an_output_is_kept():
    array, weight = random(7, 64), random(64, 96)
    packed = pack_matmul_weight(weight, False, NATIVE)
    inputs = [placeholder("a", 7, 64), placeholder("w", *packed.shape)]
    x = topi.multiply(matmul_packed(*inputs, 96), tirx.const(2.0, "float32"))
    out = topi.multiply(x, topi.sigmoid(x))
    double = 2 * (array @ weight)
    func = prim_func(inputs, [x, out])
    check(func, "CPUMatmul", [array, packed], [double, double / (1 + np.exp(-double))])


BATCHED = [
    *[(2, 7, 5, 9), (1, 1, 64, 37), (3, 20, 1, 16), (2, 13, 37, 64), (1, 6, 8, 16)],
]


@pytest.mark.parametrize("b, m, k, n", BATCHED)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_batched(b, m, k, n, transpose_a, transpose_b):
    left, right = random(b, m, k), random(b, k, n)
    wanted = left @ right * np.float32(0.5)
    left = left.swapaxes(1, 2).copy() if transpose_a else left
    right = right.swapaxes(1, 2).copy() if transpose_b else right
    inputs = [placeholder("left", *left.shape), placeholder("right", *right.shape)]
    out = batch_matmul(*inputs, transpose_a, transpose_b)
    out = topi.multiply(out, tirx.const(0.5, "float32"))
    check(prim_func(inputs, [out]), "CPUMatmul", [left, right], [wanted])


@pytest.mark.parametrize("size", [1, 6, 16, 37])
def test_batched_symbolic(size):
    b, s = tirx.Var("b", "int64"), tirx.Var("s", "int64")
    q, k = placeholder("q", b, 2, s, 24), placeholder("k", b, 2, s, 24)
    left, right = random(3, 2, size, 24), random(3, 2, size, 24)
    func = prim_func([q, k], [batch_matmul(q, k, False, True)])
    wanted = left @ right.swapaxes(2, 3)
    check(func, "CPUMatmul", [left, right], [wanted], {"b": 3, "s": size})
    p = placeholder("p", b, 2, s, s)
    func = prim_func([p, k], [batch_matmul(p, k, False, False)])
    check(func, "CPUMatmul", [wanted, right], [wanted @ right], {"b": 3, "s": size})


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("rows", [lambda s, t: s * 3, lambda s, t: s * t, lambda s, t: s + 4])
def test_batched_rows_that_are_computed_from_symbols(rows, transpose_a):
    """Kept as parameters of their own, for no shape tells them."""
    b, s, t = (tirx.Var(name, "int64") for name in "bst")
    for size in (1, 7):
        known = {"b": 2, "s": size, "t": 5}
        count = rows(size, 5)
        left, right = random(2, count, 24), random(2, 24, 40)
        shape = (b, 24, rows(s, t)) if transpose_a else (b, rows(s, t), 24)
        inputs = [placeholder("left", *shape), placeholder("right", b, 24, 40)]
        func = prim_func(inputs, [batch_matmul(*inputs, transpose_a, False)])
        given = left.swapaxes(1, 2).copy() if transpose_a else left
        check(func, "CPUMatmul", [given, right], [left @ right], known)


def test_batch_broadcast():
    a, b = placeholder("a", 2, 3, 7, 5), placeholder("b", 1, 3, 5, 20)
    left, right = random(2, 3, 7, 5), random(1, 3, 5, 20)
    func = prim_func([a, b], [batch_matmul(a, b, False, False)])
    check(func, "CPUMatmul", [left, right], [left @ right])


def test_declines_what_is_no_product():
    x = placeholder("x", 4, 8)
    assert CPUMatmul().apply(prim_func([x], [topi.sum(x, 1)]), NATIVE) is None


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target(name):
    target = TARGETS[name]
    packed = pack_matmul_weight(random(64, 100), False, target)
    a, w = placeholder("a", 128, 64), placeholder("w", *packed.shape)
    assert CPUMatmul().apply(prim_func([a, w], [matmul_packed(a, w, 100)]), target) is not None
