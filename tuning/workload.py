"""What a record is about: a kernel before scheduling, known by its structure."""

from __future__ import annotations

import hashlib

import tvm_ffi
from tvm import tirx


def workload_key(func: tirx.PrimFunc) -> str:
    """20 hexadecimal digits of a prim_func's structure: names do not count, sizes and types do."""
    text = f"athanor-workload-1 {tvm_ffi.structural_hash(func)}"
    return hashlib.sha256(text.encode()).hexdigest()[:20]
