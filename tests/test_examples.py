"""Each Python example runs alone, as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run_example(name, *arguments, cwd):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_compile(tmp_path):
    assert re.search(
        r"the digit is 1, with probability \d+\.\d%", run_example("1_compile.py", cwd=tmp_path)
    )


def test_vector_add(tmp_path):
    """Scalar additions before `vectorize`, vector additions after it, and both were called."""
    text = run_example("2_vector_add.py", cwd=tmp_path)
    before, after = text.split("==== after vectorize: TIR")
    assert re.search(r"fadd float", before)
    assert not re.search(r"fadd <\d+ x float>", before)
    assert re.search(r"fadd <\d+ x float>", after)
    assert text.count("compiled, loaded and called") == 2


def test_custom_operator(tmp_path):
    text = run_example("5_custom_operator.py", cwd=tmp_path)
    assert "two operators of my.domain, compiled and run" in text
    assert "unsupported operators (2)" in text


def test_train_digits(tmp_path):
    """A fifth of the training gives a network that has learnt; the committed one is as claimed."""
    import athanor

    run_example("train_digits.py", tmp_path / "digits.onnx", 8, cwd=tmp_path)
    sys.path.insert(0, str(EXAMPLES))
    try:
        from train_digits import DIGITS_ONNX, split_digits
    finally:
        sys.path.remove(str(EXAMPLES))
    _, _, images, labels = split_digits()
    for path, least in ((tmp_path / "digits.onnx", 0.9), (DIGITS_ONNX, 0.97)):
        model = athanor.compile(path).load(threads=1)
        found = model.run({"image": np.ascontiguousarray(images)})["probabilities"].argmax(1)
        assert (found == labels).mean() > least


def test_demo(tmp_path):
    text = run_example("demo.py", cwd=tmp_path)
    assert "light_resnet50" in text
    (accuracy,) = re.findall(r"digits: (\d+\.\d+)% of 599 held-out images", text)
    assert float(accuracy) > 97
