"""Questions about blocks and loops; the one home of unstable TVM names."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir

KIND = "athanor.op"
"""Block annotation that says what a block computes: "conv2d", "matmul", ... (te attrs)."""


def find_kind(sch: s_tir.Schedule, *kinds: str) -> tuple[s_tir.schedule.SBlockRV, str] | None:
    """The first block whose KIND annotation is one of `kinds`, and which."""
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        kind = sch.get(block).annotations.get(KIND)
        if kind is not None and str(kind) in kinds:
            return block, str(kind)
    return None


def decide(
    sch: s_tir.Schedule, candidates: Sequence[int], preferred: int
) -> s_tir.schedule.ExprRV:
    """One decision of a rule: `preferred` untuned, any of `candidates` when tuned.

    It is a sampling instruction of the schedule's trace, so that a tuner can mutate it and a
    tuning record can replay it.
    """
    assert preferred in candidates, f"{preferred} is not among {list(candidates)}"
    chance = [1.0 / len(candidates)] * len(candidates)
    return sch.sample_categorical(list(candidates), chance, candidates.index(preferred))
