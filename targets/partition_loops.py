"""Loops with conditions -> loops without conditions and their rests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import tvm
import tvm_ffi
from tvm import ir, tirx
from tvm.ir import IRModule, Range
from tvm.sym import Analyzer, detect_linear_equation

HINT = "pragma_loop_partition_hint"
"""Loop annotation by which a schedule rule asks for a loop without conditions and a rest."""

GUARD = "pragma_athanor_guard"
"""Loop annotation by which a rule asks for one branch without conditions and one with them, where
what decides the conditions is known before the loop."""

_MOST_CUTS = 64
"""Pieces are code: a concatenation of more inputs keeps the conditions of the last ones."""

CONDITIONAL = ir.Op.get("prim.if_then_else")
"""What `tirx.if_then_else` calls."""

_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


@dataclass
class _Cut:
    """A place in a loop, and the comparisons that are decided before it and from it on."""

    place: Any
    before: list[tuple[tirx.Expr, bool]] = field(default_factory=list)
    after: list[tuple[tirx.Expr, bool]] = field(default_factory=list)


@tvm.transform.module_pass(opt_level=0, name="PartitionLoops")
class PartitionLoops:
    """Cut each loop that carries HINT where the conditions in it change.

        for j in range(n):                            # HINT
            y[j] = T.if_then_else(j < p, 0, x[j - p])

    becomes, with m = max(0, min(p, n)),

        for j in range(m):
            y[j] = 0
        for j in range(n - m):
            y[m + j] = x[m + j - p]

    A comparison takes part if it is linear in the loop's variable with a constant factor, and in
    variables of loops inside, by whose limits it gets two places: up to one it surely holds, from
    the other it surely doesn't. Places m[1] <= m[2] <= ... are each cut off at the one before and
    at the ends of the loop, so the pieces cover the loop exactly, whatever the values turn out to
    be; a piece takes for known only what follows from its own two ends. Equalities, and what is
    not linear, stay.

    A loop with GUARD is written twice instead, for conditions that the loops around it decide:

        if task * 16 + 15 < n:                        # GUARD
            for lane in range(16):
                y[task * 16 + lane] = x[lane]
        else:
            for lane in range(16):
                if task * 16 + lane < n:
                    y[task * 16 + lane] = x[lane]

    Instead of TVM's LoopPartition (0.27), which cuts in an order of addresses, moves pieces that
    should be empty into the loop, runs pieces out of it, and recurses without end in others.
    """

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """See the class."""
        for variable, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc):
                mod[variable] = func.with_body(_partitioned(func.body))
        return mod


def _partitioned(body: tirx.Stmt) -> tirx.Stmt:
    analyzer = Analyzer()

    def enter(loop: tirx.For, mutator: Any) -> Any:
        _bind(analyzer, loop.loop_var, loop.min, loop.extent)
        return mutator.default_mutate(loop)

    def partition(hint: tirx.AttrStmt, mutator: Any) -> Any:
        if hint.attr_key == GUARD:
            guards = _guards(hint.body, analyzer)
            if not guards:
                return mutator.mutate(hint.body)
            conditions = [holds for _, holds in guards]
            plain = _copy(hint.body, [(comparison, True) for comparison, _ in guards], {})
            return tirx.IfThenElse(
                tirx.all(*conditions), mutator.mutate(plain), mutator.mutate(hint.body)
            )
        if hint.attr_key != HINT:
            return mutator.default_mutate(hint)
        loop = hint.body
        assert isinstance(loop, tirx.For), "the hint stands around its loop"
        pieces = [mutator.mutate(piece) for piece in _pieces(loop, analyzer)]
        return pieces[0] if len(pieces) == 1 else tirx.SeqStmt(pieces)

    return tvm_ffi.structural_mutate(body, [(tirx.AttrStmt, partition), (tirx.For, enter)])


def _bind(analyzer: Analyzer, variable: tirx.Var, begin: Any, extent: Any) -> None:
    # A symbolic range would put its expressions into all that is simplified.
    if isinstance(begin, tirx.IntImm) and isinstance(extent, tirx.IntImm) and int(extent) > 0:
        analyzer.bind(variable, Range.from_min_extent(begin, extent), allow_override=True)


def _pieces(loop: tirx.For, analyzer: Analyzer) -> list[tirx.Stmt]:
    """The loop's pieces in order, without those that are surely empty."""
    known, cuts = _cuts(loop, analyzer)
    zero = loop.extent * 0
    begin: Any = analyzer.simplify(zero)
    pieces = []
    for number, cut in enumerate([*cuts, None]):
        decided = list(known)
        for passed in cuts[:number]:
            decided += passed.after
        for ahead in range(number, len(cuts)):
            if ahead > number and not analyzer.can_prove(
                cuts[ahead - 1].place <= cuts[ahead].place
            ):
                break
            decided += cuts[ahead].before
        end = loop.extent
        if cut is not None:
            end = _least(cut.place, end, analyzer)
            end = -_least(-end, -begin, analyzer)
        end = analyzer.simplify(end)
        extent = analyzer.simplify(end - begin)
        if not analyzer.can_prove(extent <= 0):
            pieces.append(_piece(loop, begin, extent, decided, analyzer))
        begin = end
    return pieces or [tirx.Evaluate(tirx.IntImm("int32", 0))]


