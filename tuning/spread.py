"""Candidates -> pieces -> places that measure them at the same time.

What a place had that was lost is done by another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from athanor.tuning.measure import DEVICE_LOST, Candidate, Failure, Measurement

MOST_ATTEMPTS = 3
"""Places that a candidate may lose before it is given up: it may be what ends them."""
_MOST_PIECE = 16
"""Candidates of a piece: what is lost with a place, and how long the others wait at the end."""


class PlaceLostError(Exception):
    """A place died, hung, or can't measure; the message says which and why."""


class NoPlaceError(Exception):
    """No place is left, or comes in time; the message says what to do."""


@dataclass
class _Piece:
    indices: list[int]
    attempts: int = 0


Measure = Callable[[Sequence[Candidate]], list[Measurement]]
"""Measures a piece somewhere. Raises PlaceLostError: try again; NoPlaceError: no use in trying."""


def spread(
    candidates: Sequence[Candidate], measure: Measure, places: int, together: bool
) -> Iterator[Measurement]:
    """Measurements in the order of the candidates, as soon as they are there.

    places: pieces that are measured at the same time. together: all of them by one place, for they
    take turns. Where no place is left, the rest fail with DEVICE_LOST.
    """
    count = len(candidates)
    size = count if together else max(1, min(_MOST_PIECE, -(-count // (2 * max(1, places)))))
    waiting = [_Piece(list(range(at, min(at + size, count)))) for at in range(0, count, size or 1)]
    waiting.reverse()
    results: dict[int, Measurement] = {}
    changed = threading.Condition()
    left = len(waiting)
    stopped = False
    defects: list[BaseException] = []

    def finish(piece: _Piece, measurements: Sequence[Measurement]) -> None:
        nonlocal left
        left -= 1
        results.update(zip(piece.indices, measurements, strict=True))
        changed.notify_all()

    def give_up(piece: _Piece, why: str) -> None:
        finish(piece, [Measurement((), Failure(DEVICE_LOST, why))] * len(piece.indices))

    def work() -> None:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or not left or stopped)
                if not left or stopped:
                    return
                piece = waiting.pop()
            try:
                done = measure([candidates[index] for index in piece.indices])
            except PlaceLostError as error:
                with changed:
                    piece.attempts += 1
                    if piece.attempts < MOST_ATTEMPTS:
                        waiting.append(piece)
                        changed.notify_all()
                    else:
                        give_up(piece, f"{error}; {piece.attempts} places were lost")
            except NoPlaceError as error:
                with changed:
                    give_up(piece, str(error))
            except BaseException as error:  # a defect of ours: for the thread that asked
                with changed:
                    defects.append(error)
                    give_up(piece, str(error))
            else:
                with changed:
                    finish(piece, done)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(max(1, places), left))]
    for thread in threads:
        thread.start()
    try:
        for index in range(count):
            with changed:
                changed.wait_for(lambda index=index: index in results or defects)
                if defects:
                    raise defects[0]
            yield results[index]
    finally:
        with changed:
            stopped = True
            changed.notify_all()
