"""A process that compiles and runs models for the conformance tests.

A model that crashes the compiler, or a kernel that crashes, ends this process and nothing else. One
process serves many cases, so TVM is imported once.

usage: worker.py FD, a socket on which it gets models (bytes), then lists of inputs, and answers
each with (outcome, value): "ok", "refused" or "error".
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from typing import Any

import onnx

import athanor

Outcome = tuple[str, Any]


def prepare(content: bytes) -> Any:
    """The model, compiled, linked and loaded."""
    model = onnx.ModelProto.FromString(content)
    return athanor.compile(model).load(threads=1)


def run(model: Any, inputs: list[Any]) -> list[Any]:
    """The outputs in order, of inputs in order."""
    names = [spec.name for spec in model.inputs]
    return list(model.run(dict(zip(names, inputs, strict=True))).values())


def answer(request: Any, model: Any) -> tuple[Outcome, Any]:
    """What to reply, and the model that further requests are for."""
    try:
        if isinstance(request, bytes):
            model = None  # and so it stays where this one is refused
            model = prepare(request)
            return ("ok", None), model
        return ("ok", run(model, request)), model
    except athanor.CompilerDefect as error:
        return ("error", str(error)), model
    except athanor.CompileError as error:
        return ("refused", str(error)), model
    except athanor.RunError as error:
        return ("refused", f"run: {error}"), model
    except Exception as error:
        return ("error", f"{type(error).__name__}: {error}"), model


def main() -> None:
    """Serve until the other side closes."""
    connection = Connection(int(sys.argv[1]))
    model = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        reply, model = answer(request, model)
        connection.send(reply)


if __name__ == "__main__":
    main()
