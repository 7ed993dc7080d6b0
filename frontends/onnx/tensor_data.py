"""TensorProto to elements: raw, typed fields and external files, each checked."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax

from athanor.errors import CompileError

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
        return _read_external(tensor, dtype, folder).numpy()
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise CompileError(f"{what} has a negative dimension: {list(shape)}")
    if tensor.HasField("raw_data") and dtype.itemsize and not _is_packed(tensor.data_type):
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
    """The tensor as a relax constant; its elements are copied once."""
    dtype = np_dtype_of(tensor.data_type, f"tensor {tensor.name!r}")
    if tensor.data_location == _EXTERNAL:
        return relax.const(_read_external(tensor, dtype, folder))
    return relax.const(tvm.runtime.tensor(np.ascontiguousarray(to_array(tensor, folder))))


def _is_packed(elem_type: int) -> bool:
    """Whether elements are smaller than a byte, and so packed in raw_data."""
    name = onnx.TensorProto.DataType.Name(elem_type)
    return name.endswith(("INT4", "INT2")) or name == "FLOAT4E2M1"


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
    if offset < 0 or length != expected or _is_packed(tensor.data_type):
        raise CompileError(
            f"{what}: external data of {length} bytes at offset {offset} in '{path}'; "
            f"{dtype} {list(shape)} needs {expected}"
        )
    size = path.stat().st_size
    if offset + expected > size:
        raise CompileError(
            f"{what}: external data '{path}' is too short: {size} bytes, {offset + expected} needed"
        )
    result = tvm.runtime.empty(shape, str(dtype))
    if expected:
        # NumPy's DLPack import lacks bfloat16 and float8, so the bytes are addressed directly
        view = (ctypes.c_ubyte * expected).from_address(result.data_ptr())
        with path.open("rb") as file:
            file.seek(offset)
            if file.readinto(view) != expected:
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
