"""A process that compiles and runs models for the conformance tests.

A model that crashes the compiler, or a kernel that crashes, ends this process and nothing else. One
process serves many cases, so TVM is imported once.

usage: worker.py FD, a socket on which it gets models (bytes and "CPU" or "CUDA"), then lists of
inputs, and answers each with (outcome, value): "ok", "refused" or "error". For "CUDA" a model is
compiled for a GPU, and run by the test driver of tests/cuda.
"""

from __future__ import annotations

import functools
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnx

import athanor

Outcome = tuple[str, Any]


def prepare(content: bytes, device: str) -> Any:
    """The model, compiled, linked and loaded."""
    model = onnx.ModelProto.FromString(content)
    if device == "CUDA":
        emulated_driver().fake_reset(90, 1)
        return athanor.compile(model, "cuda").load(threads=1)
    return athanor.compile(model).load(threads=1)


@functools.cache
def emulated_driver() -> Any:
    """The test driver, which from now on gets images that it can run."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))
    import emulation

    from athanor.compiler import image_cache

    os.environ["ATHANOR_CACHE"] = "off"  # or such images would be taken for a GPU's
    image_cache.device_image = emulation.emulated_image
    return emulation.driver()


def run(model: Any, inputs: list[Any]) -> list[Any]:
    """The outputs in order, of inputs in order."""
    names = [spec.name for spec in model.inputs]
    results = list(model.run(dict(zip(names, inputs, strict=True))).values())
    if emulated_driver.cache_info().currsize:
        broken = emulated_driver().fake_broken().decode()
        assert not broken, broken
    return results


def answer(request: Any, model: Any) -> tuple[Outcome, Any]:
    """What to reply, and the model that further requests are for."""
    try:
        if isinstance(request, tuple):
            model = None  # and so it stays where this one is refused
            model = prepare(*request)
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
