"""64-bit RISC-V with the vector extension, through LLVM."""

from athanor.targets.target import KIB, TargetSpec

RV64GCV = TargetSpec(
    name="rv64gcv",
    triple="riscv64-linux-gnu",
    mcpu="generic-rv64",
    mabi="lp64d",
    # LLVM writes vectors of a fixed length as vector instructions of that length; every machine
    # with "v" has registers of 128 bits at least, and none gets slower by wider ones.
    mattr=("+m", "+a", "+f", "+d", "+c", "+v"),
    cpu_features=("i", "m", "a", "f", "d", "c", "v"),
    vector_bits=128,
    vector_registers=32,
    fma_pipes=1,
    l1_bytes=32 * KIB,
    l2_bytes=512 * KIB,
)
