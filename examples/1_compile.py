"""An ONNX model to a shared library, and a run of it. Run: python examples/1_compile.py."""

import tempfile
from pathlib import Path

import numpy as np

import athanor

folder = Path(tempfile.mkdtemp())

# Compile: needs TVM, onnx and a C compiler. The batch of this model is symbolic.
artifact = athanor.compile(Path(__file__).with_name("digits.onnx"))
artifact.save(folder / "digits.so")
print(f"compiled for {artifact.metadata['target']['name']}")

# Run: needs NumPy and the file.
model = athanor.load(folder / "digits.so", threads=1)
print("inputs: ", *(f"{x.name} {x.dtype}{list(x.shape)}" for x in model.inputs))
print("outputs:", *(f"{x.name} {x.dtype}{list(x.shape)}" for x in model.outputs))

# A one, as 8x8 pixels.
one = np.zeros((1, 1, 8, 8), np.float32)
one[..., 3:5] = 1
probabilities = model.run({"image": one})["probabilities"]
print(f"the digit is {probabilities.argmax()}, with probability {probabilities.max():.1%}")
assert probabilities.argmax() == 1
