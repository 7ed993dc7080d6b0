"""The package list equals the folders, and the wheel holds all that an install needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from athanor.runtime.fast_call import FastCall

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("compiler", "frontends", "runtime", "schedules", "targets", "tuning")


def configuration():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def module_name(folder):
    """compiler/api -> athanor; compiler/passes -> athanor.compiler.passes."""
    parts = folder.relative_to(ROOT).parts
    return "athanor" if parts == ("compiler", "api") else ".".join(("athanor", *parts))


def packages_on_disk():
    return {
        module_name(path.parent)
        for top in FOLDERS
        for path in (ROOT / top).rglob("__init__.py")
        if "build" not in path.parts
    }


def test_the_package_list_equals_the_folders():
    assert set(configuration()["packages"]) == packages_on_disk()


def test_every_folder_with_python_files_is_a_package():
    for top in FOLDERS:
        for path in (ROOT / top).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_every_top_level_package_is_mapped():
    mapped = configuration()["package-dir"]
    assert mapped == {"athanor": "compiler/api", **{f"athanor.{top}": top for top in FOLDERS}}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves build/ and an egg-info beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    built = subprocess.run(
        [*command, str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("athanor-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_source_file(wheel):
    sources = {
        f"{module_name(path.parent).replace('.', '/')}/{path.name}"
        for top in FOLDERS
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".jsonl") and "__pycache__" not in path.parts
    }
    assert sources - set(wheel.namelist()) == set()


@pytest.mark.parametrize(
    "name",
    [
        "athanor/py.typed",
        "athanor/runtime/include/athanor.h",
        "athanor/runtime/include/athanor_abi.h",
        "athanor/runtime/lib/libathanor.so",
        "athanor/runtime/lib/libathanor.a",
        "athanor/runtime/lib/libathanor_measure.a",
        "athanor/runtime/measure/measure.h",
        "athanor/runtime/measure/main.c",
        "athanor/runtime/measure/rpc/launcher.c",
        pytest.param(
            "athanor/runtime/_fast_call.abi3.so",
            marks=pytest.mark.skipif(FastCall is None, reason="no Python.h of 3.11 or later"),
        ),
    ],
)
def test_the_wheel_holds_the_c_runtime(wheel, name):
    assert name in wheel.namelist()


def test_the_wheel_puts_nothing_beside_athanor(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"athanor"}


def test_the_wheel_installs_the_command(wheel):
    (entry_points,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    assert "athanor = athanor.compiler.cli:main" in wheel.read(entry_points).decode()


def test_the_versions_agree():
    import athanor

    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert athanor.__version__ == written
