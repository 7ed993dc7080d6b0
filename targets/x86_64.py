"""x86-64 by micro-architecture level, through LLVM."""

from dataclasses import replace

from athanor.targets.target import KIB, MIB, TargetSpec

_V2 = ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

X86_64_V2 = TargetSpec(
    name="x86-64-v2",
    triple="x86_64-linux-gnu",
    mcpu="x86-64-v2",
    cpu_features=_V2,
    vector_bits=128,
    vector_registers=16,
)

X86_64_V3 = TargetSpec(
    name="x86-64-v3",
    triple="x86_64-linux-gnu",
    mcpu="x86-64-v3",
    cpu_features=_V3,
    vector_bits=256,
    vector_registers=16,
)

X86_64_V4 = TargetSpec(
    name="x86-64-v4",
    triple="x86_64-linux-gnu",
    mcpu="x86-64-v4",
    # LLVM tunes x86-64-v4 for the first AVX-512 processors, which lowered their clock for 512-bit
    # code, and would split our vectors in two. It also takes gathers for cheap; single loads are
    # faster on AMD's processors, and on Intel's with the microcode against Downfall (500 trees for
    # 1,000 rows on Zen 4: 2.7 ms against 8.1).
    mattr=("-prefer-256-bit", "+prefer-no-gather"),
    cpu_features=_V4,
    vector_bits=512,
    vector_registers=32,
    l2_bytes=1 * MIB,
    l1_bytes=32 * KIB,
)

X86_64_V4_BF16 = replace(
    X86_64_V4,
    name="x86-64-v4+avx512bf16",
    mattr=(*X86_64_V4.mattr, "+avx512bf16"),
    cpu_features=(*_V4, "avx512_bf16"),
)
"""For `precision="bf16"`: AMD from Zen 4 on, Intel's Cooper Lake and from Sapphire Rapids on."""
