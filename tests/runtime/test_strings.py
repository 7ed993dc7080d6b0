"""The C functions on strings, which artifacts hold, under sanitizers."""

import subprocess

import artifacts
import pytest


@pytest.mark.parametrize("flags", [(), ("-fsanitize=address,undefined", "-fno-sanitize-recover")])
@pytest.mark.parametrize("standard", ["c11", "gnu17"])
def test_functions_on_strings(flags, standard, tmp_path):
    driver = tmp_path / "driver"
    artifacts.compile_c(
        f"-std={standard}", "-g", "-O1", "-Wall", "-Wextra", "-Werror", *flags,
        f"-I{artifacts.RUNTIME / 'include'}", artifacts.HERE / "strings_driver.c", "-o", driver,
    )  # fmt: skip
    subprocess.run([driver], check=True)
