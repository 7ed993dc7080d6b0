"""The process that runs candidates, one request a line of JSON on stdin, one answer on stdout.

    {"measure": path, "arguments": [[dtype, shape, role], ...], "seed": 0, "expected": path or null,
     "threads": 2, "control": {...}}      ->  {"seconds": [...]} or {"kind": ..., "sentence": ...}

It needs NumPy and the C runtime. What is loaded stays loaded, so that candidates can take turns.
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from athanor.errors import RunError
from athanor.runtime.loader import load
from athanor.runtime.model import Model
from athanor.tuning.measure import CRASH, WRONG_RESULT, Argument
from athanor.tuning.protocol import CONTROL_FIELDS, difference, input_arrays

_KEPT = 32
"""Artifacts that stay open."""


class _Worker:
    def __init__(self) -> None:
        self.models: OrderedDict[str, Model] = OrderedDict()
        self.checked: set[str] = set()
        self.inputs: tuple[Any, list[np.ndarray]] = (None, [])
        self.expected: tuple[str, list[np.ndarray]] = ("", [])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Measure one candidate."""
        key = request["arguments"], request["seed"]
        if self.inputs[0] != key:
            arguments = [Argument(d, tuple(s), r) for d, s, r in request["arguments"]]
            self.inputs = key, input_arrays(arguments, request["seed"])
        threads, path, reference = request["threads"], request["measure"], request["expected"]
        if reference is not None and path not in self.checked:
            once = {**dict.fromkeys(CONTROL_FIELDS, 0), "warmups": 1}
            if self.expected[0] != reference:
                self.expected = reference, self.run(reference, once, threads)[1:]
            wrong = difference(self.run(path, once, threads)[1:], self.expected[1])
            if wrong is not None:
                return {"kind": WRONG_RESULT, "sentence": wrong}
            self.checked.add(path)
        seconds = self.run(path, request["control"], threads)[0]
        return {"seconds": [float(value) for value in seconds if value >= 0]}

    def run(self, path: str, control: dict[str, int], threads: int) -> list[np.ndarray]:
        """The artifact's outputs: times, and those of the kernel."""
        model = self.models.get(path)
        if model is None:
            model = self.models[path] = load(path, threads)
            if len(self.models) > _KEPT:
                self.models.popitem(last=False)[1].close()
        self.models.move_to_end(path)
        values = np.array([control[field] for field in CONTROL_FIELDS], np.int64)
        arrays = [values, *self.inputs[1]]
        names = [spec.name for spec in model.inputs]
        return list(model.run(dict(zip(names, arrays, strict=True))).values())


def main() -> None:
    """Answer until stdin ends."""
    # Answers go to the pipe that the parent reads; what code prints must not come between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = _Worker()
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = worker.answer(request)
        except RunError as error:
            name = Path(request["measure"]).name
            answer = {"kind": CRASH, "sentence": f"{name}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
