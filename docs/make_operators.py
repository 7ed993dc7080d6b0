"""Writes docs/operators.md from the converter table and the standard's own list of operators.

python docs/make_operators.py            write the page
python docs/make_operators.py --check    exit 1 where it is no longer what is generated
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

from athanor.frontends.onnx.not_supported import REASONS
from athanor.frontends.onnx.operators import Operators
from athanor.frontends.onnx.ops import CONVERTERS
from athanor.frontends.onnx.opsets import REVIEWED

PAGE = Path(__file__).with_name("operators.md")
OPERATORS = Operators(CONVERTERS)

HEAD = """\
# Operators

`python docs/make_operators.py` writes this page from the converter table,
`frontends/onnx/ops/__init__.py`; a test keeps it current. `athanor check model.onnx` says for one
model what this page says for all.

*Opsets*: the versions of the operator's own domain in which it is compiled; a gap is a version in
which the standard does not have it, or has it in a form that is refused. *By*: a converter, or the
function body by which the standard defines the operator. A supported operator may still be refused
for one node, in a sentence that says which attribute, element type or shape it was.

An opset that is newer than the last one listed here is taken where it leaves an operator as it was,
and the operator is refused where it does not. An operator of your own needs a converter of your
own: [custom-operators.md](custom-operators.md).
"""

TITLES = {
    "": "ai.onnx, the standard's own domain",
    "ai.onnx.ml": "ai.onnx.ml",
    "ai.onnx.preview.training": "ai.onnx.preview.training",
    "com.microsoft": "com.microsoft, what exporters emit for ONNX Runtime",
}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for domain in TITLES for line in section(domain))])


def section(domain: str) -> Iterator[str]:
    """The tables of one domain: what is supported, then what is not."""
    newest = REVIEWED[domain]
    names = {op for where, op, _ in CONVERTERS if where == domain} | set(standard_names(domain))
    rows, refused = [], []
    for name in sorted(names):
        found = {v: how for v in range(1, newest + 1) if (how := support(domain, name, v))}
        if found:
            by = " or ".join(sorted(set(found.values())))
            rows.append(f"| {name} | {ranges(sorted(found))} | {by} |")
        else:
            refused.append(f"| {name} | {REASONS.get((domain, name), 'no converter yet')} |")
    yield f"## {TITLES[domain]}\n"
    yield f"{len(rows)} operators, opsets to {newest}.\n"
    yield "| operator | opsets | by |\n|---|---|---|"
    yield from rows
    if refused:
        yield "\n| not supported | reason |\n|---|---|"
        yield from refused
    yield ""


def standard_names(domain: str) -> Iterator[str]:
    """Every operator that the reviewed opsets of a domain have ever had."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == domain and schema.since_version <= REVIEWED[domain]:
            yield schema.name


def support(domain: str, name: str, opset: int) -> str:
    """How the operator is compiled in that opset; "" where it is not."""
    try:
        schema = onnx.defs.get_schema(name, opset, domain)
    except onnx.defs.SchemaError:
        schema = None
    if (schema is None and domain != "com.microsoft") or (schema is not None and schema.deprecated):
        return ""
    if OPERATORS.find(domain, name, opset):
        return "converter"
    if schema is None:
        return ""
    if schema.has_context_dependent_function:
        return "function body"
    if schema.has_function and all(
        support(node.domain, node.op_type, opset) for node in schema.function_body.node
    ):
        return "function body"
    return ""


def ranges(versions: list[int]) -> str:
    """[1, 2, 3, 7] -> `1 to 3, 7`."""
    parts: list[list[int]] = []
    for version in versions:
        if parts and parts[-1][1] == version - 1:
            parts[-1][1] = version
        else:
            parts.append([version, version])
    return ", ".join(f"{a} to {b}" if a != b else str(a) for a, b in parts)


def main() -> int:
    """Write or check; the exit code."""
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE} is out of date; run: python docs/make_operators.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
