"""What a model takes and gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TensorSpec(NamedTuple):
    """An input or an output: its name, element type and shape."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None
    """A size; or the name of a size that only inputs tell, the same wherever the name stands; or
    None for a size of an output that only the run tells."""
    kind: str = "tensor"
    """Or "sequence", "optional", "optional sequence": then `shape` is that of each tensor in it,
    None for a size that may differ between them."""
