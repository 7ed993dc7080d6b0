"""A regular expression -> the table of an automaton that reads UTF-8, byte by byte.

Matching a whole string needs no backtracking: each byte is one step from state to state. What a
state has to know besides the places in the pattern is what the last byte was, for borders of words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from athanor.frontends.onnx.regex_syntax import (
    Border,
    Chars,
    Choice,
    RegexError,
    Repeat,
    Sequence,
    Tree,
    parse,
)

_MOST_STATES = 4096
_MOST_PLACES = 20_000
_MOST_STEPS = 5_000_000  # of work on the states, some seconds
_NONE, _WORD, _OTHER = range(3)  # what is before or behind a place: nothing, a word's byte, another
_WORD_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@dataclass(frozen=True)
class Automaton:
    """State 0 is the first. `next[state, classes[byte]]`; a state matches where a string ends."""

    classes: np.ndarray  # (256,) uint8
    next: np.ndarray  # (states, classes) int32
    matches: np.ndarray  # (states,) uint8


def compile_regex(pattern: str) -> Automaton:
    """The automaton of the strings that match the whole pattern. Raises RegexError."""
    places = _Places()
    start = places.new()
    return _determined(places, start, places.add(parse(pattern), start))


class _Places:
    """The places in the pattern, and how one gets from one to another."""

    def __init__(self) -> None:
        self.free: list[list[tuple[str, int]]] = []
        """By place: what border there has to be ("" for none), and the place behind it."""
        self.bytes: list[list[tuple[int, int, int]]] = []
        """By place: the bytes from, to, and the place behind one of them."""

    def new(self) -> int:
        if len(self.free) >= _MOST_PLACES:
            raise RegexError("the pattern is too long")
        self.free.append([])
        self.bytes.append([])
        return len(self.free) - 1

    def add(self, tree: Tree, start: int) -> int:
        """Add a part that begins at a place; the place where it ends."""
        match tree:
            case Chars():
                end = self.new()
                for low, high in tree.ranges:
                    for sequence in _utf8(low, high):
                        self._add_bytes(sequence, start, end)
                return end
            case Sequence():
                for part in tree.parts:
                    start = self.add(part, start)
                return start
            case Choice():
                end = self.new()
                for part in tree.parts:
                    self.free[self.add(part, start)].append(("", end))
                return end
            case Border():
                end = self.new()
                self.free[start].append((tree.kind, end))
                return end
        return self._add_repeat(tree, start)

    def _add_bytes(self, sequence: list[tuple[int, int]], start: int, end: int) -> None:
        for index, (low, high) in enumerate(sequence):
            after = end if index == len(sequence) - 1 else self.new()
            self.bytes[start].append((low, high, after))
            start = after

    def _add_repeat(self, tree: Repeat, start: int) -> int:
        for _ in range(tree.least):
            start = self.add(tree.part, start)
        if tree.most is None:
            # a place of its own, so that nothing of the part before repeats
            again = self.new()
            self.free[start].append(("", again))
            self.free[self.add(tree.part, again)].append(("", again))
            return again
        ends = [start]
        for _ in range(tree.most - tree.least):
            ends.append(self.add(tree.part, ends[-1]))
        # a place of its own here too: the last part may end where it repeats something
        last = self.new()
        for end in ends:
            self.free[end].append(("", last))
        return last


def _utf8(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """The ranges of bytes that encode a range of code points; a list for each length and prefix."""
    for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)):
        if max(low, first) <= min(high, last):
            yield from _same_length(max(low, first), min(high, last))


def _same_length(low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    left, right = (chr(c).encode("utf-8", "surrogatepass") for c in (low, high))
    # split until all bytes behind the first that differs run over their whole range
    for index in range(1, len(left)):
        mask = (1 << 6 * (len(left) - index)) - 1
        if low & ~mask != high & ~mask:
            if low & mask:
                yield from _same_length(low, low | mask)
                yield from _same_length((low | mask) + 1, high)
                return
            if high & mask != mask:
                yield from _same_length(low, (high & ~mask) - 1)
                yield from _same_length(high & ~mask, high)
                return
    yield list(zip(left, right, strict=True))


def _determined(places: _Places, start: int, end: int) -> Automaton:
    """States are sets of places with the kind of the last byte."""
    classes, samples = _byte_classes(places)
    first = (frozenset([start]), _NONE)
    numbers: dict[tuple[frozenset[int], int], int] = {first: 0}
    waiting, rows, matches, steps = [first], [], [], 0
    for state in waiting:
        held, before = state
        matches.append(end in _closure(places, held, before, _NONE))
        reached = {kind: _closure(places, held, before, kind) for kind in (_WORD, _OTHER)}
        steps += len(samples) * sum(len(places.bytes[place]) + 1 for place in reached[_WORD])
        if steps > _MOST_STEPS:
            raise RegexError("the pattern is too complex")
        row = []
        for byte in samples:
            kind = _WORD if byte in _WORD_BYTES else _OTHER
            after = frozenset(
                target
                for place in reached[kind]
                for low, high, target in places.bytes[place]
                if low <= byte <= high
            )
            key = (after, kind if after else _OTHER)
            if key not in numbers:
                if len(numbers) >= _MOST_STATES:
                    raise RegexError(f"the pattern needs more than {_MOST_STATES} states")
                numbers[key] = len(numbers)
                waiting.append(key)
            row.append(numbers[key])
        rows.append(row)
    return Automaton(classes, np.array(rows, np.int32), np.array(matches, np.uint8))


def _byte_classes(places: _Places) -> tuple[np.ndarray, list[int]]:
    """The class of each byte, and a byte of each class: no rule of the pattern tells them apart."""
    rules = sorted({(low, high) for edges in places.bytes for low, high, _ in edges})
    seen: dict[tuple[bool, ...], int] = {}
    classes, samples = np.zeros(256, np.uint8), []
    for byte in range(256):
        key = (byte in _WORD_BYTES, *(low <= byte <= high for low, high in rules))
        if key not in seen:
            seen[key] = len(samples)
            samples.append(byte)
        classes[byte] = seen[key]
    return classes, samples


def _closure(places: _Places, held: frozenset[int], before: int, behind: int) -> set[int]:
    """All places that are reached without reading, between these two."""
    is_word_border = (before == _WORD) != (behind == _WORD)
    holds = {
        "": True,
        "begin": before == _NONE,
        "end": behind == _NONE,
        "word": is_word_border,
        "inside": not is_word_border,
    }
    reached, waiting = set(held), list(held)
    while waiting:
        for border, target in places.free[waiting.pop()]:
            if holds[border] and target not in reached:
                reached.add(target)
                waiting.append(target)
    return reached
