"""The writer of artifacts."""

import hashlib
import json
import stat

import artifacts
import pytest

from athanor.errors import CompileError
from athanor.runtime.footer import FOOTER, append_payload, hash_pieces


def test_layout(elf, artifact):
    data, code = artifact.read_bytes(), elf.read_bytes()
    footer = artifacts.read_footer(artifact)
    assert FOOTER.size == 512 == footer["footer_bytes"]
    assert footer["weights_offset"] % 4096 == 0
    assert data[: len(code)] == code
    assert footer["code_bytes"] == len(code)
    assert not any(data[len(code) : footer["weights_offset"]])
    weights = data[footer["weights_offset"] : footer["metadata_offset"]]
    assert weights == artifacts.WEIGHT.tobytes()
    metadata = data[footer["metadata_offset"] : -512]
    assert json.loads(metadata) == artifacts.METADATA
    for name, part in (("code", code), ("weights", weights), ("metadata", metadata)):
        assert footer[f"{name}_sha256"] == hashlib.sha256(part).digest()
    assert footer["triple"].rstrip(b"\0").decode() == artifacts.TRIPLE
    assert stat.S_IMODE(artifact.stat().st_mode) == 0o755


def test_equal_inputs_give_equal_files(elf, artifact, tmp_path):
    assert artifacts.write(elf, tmp_path / "n.so").read_bytes() == artifact.read_bytes()


def test_weights_come_from_pieces_or_a_file(elf, artifact, tmp_path):
    raw = artifacts.WEIGHT.tobytes()
    (tmp_path / "raw").write_bytes(raw)
    for weights in ([raw[:5], b"", bytearray(raw[5:7]), memoryview(raw)[7:]], tmp_path / "raw"):
        path = artifacts.write(elf, tmp_path / "n.so", weights=weights)
        assert path.read_bytes() == artifact.read_bytes()


def test_a_hash_that_is_known_already_is_written_as_it_is(elf, artifact, tmp_path):
    raw = artifacts.WEIGHT.tobytes()
    options = artifacts.METADATA, artifacts.TRIPLE, (), tmp_path / "n.so"
    append_payload(elf, [raw], *options, weights_hash=hash_pieces([raw[:3], raw[3:]]))
    assert (tmp_path / "n.so").read_bytes() == artifact.read_bytes()


def test_pages_are_larger_elsewhere(elf, tmp_path):
    path = artifacts.write(elf, tmp_path / "m.so", triple="aarch64-linux-gnu")
    assert artifacts.read_footer(path)["weights_offset"] % 65536 == 0


def test_weights_beside(elf, tmp_path):
    path = artifacts.write(elf, tmp_path / "m.so", beside=True)
    footer = artifacts.read_footer(path)
    assert (footer["flags"], footer["weights_offset"], footer["weights_bytes"]) == (1, 0, 16)
    assert (tmp_path / "m.so.weights").read_bytes() == artifacts.WEIGHT.tobytes()
    assert artifacts.WEIGHT.tobytes() not in path.read_bytes()


@pytest.mark.parametrize("beside", [False, True])
def test_a_failure_leaves_the_old_files_and_no_other(elf, tmp_path, beside):
    path = artifacts.write(elf, tmp_path / "m.so", beside=beside)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def pieces():
        yield b"1234"
        raise OSError(28, "No space left on device")

    with pytest.raises(CompileError, match=r"can't write .*m\.so: No space left on device"):
        artifacts.write(elf, path, weights=pieces(), beside=beside)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_output_that_cannot_be_written(elf, tmp_path):
    with pytest.raises(CompileError, match=r"can't write .*m\.so: No such file or directory"):
        artifacts.write(elf, tmp_path / "no" / "m.so")
    (tmp_path / "m.so").mkdir()
    with pytest.raises(CompileError, match=r"can't write .*m\.so: Is a directory"):
        artifacts.write(elf, tmp_path / "m.so")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.so"]


def test_names_that_are_too_long(elf, tmp_path):
    with pytest.raises(CompileError, match=r"target triple 'x+' is longer than 63 bytes"):
        append_payload(elf, [], {}, "x" * 64, [], tmp_path / "m.so")
    with pytest.raises(CompileError, match=r"CPU features '.*' is longer than 255 bytes"):
        append_payload(elf, [], {}, "x86_64", ["avx"] * 99, tmp_path / "m.so")
