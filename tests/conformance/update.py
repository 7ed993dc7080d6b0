"""Run the suite and write expected_failures.txt again, or expected_failures_cuda.txt.

A case passes or is refused with a CompileError. A wrong result, another error, a crash or a
time-out makes the exit status 1.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import click

sys.path.insert(0, str(Path(__file__).parents[1]))
from conformance.suite import LISTS, cases, outcomes

HEADER = """\
# Cases of ONNX's backend suite that do not pass, and why. Written by update.py.
"""


@click.command(help=__doc__)
@click.option("--filter", "pattern", default="", help="Only cases whose name matches; no list.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
@click.option("--log", type=click.File("w"), help="Write each outcome and the seconds since start.")
@click.option("--device", type=click.Choice(list(LISTS)), default="cpu", show_default=True)
def main(pattern: str, jobs: int, log: TextIO | None, device: str) -> None:
    """See the top of the file."""
    started = time.monotonic()
    names = [name for name in cases() if re.search(pattern, name)]
    results: dict[str, str] = {}
    with outcomes(names, jobs, device) as futures:
        for name, future in futures.items():
            results[name] = future.result()
            if log:
                log.write(f"{name}\t{results[name]}\t{time.monotonic() - started:.1f}\n")
                log.flush()
    failed = sorted(f"{name}\t{text}\n" for name, text in results.items() if text != "ok")
    print("".join(failed))
    if not pattern:
        LISTS[device].write_text(HEADER + "".join(line for line in failed if "\trefused: " in line))
    counts = Counter(text.split(":")[0] for text in results.values())
    print(f"{dict(counts)} of {len(results)} in {time.monotonic() - started:.0f} s")
    if set(counts) - {"ok", "refused"}:
        sys.exit(1)


if __name__ == "__main__":
    main()
