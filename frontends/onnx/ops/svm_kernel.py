"""Probabilities of classes from those of pairs of classes, as LIBSVM couples them."""

# Buffer types below are values of the enclosing function, which the TVMScript parser looks up;
# so annotations must not be postponed in this file.

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

_CLOSEST = 1e-7  # probabilities of pairs stay this far from 0 and 1


def coupling_kernel(rows: Any, classes: int) -> tirx.PrimFunc:
    """Pairs' probabilities A (rows, pairs) to P (rows, classes), by fixed-point iteration.

    It stops where LIBSVM's does, not at the fixed point: exported models expect that. C, Q, V and E
    are workspace: probabilities of the pairs as a matrix, the quadratic form, its product with P,
    and (P Q P, error).
    Source: Wu, Lin and Weng, Probability estimates for multi-class classification by pairwise
    coupling, 2004, algorithm 2.
    """
    pairs = classes * (classes - 1) // 2
    rounds = max(100, classes)
    limit = tirx.const(0.005 / classes, "float64")
    low, high = tirx.const(_CLOSEST, "float64"), tirx.const(1 - _CLOSEST, "float64")
    zero, one, two = (tirx.const(value, "float64") for value in (0, 1, 2))
    share = tirx.const(1 / classes, "float64")

    def pair(i: Any, j: Any) -> Any:
        """The number of pair i < j."""
        return i * (2 * classes - i - 1) // 2 + j - i - 1

    def chance(table: Any, row: Any, i: Any, j: Any) -> Any:
        """The probability of class i against class j; 0 for i = j."""
        number = tirx.max(tirx.min(pair(tirx.min(i, j), tirx.max(i, j)), pairs - 1), 0)
        value = tirx.min(tirx.max(table[row, number], low), high)
        against = tirx.Select(i < j, value, one - value)
        return tirx.Select(i == j, zero, against)

    def step(product: Any, total: Any, diagonal: Any) -> Any:
        return (total - product) / diagonal

    @T.prim_func(private=True, s_tir=True)
    def couple(
        A: T.Buffer((rows, pairs), "float64"),
        P: T.Buffer((rows, classes), "float64"),
        C: T.Buffer((rows, classes, classes), "float64"),
        Q: T.Buffer((rows, classes, classes), "float64"),
        V: T.Buffer((rows, classes), "float64"),
        E: T.Buffer((rows, 2), "float64"),
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        with T.sblock("root"):
            for r in T.parallel(rows):
                for i, j in T.grid(classes, classes):
                    C[r, i, j] = chance(A, r, i, j)
                for i, j in T.grid(classes, classes):
                    Q[r, i, j] = -C[r, j, i] * C[r, i, j]
                for i in T.serial(classes):
                    P[r, i] = share
                    Q[r, i, i] = zero
                    for j in T.serial(classes):
                        Q[r, i, i] = Q[r, i, i] + C[r, j, i] * C[r, j, i]
                for _ in T.serial(rounds):
                    E[r, 0] = zero
                    for i in T.serial(classes):
                        V[r, i] = zero
                        for j in T.serial(classes):
                            V[r, i] = V[r, i] + Q[r, i, j] * P[r, j]
                        E[r, 0] = E[r, 0] + P[r, i] * V[r, i]
                    E[r, 1] = zero
                    for i in T.serial(classes):
                        E[r, 1] = tirx.max(E[r, 1], tirx.abs(V[r, i] - E[r, 0]))
                    if E[r, 1] >= limit:
                        for t in T.serial(classes):
                            E[r, 1] = step(V[r, t], E[r, 0], Q[r, t, t])
                            P[r, t] = P[r, t] + E[r, 1]
                            E[r, 0] = (
                                E[r, 0] + E[r, 1] * (E[r, 1] * Q[r, t, t] + two * V[r, t])
                            ) / ((one + E[r, 1]) * (one + E[r, 1]))
                            for j in T.serial(classes):
                                V[r, j] = (V[r, j] + E[r, 1] * Q[r, t, j]) / (one + E[r, 1])
                                P[r, j] = P[r, j] / (one + E[r, 1])

    return couple
