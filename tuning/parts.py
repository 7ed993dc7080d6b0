"""A model's nodes in parts that can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Parts:
    """The finest parts of which each group of nodes lies in one."""

    def __init__(self, groups: Iterable[Sequence[str]]) -> None:
        self._parents: dict[str, str] = {}
        for nodes in groups:
            for node in nodes[1:]:
                self._parents[self.find(node)] = self.find(nodes[0])

    def find(self, node: str) -> str:
        """The part of a node, by the name of one of its nodes."""
        while (parent := self._parents.get(node, node)) != node:
            node = parent
        return node

    def of(self, operators: Iterable[Sequence[str]]) -> set[str]:
        """The parts of some operators, each given by its nodes."""
        return {self.find(node) for nodes in operators for node in nodes}
