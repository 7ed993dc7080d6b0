"""Which converter serves which operator: (domain, operator, since_opset) -> converter, sorted.

Only versions whose meaning differs have an entry of their own; a node takes the entry with the
largest since_opset that is not above its domain's opset.
"""

from __future__ import annotations

from tvm.relax import op as R

from athanor.frontends.onnx.operators import Converter
from athanor.frontends.onnx.ops import (
    activation,
    convolution,
    elementwise,
    generator,
    matmul,
    normalization,
    pooling,
    shape,
)
from athanor.frontends.onnx.ops.elementwise import binary, unary, variadic

CONVERTERS: dict[tuple[str, str, int], Converter] = {
    ("", "Abs", 6): unary(R.abs),
    ("", "Add", 6): binary(R.add),
    ("", "AveragePool", 1): pooling.average_pool,
    ("", "BatchNormalization", 6): normalization.batch_normalization,
    ("", "Clip", 6): activation.clip_attributes,
    ("", "Clip", 11): activation.clip,
    ("", "Concat", 1): shape.concat,
    ("", "Constant", 1): generator.constant_value,
    ("", "ConstantOfShape", 9): generator.constant_of_shape,
    ("", "Conv", 1): convolution.conv,
    ("", "Div", 6): elementwise.divide,
    ("", "Dropout", 6): activation.dropout,
    ("", "Flatten", 1): shape.flatten,
    ("", "Gemm", 6): matmul.gemm,
    ("", "GlobalAveragePool", 1): pooling.global_average_pool,
    ("", "GlobalMaxPool", 1): pooling.global_max_pool,
    ("", "Identity", 1): shape.identity,
    ("", "LRN", 1): normalization.lrn,
    ("", "LogSoftmax", 1): activation.log_softmax_flattened,
    ("", "LogSoftmax", 13): activation.log_softmax,
    ("", "MatMul", 1): matmul.matmul,
    ("", "MaxPool", 1): pooling.max_pool,
    ("", "Mul", 6): binary(R.multiply),
    ("", "Relu", 6): unary(R.nn.relu),
    ("", "Reshape", 1): shape.reshape_to,
    ("", "Softmax", 1): activation.softmax_flattened,
    ("", "Softmax", 13): activation.softmax,
    ("", "Squeeze", 1): shape.squeeze,
    ("", "Sub", 6): binary(R.subtract),
    ("", "Sum", 6): variadic(R.add),
    ("", "Transpose", 1): shape.transpose,
    ("", "Unsqueeze", 1): shape.unsqueeze,
}