def _least(first: Any, second: Any, analyzer: Analyzer) -> Any:
    if analyzer.can_prove(first <= second):
        return first
    return second if analyzer.can_prove(second <= first) else tirx.min(first, second)


def _piece(
    loop: tirx.For,
    begin: Any,
    extent: Any,
    decided: Iterable[tuple[tirx.Expr, bool]],
    analyzer: Analyzer,
) -> tirx.Stmt:
    variable = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
    place = analyzer.simplify(begin + loop.min + variable)
    body = _copy(loop.body, decided, {_identity(loop.loop_var): place})
    start = analyzer.simplify(begin * 0)
    kind, binding = loop.kind, loop.thread_binding
    return tirx.For(variable, start, extent, kind, body, binding, loop.annotations)


def _copy(
    body: tirx.Stmt, decided: Iterable[tuple[tirx.Expr, bool]], moved: dict[int, Any]
) -> tirx.Stmt:
    """A copy with known comparisons, other values for some variables, and memory of its own."""
    values = {_identity(comparison): value for comparison, value in decided}
    moved = dict(moved)

    def decide(comparison: tirx.Expr) -> tirx.Expr:
        value = values.get(_identity(comparison))
        return comparison if value is None else tirx.IntImm("bool", value)

    def allocate(alloc: tirx.AllocBuffer) -> None:
        buffer = alloc.buffer
        moved[_identity(buffer)] = tirx.Var(buffer.name, buffer.ty)

    tvm_ffi.structural_walk(body, (tirx.AllocBuffer, allocate))
    body = tvm_ffi.structural_map(body, (_COMPARISONS, decide), order="pre")
    return tvm_ffi.structural_map(body, (tirx.Var, lambda var: moved.get(_identity(var), var)))


def _guards(body: tirx.Stmt, analyzer: Analyzer) -> list[tuple[tirx.Expr, tirx.Expr]]:
    """Comparisons that what lies outside decides, each with what says that it always holds."""
    inner, inside = _variables(body)
    found = []
    for comparison in _comparisons(body):
        difference = _difference(comparison)
        if difference is None:
            continue
        around = [each for each in inner.values() if uses(difference, each.loop_var)]
        variables = [each.loop_var for each in around]
        terms = detect_linear_equation(analyzer.simplify(difference), variables)
        if not terms or not all(isinstance(term, tirx.IntImm) for term in terms[:-1]):
            continue
        if not _is_settled(terms[-1], inside):
            continue
        _, greatest = _ends(terms[-1], zip(around, map(int, terms[:-1]), strict=True))
        holds = analyzer.simplify(greatest < 0)
        if not analyzer.can_prove(tirx.Not(holds)):
            found.append((comparison, holds))
    return found


def _difference(comparison: tirx.Expr) -> tirx.Expr | None:
    """A comparison of integers as `difference < 0`."""
    a, b = comparison.a, comparison.b
    if isinstance(comparison, tirx.GT | tirx.GE):
        a, b = b, a
    if str(a.ty.dtype) not in ("int32", "int64"):
        return None
    return a - b - 1 if isinstance(comparison, tirx.LE | tirx.GE) else a - b


def _ends(rest: Any, terms: Iterable[tuple[tirx.For, int]]) -> tuple[Any, Any]:
    """Least and greatest of rest + the sum of loops' variables times factors."""
    least = greatest = rest
    for each, times in terms:
        ends = [int(each.min) * times, (int(each.min) + int(each.extent) - 1) * times]
        least, greatest = least + min(ends), greatest + max(ends)
    return least, greatest


def _cuts(loop: tirx.For, analyzer: Analyzer) -> tuple[list[tuple[tirx.Expr, bool]], list[_Cut]]:
    """What holds in the whole loop, and where it is to be cut, in order as far as one is known."""
    inner, inside = _variables(loop.body)
    known: list[tuple[tirx.Expr, bool]] = []
    cuts: list[_Cut] = []
    for comparison in _comparisons(loop.body):
        for cut in _places(comparison, loop, inner, inside, analyzer):
            if analyzer.can_prove(cut.place <= 0):
                known += cut.after
            elif analyzer.can_prove(cut.place >= loop.extent):
                known += cut.before
            else:
                _insert(cuts, cut, analyzer)
    return known, cuts[:_MOST_CUTS]


