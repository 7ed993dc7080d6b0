"""TensorProto to elements: raw, typed fields and external files, each checked."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.small_types import carried, carrier_of
from athanor.frontends.onnx.weight_memory import empty_tensor, read_bytes

_EXTERNAL = onnx.TensorProto.EXTERNAL


def np_dtype_of(elem_type: int, what: str) -> np.dtype:
    """The NumPy dtype of an ONNX element type; CompileError for undefined ones."""
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        raise CompileError(f"{what}: element type {elem_type} is not an ONNX tensor type") from None


def to_array(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    """The elements; a view of the proto's bytes where possible (read-only)."""
    what = f"tensor {tensor.name!r}"
    dtype = np_dtype_of(tensor.data_type, what)
    if tensor.data_location == _EXTERNAL:
        if bits := _packed_bits(tensor.data_type):
            return _unpacked_external(tensor, bits, folder)
        return _read_external(tensor, dtype, folder).numpy().view(dtype)
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise CompileError(f"{what} has a negative dimension: {list(shape)}")
    if tensor.HasField("raw_data") and dtype.itemsize and not _packed_bits(tensor.data_type):
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if len(tensor.raw_data) != expected:
            raise CompileError(
                f"{what} holds {len(tensor.raw_data)} bytes; {dtype} {list(shape)} needs {expected}"
            )
        return np.frombuffer(tensor.raw_data, dtype=dtype).reshape(shape)
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, IndexError) as error:
        raise CompileError(f"{what} can't be read: {error}") from error


def to_constant(tensor: onnx.TensorProto, folder: Path | None) -> relax.Expr:
    """The tensor as a relax constant, its elements copied once; bytes for a small type."""
    dtype = np_dtype_of(tensor.data_type, f"tensor {tensor.name!r}")
    if tensor.data_location == _EXTERNAL and not _packed_bits(tensor.data_type):
        return relax.const(_read_external(tensor, dtype, folder))
    array = np.ascontiguousarray(carried(to_array(tensor, folder)))
    return relax.const(tvm.runtime.tensor(array))


def _packed_bits(elem_type: int) -> int:
    """The bits of an element that is smaller than a byte, and so packed in raw_data; else 0."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    names = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
    floats = {"FLOAT4E2M1": 4, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
    return {**names, **floats}.get(name, 0)


def _unpacked_external(tensor: onnx.TensorProto, bits: int, folder: Path | None) -> np.ndarray:
    """The elements of a tensor that lies packed in its file."""
    count = int(np.prod(tuple(tensor.dims), dtype=object))
    packed = onnx.TensorProto()
    packed.CopyFrom(tensor)
    packed.dims[:] = [-(-count * bits // 8)]
    content = _read_external(packed, np.dtype(np.uint8), folder).numpy().tobytes()
    return onnx.numpy_helper.to_array(
        onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, content, raw=True)
    )


def _read_external(
    tensor: onnx.TensorProto, dtype: np.dtype, folder: Path | None
) -> tvm.runtime.Tensor:
    """Read the tensor's bytes from its file straight into TVM's own buffer."""
    what = f"tensor {tensor.name!r}"
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise CompileError(f"{what} has a negative dimension: {list(shape)}")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = external_path(what, entries.get("location", ""), folder)
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", expected))
    except ValueError:
        raise CompileError(f"{what}: offset or length of its external data is no number") from None
    if offset < 0 or length != expected:
        raise CompileError(
            f"{what}: external data of {length} bytes at offset {offset} in '{path}'; "
            f"{dtype} {list(shape)} needs {expected}"
        )
    size = path.stat().st_size
    if offset + expected > size:
        raise CompileError(
            f"{what}: external data '{path}' is too short: {size} bytes, {offset + expected} needed"
        )
    result = empty_tensor(shape, carrier_of(dtype.name))
    if expected:
        # NumPy's DLPack import lacks bfloat16 and float8, so the bytes are addressed directly
        view = (ctypes.c_ubyte * expected).from_address(result.data_ptr())
        if not read_bytes(path, offset, memoryview(view).cast("B")):
            raise CompileError(f"{what}: external data '{path}' is too short")
    return result


def external_path(what: str, location: str, folder: Path | None) -> Path:
    """The file a tensor's external data lies in, proven to be inside the model's folder."""
    if not location:
        raise CompileError(f"{what}: external data without a location")
    if folder is None:
        raise CompileError(
            f"{what}: external data '{location}' needs the model's folder; "
            "compile the model from its path"
        )
    if Path(location).is_absolute() or location.startswith("\\") or ":" in location[:3]:
        raise CompileError(f"{what}: external data '{location}' is an absolute path; refused")
    path = folder / location
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise CompileError(
            f"{what}: external data '{location}' leads outside the model's folder; refused"
        )
    if not resolved.is_file():
        raise CompileError(f"{what}: external data '{resolved}' does not exist")
    return resolved
