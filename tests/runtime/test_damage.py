"""An artifact that is damaged, cut short, of another version or for another machine is refused."""

import shutil

import artifacts
import pytest

import athanor
from athanor import RunError
from athanor.runtime.loader import inspect

SHA = "[0-9a-f]{64}"


def flipped(path, output, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    output.write_bytes(data)
    return output


def regions(path):
    """Name in the error -> byte positions of that part: its ends and some inside."""
    footer = artifacts.read_footer(path)
    size = path.stat().st_size
    ranges = {
        "code": (0, footer["code_bytes"]),
        "padding": (footer["code_bytes"], footer["weights_offset"]),
        "weights": (footer["weights_offset"], footer["metadata_offset"]),
        "metadata": (footer["metadata_offset"], size - 512),
        "footer": (size - 512, size),
    }
    return {
        name: sorted({*range(start, stop, max(1, (stop - start) // 23)), stop - 1})
        for name, (start, stop) in ranges.items()
    }


@pytest.mark.parametrize("part", ["code", "padding", "weights", "metadata", "footer"])
def test_a_flipped_bit_is_refused_by_name(artifact, tmp_path, part):
    sentence = {
        "code": rf"code of .*m\.so is damaged: SHA-256 is {SHA}, expected {SHA}",
        "padding": r"padding of .*m\.so is damaged: byte \d+ is not zero",
        "weights": rf"weights of .*m\.so are damaged: SHA-256 is {SHA}, expected {SHA}",
        "metadata": rf"metadata of .*m\.so is damaged: SHA-256 is {SHA}, expected {SHA}",
        "footer": r"footer( of .*m\.so)? is damaged",
    }[part]
    positions = regions(artifact)[part]
    assert len(positions) > 10
    for index, position in enumerate(positions):
        path = flipped(artifact, tmp_path / "m.so", position, bit=index % 8)
        with pytest.raises(RunError, match=sentence):
            athanor.load(path)
        with pytest.raises(RunError, match=sentence):
            inspect(path, verify=True)


def test_without_verification_only_footer_and_sizes_are_checked(artifact, tmp_path):
    position = artifacts.read_footer(artifact)["weights_offset"] + 3
    path = flipped(artifact, tmp_path / "m.so", position, bit=7)
    model = athanor.load(path, threads=1, verify=False)
    assert model.run(artifacts.feed(1))["sum"][0, 0] < 0  # the sign of the first weight
    model.close()
    with pytest.raises(RunError, match=r"weights of .* are damaged"):
        athanor.load(path, verify=True)


def test_inspection_reads_no_damaged_metadata(artifact, tmp_path):
    path = flipped(artifact, tmp_path / "m.so", regions(artifact)["metadata"][3])
    with pytest.raises(RunError, match=r"metadata of .* is damaged"):
        inspect(path)


def test_every_truncation_is_refused(artifact, tmp_path):
    data = artifact.read_bytes()
    path = tmp_path / "m.so"
    lengths = {*range(0, len(data), len(data) // 97), *range(1, 70), len(data) - 1, len(data) - 512}
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        with pytest.raises(
            RunError, match=r"m\.so is (cut short|no Athanor artifact: it is empty)"
        ):
            athanor.load(path)


def test_a_hole_and_an_addition_are_refused(artifact, tmp_path):
    data = artifact.read_bytes()
    path = tmp_path / "m.so"
    for changed in (data[:5000] + data[5001:], data[:5000] + b"x" + data[5000:]):
        path.write_bytes(changed)
        with pytest.raises(RunError, match=r"m\.so is cut short or was joined from parts"):
            athanor.load(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(RunError, match="cut short, or its footer is damaged"):
        athanor.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_offset", 2**63),
        ("weights_offset", 1),
        ("weights_bytes", 2**64 - 1),
        ("metadata_offset", 2**64 - 4096),
        ("metadata_bytes", 2**64 - 1),
        ("code_bytes", 2**64 - 1),
        ("footer_bytes", 256),
        ("flags", 1),
        ("triple", b"x" * 64),
        ("cpu_features", b"x" * 256),
    ],
)
def test_sizes_that_do_not_add_up(artifact, tmp_path, field, value):
    path = artifacts.forge(artifact, tmp_path / "m.so", **{field: value})
    for verify in (None, False):
        with pytest.raises(RunError, match="sizes in its footer do not add up"):
            athanor.load(path, verify=verify)


@pytest.mark.parametrize("version", [0, 1, 77])
def test_another_abi_version_names_both(artifact, tmp_path, version):
    path = artifacts.forge(artifact, tmp_path / "m.so", abi_version=version)
    sentence = rf"m\.so has ABI version {version}, this library \(\d+\.\d+\.\d+\) reads version 3"
    for verify in (None, False):
        with pytest.raises(RunError, match=sentence):
            athanor.load(path, verify=verify)
    with pytest.raises(RunError, match=sentence):
        inspect(path)


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (b"avx1024", r"m\.so needs the CPU feature avx1024, which this machine lacks"),
        (b"3dnowprefetch2 avx1024", r"CPU features 3dnowprefetch2 avx1024, which this machine"),
    ],
)
def test_a_missing_cpu_feature_is_named_before_any_code_runs(
    artifact, tmp_path, features, sentence
):
    path = artifacts.forge(artifact, tmp_path / "m.so", cpu_features=features)
    # Damaged code, not verified: were it loaded, the message would be the dynamic linker's.
    flipped(path, path, 0)
    with pytest.raises(RunError, match=sentence):
        athanor.load(path, verify=False)
    assert inspect(path) == artifacts.METADATA


def test_all_features_of_this_machine_are_found(elf, tmp_path):
    """Each by CPUID or by /proc/cpuinfo, so that no artifact is refused where it could run."""
    from athanor.targets.detect import cpu_features

    features = sorted(cpu_features())
    assert len(features) > 3
    for start in range(0, len(features), 12):
        path = artifacts.write(elf, tmp_path / "m.so", features=features[start : start + 12])
        athanor.load(path, threads=1).close()


def test_another_processor_family(elf, tmp_path):
    path = artifacts.write(elf, tmp_path / "m.so", triple="riscv64-linux-gnu")
    with pytest.raises(RunError, match=r"m\.so is for riscv64-linux-gnu, this library runs on "):
        athanor.load(path)
    assert inspect(path, verify=True) == artifacts.METADATA


def test_what_is_no_artifact(elf, tmp_path):
    path = tmp_path / "m.so"
    with pytest.raises(RunError, match=r"can't open .*m\.so: No such file"):
        athanor.load(path)
    with pytest.raises(RunError, match="is no regular file"):
        athanor.load(tmp_path)
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(RunError, match=r"m\.so is no Athanor artifact: it is no ELF file"):
        athanor.load(path)
    other = tmp_path / "other.c"
    other.write_text("int f(void) { return 1; }\n")
    artifacts.compile_c("-shared", other, "-o", path)
    with pytest.raises(RunError, match="no Athanor artifact: it is a library without the footer"):
        athanor.load(path)
    artifacts.write(path, tmp_path / "n.so")
    with pytest.raises(RunError, match=r"n\.so does not export athanor_descriptor"):
        athanor.load(tmp_path / "n.so")
    shutil.copy(elf, path)
    with pytest.raises(RunError, match="cut short, or its footer is damaged"):
        athanor.load(path)
    with pytest.raises(RunError, match="zero byte"):
        athanor.load("m\0.so")


def test_code_that_wants_other_weights(elf, tmp_path):
    path = artifacts.write(elf, tmp_path / "m.so", weights=[b"\0" * 32])
    with pytest.raises(RunError, match="the code wants 16 bytes of weights, there are 32"):
        athanor.load(path)


def test_weights_beside(elf, tmp_path):
    path = artifacts.write(elf, tmp_path / "m.so", beside=True)
    weights = tmp_path / "m.so.weights"
    inputs = artifacts.feed(3)
    with athanor.load(path, threads=1) as model:
        artifacts.check(model.run(inputs), inputs)
    link = tmp_path / "links" / "current.so"
    link.parent.mkdir()
    link.symlink_to(path)
    with athanor.load(link, threads=1) as model:
        artifacts.check(model.run(inputs), inputs)
    flipped(weights, weights, 5)
    with pytest.raises(RunError, match=rf"weights of .*\.weights are damaged: SHA-256 is {SHA}"):
        athanor.load(path)
    with pytest.raises(RunError, match=r"weights of .*\.weights are damaged"):
        inspect(path, verify=True)
    weights.write_bytes(bytes(17))
    with pytest.raises(RunError, match=r"m\.so\.weights has 17 bytes, expected 16"):
        athanor.load(path, verify=False)
    weights.unlink()
    with pytest.raises(RunError, match=r"weights of .*m\.so are missing: can't open .*\.weights"):
        athanor.load(path)
    assert inspect(path) == artifacts.METADATA


def test_a_replaced_file_is_another_model(elf, tmp_path):
    """The dynamic linker knows the path already; it must not hand out the old code."""
    path = artifacts.write(elf, tmp_path / "m.so")
    old = athanor.load(path, threads=1)
    source = (artifacts.HERE / "model.c").read_text()
    changed = tmp_path / "changed.c"
    changed.write_text(source.replace("c->x[4 * row + i] + c->weight[i]", "c->x[4 * row + i]"))
    assert changed.read_text() != source
    artifacts.write(artifacts.compile_elf(tmp_path, source=changed), path)
    new = athanor.load(path, threads=1)
    inputs = artifacts.feed(2)
    artifacts.check(old.run(inputs), inputs)
    assert (new.run(inputs)["sum"] == inputs["x"]).all()
