"""The verbs of `athanor`: parses arguments, calls commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

import athanor
from athanor.compiler.commands import arguments as parse
from athanor.compiler.tuning_cli import database, tune
from athanor.errors import AthanorError

# A command's module is imported when it runs, so that `athanor run` pays for NumPy alone and
# `athanor compile --help` for nothing.

_PRECISION = click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the numbers that convolutions and matrix products multiply; tf32, fp16 on GPUs.",
)
_SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="INPUT:DIM,...",
    help="Fix or name the dimensions of an input, as in x:1,3,224,224 or ids:batch,128.",
)
_TARGET = click.option("--target", default="native", show_default=True, help="Machine to run on.")
_DATABASE = click.option(
    "--database", type=click.Path(path_type=Path), help="Folder of tuning records."
)
_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), help="Threads to run with; default: every core."
)
_DIM = click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Size of a symbolic dimension in generated inputs; default 1.",
)
_SEED = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of generated inputs."
)
_DEVICE = click.option(
    "--device", type=click.IntRange(min=0), default=0, help="Which GPU, of a model for one."
)
_CUDA_GRAPH = click.option(
    "--cuda-graph", is_flag=True, help="Capture runs on a GPU as CUDA graphs, and replay them."
)
_MODEL = click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
_ARTIFACT = click.argument("artifact", metavar="MODEL.so", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(athanor.__version__, prog_name="athanor")
def cli() -> None:
    """An ONNX model in, one self-contained shared library out.

    \b
    Example:
      athanor compile model.onnx -o model.so
      athanor run model.so --input x=x.npy
    """


@cli.command()
@_MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Artifact to write; default: the model's name with .so, in the current folder.",
)
@_TARGET
@_SHAPE
@_DATABASE
@click.option("--keep-ir", is_flag=True, help="Keep every kernel's IR for `athanor inspect`.")
@click.option("--no-cache", is_flag=True, help="Compile every kernel, and keep none.")
@click.option("--profile", is_flag=True, help="Let `athanor profile` time the artifact's kernels.")
@click.option(
    "--winograd/--no-winograd",
    default=True,
    help="Winograd's method for convolutions where it is faster; default: yes.",
)
@_PRECISION
@click.option(
    "--weights-beside/--weights-inside",
    default=None,
    help="Weights in MODEL.so.weights or in MODEL.so; default: beside only past 1.5 GB.",
)
def compile(
    model: Path,
    output: Path | None,
    target: str,
    shapes: Sequence[str],
    database: Path | None,
    keep_ir: bool,
    no_cache: bool,
    profile: bool,
    winograd: bool,
    precision: str,
    weights_beside: bool | None,
) -> None:
    """Compile an ONNX model to a shared library.

    \b
    Example:
      athanor compile resnet50.onnx -o resnet50.so --shape x:1,3,224,224
      athanor compile bert.onnx --target x86-64-v3 --shape ids:batch,128
    """
    from athanor.compiler.commands.compile import run_compile

    run_compile(
        model,
        output or Path(model.with_suffix(".so").name),
        target=target,
        shapes=parse.shapes(shapes),
        database=database,
        keep_ir=keep_ir,
        weights_beside=weights_beside,
        profile=profile,
        cache=not no_cache,
        winograd=winograd,
        precision=precision,
    )


@cli.command()
@_MODEL
@_TARGET
@_SHAPE
@_DIM
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(
    model: Path, target: str, shapes: Sequence[str], dims: Sequence[str], as_json: bool
) -> None:
    """Say whether a model will compile, and what a run will cost, without compiling it.

    Exits 1 where the model is refused.

    \b
    Example:
      athanor check resnet50.onnx
      athanor check bert.onnx --dim batch=8 --dim length=128 --json
    """
    from athanor.compiler.commands.check import check_model

    passed = check_model(
        model,
        target=target,
        shapes=parse.shapes(shapes),
        dims=parse.dims(dims),
        as_json=as_json,
    )
    if not passed:
        raise click.exceptions.Exit(1)


@cli.command()
@_ARTIFACT
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE.npy",
    help="Array for an input; an input that is not given gets seeded random values.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz file."
)
@_DIM
@_THREADS
@_DEVICE
@_CUDA_GRAPH
@_SEED
def run(
    artifact: Path,
    inputs: Sequence[str],
    output: Path | None,
    dims: Sequence[str],
    threads: int | None,
    device: int,
    cuda_graph: bool,
    seed: int,
) -> None:
    """Run a compiled model once and print its outputs.

    \b
    Example:
      athanor run resnet50.so --input x=x.npy -o outputs.npz
      athanor run bert.so --dim batch=4 --threads 2
    """
    from athanor.compiler.commands.run import run_artifact

    run_artifact(
        artifact,
        parse.input_files(inputs),
        output=output,
        dims=parse.dims(dims),
        threads=threads,
        seed=seed,
        device=device,
        cuda_graph=cuda_graph,
    )


@cli.command()
@_ARTIFACT
@click.option("--json", "as_json", is_flag=True, help="Print all metadata as JSON.")
@click.option("--verify", is_flag=True, help="Check the hashes of code, weights and metadata.")
@click.option("--kernel", metavar="NAME", help="Show the IR of this kernel.")
@click.option(
    "--show",
    type=click.Choice(["tir", "scheduled", "llvm", "asm"]),
    default="scheduled",
    show_default=True,
    help="Which IR of the kernel.",
)
def inspect(artifact: Path, as_json: bool, verify: bool, kernel: str | None, show: str) -> None:
    """Print what a compiled model is and how it was made, without loading its code.

    \b
    Example:
      athanor inspect resnet50.so --verify
      athanor inspect resnet50.so --kernel k_fused_conv2d_relu --show llvm
    """
    from athanor.compiler.commands.inspect import print_artifact, print_kernel

    if kernel is not None:
        print_kernel(artifact, kernel, show, verify=verify)
    else:
        print_artifact(artifact, as_json=as_json, verify=verify)


@cli.command()
@_MODEL
@click.option(
    "--tolerance",
    type=float,
    help="Largest difference that passes, relative to the output's largest magnitude; default: "
    "1e-4, 1e-2 for tf32 and fp16, 5e-2 for bf16.",
)
@_PRECISION
@_TARGET
@_SHAPE
@_DIM
@_THREADS
@_SEED
@_DATABASE
def verify(
    model: Path,
    tolerance: float | None,
    precision: str,
    target: str,
    shapes: Sequence[str],
    dims: Sequence[str],
    threads: int | None,
    seed: int,
    database: Path | None,
) -> None:
    """Compile a model and compare its outputs with ONNX Runtime's.

    Exits 1 where an output differs by more than the tolerance.

    \b
    Example:
      athanor verify resnet50.onnx
      athanor verify bert.onnx --dim batch=3 --tolerance 1e-5
      athanor verify resnet50.onnx --precision bf16
    """
    from athanor.compiler.commands.verify import verify_model

    passed = verify_model(
        model,
        tolerance=tolerance,
        precision=precision,
        target=target,
        shapes=parse.shapes(shapes),
        dims=parse.dims(dims),
        threads=threads,
        seed=seed,
        database=database,
    )
    if not passed:
        raise click.exceptions.Exit(1)


@cli.command()
@_MODEL
@click.option(
    "--against",
    default="onnxruntime",
    show_default=True,
    metavar="NAME,...",
    help="What to compare with: onnxruntime, openvino, openvino-bf16.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="Rounds in which each runs in turn.",
)
@_PRECISION
@_THREADS
@_DEVICE
@_CUDA_GRAPH
@_TARGET
@_SHAPE
@_DIM
@_SEED
@_DATABASE
def bench(
    model: Path,
    against: str,
    rounds: int,
    precision: str,
    threads: int | None,
    device: int,
    cuda_graph: bool,
    target: str,
    shapes: Sequence[str],
    dims: Sequence[str],
    seed: int,
    database: Path | None,
) -> None:
    """Time a model beside other runtimes, interleaved in one process.

    \b
    Example:
      athanor bench resnet50.onnx --threads 1 --against onnxruntime,openvino
    """
    from athanor.compiler.commands.bench import bench_model

    bench_model(
        model,
        against=[name.strip() for name in against.split(",") if name.strip()],
        rounds=rounds,
        precision=precision,
        threads=threads,
        target=target,
        shapes=parse.shapes(shapes),
        dims=parse.dims(dims),
        seed=seed,
        database=database,
        device=device,
        cuda_graph=cuda_graph,
    )


@cli.command()
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.option(
    "--runs", type=click.IntRange(min=1), default=30, show_default=True, help="Runs to time."
)
@click.option("--json", "as_json", is_flag=True, help="Print the times as JSON.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a run as a Chrome trace.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with a roofline plot.")
@click.option("--measure-limits", is_flag=True, help="Measure again what the machine can do.")
@_THREADS
@_TARGET
@_SHAPE
@_DIM
@_SEED
def profile(
    model: Path,
    runs: int,
    as_json: bool,
    trace: Path | None,
    html: Path | None,
    measure_limits: bool,
    threads: int | None,
    target: str,
    shapes: Sequence[str],
    dims: Sequence[str],
    seed: int,
) -> None:
    """Time each kernel of a model: an ONNX model, or an artifact of `compile --profile`.

    \b
    Example:
      athanor profile resnet50.onnx --threads 1 --html resnet50.html
      athanor compile bert.onnx --profile && athanor profile bert.so --dim batch=4
    """
    from athanor.compiler.commands.profile import profile_model

    profile_model(
        model,
        runs=runs,
        as_json=as_json,
        trace=trace,
        html=html,
        measure_limits=measure_limits,
        threads=threads,
        target=target,
        shapes=parse.shapes(shapes),
        dims=parse.dims(dims),
        seed=seed,
    )


@cli.command()
@click.option(
    "--prefix",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder that gets include/, lib/ and lib/pkgconfig/.",
)
def runtime(prefix: Path) -> None:
    """Install the C header, library and pkg-config file for an application's build.

    \b
    Example:
      athanor runtime --prefix /usr/local
      cc app.c $(pkg-config --cflags --libs athanor)
    """
    from athanor.compiler.commands.runtime import install

    install(prefix)


cli.add_command(tune)
cli.add_command(database)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; prints one line where it fails.

    0: done. 1: the model, artifact or an input is at fault. 2: usage. 130: interrupted.
    """
    try:
        result = cli.main(args=arguments, prog_name="athanor", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except AthanorError as error:
        click.echo(f"error: {error}", err=True)
        return 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`athanor inspect m.so | head`); the interpreter would
        # complain of the same at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run_command())


if __name__ == "__main__":
    main()
