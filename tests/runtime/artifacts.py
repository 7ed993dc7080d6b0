"""Artifacts made by hand, so that the loader is tested without the compiler."""

import hashlib
import os
import platform
import struct
import subprocess
from pathlib import Path

import numpy as np

from athanor.runtime.footer import FOOTER, append_payload

HERE = Path(__file__).resolve().parent
RUNTIME = HERE.parents[1] / "runtime"
WEIGHT = np.array([10, 20, 30, 40], np.float32)
METADATA = {"athanor": "by hand", "inputs": ["x", "again", "command"], "note": "größe"}
TRIPLE = f"{platform.machine()}-linux-gnu"
CC = os.environ.get("CC", "cc").split()

FIELDS = (
    "abi_version footer_bytes flags reserved code_bytes weights_offset weights_bytes "
    "metadata_offset metadata_bytes code_sha256 weights_sha256 metadata_sha256 triple cpu_features "
    "footer_sha256 magic"
).split()


def compile_c(*arguments, **options):
    """Run the C compiler; its output is in the failure."""
    done = subprocess.run(
        [*CC, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done


def compile_elf(folder, *flags, source=HERE / "model.c"):
    """The code of model.c, without payload."""
    elf = folder / "code.so"
    compile_c(
        *flags, "-shared", "-fPIC", "-O1", "-std=c11", "-Wall", "-Werror", "-fvisibility=hidden",
        f"-I{RUNTIME / 'include'}", source, "-o", elf, "-lm",
    )  # fmt: skip
    return elf


def write(
    elf,
    output,
    weights=(WEIGHT.tobytes(),),
    features=(),
    beside=False,
    triple=TRIPLE,
    metadata=METADATA,
):
    append_payload(elf, weights, metadata, triple, features, output, beside)
    return output


def read_footer(path):
    return dict(zip(FIELDS, FOOTER.unpack(path.read_bytes()[-FOOTER.size :]), strict=True))


def forge(path, output, **changes):
    """A copy with other footer fields and a hash that fits them."""
    fields = {**read_footer(path), **changes}
    data = FOOTER.pack(*fields.values())
    hashed = data[: -struct.calcsize("32s8s")]
    body = path.read_bytes()[: -FOOTER.size]
    output.write_bytes(body + hashed + hashlib.sha256(hashed).digest() + fields["magic"])
    return output


def feed(batch, command=0, seed=0):
    """Inputs of model.c, x between -1 and 1."""
    x = np.random.default_rng(seed).uniform(-1, 1, (batch, 4)).astype(np.float32)
    return {"x": x, "again": x, "command": np.array([command], np.int32)}


def expected(inputs):
    """What model.c computes, but for `tasks`."""
    total = inputs["x"] + WEIGHT
    return {
        "sum": total,
        "rows": (total[:, 0] + total[:, 1]) + (total[:, 2] + total[:, 3]),
        "positive": inputs["x"][inputs["x"] > 0],
        "scaled": np.arange(2 * len(total)),
    }


def check(results, inputs):
    for name, array in expected(inputs).items():
        np.testing.assert_array_equal(results[name], array, err_msg=name)
