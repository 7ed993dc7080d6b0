// CUDA C++ for the host: a thread block's threads are fibers that take turns at barriers.
// Numbers are the host's; what a GPU computes with its own functions may differ in the last bits.
#include <ucontext.h>
#define ATHANOR_EMULATION

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short

#define CUDART_INF_F __builtin_inff()
#define CUDART_INF __builtin_inf()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_NAN __builtin_nan("")
#define CUDART_INF_FP16 half(__builtin_inff())
#define CUDART_NAN_FP16 half(__builtin_nanf(""))

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static const size_t kGuard = 2048;
alignas(1024) static unsigned char buf_dyn_shmem[232448 + kGuard];
static size_t shared_bytes;  // of those, what the launch asks for

namespace emulation {
static bool misaligned;
}
// What g++ calls at accesses that are not aligned to their type: a GPU takes them for errors.
#define NOT_ALIGNED(name) \
  extern "C" __attribute__((visibility("hidden"))) void name(void *, void *) { emulation::misaligned = true; }
NOT_ALIGNED(__ubsan_handle_type_mismatch_v1)

namespace emulation {
enum State { kReady, kAtBlock, kAtWarp, kDone };
constexpr size_t kStack = size_t(256) << 10;
struct Fiber {
  ucontext_t context;
  State state;
  Index index;
  // Not filled, so that only what is used takes memory: 1024 of them are 268 MB.
  std::unique_ptr<char[]> stack{new char[kStack]};
};
static std::vector<std::unique_ptr<Fiber>> fibers;
static ucontext_t scheduler;
static size_t current, count;
static void (*body)(void **);
static void **arguments;
static uint64_t slots[1024];

static void yield(State state) {
  Fiber *self = fibers[current].get();
  self->state = state;
  swapcontext(&self->context, &scheduler);
  threadIdx = self->index;
}
static void start() {
  body(arguments);
  fibers[current]->state = kDone;
  swapcontext(&fibers[current]->context, &scheduler);
}
// Lets go whoever waits where all the others that are not done wait too.
static bool release() {
  bool any = false;
  for (size_t warp = 0; warp < count; warp += 32) {
    const size_t end = std::min(warp + 32, count);
    bool all = true, some = false;
    for (size_t i = warp; i < end; i++) {
      all &= fibers[i]->state == kAtWarp || fibers[i]->state == kDone;
      some |= fibers[i]->state == kAtWarp;
    }
    if (!all || !some) continue;
    for (size_t i = warp; i < end; i++)
      if (fibers[i]->state == kAtWarp) fibers[i]->state = kReady;
    any = true;
  }
  if (any) return true;
  for (size_t i = 0; i < count; i++)
    if (fibers[i]->state == kAtWarp) return false;
  for (size_t i = 0; i < count; i++)
    if (fibers[i]->state == kAtBlock) fibers[i]->state = kReady, any = true;
  return any;
}
static Index index_of(size_t i) {
  return {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y),
          unsigned(i / blockDim.x / blockDim.y)};
}
// One block whose threads wait for each other; false where some wait forever. The order of the
// threads turns around at every barrier, so that a missing one is seen.
static bool run_block() {
  while (fibers.size() < count) fibers.push_back(std::make_unique<Fiber>());
  for (size_t i = 0; i < count; i++) {
    Fiber *fiber = fibers[i].get();
    fiber->state = kReady;
    fiber->index = index_of(i);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, start, 0);
  }
  for (bool forward = true;; forward = !forward) {
    for (size_t i = 0; i < count; i++) {
      current = forward ? i : count - 1 - i;
      if (fibers[current]->state != kReady) continue;
      threadIdx = fibers[current]->index;
      swapcontext(&scheduler, &fibers[current]->context);
    }
    if (release()) continue;
    for (size_t i = 0; i < count; i++)
      if (fibers[i]->state != kDone) return false;
    return true;
  }
}
static int run(void (*function)(void **), void **args, const unsigned *extents, unsigned shared,
               bool waits) {
  shared_bytes = shared;
  body = function, arguments = args;
  gridDim = {extents[0], extents[1], extents[2]};
  blockDim = {extents[3], extents[4], extents[5]};
  count = size_t(extents[3]) * extents[4] * extents[5];
  misaligned = false;
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        if (waits) {
          memset(buf_dyn_shmem, 0xFF, shared + kGuard);
          if (!run_block()) return -1;
          for (size_t i = shared; i < shared + kGuard; i++)
            if (buf_dyn_shmem[i] != 0xFF) return -1;  // past what the launch asked for
          continue;
        }
        for (size_t i = 0; i < count; i++) {
          threadIdx = index_of(i);
          body(arguments);
        }
      }
  return misaligned ? -2 : 0;
}
template <typename T>
T shuffle(T value, int source_lane) {
  const size_t warp = current / 32 * 32;
  const int lane = int(current - warp);
  slots[current] = 0;
  memcpy(&slots[current], &value, sizeof value);
  yield(kAtWarp);
  T result = value;
  if (source_lane >= 0 && source_lane < 32 && source_lane != lane)
    memcpy(&result, &slots[warp + size_t(source_lane)], sizeof result);
  yield(kAtWarp);
  return result;
}
static int lane() { return int(current % 32); }
}  // namespace emulation

