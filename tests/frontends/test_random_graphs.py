"""Random valid graphs of 1 to 12 operators against the onnx reference.

The same graphs every time, few enough for CI; `pytest tests/frontends/test_random_graphs.py
--random-graphs 5000` tries others, as many as asked.
"""

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings

from athanor import CompileError, CompilerDefect, RunError

from .artifact import ours, reference
from .random_graphs import graphs

FEW = 30


def agrees(model, feeds):
    expected = reference(model, feeds)
    try:
        results = ours(model, feeds)
    except CompilerDefect:
        raise
    except (CompileError, RunError):
        # a dimension that is unknown may be one that an operator has to know, to broadcast or not
        dims = [d for value in model.graph.input for d in value.type.tensor_type.shape.dim]
        if not any(dim.dim_param for dim in dims):
            raise
        event("refused")
        return
    event(f"{len(model.graph.node)} nodes")
    for mine, theirs in zip(results, expected, strict=True):
        theirs = np.asarray(theirs)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        if mine.dtype.kind == "i":
            np.testing.assert_array_equal(mine, theirs)
        else:
            largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=1)
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5 * largest)


def test_random_graphs(request):
    many = request.config.getoption("--random-graphs")

    @settings(
        max_examples=many or FEW,
        derandomize=not many,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs())
    def check(pair):
        model, feeds = pair
        onnx.checker.check_model(model, full_check=True)
        agrees(model, feeds)

    check()
