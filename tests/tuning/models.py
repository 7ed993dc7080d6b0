"""Small models to tune, and a measurer whose times are made up."""

import hashlib

import numpy as np
import onnx

from athanor.tuning.measure import Measurement


def matmul(columns=96, depth=40, rows=16, name="y"):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[{rows}, {depth}] x) => (float[{rows}, {columns}] {name})"
        f" {{ p = MatMul (x, w) {name} = Relu (p) }}"
    )
    made = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((depth, columns), np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return made


class MadeUpTimes:
    """A Measurer that runs nothing: equal candidates have equal times."""

    threads = 2
    cpu = None

    def __init__(self):
        self.measured = []

    def measure(self, candidates, *, interleaved=False, **_options):
        for candidate in candidates:
            if not interleaved:
                self.measured.append(candidate.decisions)
            text = f"{candidate.workload} {candidate.decisions}"
            digest = hashlib.sha256(text.encode()).digest()
            yield Measurement(((1 + digest[0] / 256) * 1e-4,) * 3)

    def close(self):
        pass
