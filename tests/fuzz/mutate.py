"""Mutations of a model: of its bytes as they lie in the file, and of the fields of its protos."""

import random

import onnx
from google.protobuf.descriptor import FieldDescriptor as Field

INTEGERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    127,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    1 << 40,
    (1 << 63) - 1,
    -1 << 63,
)
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"))
STRINGS = ("", "x", "y", "../out", "/etc/hostname", "a" * 300, "\u0000", "%s%n", 'q"\\\n')
OPERATORS = (
    "Add Cast Concat Constant ConstantOfShape Conv ConvTranspose CumSum Div Einsum Expand Flatten "
    "Gather Gemm Identity If LSTM Loop MatMul MaxPool Mod NonZero OneHot Pad Pow Range ReduceSum "
    "Reshape Resize Scan Scatter SequenceAt Shape Slice Softmax Split Squeeze Tile TopK Transpose "
    "Unsqueeze Where"
).split()

_WIDTHS = {
    Field.TYPE_INT32: (-1 << 31, (1 << 31) - 1),
    Field.TYPE_UINT64: (0, (1 << 64) - 1),
    Field.TYPE_UINT32: (0, (1 << 32) - 1),
}


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few changes of bytes: bits, values, lengths, cuts, repeats."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not result:
            break
        at = rng.randrange(len(result))
        end = min(len(result), at + rng.choice((1, 2, 4, 8, 64)))
        kind = rng.randrange(7)
        if kind == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[at] = rng.randrange(256)
        elif kind == 2:
            del result[at:end]
        elif kind == 3:
            result[at:at] = result[at:end]
        elif kind == 4:
            result[at:at] = rng.choice((b"\xff" * 9 + b"\x01", b"\x00" * 8, b"\x80\x80\x04"))
        elif kind == 5:
            del result[rng.randrange(at, len(result)) :]
        else:
            other = rng.randrange(len(result))
            result[at:end] = result[other : other + end - at]
    return bytes(result)


def mutate_fields(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """A few changes of fields: numbers, names, types, list elements; still a protobuf message."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        messages = list(_messages(result))
        names = sorted({s for m in messages if isinstance(m, onnx.NodeProto) for s in m.output})
        # the weight of a message is one, so that nodes and their attributes come before the rest
        message = rng.choice(messages)
        fields = message.DESCRIPTOR.fields
        present = [field for field, _ in message.ListFields()]
        field = rng.choice(present if present and rng.random() < 0.8 else fields)
        if _is_repeated(field):
            _change_list(getattr(message, field.name), field, names, rng)
        elif field.type == Field.TYPE_MESSAGE:
            _change_message(message, field, messages, rng)
        elif field.name == "op_type" and rng.random() < 0.8:
            message.op_type = rng.choice(OPERATORS)
        else:
            _set(message, field, _scalar(field, getattr(message, field.name), names, rng))
    return result


def _is_repeated(field):
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == 3


def _messages(message):
    yield message
    for field, value in message.ListFields():
        if field.type == Field.TYPE_MESSAGE:
            for inner in value if _is_repeated(field) else [value]:
                yield from _messages(inner)


def _change_list(values, field, names, rng):
    kind = rng.randrange(5)
    if kind == 0 and len(values):
        del values[rng.randrange(len(values))]
    elif kind == 1 and len(values) > 1:
        a, b = rng.randrange(len(values)), rng.randrange(len(values))
        _swap(values, a, b, field)
    elif field.type == Field.TYPE_MESSAGE:
        if len(values):
            values.add().CopyFrom(rng.choice(values))
        else:
            values.add()
    elif kind == 2 or not len(values):
        values.append(_fitting(field, _scalar(field, None, names, rng)))
    else:
        at = rng.randrange(len(values))
        values[at] = _fitting(field, _scalar(field, values[at], names, rng))


def _swap(values, a, b, field):
    if field.type == Field.TYPE_MESSAGE:
        copy = type(values[a])()
        copy.CopyFrom(values[a])
        values[a].CopyFrom(values[b])
        values[b].CopyFrom(copy)
    else:
        values[a], values[b] = values[b], values[a]


def _change_message(message, field, messages, rng):
    inner = getattr(message, field.name)
    others = [m for m in messages if m.DESCRIPTOR is inner.DESCRIPTOR and m is not inner]
    if others and rng.random() < 0.6:
        copy = type(inner)()
        copy.CopyFrom(rng.choice(others))
        inner.CopyFrom(copy)
    elif rng.random() < 0.5:
        message.ClearField(field.name)
    else:
        inner.SetInParent()


def _scalar(field, value, names, rng):
    if field.type == Field.TYPE_STRING:
        return rng.choice(names) if names and rng.random() < 0.6 else rng.choice(STRINGS)
    if field.type == Field.TYPE_BYTES:
        return mutate_bytes(value or b"\x00" * 8, rng)
    if field.type in (Field.TYPE_FLOAT, Field.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == Field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if value is not None and rng.random() < 0.4:
        return value + rng.choice((-1, 1))
    return rng.choice(INTEGERS) if rng.random() < 0.6 else rng.randrange(-8, 33)


def _fitting(field, value):
    if isinstance(value, int) and field.type != Field.TYPE_ENUM:
        least, most = _WIDTHS.get(field.type, (-1 << 63, (1 << 63) - 1))
        return max(least, min(most, value))
    return value


def _set(message, field, value):
    setattr(message, field.name, _fitting(field, value))
