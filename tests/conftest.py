"""What several folders of tests need."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """A cache of the tests' own: they find nothing of the user's and leave nothing behind."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATHANOR_CACHE", str(folder))
        yield folder


def pytest_addoption(parser):
    parser.addoption(
        "--random-graphs", type=int, default=0, metavar="N", help="how many random graphs to try"
    )
    parser.addoption(
        "--float-stride",
        type=int,
        default=16411,
        metavar="N",
        help="test functions on every Nth float32; 1: on all, some minutes a function",
    )


@pytest.fixture(scope="session")
def digits_model():
    """examples/digits.onnx: `image` float32[batch, 1, 8, 8] -> `probabilities` [batch, 10]."""
    return ROOT / "examples" / "digits.onnx"


@pytest.fixture(scope="session")
def digits_artifact(digits_model, tmp_path_factory):
    """The saved artifact of examples/digits.onnx."""
    import athanor

    path = tmp_path_factory.mktemp("digits") / "digits.so"
    return athanor.compile(digits_model).save(path)
