"""Files appear whole or not at all."""

import pytest

from athanor.compiler.write_aside import OutputError, check_writable, write_aside


def test_written(tmp_path):
    with write_aside(tmp_path / "a") as file:
        file.write(b"whole")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left")])
def test_a_failure_keeps_what_was_there(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises((KeyboardInterrupt, ValueError, OutputError)), write_aside(tmp_path / "a"):
        raise error
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_refused_before_the_work(tmp_path):
    with pytest.raises(OutputError, match=r"can't write .*: it is a directory"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        check_writable(tmp_path / "nowhere" / "a")
