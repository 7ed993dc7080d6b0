"""Where the cache is."""

from pathlib import Path

import pytest

from athanor.compiler.user_cache import user_cache


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("ATHANOR_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/home/somebody/.cache/athanor"),
        ({"XDG_CACHE_HOME": "/fast"}, "/fast/athanor"),
        ({"XDG_CACHE_HOME": "/fast", "ATHANOR_CACHE": "/here"}, "/here"),
    ],
)
def test_folder(monkeypatch, variables, folder):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_cache() == Path(folder)


@pytest.mark.parametrize("value", ["", "off"])
def test_off(monkeypatch, value):
    monkeypatch.setenv("ATHANOR_CACHE", value)
    assert user_cache() is None


def test_a_user_without_a_home(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert user_cache() is None
