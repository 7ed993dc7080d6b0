"""What distinguishes one recurrence kernel from another, and the layout of its matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm import tirx

LANES = 16
"""Units that stand together: the lanes of the widest vectors, in float32."""
MOST_VECTORS = 8
"""Vectors of gates in a panel."""
SUMS = 31
"""Vectors that hold the sums of a tile and the gates that are added to them; one is left for h."""
FEWEST_SUMS = 6
"""Sums that take as long as one: they cover the latency of a multiply-add."""
MOST_ROWS = 8
"""Rows of the batch in a tile: each vector of gates is used as often, which is more than the time
of its way from an L2 or L3 cache."""
FEWEST_ROWS = 3
"""Rows that take as long as one: a vector of gates comes no faster."""
CORES = 2
"""For which the rows of a tile are chosen."""
SPLIT_MACS = 1 << 18
"""Multiply-adds below which one core is done before a second one has started."""
SPLIT_BYTES = 10 << 20
"""Of a recurrence matrix; more of them leave an L3 cache, so that one core that runs all steps of
tile after tile would wait for memory (3 to 9% for 1024 units)."""


@dataclass(frozen=True)
class Cell:
    """What distinguishes one recurrence kernel from another.

    `reverse` has one entry for each direction, and so has `activations`, in ONNX's order (f, g, h);
    `clip` bounds the input of activations; `coupled` makes the LSTM's forget gate 1 - input gate;
    `reset_after` is GRU's linear_before_reset.
    """

    hidden_size: int
    reverse: tuple[bool, ...]
    dtype: str
    activations: tuple[tuple[Callable[[Any], Any], ...], ...]
    clip: Callable[[Any], Any]
    coupled: bool
    reset_after: bool
    lengths: bool
    tile_rows: int = 1
    """Rows of a batch that are multiplied together."""
    gates_together: int = 1
    """Gates of one product, which panels need not stop between."""
    split: bool = False
    """Whether tiles of rows run side by side."""

    @property
    def directions(self) -> int:
        """How many run side by side."""
        return len(self.reverse)

    def activation(self, index: int) -> Callable[[Any, Any], Any]:
        """(direction, x) -> the activation f, g or h of x."""
        functions = [activations[index] for activations in self.activations]

        def apply(direction: Any, x: Any) -> Any:
            value = functions[-1](x)
            for place, function in enumerate(functions[:-1]):
                if function != functions[-1]:
                    value = tirx.Select(direction == place, function(x), value)
            return value

        return apply

    @property
    def units(self) -> int:
        """Hidden units as the kernel computes them: filled up so that panels divide them.

        The units that are added have zeros for weights and are read by no product.
        """
        return self._tile[0] * LANES

    @property
    def panel(self) -> int:
        """Gates that lie together in the packed matrix: those of one tile of sums."""
        return self._tile[1] * LANES

    @cached_property
    def _tile(self) -> tuple[int, int]:
        """Vectors of units, and of a panel, that take least time."""
        rows, fewest = self.tile_rows, -(-self.hidden_size // LANES)
        most = max(1, min(MOST_VECTORS, SUMS // (rows + 1)))
        choices = [
            (units, panel)
            for units in range(fewest, fewest + most)
            for panel in range(1, most + 1)
            if units * self.gates_together % panel == 0
        ]

        def cycles(choice: tuple[int, int]) -> tuple[float, int, int]:
            units, panel = choice
            return units / panel * max(rows * panel, FEWEST_SUMS), units, -panel

        return min(choices, key=cycles)

    def packed_shape(self, gates: int) -> tuple[int, int, int, int]:
        """(D, G*U / panel, H, panel): the recurrence matrix R (D, G*H, H) as the kernels take it.

        A step multiplies h with whole rows of gates, so that sums are lanes of vectors.
        """
        return (self.directions, gates * self.units // self.panel, self.hidden_size, self.panel)

    def rows(self, batch: Any) -> Any:
        """Rows of products for a batch: whole tiles, the last row again where it has less."""
        return -(-batch // self.tile_rows) * self.tile_rows if self.tile_rows > 1 else batch

    def chunks(self, batch: Any) -> int:
        """Into how many of whole tiles a batch's rows are cut, each to run all steps by itself."""
        return self.rows(batch) // self.tile_rows if self.split else 1

    def within(self, batch: Any) -> Callable[[Any], Any]:
        """The row of the batch that a row of a product reads."""
        last = batch - 1
        exact = self.tile_rows == 1 or batch % self.tile_rows == 0
        return lambda row: row if exact else tirx.Select(row < batch, row, last)


def worth_splitting(rows: int, weights: int, width: int) -> bool:
    """Whether tiles run side by side: `rows` of all steps, `weights` of `width` bytes each."""
    return rows * weights >= SPLIT_MACS and weights * width <= SPLIT_BYTES


def rows_of_tile(batch: Any, directions: int | None = None) -> int:
    """How many rows of a batch are best multiplied together; one where only the run tells.

    What takes one core least time; of those, where the tiles of all `directions` run side by
    side, what takes `CORES` least. None where the tiles of a direction run one after another.
    """
    if not isinstance(batch, int):
        return 1

    def cycles(rows: int) -> tuple[int, int, int]:
        tiles = -(-batch // rows)
        # a tile of few rows waits for its gates, at 3 multiply-adds for each vector of them
        tile = max(rows, FEWEST_ROWS)
        busiest = -(-tiles * directions // CORES) * tile if directions else 0
        return tiles * tile, busiest, -rows

    return min(range(1, min(max(batch, 1), MOST_ROWS) + 1), key=cycles)


def position_of(cell: Cell, steps: Any) -> Callable[[Any, Any, Any], Any]:
    """Which time step a row reads and writes at loop step t, given direction and length."""

    def position(direction: Any, t: Any, length: Any) -> Any:
        if not any(cell.reverse):
            return t
        # after its last step a row idles on the positions past its end, each once
        back = tirx.Select(t < length, length - 1 - t, t) if cell.lengths else steps - 1 - t
        if all(cell.reverse):
            return back
        return tirx.Select(direction == cell.reverse.index(True), back, t)

    return position


def select_of(cell: Cell) -> Callable[[Any, Any, Any, Any], Any]:
    """`new` while t < length, `old` after."""

    def select(t: Any, length: Any, new: Any, old: Any) -> Any:
        return tirx.Select(t < length, new, old) if cell.lengths else new

    return select
