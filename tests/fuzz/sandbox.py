"""One case in a process of its own: forked, limited in time, memory and file size, and watched."""

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

MEMORY_BYTES = 4 << 30  # address space beyond what the parent has; LLVM and a compiler need one
CPU_SECS = 40
WALL_SECS = 240  # other work on the machine counts here
FILE_BYTES = 1 << 30

WRITES = {
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "os.chmod",
    "shutil.copyfile",
    "shutil.move",
}


@dataclass(frozen=True)
class Outcome:
    """`kind`: ok, refused, error, crash or timeout; `detail` says more."""

    kind: str
    detail: str
    secs: float

    @property
    def is_finding(self):
        return self.kind not in ("ok", "refused")


def run_case(case, allowed):
    """The outcome of `case()`, which returns a kind; `allowed` is the folder that it may write to.

    A CompileError or RunError is the kind "refused", any other exception the kind "error".
    """
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(case, writing, allowed)
    os.close(writing)
    text = _read(reading, started + WALL_SECS)
    os.close(reading)
    timed_out = text is None
    if timed_out:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    secs = time.monotonic() - started
    if timed_out:
        return Outcome("timeout", f"more than {WALL_SECS} s", secs)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number in (signal.SIGXCPU, signal.SIGKILL):
            return Outcome("timeout", f"more than {CPU_SECS} s of processor time", secs)
        return Outcome("crash", f"{signal.Signals(number).name}\n{text}", secs)
    kind, _, detail = text.partition("\n")
    return Outcome(kind or "crash", detail or f"exit status {os.WEXITSTATUS(status)}", secs)


def _read(reading, deadline):
    """All that comes through the pipe; None when the deadline passes."""
    import select

    parts = []
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            return None
        part = os.read(reading, 1 << 16)
        if not part:
            return b"".join(parts).decode("utf-8", "replace")
        parts.append(part)


def _child(case, writing, allowed):
    os.setpgid(0, 0)
    sys.dont_write_bytecode = True
    _limit()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(allowed)
    tempfile.tempdir = os.environ["TMPDIR"] = str(allowed)
    sys.addaudithook(_watch(str(allowed)))
    from athanor.errors import AthanorError, CompilerDefect

    try:
        kind, detail = case(), ""
    except CompilerDefect:
        kind, detail = "error", traceback.format_exc()
    except AthanorError as error:
        kind, detail = "refused", str(error)
    except BaseException:
        kind, detail = "error", traceback.format_exc()
    with contextlib.suppress(OSError):
        os.write(writing, f"{kind}\n{detail[-10_000:]}".encode("utf-8", "replace"))
    os._exit(0)


def _limit():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    have = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECS, CPU_SECS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()


def _watch(allowed):
    """An audit hook that raises where a file outside `allowed` is written."""

    def check(path):
        if isinstance(path, int) or path is None:
            return
        real = os.path.realpath(os.fsdecode(path))
        if real != os.devnull and not real.startswith((allowed, "/dev/shm")):
            raise AssertionError(f"writes outside its folder: {real}")

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                check(path)
        elif event in WRITES:
            check(arguments[0])
            if event in ("os.rename", "os.link", "shutil.copyfile", "shutil.move"):
                check(arguments[1])

    return hook
