"""What the compiler knows about a machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm.target import Target

from athanor.targets.gpu import GPUSpec

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class TargetSpec:
    """One kind of machine: code generator settings plus the facts that schedule rules decide by.

    Rules read only these fields, never the name: a new machine is a new row of constants.
    """

    name: str
    """As the user writes it, for example `x86-64-v3`."""
    triple: str
    """Of the artifact, for example `x86_64-linux-gnu`."""
    mcpu: str
    """LLVM's processor name."""
    cpu_features: tuple[str, ...]
    """What code for this target uses and a machine must have, named as in /proc/cpuinfo."""
    vector_bits: int
    """Width of one vector register."""
    vector_registers: int
    """Architectural vector registers."""
    mattr: tuple[str, ...] = ()
    """LLVM feature flags on top of `mcpu`, each with its sign."""
    mabi: str = ""
    """The convention of calls, where the processor family has several."""
    fma_pipes: int = 2
    """Vector multiply-adds that one core starts in a cycle."""
    fma_latency: int = 4
    """Cycles from operands to result of a vector multiply-add."""
    l1_bytes: int = 32 * KIB
    l2_bytes: int = 512 * KIB
    l3_bytes: int = 16 * MIB
    cores: int = 2
    """Cores that tasks are cut for when the count at run time is unknown."""
    gpu: GPUSpec | None = None
    """The device that kernels run on; None: they run on this processor, which is else its host."""

    def lanes(self, bits: int = 32) -> int:
        """Elements of `bits` bits in one vector register."""
        return max(1, self.vector_bits // bits)

    @property
    def bf16_dots(self) -> bool:
        """Whether there are dot products of bfloat16 pairs that accumulate in float32."""
        return "avx512_bf16" in self.cpu_features

    @property
    def pair_lanes(self) -> int:
        """int32 sums in the vector that x86's pmaddwd makes of pairs of int16; 0: there is none."""
        return self.lanes(32) if self.triple.startswith("x86_64") else 0

    @property
    def avx512(self) -> bool:
        """Whether x86's 512-bit vectors, and their instructions for shorter ones, are there."""
        return "avx512vl" in self.cpu_features

    @property
    def masked_loads(self) -> bool:
        """Whether an instruction loads some lanes of a vector without reading the others."""
        return "avx2" in self.cpu_features

    @property
    def streams(self) -> bool:
        """Whether vectors can be stored past the caches; locked instructions wait for these."""
        return self.triple.startswith("x86_64")

    @property
    def channel_block(self) -> int:
        """Channels that lie together in blocked layouts, `NCHW{block}c`.

        One cache line of float32: a whole 512-bit vector, two of 256 bits, four of 128, so that
        a pixel's block is always loaded in full lines and no target needs a layout of its own.
        """
        return 16

    @property
    def tvm(self) -> Target:
        """The TVM target, its own host."""
        target: dict[str, str | list[str]] = {
            "kind": "llvm",
            "mtriple": self.triple,
            "mcpu": self.mcpu,
        }
        if self.mabi:
            target["mabi"] = self.mabi
        if self.mattr:
            target["mattr"] = list(self.mattr)
        return Target(target, host=target)

    @property
    def lowering(self) -> Target:
        """The TVM target that passes see: one whose vectors have the length that rules gave them.

        Where TVM sees vectors of any length, it turns every other one into a loop of such.
        """
        return replace(self, mattr=tuple(flag for flag in self.mattr if flag != "+v")).tvm

    def with_caches(self, l1: int, l2: int, l3: int, cores: int) -> TargetSpec:
        """This target with the sizes of the machine at hand."""
        return replace(self, l1_bytes=l1, l2_bytes=l2, l3_bytes=l3, cores=cores)
