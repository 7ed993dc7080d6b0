"""The activations that recurrent operators name in their `activations` attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.ops import activation

# name -> (function of x, alpha, beta; default alpha; default beta); None: takes no such value
_FUNCTIONS: dict[str, tuple[Callable[..., Any], float | None, float | None]] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, b: activation.elu(x, a), 1.0, None),
    "hardsigmoid": (lambda x, a, b: activation.hard_sigmoid(x, a, b), 0.2, 0.5),
    "leakyrelu": (lambda x, a, b: tirx.Select(x >= _number(0, x), x, a * x), 0.01, None),
    "relu": (lambda x, a, b: tirx.max(x, _number(0, x)), None, None),
    "scaledtanh": (lambda x, a, b: a * tirx.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, a, b: tirx.sigmoid(x), None, None),
    "softplus": (lambda x, a, b: activation.softplus(x), None, None),
    "softsign": (lambda x, a, b: activation.softsign(x), None, None),
    "tanh": (lambda x, a, b: tirx.tanh(x), None, None),
    "thresholdedrelu": (lambda x, a, b: activation.thresholded_relu(x, a), 1.0, None),
}


@dataclass(frozen=True)
class Activation:
    """One activation with its parameters; equal ones compute the same."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Any) -> Any:
        """The function of a scalar expression."""
        function, _, _ = _FUNCTIONS[self.name]
        return function(x, _number(self.alpha, x), _number(self.beta, x))


def activation_of(
    node: Node, name: str, alphas: list[float], betas: list[float]
) -> tuple[Activation, list[float], list[float]]:
    """The function `name` (any case), and the alphas and betas that are left for the next one."""
    if name.lower() not in _FUNCTIONS:
        raise node.error(f"activation {name!r} is none of {sorted(_FUNCTIONS)}")
    _, alpha, beta = _FUNCTIONS[name.lower()]
    if alpha is not None and alphas:
        alpha, alphas = alphas[0], alphas[1:]
    if beta is not None and betas:
        beta, betas = betas[0], betas[1:]
    return Activation(name.lower(), alpha or 0.0, beta or 0.0), alphas, betas


def _number(value: float, x: Any) -> Any:
    return tirx.const(value, x.ty.dtype)
