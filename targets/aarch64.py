"""64-bit Arm with Advanced SIMD, through LLVM."""

from athanor.targets.target import KIB, MIB, TargetSpec

AARCH64 = TargetSpec(
    name="aarch64",
    triple="aarch64-linux-gnu",
    mcpu="generic",
    mattr=("+neon",),
    cpu_features=("fp", "asimd"),
    vector_bits=128,
    vector_registers=32,
    l1_bytes=64 * KIB,
    l2_bytes=1 * MIB,
)
