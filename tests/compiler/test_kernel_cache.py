"""Compiled kernels kept from one compilation to the next."""

import os
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest

import athanor
from athanor.compiler import kernel_cache as kernel_cache_module
from athanor.compiler import kernels as kernels_module
from athanor.compiler.kernel_cache import CachedKernel, kernel_cache
from athanor.schedules.rule import ScheduleWarning
from athanor.targets import find_target

TARGET = find_target("native")


def model(width=24, name="y"):
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"net (float[5, 40] x) => (float[5, {width}] {name})"
        f" {{ p = MatMul (x, w) {name} = Relu (p) }}"
    )
    made = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((40, width), np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return made


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ATHANOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def scheduled(monkeypatch):
    """The symbols of the kernels that are scheduled from here on."""
    symbols = []
    schedule = kernels_module.schedule_and_lower

    def note(symbol, func, target):
        symbols.append(symbol)
        return schedule(symbol, func, target)

    monkeypatch.setattr(kernels_module, "schedule_and_lower", note)
    return symbols


def entries(folder):
    return sorted(path for path in folder.glob("??/*"))


def artifact_bytes(tmp_path, **options):
    return athanor.compile(model(), **options).save(tmp_path / "m.so").read_bytes()


def test_a_second_compilation_takes_the_kernels_from_the_cache(folder, scheduled, tmp_path):
    first = artifact_bytes(tmp_path)
    assert len(scheduled) == len(entries(folder)) == 1
    assert artifact_bytes(tmp_path) == first
    assert len(scheduled) == 1
    # neither names nor the place in a model are a kernel's
    other = athanor.compile(model(name="another"))
    assert len(scheduled) == 1
    x = np.ones((5, 40), np.float32)
    (found,) = other.load(threads=1).run({"x": x}).values()
    (expected,) = athanor.compile(model(), cache=False).load(threads=1).run({"x": x}).values()
    np.testing.assert_array_equal(found, expected)


def test_what_a_kernel_depends_on_is_part_of_its_key(folder, scheduled, monkeypatch):
    athanor.compile(model())
    athanor.compile(model(width=25))
    assert len(scheduled) == 2
    athanor.compile(model(), target="x86-64-v2")
    assert len(scheduled) == 3
    monkeypatch.setattr(kernel_cache_module, "_recipe", lambda: "rules of another version")
    athanor.compile(model())
    assert len(scheduled) == len(entries(folder)) == 4


def test_it_can_be_turned_off(folder, scheduled, monkeypatch, tmp_path):
    first = artifact_bytes(tmp_path, cache=False)
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    assert artifact_bytes(tmp_path) == first
    assert len(scheduled) == 2
    assert entries(folder) == []


def test_kept_ir_is_made_anew(folder, scheduled):
    athanor.compile(model())
    texts = athanor.compile(model(), keep_ir=True).metadata["ir"]
    assert len(scheduled) == 2
    assert all(set(text) == {"tir", "scheduled", "llvm", "asm"} for text in texts.values())


@pytest.mark.parametrize("damage", [b"", b"{}", b"text", None])
def test_a_damaged_entry_is_made_again(folder, scheduled, tmp_path, damage):
    first = artifact_bytes(tmp_path)
    (entry,) = entries(folder)
    good = entry.read_bytes()
    flipped = bytearray(good)
    flipped[-1] ^= 1
    entry.write_bytes(bytes(flipped) if damage is None else damage)
    assert artifact_bytes(tmp_path) == first
    assert len(scheduled) == 2
    assert entry.read_bytes() == good


def test_an_equal_hash_is_not_enough(folder):
    """The entry of another kernel under this one's key is no hit."""
    cache = kernel_cache(TARGET)
    programs = [kernels_of(model(width)) for width in (24, 25)]
    (one,), (other,) = (list(kernels.values()) for kernels in programs)
    cache.store("00" * 10, one, CachedKernel(b"code", "Rule"))
    assert cache.find("00" * 10, one) == CachedKernel(b"code", "Rule")
    assert cache.find("00" * 10, other) is None


def kernels_of(proto):
    from athanor.compiler.driver import plan_program
    from athanor.frontends.onnx.importer import import_model

    return plan_program(import_model(proto), TARGET)[0].kernels


def test_a_kernel_whose_rule_failed_is_not_kept(folder, monkeypatch):
    schedule = kernels_module.schedule_and_lower

    def warn(symbol, func, target):
        warnings.warn("a rule failed", ScheduleWarning, stacklevel=1)
        return schedule(symbol, func, target)

    monkeypatch.setattr(kernels_module, "schedule_and_lower", warn)
    for _ in range(2):  # the second compilation warns as the first did
        with warnings.catch_warnings():
            warnings.simplefilter("always", ScheduleWarning)
            with pytest.warns(ScheduleWarning, match="a rule failed"):
                athanor.compile(model())
    assert entries(folder) == []


def test_the_oldest_entries_go_first(folder):
    (func,) = kernels_of(model()).values()
    cache = kernel_cache(TARGET)
    keys = [f"{number:02x}" * 10 for number in range(8)]
    for number, key in enumerate(keys):
        cache.store(key, func, CachedKernel(bytes(10_000), "Rule"))
        os.utime(cache._path(folder, key), (number, number))
    assert cache.find(keys[0], func) is not None  # used: the newest now
    size = entries(folder)[0].stat().st_size
    cache.prune(8 * size)
    assert len(entries(folder)) == 8
    cache.prune(6 * size)
    left = [key for key in keys if cache.find(key, func) is not None]
    assert left == [keys[0], *keys[-3:]]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATHANOR_CACHE", str(tmp_path / "file"))
    athanor.compile(model())


def test_processes_share_the_folder(folder, tmp_path):
    """Two that compile the same at the same time, each with all its entries written and read."""
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    code = f"import athanor; athanor.compile({str(path)!r}).save({str(tmp_path)!r} + '/%d.so')"
    running = [subprocess.Popen([sys.executable, "-c", code % number]) for number in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len({(tmp_path / f"{number}.so").read_bytes() for number in range(2)}) == 1
    (entry,) = entries(folder)
    assert not entry.name.startswith(".")