static inline void __syncthreads() { emulation::yield(emulation::kAtBlock); }
static inline void __syncwarp(unsigned = 0) { emulation::yield(emulation::kAtWarp); }
static inline unsigned __activemask() { return 0xffffffffu; }
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(value, lane % width + delta < width ? lane + delta : lane);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(value, lane % width >= delta ? lane - delta : lane);
}
template <typename T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
  const int lane = emulation::lane();
  return emulation::shuffle(value, lane / width * width + source % width);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emulation::shuffle(value, emulation::lane() ^ mask);
}
template <typename T>
T __ldg(const T *pointer) { return *pointer; }

#define VECTORS(type, name)                                              \
  struct name##1 { type x; };                                            \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };               \
  struct name##3 { type x, y, z; };                                      \
  struct alignas(std::min<size_t>(16, 4 * sizeof(type))) name##4 { type x, y, z, w; }; \
  static inline name##1 make_##name##1(type x) { return {x}; }           \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }\
  static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; } \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(long, long)
VECTORS(unsigned long, ulong)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
VECTORS(float, float)
VECTORS(double, double)

typedef _Float16 half;
typedef half __half;
VECTORS(half, half)
static inline unsigned __pack_half2(half x, half y) {
  unsigned short a, b;
  memcpy(&a, &x, 2);
  memcpy(&b, &y, 2);
  return unsigned(b) << 16 | a;
}
static inline float __half2float(half x) { return float(x); }
static inline half __float2half_rn(float x) { return half(x); }
static inline half __float2half(float x) { return half(x); }
#define HALF_FUNCTION(name, function) \
  static inline half name(half x) { return half(function(float(x))); }
HALF_FUNCTION(hexp, expf)
HALF_FUNCTION(hexp2, exp2f)
HALF_FUNCTION(hexp10, exp10f)
HALF_FUNCTION(hlog, logf)
HALF_FUNCTION(hlog2, log2f)
HALF_FUNCTION(hlog10, log10f)
HALF_FUNCTION(hsqrt, sqrtf)
HALF_FUNCTION(hrsqrt, 1.0f / sqrtf)
HALF_FUNCTION(hsin, sinf)
HALF_FUNCTION(hcos, cosf)
HALF_FUNCTION(htan, tanf)
HALF_FUNCTION(htanh, tanhf)
HALF_FUNCTION(hatan, atanf)
HALF_FUNCTION(herf, erff)
HALF_FUNCTION(hfloor, floorf)
HALF_FUNCTION(hceil, ceilf)
HALF_FUNCTION(htrunc, truncf)
HALF_FUNCTION(hrint, rintf)
HALF_FUNCTION(hround, roundf)
HALF_FUNCTION(__habs, fabsf)
static inline half hpow(half x, half y) { return half(powf(float(x), float(y))); }
static inline bool __hisnan(half x) { return float(x) != float(x); }

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
#define __expf expf
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
template <typename A, typename B>
typename std::common_type<A, B>::type max(A a, B b) {
  typedef typename std::common_type<A, B>::type T;
  if constexpr (std::is_integral<T>::value) return T(a) > T(b) ? T(a) : T(b);
  else return T(std::fmax(double(a), double(b)));
}
template <typename A, typename B>
typename std::common_type<A, B>::type min(A a, B b) {
  typedef typename std::common_type<A, B>::type T;
  if constexpr (std::is_integral<T>::value) return T(a) < T(b) ? T(a) : T(b);
  else return T(std::fmin(double(a), double(b)));
}
static inline half max(half a, half b) { return a > b ? a : b; }
static inline half min(half a, half b) { return a < b ? a : b; }

struct nv_bfloat16 {
  uint16_t bits;
  nv_bfloat16() = default;
  nv_bfloat16(float value) {
    uint32_t word;
    memcpy(&word, &value, 4);
    const uint32_t rounded = word + 0x7fff + (word >> 16 & 1);
    bits = value == value ? uint16_t(rounded >> 16) : uint16_t(0x7fff);
  }
  operator float() const {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
  }
};
typedef nv_bfloat16 __nv_bfloat16;
VECTORS(nv_bfloat16, nv_bfloat16)
static inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
static inline float __bfloat162float(nv_bfloat16 x) { return float(x); }
