"""Dimensions printed to C have the value that TIR gives them."""

import itertools
import subprocess

from tvm import tirx

from athanor.compiler.cexpr import PRELUDE, c_expression


def test_values(tmp_path):
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    cases = {
        "n * 8 + m": (n * 8 + m, lambda n, m: n * 8 + m),
        "n // 3": (n // 3, lambda n, m: n // 3),
        "(n - 7) // 4": ((n - 7) // 4, lambda n, m: (n - 7) // 4),
        "(n - 7) % 4": ((n - 7) % 4, lambda n, m: (n - 7) % 4),
        "max": (tirx.max(n, m * 2), lambda n, m: max(n, m * 2)),
        "min": (tirx.min(n, m) - 1, lambda n, m: min(n, m) - 1),
        "select": (tirx.Select(n < m, n, m + 5), lambda n, m: n if n < m else m + 5),
    }
    names = {"n": "n", "m": "m"}
    printed = [c_expression(expr, lambda var: names[var.name]) for expr, _ in cases.values()]
    lines = "".join(f'  printf("%lld\\n", (long long)({text}));\n' for text in printed)
    values = list(itertools.product([0, 1, 2, 5, 11], [0, 3, 4, 100]))
    calls = "".join(f"  show({n_}, {m_});\n" for n_, m_ in values)
    (tmp_path / "t.c").write_text(
        "#include <stdint.h>\n#include <stdio.h>\n"
        + PRELUDE
        + f"static void show(int64_t n, int64_t m) {{\n{lines}}}\nint main(void) {{\n{calls}}}\n"
    )
    subprocess.run(["cc", "-w", "t.c", "-o", "t"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "t"], capture_output=True, text=True, check=True).stdout
    expected = [str(f(n_, m_)) for n_, m_ in values for _, f in cases.values()]
    assert out.split() == expected
