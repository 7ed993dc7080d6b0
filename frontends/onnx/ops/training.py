"""The optimizers of ai.onnx.preview.training: one step of Momentum, Adagrad and Adam."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from athanor.frontends.onnx.known import is_equal
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import cast, dtype_of, reshape, scalar, shape_of

R = relax.op
Inputs = list[relax.Expr]
Builder = relax.BlockBuilder
Step = Callable[["_Arithmetic", Node, Inputs], list[relax.Expr]]


class _Arithmetic:
    """Emits arithmetic on expressions and numbers; `rate` and `count` are the step's scalars."""

    def __init__(self, rate: relax.Expr, count: relax.Expr, dtype: str, builder: Builder) -> None:
        self.dtype, self.builder = dtype, builder
        self.rate = cast(reshape(rate, [], builder), dtype, builder)
        self.count = cast(reshape(count, [], builder), dtype, builder)

    def apply(self, operator: Callable[..., relax.Expr], *values: relax.Expr | float) -> relax.Expr:
        """`operator(*values)`, numbers as constants."""
        operands = [scalar(v, self.dtype) if isinstance(v, (int, float)) else v for v in values]
        return self.builder.emit(operator(*operands))

    def sum(self, *terms: tuple[relax.Expr | float, relax.Expr | float]) -> relax.Expr:
        """The sum of products."""
        products = [self.apply(R.multiply, *term) for term in terms]
        total = products[0]
        for term in products[1:]:
            total = self.apply(R.add, total, term)
        return total

    def at_first(self, first: float, later: relax.Expr | float) -> relax.Expr:
        """`first` in the step with count 0, `later` after it."""
        return self.apply(R.where, self.apply(R.greater, self.count, 0), later, first)


def optimizer(step: Step, width: int) -> Callable[..., tuple[relax.Expr, ...]]:
    """A converter that applies `step` to each group of `width` tensors: x, gradient, states.

    inputs: learning rate, update count, then all x, all gradients, all of each state.
    Results: all new x, then all of each new state.
    Source: https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Momentum.html
    """

    def converter(node: Node, inputs: Inputs, builder: Builder) -> tuple[relax.Expr, ...]:
        rate, count, *tensors = inputs
        if len(tensors) == 0 or len(tensors) % width or any(v is None for v in inputs):
            raise node.error(f"{len(tensors)} tensors are no groups of {width}")
        if any(is_equal(dim, 1) is not True for v in (rate, count) for dim in shape_of(v)):
            raise node.error("R and T have to be scalars")
        number = len(tensors) // width
        results: list[list[relax.Expr]] = []
        for index in range(number):
            group = tensors[index::number]
            arithmetic = _Arithmetic(rate, count, dtype_of(group[0]), builder)
            results.append(step(arithmetic, node, group))
        return tuple(result for kind in zip(*results, strict=True) for result in kind)

    return converter


def _regularized(a: _Arithmetic, node: Node, x: relax.Expr, gradient: relax.Expr) -> relax.Expr:
    return a.sum((node.float("norm_coefficient", 0.0), x), (1, gradient))


def momentum(a: _Arithmetic, node: Node, group: Inputs) -> list[relax.Expr]:
    """Gradient descent with momentum, or Nesterov's."""
    x, gradient, velocity = group
    mode = node.string("mode")
    if mode not in ("standard", "nesterov"):
        raise node.error(f"mode={mode!r} is neither standard nor nesterov")
    alpha, beta = node.float("alpha"), node.float("beta")
    gradient = _regularized(a, node, x, gradient)
    velocity = a.sum((alpha, velocity), (a.at_first(1.0, beta), gradient))
    direction = velocity if mode == "standard" else a.sum((1, gradient), (alpha, velocity))
    return [a.apply(R.subtract, x, a.sum((a.rate, direction))), velocity]


def adagrad(a: _Arithmetic, node: Node, group: Inputs) -> list[relax.Expr]:
    """Steps divided by the root of all squared gradients so far."""
    x, gradient, squares = group
    gradient = _regularized(a, node, x, gradient)
    squares = a.sum((1, squares), (gradient, gradient))
    root = a.apply(R.add, a.apply(R.sqrt, squares), node.float("epsilon", 1e-6))
    decay = a.apply(R.add, a.sum((a.count, node.float("decay_factor", 0.0))), 1)
    step = a.apply(R.divide, a.sum((a.apply(R.divide, a.rate, decay), gradient)), root)
    return [a.apply(R.subtract, x, step), squares]


def adam(a: _Arithmetic, node: Node, group: Inputs) -> list[relax.Expr]:
    """Momentum, divided by the root of the decaying mean of squared gradients."""
    x, gradient, velocity, squares = group
    alpha, beta = node.float("alpha", 0.9), node.float("beta", 0.999)
    gradient = _regularized(a, node, x, gradient)
    velocity = a.sum((alpha, velocity), (1 - alpha, gradient))
    squares = a.sum((beta, squares), (1 - beta, a.apply(R.multiply, gradient, gradient)))
    root = a.apply(R.add, a.apply(R.sqrt, squares), node.float("epsilon", 1e-6))

    def remainder(base: float) -> relax.Expr:
        """`1 - base ** count`, and 1 in the first step, which corrects no bias."""
        return a.at_first(1.0, a.apply(R.subtract, 1, a.apply(R.power, base, a.count)))

    correction = a.apply(R.divide, a.apply(R.sqrt, remainder(beta)), remainder(alpha))
    rate = a.sum((a.rate, correction))
    step = a.sum((rate, a.apply(R.divide, velocity, root)))
    x = a.apply(R.subtract, x, step)
    x = a.sum((1 - node.float("norm_coefficient_post", 0.0), x))
    return [x, velocity, squares]
