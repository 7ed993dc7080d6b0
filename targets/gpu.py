"""What the compiler knows about a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target


@dataclass(frozen=True)
class GPUSpec:
    """The architectures that an artifact is for, and the limits that hold on all of them."""

    architectures: tuple[str, ...]
    """As the compilers name them, `sm_80`; oldest first. An image is made for each."""
    portable: str | None
    """The architecture whose PTX goes along, for every later device: `compute_90`. None where every
    image is bound to its very architecture."""
    shared_bytes: int
    """Shared memory that one block may have, where it asks for it at launch."""
    multiprocessors: int
    """Of the largest device of the newest architecture; tiles are cut so as to occupy all."""
    tensor_cores: bool
    """Whether all architectures multiply float16, bfloat16 and TF32 on tensor cores, and copy
    asynchronously (from sm_80 on)."""
    precision: str = "fp32"
    """Of what products of a float32 model multiply: fp32, tf32, fp16, bf16."""
    block_threads: int = 1024
    """Threads of one block at most."""
    warp: int = 32
    """Threads that run in step."""
    registers: int = 255
    """32-bit registers of one thread at most."""

    access_bytes: int = 16
    """What one thread loads or stores at once at most, at addresses that it divides."""

    @property
    def narrow(self) -> str | None:
        """The 16-bit type that products of a float32 model round to; None: they don't."""
        return {"fp16": "float16", "bf16": "bfloat16"}.get(self.precision)

    @property
    def tvm(self) -> Target:
        """The TVM target; code is generated once, for the oldest architecture."""
        return Target(
            {
                "kind": "cuda",
                "arch": self.architectures[0],
                "max_threads_per_block": self.block_threads,
                "max_shared_memory_per_block": self.shared_bytes,
                "thread_warp_size": self.warp,
            },
            host="llvm",
        )
