"""Choose channel-blocked layouts over the whole graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.ir import Call, Expr, GenericConst, IRModule

from athanor.compiler.choices import Choices
from athanor.compiler.passes.blocked_operators import BLOCKED_OPERATORS
from athanor.compiler.passes.rewrite import (
    GraphRewriter,
    constant_array,
    op_name,
    static_shape,
)
from athanor.schedules.compute.pack import pack_kernel, unpack_kernel
from athanor.targets import TargetSpec


@tvm.transform.module_pass(opt_level=0, name="BlockLayouts")
class BlockLayouts:
    """Compute convolutions and what lies between them in the layout NCHW{b}c.

        y = R.nn.conv2d(x, w)            x5 = pack(x)             # (N, C/b, H, W, b)
        z = R.nn.relu(y)           =>    y5 = conv2d_blocked(x5, packed w)
        v = R.nn.conv2d(z, u)            z5 = R.nn.relu(y5)
                                         v5 = conv2d_blocked(z5, packed u)
                                         v = unpack(v5)

    A blocked value flows through every operator of BLOCKED_OPERATORS; any other reader gets it
    unpacked, once. Channels are padded to full blocks; the padding holds finite numbers and meets
    zero weights. Before LegalizeOps, after weights are final. Keeps outputs but for the order of
    summation in convolutions.

    With bf16, a convolution over whole blocks of channels reads bfloat16, and so does what adds
    its input to something later: the value is kept in that form alone.
    """

    def __init__(
        self,
        target: TargetSpec,
        winograd: bool = True,
        bf16: bool = False,
        choices: Choices | None = None,
    ) -> None:
        self.target = target
        self.winograd = winograd
        self.bf16 = bf16
        self.choices = choices or Choices()

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return LayoutRewriter(mod, self.target, self.winograd, self.bf16, self.choices).run()


class LayoutRewriter(GraphRewriter):
    """Knows which new values are blocked, and converts both ways."""

    def __init__(
        self, mod: IRModule, target: TargetSpec, winograd: bool, bf16: bool, choices: Choices
    ) -> None:
        super().__init__(mod)
        self.choices = choices
        self.target = target
        self.winograd = winograd
        """Whether convolutions may run by Winograd's method."""
        self.bf16 = bf16
        """Whether convolutions multiply pairs of bfloat16."""
        self.block = target.channel_block
        self.channels: dict[Expr, int] = {}
        """Number of channels, without padding, of every blocked value."""
        self.stays_blocked = read_blocked(self.main)
        """Old values that reach a convolution or a pooling through operators that keep a layout."""
        self.old: relax.Var | None = None
        """The variable whose binding is rewritten."""
        self.unpacked: dict[Expr, Expr] = {}
        self.packed: dict[Expr, Expr] = {}

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        """A blocked operator where one applies, else the call over plain arguments."""
        self.old = old
        rewrite = BLOCKED_OPERATORS.get(op_name(call) or "")
        if rewrite is not None:
            # The checker sees this class twice: here, and installed, where `rewrite` has it from.
            new = rewrite(self, call, name)  # pyright: ignore[reportArgumentType]
            if new is not None:
                return new
        plain = [self.plain_argument(arg) for arg in call.args]
        return self.emit(relax.Call(call.op, plain, call.attrs, ty_args=call.ty_args), name)

    def plain_argument(self, arg: Expr) -> Expr:
        """An argument with every blocked value unpacked."""
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self.plain_argument(field) for field in arg.fields])
        return self.plain(arg)

    def finish(self, value: Expr) -> Expr:
        """Outputs are in the model's own layout."""
        return self.plain(value)

    def is_blocked(self, value: Expr) -> bool:
        """Whether the value has a blocked layout."""
        return value in self.channels

    def worth_blocking(self, value: Expr) -> Expr | None:
        """The value blocked, or None where more than half of each block would be padding."""
        if self.is_blocked(value):
            return value
        shape = getattr(value.ty, "shape", None)
        if str(value.ty.dtype) != "float32" or shape is None or len(shape.values) != 4:
            return None
        channels = shape.values[1]
        if not isinstance(channels, tirx.IntImm) or 2 * int(channels) < self.block:
            return None
        packed = self.blocked(value, int(channels))
        if packed is not None:
            self.channels[packed] = int(channels)
        return packed

    def input_in_blocks(self, value: Expr, channels: int, block: int) -> Expr:
        """A convolution's input (N, C / block, H, W, block)."""
        if block == self.block:
            packed = self.blocked(value, channels)
            assert packed is not None, "a convolution's input has its channels"
            return packed
        plain = self.plain(value)
        batch, _, height, width = plain.ty.shape.values
        assert block == 1, "NCHW as it is"
        return self.emit(relax.op.reshape(plain, [batch, channels, height, width, 1]))

    def emit_blocked(self, value: Expr, channels: int, name: str) -> Expr:
        """Bind a blocked value."""
        var = self.emit(value, name)
        self.channels[var] = channels
        return var

    def as_stored(self, value: Expr) -> Expr:
        """The value as its bfloat16 form has it, where a convolution reads that one."""
        if value not in self.narrowed:
            return value
        return self.emit(relax.op.astype(self.narrowed[value], "float32"))

    def plain(self, value: Expr) -> Expr:
        """The value in NCHW."""
        if not self.is_blocked(value):
            return value
        if value not in self.unpacked:
            channels, name = self.channels[value], f"{_name(value)}_nchw"
            batch, blocks, height, width, _ = value.ty.shape.values
            if channels == int(blocks) * self.block and _all_one(height, width):
                shape = [batch, channels, height, width]
                self.unpacked[value] = self.emit(relax.op.reshape(value, shape), name)
            else:
                self.unpacked[value] = self.emit(self.move(value, channels, unpack_kernel), name)
        return self.unpacked[value]

    def blocked(self, value: Expr, channels: int) -> Expr | None:
        """A value that broadcasts to (N, channels, H, W), so that it broadcasts blocked.

        None where it does not: an axis of channels that is neither 1 nor `channels`.
        """
        if self.is_blocked(value):
            return value if self.channels[value] in (1, channels) else None
        if not isinstance(value.ty, relax.TensorType) or value.ty.shape is None:
            return None
        dims = list(value.ty.shape.values)
        if len(dims) > 4:
            return None
        dims = [tirx.IntImm("int64", 1)] * (4 - len(dims)) + dims
        if _constant_scalar(value):
            return relax.const(constant_array(value).reshape(()), str(value.ty.dtype))
        if _all_one(dims[1]):
            return self.emit(relax.op.reshape(value, [*dims, 1]))
        if not isinstance(dims[1], tirx.IntImm) or int(dims[1]) != channels:
            return None
        if isinstance(value, GenericConst):
            shape = [int(dim) for dim in dims]
            packed = pack_array(constant_array(value).reshape(shape), self.block)
            return relax.const(packed, str(value.ty.dtype))
        if value not in self.packed:
            full = value if len(value.ty.shape.values) == 4 else relax.op.reshape(value, dims)
            full = self.emit(full)
            call = self.move(full, channels, pack_kernel)
            self.packed[value] = self.emit(call, f"{_name(value)}_blocked")
        return self.packed[value]

    def move(self, value: Expr, channels: int, kernel: Callable[..., tirx.PrimFunc]) -> Call:
        """The call of a kernel of `schedules.compute.pack` on a value of either layout."""
        dims = value.ty.shape.values
        sizes = [dims[0], *dims[2:4]]
        # A kernel has shape variables of its own.
        own = [
            int(size) if isinstance(size, tirx.IntImm) else tirx.Var(name, "int64")
            for name, size in zip(("batch", "height", "width"), sizes, strict=True)
        ]
        lanes = min(self.block, self.target.lanes(32))
        func = kernel(own[0], channels, *own[1:], self.block, lanes)
        packed = [sizes[0], -(-channels // self.block), *sizes[1:], self.block]
        shape = packed if kernel is pack_kernel else [sizes[0], channels, *sizes[1:]]
        name = kernel.__name__.removesuffix("_kernel")
        return relax.call_tir(
            self.builder.add_func(func, name), [value], relax.TensorType(shape, "float32")
        )


_ENDS = ("conv2d", "conv2d_transpose", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
"""Operators of relax.nn that are worth a blocked input."""


def read_blocked(main: relax.Function) -> set[relax.Var]:
    """The variables that an operator of _ENDS reads, itself or through layout-keeping operators."""
    found: set[relax.Var] = set()
    for block in reversed(list(main.body.blocks)):
        for binding in reversed(list(block.bindings)):
            name = op_name(binding.value) or ""
            ends = name.removeprefix("relax.nn.") in _ENDS or name == "relax.mean"
            if ends or (name in BLOCKED_OPERATORS and binding.var in found):
                relax.analysis.post_order_visit(
                    binding.value, lambda e: found.add(e) if isinstance(e, relax.Var) else None
                )
    return found


def pack_array(array: np.ndarray, block: int) -> np.ndarray:
    """(N, C, H, W) -> (N, ceil(C / block), H, W, block), zeros for missing channels."""
    batch, channels, height, width = array.shape
    blocks = -(-channels // block)
    padded = np.zeros((batch, blocks * block, height, width), array.dtype)
    padded[:, :channels] = array
    split = padded.reshape(batch, blocks, block, height, width)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 4, 2))


def _all_one(*dims: Expr) -> bool:
    return all(isinstance(dim, tirx.IntImm) and int(dim) == 1 for dim in dims)


def _constant_scalar(value: Expr) -> bool:
    shape = static_shape(value)
    return isinstance(value, GenericConst) and shape is not None and int(np.prod(shape)) == 1


def _name(value: Expr) -> str:
    return value.name if isinstance(value, relax.Var) else ""
