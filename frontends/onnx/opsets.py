"""Opset imports: one version for each domain, and none newer than what the converters follow."""

from __future__ import annotations

import onnx

from athanor.errors import CompileError

REVIEWED = {
    "": 28,
    "ai.onnx.ml": 5,
    "ai.onnx.preview.training": 1,
    "com.microsoft": 1,
}
"""The newest opset of each domain whose changes were read when the converters were written.

An operator that a later opset changes is refused: the converter might compute the old meaning. One
that did not change since is compiled, for the standard says so. A domain that is not here belongs
to the user, as do its versions."""

_SCHEMAS = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
"""The newest opset whose operators the installed onnx package knows."""


def canonical_domain(domain: str) -> str:
    """The domain's one spelling: `ai.onnx` is the default domain ""."""
    return "" if domain == "ai.onnx" else domain


def read_opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Domain -> the version that the model imports.

    Raises CompileError for two versions of one domain, a version below 1, and one that is newer
    than both the reviewed opsets and the installed onnx package, which could not say what changed.
    """
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain, version = canonical_domain(entry.domain), entry.version
        label = domain or "ai.onnx"
        if opsets.setdefault(domain, version) != version:
            raise CompileError(
                f"the model imports opset {opsets[domain]} and opset {version} of domain "
                f"{label!r}; an operator's meaning depends on one"
            )
        if version < 1:
            raise CompileError(f"the model imports opset {version} of domain {label!r}")
        newest = max(REVIEWED.get(domain, version), _SCHEMAS.get(domain, 0))
        if version > newest:
            raise CompileError(
                f"the model imports opset {version} of domain {label!r}, which is newer than "
                f"opset {newest}, the newest that can be read; export it for that or an older one"
            )
    return opsets


def changed_since_review(domain: str, op: str, opset: int) -> int | None:
    """The opset, past the reviewed ones, in which the standard changed the operator, or None."""
    reviewed = REVIEWED.get(domain)
    if reviewed is None or opset <= reviewed:
        return None
    try:
        since = onnx.defs.get_schema(op, opset, domain).since_version
    except onnx.defs.SchemaError:
        return None
    return since if since > reviewed else None
