"""The driver's functions as cuda_driver.h declares them, against NVIDIA's own header."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = Path("/usr/local/cuda/include")

CHECK = r"""
#include <cuda.h>
#include <cstdint>
#include <type_traits>
extern "C" {
#include "cuda_driver.h"
}
// The same size, and a pointer, a floating-point number or an integer in the same place.
template <typename A, typename B>
constexpr bool alike = sizeof(A) == sizeof(B) &&
                       std::is_pointer<A>::value == std::is_pointer<B>::value &&
                       std::is_floating_point<A>::value == std::is_floating_point<B>::value;
// What a pointer points to, too, but for handles, characters and functions.
template <typename A, typename B> struct Same { static constexpr bool value = alike<A, B>; };
template <typename A, typename B> struct Same<A *, B *> {
  static constexpr bool value =
      std::disjunction<std::is_void<A>, std::is_void<B>, std::is_class<A>, std::is_class<B>,
                       std::is_function<A>, Same<A, B>>::value;
};
template <typename F, typename G> struct Signature : std::false_type {};
template <typename R, typename... A, typename S, typename... B>
struct Signature<R (*)(A...), S (*)(B...)> {
  template <bool equal, typename> struct Arguments : std::false_type {};
  template <typename T> struct Arguments<true, T> {
    static constexpr bool value = (Same<A, B>::value && ...);
  };
  static constexpr bool value =
      Arguments<sizeof...(A) == sizeof...(B), R>::value && alike<R, S>;
};
#define X(name, symbol, parameters)                                                     \
  static_assert(Signature<decltype(AthCudaDriver::name), decltype(&symbol)>::value, #symbol);
ATH_CUDA_FUNCTIONS(X)
static_assert(sizeof(CudaPointer) == sizeof(CUdeviceptr) && sizeof(CudaHandle) == sizeof(CUstream));
static_assert(int(CUDA_ERROR_OUT_OF_MEMORY) == 2 && int(CUDA_SUCCESS) == 0);
static_assert(int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) == 75);
static_assert(int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) == 76);
static_assert(int(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) == 8);
static_assert(int(CU_DEVICE_ATTRIBUTE_CLOCK_RATE) == 13);
static_assert(int(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) == 16);
static_assert(int(CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE) == 36);
static_assert(int(CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) == 37);
static_assert(int(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE) == 38);
static_assert(int(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == 1 && int(CU_EVENT_DEFAULT) == 0);
static_assert(int(CUDA_ERROR_ILLEGAL_ADDRESS) == 700 && int(CUDA_ERROR_ASSERT) == 710);
static_assert(int(CUDA_ERROR_HARDWARE_STACK_ERROR) == 714 && int(CUDA_ERROR_LAUNCH_FAILED) == 719);
static_assert(int(CUDA_ERROR_ECC_UNCORRECTABLE) == 214 && int(CUDA_ERROR_LAUNCH_TIMEOUT) == 702);
static_assert(int(CUDA_ERROR_CONTEXT_IS_DESTROYED) == 709);
static_assert(int(CUDA_ERROR_NVLINK_UNCORRECTABLE) == 220);
static_assert(int(CU_STREAM_NON_BLOCKING) == 1 && int(CU_EVENT_DISABLE_TIMING) == 2);
"""


def compiled(tmp_path, text):
    # C11's atomics are not C++'s; the declarations of interest need none of them.
    (tmp_path / "stdatomic.h").write_text(
        "#pragma once\ntypedef int atomic_int; typedef bool atomic_bool;"
        " struct atomic_flag {int i;};\n"
    )
    source = tmp_path / "check.cpp"
    source.write_text(text)
    flags = ["-std=c++17", "-fsyntax-only", "-fpermissive", "-w", f"-I{tmp_path}"]
    flags += [f"-I{ROOT / 'runtime' / name}" for name in ("src", "include")]
    flags += [f"-I{TOOLKIT}", "-D_Thread_local=thread_local"]
    return subprocess.run(["g++", *flags, str(source)], capture_output=True, text=True, check=False)


needs_header = pytest.mark.skipif(
    not (TOOLKIT / "cuda.h").exists() or shutil.which("g++") is None,
    reason="NVIDIA's cuda.h or g++ is missing",
)


@needs_header
def test_every_function_has_the_driver_s_signature(tmp_path):
    done = compiled(tmp_path, CHECK)
    assert done.returncode == 0, done.stderr[:4000]


@needs_header
@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        ("X(device_count, cuDeviceGetCount, (int *count))", "(long *count)"),
        ("X(context_release, cuDevicePrimaryCtxRelease_v2, (int device))", "(void *device)"),
        ("(CudaHandle stream, CudaHandle event, unsigned flags)", "(CudaHandle stream)"),
    ],
)
def test_a_wrong_signature_is_seen(tmp_path, ours, wrong):
    header = (ROOT / "runtime/src/cuda_driver.h").read_text()
    start = ours[: ours.rindex("(")] if ours.startswith("X") else ""
    assert ours in header
    changed = header.replace(ours, f"{start}{wrong})" if start else wrong)
    (tmp_path / "cuda_driver.h").write_text(changed)
    done = compiled(tmp_path, CHECK)
    assert done.returncode != 0 and "static assertion failed" in done.stderr
