"""A crash costs one case: the worker process is started again."""

import signal
import threading

import onnx
import pytest

from .backend import AthanorBackend, Refused, worker
from .suite import outcome


def test_a_worker_that_dies_is_replaced():
    process = worker().process
    process.send_signal(signal.SIGSTOP)
    threading.Timer(0.2, process.kill).start()
    with pytest.raises(RuntimeError, match="crash: exit status -9"):
        worker().ask([])
    assert outcome("test_relu") == "ok"
    assert worker().process.pid != process.pid


def test_a_refusal_is_told_from_other_errors():
    text = """
        <ir_version: 10, opset_import: ["" : 20, "acme" : 1]>
        g (float[2] x) => (float[2] y) { y = acme.NoSuchOperator (x) }
    """
    model = onnx.parser.parse_model(text)
    with pytest.raises(Refused, match="NoSuchOperator"):
        AthanorBackend.prepare(model)
    with pytest.raises(RuntimeError, match="error: "):
        worker().ask(["no model was prepared"])
