"""Find attention among matrix products and softmax, and make one kernel of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.choices import Choices
from athanor.compiler.passes.rewrite import GraphRewriter, call_of, op_name
from athanor.compiler.passes.strided_view import Operand, Symbols, number_of, view_of
from athanor.schedules.compute.attention import (
    Attention,
    ScoreStep,
    attention_kernel,
)
from athanor.schedules.compute.attention_blocks import key_block, key_blocks
from athanor.schedules.compute.attention_rows import attention_rows_kernel, has_few_queries
from athanor.schedules.compute.device_attention import device_attention_kernel, fits_device
from athanor.schedules.compute.strided import Strided, elements
from athanor.schedules.compute.tensor_attention import (
    fits_tensor_cores,
    is_row_major,
    tensor_attention_kernel,
)
from athanor.targets import TargetSpec

_NARROW = ("float16", "bfloat16")


@tvm.transform.module_pass(opt_level=0, name="FuseAttention")
class FuseAttention:
    """Turn softmax between two products of run-time values into `schedules.compute.attention`.

        s = R.matmul(q * c, k^T * c)
        s = R.add(s, bias) ...
        p = R.nn.softmax(s)           =>    y = attention(q, k, v, bias^T)
        y = R.matmul(p, v)

    Between product and softmax there may be products with a number, sums with a tensor and choices
    by a tensor; behind the softmax the choice of 0 for what is no number. Heads may share keys, by
    broadcasting, by repetition or by taking the heads of a key as one longer sequence. Transposes,
    reshapes and slices of q, k and v become part of the kernel's addresses. On a GPU with tensor
    cores float16 and bfloat16 are taken too, scores and weights in float32 as they are or cast;
    where products of a float32 model are to be 16-bit, q, k and v are rounded. Declines other
    types, sizes of a head that are symbolic, and scores or weights that are read elsewhere. Before
    PackMatmul and NarrowProducts. `choices` says how many keys a processor holds at once. Keeps
    outputs but for rounding and the order of summation.
    """

    def __init__(self, target: TargetSpec, choices: Choices | None = None) -> None:
        self.target = target
        self.choices = choices or Choices()

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        mod = _Rewriter(mod, self.target, self.choices).run()
        # else PackMatmul would ask for choices about products that nothing reads any more
        return relax.transform.DeadCodeElimination()(mod)


@dataclass
class _Scores:
    """What leads to a softmax: a product, and what is done to it, last step first."""

    product: Expr
    steps: list[tuple[ScoreStep, Expr | None]] = field(default_factory=list)
    regrouped: bool = False
    """Whether heads that share a key were one sequence in the product."""
    passed: list[Expr] = field(default_factory=list)


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, target: TargetSpec, choices: Choices) -> None:
        super().__init__(mod)
        self.target, self.choices = target, choices
        self.turned: dict[Expr, Expr] = {}
        """Operands of scores with the last two axes swapped."""

    def concerns(self, call: Call) -> bool:
        return op_name(call) in ("relax.matmul", "relax.permute_dims", "relax.reshape")

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        kind = op_name(call)
        if kind in ("relax.permute_dims", "relax.reshape"):
            return self.undone(call, old)
        return self.fused(call, name, old) if kind == "relax.matmul" else None

    def undone(self, call: Call, old: relax.Var) -> Expr | None:
        """What a transpose or a reshape leads back to."""
        earlier = call_of(self.definition.get(call.args[0]), str(op_name(call)))
        if earlier is None:
            return None
        source = earlier.args[0]
        if op_name(call) == "relax.permute_dims":
            if call.attrs.axes is None or earlier.attrs.axes is None:
                return None
            first = [int(axis) for axis in earlier.attrs.axes]
            order = [first[int(axis)] for axis in call.attrs.axes]
            return source if order == sorted(order) else None
        same = tvm_ffi.structural_equal(source.ty.shape, old.ty.shape)
        return source if same else None

    def fused(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        weights, value = call.args
        links = [weights]
        if (shaped := call_of(self.definition.get(weights), "relax.reshape")) is not None:
            links.append(shaped.args[0])
        regrouped = len(links) == 2
        if (cast := self.uncast(links[-1])) is not None:
            links.append(cast)
        inner = self.unguarded(links[-1])
        guarded = not inner.same_as(links[-1])
        if guarded:
            links.append(inner)
        softmax = call_of(self.definition.get(inner), "relax.nn.softmax")
        if softmax is None or not self.is_taken(old):
            return None
        rank = len(inner.ty.shape.values)
        scores = self.scores_of(softmax.args[0])
        if scores is None or int(softmax.attrs.axis) % rank != rank - 1 or rank not in (3, 4):
            return None
        reads = [self.readers.get(link) for link in links]
        if scores.regrouped != regrouped or reads != [1] * (len(links) - guarded) + [2] * guarded:
            return None
        made = self.kernel_call(scores, value, inner, guarded)
        if made is None:
            return None
        for part in (*scores.passed, *reversed(links)):
            self.absorb(part)
        result, shape = made
        laid = self.emit(relax.op.reshape(self.emit(result, name), shape))
        moved = self.emit(relax.op.permute_dims(laid, [0, 2, 1, 3])) if rank == 4 else laid
        if tvm_ffi.structural_equal(moved.ty.shape, old.ty.shape):
            return moved
        return self.emit(relax.op.reshape(moved, old.ty.shape))

    def is_taken(self, value: Expr) -> bool:
        """Whether a value has a known rank and a type that the target has a kernel for."""
        gpu = self.target.gpu
        narrow = _NARROW if gpu and gpu.tensor_cores else ()
        return _dtype(value) in ("float32", *narrow)

    def uncast(self, value: Expr) -> Expr | None:
        """What a cast of scores or weights between the types that are taken leads back to."""
        call = call_of(self.definition.get(value), "relax.astype")
        return call.args[0] if call is not None and self.is_taken(call.args[0]) else None

    def unguarded(self, value: Expr) -> Expr:
        """X where `value` is `where(isnan(x), 0, x)`, else `value`."""
        chosen = call_of(self.definition.get(value), "relax.where")
        if chosen is None:
            return value
        condition, zero, inner = chosen.args
        test = call_of(self.definition.get(condition), "relax.isnan")
        if test is None or not test.args[0].same_as(inner) or number_of(zero) != 0.0:
            return value
        same = tvm_ffi.structural_equal(value.ty.shape, inner.ty.shape)
        return inner if same else value

    def scores_of(self, value: Expr) -> _Scores | None:
        """The product behind `value`, and the steps from it to there."""
        call = self.definition.get(value)
        kind = op_name(call)
        if kind is None or self.readers.get(value) != 1 or not self.is_taken(value):
            return None
        if kind == "relax.matmul":
            return _Scores(value, passed=[value])
        if (cast := self.uncast(value)) is not None:
            found = self.scores_of(cast)
            if found is not None:
                found.passed.append(value)
            return found
        for path, step, operand in _steps(kind, call):
            if not tvm_ffi.structural_equal(path.ty.shape, value.ty.shape):
                if kind != "relax.reshape":
                    continue
            found = self.scores_of(path)
            if found is None:
                continue
            if kind == "relax.reshape":
                if found.steps and any(operand is not None for _, operand in found.steps):
                    return None
                if found.regrouped:
                    return None
                found.regrouped = True
            else:
                found.steps.append((step, operand))
            found.passed.append(value)
            return found
        return None

    def kernel_call(
        self, scores: _Scores, value: Expr, weights: Expr, guarded: bool
    ) -> tuple[Call, list[Any]] | None:
        """The kernel's call, and the shape of its result with a head beside a row."""
        product = self.definition[scores.product]
        dtype = _dtype(value)
        if any(_dtype(arg) != dtype for arg in product.args):
            return None
        ranks = {len(arg.ty.shape.values) for arg in (*product.args, value)}
        if ranks != {len(weights.ty.shape.values)}:
            return None
        symbols = Symbols()
        query, key, values = (
            view_of(arg, self.definition, symbols) for arg in (*product.args, value)
        )
        if len(weights.ty.shape.values) == 3:
            query, key, values = (operand.with_unit_axis(1) for operand in (query, key, values))
        key = key.permuted([0, 1, 3, 2])
        full = [symbols.own(dim) for dim in weights.ty.shape.values]
        batch, heads, queries, keys = full if len(full) == 4 else (full[0], 1, *full[1:])
        if scores.regrouped:
            groups = symbols.own(scores.product.ty.shape.values[1])
            if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
                return None
            shared = query.view.reshaped([batch, heads, queries, query.shape[3]])
            if shared is None or [key.shape[1], values.shape[1]] != [groups, groups]:
                return None
            query = replace(query, view=shared)
            key, values = (x.repeated(1, heads // groups) for x in (key, values))
        size, value_size = query.shape[3], values.shape[3]
        if not isinstance(size, int) or not isinstance(value_size, int):
            return None
        if any(part == 0 for part in (batch, heads, queries, keys, size, value_size)):
            return None
        narrow = self.narrow_type(dtype, [query, key, values])
        gpu = self.target.gpu
        if narrow is None and (
            dtype != "float32" or (gpu and not fits_device(size, value_size, gpu))
        ):
            return None
        steps, operands, scale = self.steps(scores, symbols, query.scale * key.scale, len(full))
        attention = Attention(
            *(batch, heads, queries, keys, size, value_size),
            *(query.view, key.view, values.view),
            *(scale, steps, guarded),
        )
        read = [query.base, key.base, values.base]
        if narrow and narrow != dtype:
            read = [self.narrowed_to(narrow, base) for base in read]
        bases = [*read, *operands]
        shapes = [[symbols.own(dim) for dim in base.ty.shape.values] for base in bases]
        buffers = [
            (elements(shape), str(base.ty.dtype)) for shape, base in zip(shapes, bases, strict=True)
        ]
        if gpu is None:
            given = attention, symbols.parameters, buffers, self.target
            if has_few_queries(attention, self.target):
                func = attention_rows_kernel(*given)
            else:
                func = attention_kernel(*given, self.key_block(attention))
        elif narrow:
            func = tensor_attention_kernel(attention, symbols.parameters, buffers, gpu)
        else:
            func = device_attention_kernel(attention, symbols.parameters, buffers, gpu)
        kernel = self.builder.add_func(func, "attention")
        flat = [self.emit(relax.op.reshape(base, [_size(base)])) for base in bases]
        result = [batch, queries, heads, value_size]
        shape = [symbols.given(dim) for dim in result]
        count = symbols.given(elements(result))
        made = relax.call_tir(
            kernel, [*symbols.arguments, *flat], relax.TensorType([count], narrow or "float32")
        )
        if narrow and narrow != dtype:
            made = relax.op.astype(self.emit(made), dtype)
        return made, shape if len(full) == 4 else [shape[0], shape[1], shape[3]]

    def key_block(self, attention: Attention) -> int:
        """How many keys meet a block of queries at once."""
        a = attention
        steps = "".join(f", {step.kind}" for step in a.steps) + ", guarded" * a.guarded
        return self.choices.choose(
            f"attention {a.batch}x{a.heads}x{a.queries}x{a.keys}, {a.size}x{a.value_size}{steps}",
            key_blocks(a, self.target),
            key_block(a, self.target),
            self.current,
        )

    def narrow_type(self, dtype: str | None, operands: list[Operand]) -> str | None:
        """The 16-bit type in which tensor cores compute this; None: they can't, or aren't to."""
        gpu = self.target.gpu
        narrow = gpu and (dtype if dtype in _NARROW else gpu.narrow)
        _, key, values = operands
        if not gpu or not narrow or not all(is_row_major(operand.view) for operand in operands):
            return None
        return narrow if fits_tensor_cores(key.shape[3], values.shape[3], gpu) else None

    def narrowed_to(self, dtype: str, value: Expr) -> Expr:
        """The value rounded, once."""
        if value not in self.narrowed:
            self.narrowed[value] = self.emit(relax.op.astype(value, dtype))
        return self.narrowed[value]

    def steps(
        self, scores: _Scores, symbols: Symbols, scale: float, rank: int
    ) -> tuple[tuple[ScoreStep, ...], list[Expr], float]:
        """Steps with places, operands, and the factor that comes before them."""
        steps: list[ScoreStep] = []
        operands: list[Expr] = []
        for step, operand in scores.steps:
            if operand is None:
                if steps:
                    steps.append(step)
                else:
                    scale *= step.number
                continue
            turned = operand if self.target.gpu else self.turn(operand)
            shape = [symbols.own(dim) for dim in turned.ty.shape.values]
            if self.target.gpu:  # neighbouring threads have neighbouring keys
                shape = [1] * (2 - len(shape)) + shape
                view = Strided.whole(shape)
                view = view.permuted([*range(len(shape) - 2), len(shape) - 1, len(shape) - 2])
            else:
                view = Strided.whole(shape)
            axes = ((),) * (rank - len(shape)) + view.axes
            axes = (axes[0], (), *axes[1:]) if rank == 3 else axes
            steps.append(
                replace(step, operand=len(operands), place=Strided(view.offset, tuple(axes)))
            )
            operands.append(turned)
        return tuple(steps), operands, scale

    def turn(self, operand: Expr) -> Expr:
        """An operand of the scores with keys before queries; one of rank 0 or 1 as it is."""
        shape = list(operand.ty.shape.values)
        if len(shape) < 2:
            shape = [*[tirx.IntImm("int64", 1)] * (2 - len(shape)), *shape]
        if operand not in self.turned:
            rank = len(shape)
            full = operand
            if rank != len(operand.ty.shape.values):
                full = self.emit(relax.op.reshape(operand, shape))
            order = [*range(rank - 2), rank - 1, rank - 2]
            if isinstance(shape[-2], tirx.IntImm) and int(shape[-2]) == 1:
                swapped = [*shape[:-2], shape[-1], shape[-2]]
                self.turned[operand] = self.emit(relax.op.reshape(full, swapped))
            else:
                self.turned[operand] = self.emit(relax.op.permute_dims(full, order))
        return self.turned[operand]


def _steps(kind: str, call: Call) -> list[tuple[Expr, ScoreStep, Expr | None]]:
    """What an operator can be as a step: (the scores before it, the step, its operand)."""
    args = list(call.args)
    if kind == "relax.reshape":
        return [(args[0], ScoreStep("reshape"), None)]
    if kind == "relax.where":
        condition, one, other = args
        found = []
        if (number := number_of(other)) is not None:
            found.append((one, ScoreStep("keep where", number), condition))
        if (number := number_of(one)) is not None:
            found.append((other, ScoreStep("keep unless", number), condition))
        return found
    if kind in ("relax.multiply", "relax.divide"):
        number = number_of(args[1])
        if number is not None and (kind == "relax.multiply" or number != 0.0):
            factor = number if kind == "relax.multiply" else 1.0 / number
            return [(args[0], ScoreStep("multiply", factor), None)]
        if kind == "relax.multiply" and (number := number_of(args[0])) is not None:
            return [(args[1], ScoreStep("multiply", number), None)]
        return []
    if kind == "relax.add":
        one, other = args
        return [(one, ScoreStep("add"), other), (other, ScoreStep("add"), one)]
    return []


def _dtype(value: Expr) -> str | None:
    """The type of a tensor of known rank; None for anything else."""
    ty = value.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    return str(ty.dtype)


def _size(value: Expr) -> Any:
    dims = list(value.ty.shape.values)
    return elements([int(d) if isinstance(d, tirx.IntImm) else d for d in dims])
