"""The hand-made artifact, built once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import artifacts


@pytest.fixture(scope="session")
def elf(tmp_path_factory):
    return artifacts.compile_elf(tmp_path_factory.mktemp("elf"))


@pytest.fixture(scope="session")
def artifact(elf, tmp_path_factory):
    return artifacts.write(elf, tmp_path_factory.mktemp("artifact") / "m.so")


@pytest.fixture
def model(artifact):
    import athanor

    with athanor.load(artifact, threads=1) as opened:
        yield opened
