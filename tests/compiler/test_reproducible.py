"""Equal models, options and tools give equal bytes."""

import athanor


def test_two_compilations_give_the_same_file(digits_model, tmp_path):
    first, second = (
        athanor.compile(digits_model, "x86-64-v3").save(tmp_path / name).read_bytes()
        for name in ("first.so", "second.so")
    )
    assert first == second
