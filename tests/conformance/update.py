"""Run the whole suite, each case in a process of its own, and rewrite expected_failures.txt.

usage: update.py [--filter REGEX] [--jobs N] [--check]
A case must pass or raise CompileError; a wrong result, another error, a crash or a time-out is
printed as such, and with --check makes the exit status 1.
"""

import argparse
import importlib
import multiprocessing
import re
import sys
import time
from collections import Counter
from pathlib import Path

import onnx
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

sys.path.insert(0, str(Path(__file__).parent))
from backend import AthanorBackend

import athanor

LIST = Path(__file__).parent / "expected_failures.txt"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
HEADER = """\
# Cases of ONNX's backend suite that Athanor refuses, with the reason. Written by update.py.
"""


def data_sets(case):
    """(inputs, outputs) pairs, as the suite's runner loads them."""
    if case.data_sets is not None:
        return case.model, case.data_sets
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        pair = []
        for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
            paths = [data / f"{kind}_{i}.pb" for i in range(len(list(data.glob(f"{kind}_*.pb"))))]
            pair.append([load_value(path, values[i].type) for i, path in enumerate(paths)])
        sets.append(tuple(pair))
    return model, sets


def as_array(value):
    """The array of a TensorProto; anything else as it is."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def load_value(path, type_proto):
    """A tensor, sequence or optional from its file."""
    content = path.read_bytes()
    if type_proto.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if type_proto.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


def outcome(case) -> str:
    """ "ok", or what went wrong."""
    try:
        model, sets = data_sets(case)
        prepared = AthanorBackend.prepare(model)
        for inputs, outputs in sets:
            actual = list(prepared.run(inputs))
            outputs = [as_array(value) for value in outputs]
            Runner.assert_similar_outputs(
                outputs, actual, rtol=case.rtol, atol=case.atol, model_dir=case.model_dir
            )
    except athanor.CompileError as error:
        return f"refused: {' '.join(str(error).split())[:160]}"
    except AssertionError as error:
        return f"wrong: {' '.join(str(error).split())[:160]}"
    except BaseException as error:
        return f"error: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return "ok"


def run_all(cases, jobs: int, limit_secs: float = 120) -> dict[str, str]:
    """The outcome of each case; children are forked, so a crash costs one case."""
    context = multiprocessing.get_context("fork")
    results: dict[str, str] = {}
    waiting, running = list(reversed(cases)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop()
            queue = context.SimpleQueue()
            child = context.Process(target=lambda q=queue, c=case: q.put(outcome(c)))
            child.start()
            running[case.name] = (child, queue, time.monotonic())
        for name, (child, queue, started) in list(running.items()):
            if not queue.empty():
                results[name] = queue.get()
            elif not child.is_alive():
                results[name] = f"crash: exit status {child.exitcode}"
            elif time.monotonic() - started > limit_secs:
                results[name] = f"time-out: {limit_secs} s"
            else:
                continue
            child.kill()
            child.join()
            del running[name]
        time.sleep(0.002)
    return results


def main() -> int:
    """Run, print the summary, rewrite the list unless filtered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    importlib.import_module("athanor.compiler.driver")  # once, before forking
    cases = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    cases = [case for case in cases if re.search(options.filter, case.name)][:: options.every]
    results = run_all(cases, options.jobs)
    bad = {name: text for name, text in results.items() if text != "ok"}
    for name, text in sorted(bad.items()):
        print(f"{name}\t{text}")
    counts = Counter(text.split(":")[0] for text in results.values())
    print(f"{counts['ok']} of {len(results)} pass; {dict(counts)}")
    if not options.filter and options.every == 1:
        lines = [f"{name}\t{text}\n" for name, text in sorted(bad.items())]
        LIST.write_text(HEADER + "".join(lines))
    unsound = [text for text in bad.values() if not text.startswith("refused")]
    return 1 if options.check and unsound else 0


if __name__ == "__main__":
    sys.exit(main())
