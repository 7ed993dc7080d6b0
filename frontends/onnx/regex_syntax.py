"""A regular expression in RE2's syntax -> a tree.

What the standard's operators ask for: https://github.com/google/re2/wiki/Syntax. Everything that
says which strings match is taken, but for flags, classes of Unicode and quoting; what only says
which part of a string a match takes (laziness, names of groups) makes no difference and is dropped.
"""

from __future__ import annotations

import string
from dataclasses import dataclass

_LAST = 0x10FFFF
_MOST_REPEATS = 1000  # RE2's own limit


class RegexError(ValueError):
    """The pattern is wrong, or uses what is not supported; the text says what."""


@dataclass(frozen=True)
class Chars:
    """One character of a set: sorted ranges of code points, ends included."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sequence:
    """One part after another."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Choice:
    """One of the parts."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Repeat:
    """A part again and again: at least `least` times, and at most `most` times if not None."""

    part: Tree
    least: int
    most: int | None


@dataclass(frozen=True)
class Border:
    """A place between characters: begin, end, word (a border of a word) or inside (none)."""

    kind: str


Tree = Chars | Sequence | Choice | Repeat | Border


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return tuple(result)


def _complement(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    result, start = [], 0
    for low, high in _merged(ranges):
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    return [*result, (start, _LAST)] if start <= _LAST else result


def _of(characters: str) -> list[tuple[int, int]]:
    return [(ord(c), ord(c)) for c in characters]


_CLASSES = {
    "d": _of(string.digits),
    "s": _of("\t\n\f\r "),
    "w": _of(string.ascii_letters + string.digits + "_"),
}
_CLASSES |= {name.upper(): _complement(ranges) for name, ranges in _CLASSES.items()}
_POSIX = {
    "alnum": _of(string.ascii_letters + string.digits),
    "alpha": _of(string.ascii_letters),
    "ascii": [(0, 127)],
    "blank": _of("\t "),
    "cntrl": [(0, 31), (127, 127)],
    "digit": _CLASSES["d"],
    "graph": [(33, 126)],
    "lower": _of(string.ascii_lowercase),
    "print": [(32, 126)],
    "punct": _of(string.punctuation),
    "space": _of("\t\n\v\f\r "),
    "upper": _of(string.ascii_uppercase),
    "word": _CLASSES["w"],
    "xdigit": _of(string.hexdigits),
}
_ESCAPES = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_BORDERS = {"A": "begin", "z": "end", "b": "word", "B": "inside"}


def parse(pattern: str) -> Tree:
    """The tree of a pattern. Raises RegexError."""
    parser = _Parser(pattern)
    tree = parser.choice()
    if parser.at < len(pattern):
        raise RegexError(f"an unexpected ')' at {parser.at}")
    return tree


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Whether `text` comes next; then it is read."""
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self) -> str:
        if self.at >= len(self.pattern):
            raise RegexError("the pattern ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def choice(self) -> Tree:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self) -> Tree:
        parts: list[Tree] = []
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            parts.append(self.repeated(self.atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def repeated(self, tree: Tree) -> Tree:
        counts: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        found = next((mark for mark in counts if self.take(mark)), None)
        bounds = counts[found] if found else self.bounds()
        if bounds is None:
            return tree
        self.take("?")  # lazy
        if any(self.peek(mark) for mark in counts):
            raise RegexError(f"a repetition of a repetition at {self.at}")
        return Repeat(tree, *bounds)

    def bounds(self) -> tuple[int, int | None] | None:
        """{n}, {n,} or {n,m}; what else begins with a brace is that character."""
        if not self.peek("{"):
            return None
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : max(end, 0)].partition(",")
        if end < 0 or not low.isascii() or not low.isdigit() or not (high.isdigit() or not high):
            return None
        self.at = end + 1
        least, most = int(low), int(high) if high else None if comma else int(low)
        if max(least, most or 0) > _MOST_REPEATS or (most is not None and most < least):
            raise RegexError(f"a repetition {{{low}{comma}{high}}}")
        return least, most

    def atom(self) -> Tree:
        if self.take("("):
            return self.group()
        if self.take("["):
            return self.bracket()
        character = self.next()
        if character == "\\":
            return self.escape()
        if character in "*+?":
            raise RegexError(f"a repetition of nothing at {self.at - 1}")
        if character in "^$":
            return Border("begin" if character == "^" else "end")
        if character == ".":
            return Chars(_merged(_complement(_of("\n"))))
        return Chars(_merged(_of(character)))

    def group(self) -> Tree:
        if self.take("?") and not self.take(":"):
            if not (self.take("P<") or (not self.peek("<=") and self._named())):
                raise RegexError(f"(?{self.pattern[self.at : self.at + 1]} is not supported")
            end = self.pattern.find(">", self.at)
            if end < 0 or not self.pattern[self.at : end].isidentifier():
                raise RegexError("a group's name is wrong")
            self.at = end + 1
        tree = self.choice()
        if not self.take(")"):
            raise RegexError("a ')' is missing")
        return tree

    def _named(self) -> bool:
        return not self.peek("<!") and self.take("<")

    def escape(self) -> Tree:
        if self.at < len(self.pattern) and (kind := _BORDERS.get(self.pattern[self.at])):
            self.at += 1
            return Border(kind)
        return Chars(_merged(self.escaped()))

    def escaped(self) -> list[tuple[int, int]]:
        """The characters that the escape at hand stands for."""
        character = self.next()
        if character in _CLASSES:
            return _CLASSES[character]
        if character in _ESCAPES:
            return [(_ESCAPES[character], _ESCAPES[character])]
        if character == "x":
            digits = self.next()
            if digits == "{":
                end = self.pattern.find("}", self.at)
                digits, self.at = self.pattern[self.at : end], end + 1
            else:
                digits += self.next()
            if not digits or any(c not in string.hexdigits for c in digits) or len(digits) > 6:
                raise RegexError(f"\\x{digits} is no character")
            code = int(digits, 16)
            if code > _LAST:
                raise RegexError(f"\\x{digits} is no character")
            return [(code, code)]
        if character.isascii() and character.isalnum():
            raise RegexError(f"\\{character} is not supported")
        return _of(character)

    def bracket(self) -> Tree:
        is_negated = self.take("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or not self.peek("]"):
            first = False
            name = next((n for n in _POSIX if self.peek(f"[:{n}:]") or self.peek(f"[:^{n}:]")), "")
            if name:
                is_other = self.take(f"[:^{name}:]") or not self.take(f"[:{name}:]")
                ranges += _complement(_POSIX[name]) if is_other else _POSIX[name]
                continue
            if self.peek("[:"):
                raise RegexError(f"an unknown class at {self.at}")
            low = self.one()
            if len(low) == 1 and low[0][0] == low[0][1] and self._is_range():
                self.at += 1
                high = self.one()
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise RegexError(f"a range of characters that ends before {self.at}")
                low = [(low[0][0], high[0][0])]
            ranges += low
        self.at += 1
        return Chars(_merged(_complement(ranges) if is_negated else ranges))

    def one(self) -> list[tuple[int, int]]:
        """One character of a set, or an escape."""
        character = self.next()
        return self.escaped() if character == "\\" else _of(character)

    def _is_range(self) -> bool:
        return self.peek("-") and not self.peek("-]") and self.at + 1 < len(self.pattern)