def _insert(cuts: list[_Cut], new: _Cut, analyzer: Analyzer) -> None:
    """Put a cut behind all that are surely not after it, and before those that surely are."""
    for number, old in enumerate(cuts):
        if analyzer.can_prove_equal(old.place, new.place):
            old.before += new.before
            old.after += new.after
            return
        if analyzer.can_prove(new.place <= old.place):
            cuts.insert(number, new)
            return
    cuts.append(new)


def _places(
    comparison: tirx.Expr,
    loop: tirx.For,
    inner: dict[int, tirx.For],
    inside: set[int],
    analyzer: Analyzer,
) -> list[_Cut]:
    """Where a comparison begins and ends to be undecided along the loop: none, one or two cuts."""
    difference = _difference(comparison)
    if difference is None:
        return []
    around = [each for each in inner.values() if uses(difference, each.loop_var)]
    variables = [loop.loop_var, *(each.loop_var for each in around)]
    terms = detect_linear_equation(analyzer.simplify(difference), variables)
    if not terms or not all(isinstance(term, tirx.IntImm) for term in terms[:-1]):
        return []
    factor, *factors = (int(term) for term in terms[:-1])
    if factor == 0 or not _is_settled(terms[-1], inside):
        return []
    # The rest of the sum, least and greatest over the loops inside.
    rest = terms[-1] + loop.min * factor
    least, greatest = _ends(rest, zip(around, factors, strict=True))
    if factor > 0:  # holds for place < -rest / factor
        holds, fails = (tirx.floordiv(factor - 1 - rest, factor) for rest in (greatest, least))
        found = [_Cut(holds, before=[(comparison, True)]), _Cut(fails, after=[(comparison, False)])]
    else:  # holds for place > rest / -factor
        fails, holds = (tirx.floordiv(rest, -factor) + 1 for rest in (least, greatest))
        found = [_Cut(fails, before=[(comparison, False)]), _Cut(holds, after=[(comparison, True)])]
    for cut in found:
        cut.place = analyzer.simplify(cut.place)
    return found


def _comparisons(body: tirx.Stmt) -> list[tirx.Expr]:
    """Comparisons in conditions of branches, selects and conditional expressions."""
    found: dict[int, tirx.Expr] = {}

    def condition(expr: tirx.Expr) -> None:
        def note(comparison: tirx.Expr) -> None:
            found.setdefault(_identity(comparison), comparison)

        tvm_ffi.structural_walk(expr, (_COMPARISONS, note))

    def call(expr: ir.Call) -> None:
        if CONDITIONAL.same_as(expr.op):
            condition(expr.args[0])

    branches = ((tirx.Select, tirx.IfThenElse), lambda branch: condition(branch.condition))
    tvm_ffi.structural_walk(body, [branches, (ir.Call, call)])
    return list(found.values())


def _variables(body: tirx.Stmt) -> tuple[dict[int, tirx.For], set[int]]:
    """Loops of known limits in the body, by variable, and all variables that it defines."""
    loops: dict[int, tirx.For] = {}
    inside: set[int] = set()

    def see(loop: tirx.For) -> None:
        inside.add(_identity(loop.loop_var))
        limits = (loop.min, loop.extent)
        if all(isinstance(limit, tirx.IntImm) for limit in limits) and int(loop.extent) > 0:
            loops[_identity(loop.loop_var)] = loop

    def define(statement: tirx.Bind) -> None:
        inside.add(_identity(statement.var))

    tvm_ffi.structural_walk(body, [(tirx.For, see), (tirx.Bind, define)])
    return loops, inside


def uses(expr: tirx.Expr, variable: tirx.Var) -> bool:
    """Whether a variable occurs in an expression."""
    return any(used.same_as(variable) for used in tirx.analysis.undefined_vars(expr))


def _is_settled(expr: tirx.Expr, inside: set[int]) -> bool:
    """Whether the value is the same before the loop as anywhere in it."""
    found: list[object] = []
    tvm_ffi.structural_walk(expr, ((ir.TensorLoad, ir.Call, tirx.Let), found.append))
    used = tirx.analysis.undefined_vars(expr)
    return not found and not any(_identity(variable) in inside for variable in used)


def _identity(node: Any) -> int:
    """Equal for the same node only; `==` of expressions makes an expression."""
    return node.__hash__()
