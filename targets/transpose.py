"""Tiles transposed in vector registers, as LLVM IR."""

from __future__ import annotations

import functools
import re

TRANSPOSE = re.compile(r"athanor_transpose_(4|8|16)")
"""Name of the function that `transpose_function` writes, as kernels call it."""


@functools.cache
def transpose_function(lanes: int) -> str:
    """`int athanor_transpose_N(src, src_step, src_rows, dst, dst_step, dst_rows)` as LLVM IR.

    dst[j * dst_step + i] = src[i * src_step + j] for floats, i and j below N = lanes. Rows of src
    from src_rows on are not read and count as zeros; rows of dst from dst_rows on are not stored.
    For N a power of two, log2(N) rounds exchange ever larger squares across the diagonal.
    """
    vector = f"<{lanes} x float>"
    lines = [
        f"define i32 @athanor_transpose_{lanes}(ptr %src, i64 %src_step, i64 %src_rows, ptr %dst,"
        " i64 %dst_step, i64 %dst_rows) alwaysinline {",
        "entry:",
        "  br label %load0",
    ]
    for row in range(lanes):
        lines += [
            f"load{row}:",
            f"  %in{row} = icmp sgt i64 %src_rows, {row}",
            f"  br i1 %in{row}, label %read{row}, label %next{row}",
            f"read{row}:",
            f"  %from{row} = mul i64 %src_step, {row}",
            f"  %src{row} = getelementptr inbounds float, ptr %src, i64 %from{row}",
            f"  %got{row} = load {vector}, ptr %src{row}, align 4",
            f"  br label %next{row}",
            f"next{row}:",
            f"  %v0_{row} = phi {vector}"
            f" [ zeroinitializer, %load{row} ], [ %got{row}, %read{row} ]",
            f"  br label %{'exchange' if row == lanes - 1 else f'load{row + 1}'}",
        ]
    lines.append("exchange:")
    level, distance = 0, 1
    while distance < lanes:
        for row in range(lanes):
            if row & distance:
                continue
            a, b = f"{vector} %v{level}_{row}", f"{vector} %v{level}_{row + distance}"
            low = [i if not i & distance else lanes + i - distance for i in range(lanes)]
            high = [i + distance if not i & distance else lanes + i for i in range(lanes)]
            for made, picked in ((row, low), (row + distance, high)):
                mask = ", ".join(f"i32 {i}" for i in picked)
                lines.append(
                    f"  %v{level + 1}_{made} = shufflevector {a}, {b}, <{lanes} x i32> <{mask}>"
                )
        level, distance = level + 1, distance * 2
    lines.append("  br label %store0")
    for row in range(lanes):
        after = "done" if row == lanes - 1 else f"store{row + 1}"
        lines += [
            f"store{row}:",
            f"  %out{row} = icmp sgt i64 %dst_rows, {row}",
            f"  br i1 %out{row}, label %write{row}, label %{after}",
            f"write{row}:",
            f"  %to{row} = mul i64 %dst_step, {row}",
            f"  %dst{row} = getelementptr inbounds float, ptr %dst, i64 %to{row}",
            f"  store {vector} %v{level}_{row}, ptr %dst{row}, align 4",
            f"  br label %{after}",
        ]
    lines += ["done:", "  ret i32 0", "}\n"]
    return "\n".join(lines)
