// Products of a warpgroup, four warps whose first is a multiple of four: wgmma of sm_90a, operands in
// shared memory, sums in registers. Under emulation, tests/cuda/emulate_warp.h has the same functions.
//
//   const uint64_t a = athanor::descriptor<...>(tile);   // of a swizzled tile (tiles.cuh)
//   athanor::fence_async();            // writes to shared memory so far: before the barrier
//   athanor::begin_group();            // sums and shared memory are as products shall find them
//   athanor::group_multiply<athanor::Half, 128, false, false>(sums, a, b);   // 64 x 128, depth 16
//   athanor::commit_group();
//   athanor::wait_groups<1>();         // all groups of products but the latest 1
//
// sums[4 * j + 2 * h + i]: row warp % 4 * 16 + lane / 4 + 8 * h, column 8 * j + lane % 4 * 2 + i.
namespace athanor {

// Of a tile of 128-byte rows from `shared` on, whose address is a multiple of 1024 but for the steps
// along the depth. Eight rows are 1024 bytes; `panel`: bytes from 64 sides to the next, side major.
static __device__ __forceinline__ uint64_t descriptor(uint32_t shared, uint32_t panel) {
  return uint64_t(1) << 62 | uint64_t(1024 >> 4) << 32 | uint64_t(panel >> 4) << 16 |
         (shared & 0x3ffff) >> 4;
}

}  // namespace athanor
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && !defined(ATHANOR_EMULATION)
namespace athanor {

static __device__ __forceinline__ void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
static __device__ __forceinline__ void begin_group() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
static __device__ __forceinline__ void commit_group() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
template <int LEFT>
static __device__ __forceinline__ void wait_groups() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}

template <class Number, int COLUMNS, bool A_SIDE_MAJOR, bool B_SIDE_MAJOR>
struct GroupProduct;

#define ATHANOR_SUMS8(i)                                                                   \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ATHANOR_SUMS32(i) \
  ATHANOR_SUMS8(i), ATHANOR_SUMS8(i + 8), ATHANOR_SUMS8(i + 16), ATHANOR_SUMS8(i + 24)
#define ATHANOR_SUMS64(i) ATHANOR_SUMS32(i), ATHANOR_SUMS32(i + 32)
#define ATHANOR_SUMS128(i) ATHANOR_SUMS64(i), ATHANOR_SUMS64(i + 64)
#define ATHANOR_GROUP_PRODUCT(number, name, columns, registers, sums, a, b, x, y)             \
  template <bool A_SIDE_MAJOR, bool B_SIDE_MAJOR>                                             \
  struct GroupProduct<number, columns, A_SIDE_MAJOR, B_SIDE_MAJOR> {                          \
    static __device__ __forceinline__ void add(float (&d)[columns / 2], uint64_t left,        \
                                               uint64_t right) {                              \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." name "." name      \
                   " {" registers "}, " a ", " b ", 1, 1, 1, " x ", " y ";\n"                 \
                   : sums(0)                                                                  \
                   : "l"(left), "l"(right), "n"(int(A_SIDE_MAJOR)), "n"(int(B_SIDE_MAJOR)));  \
    }                                                                                         \
  };
#define ATHANOR_REGISTERS32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ATHANOR_REGISTERS64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ATHANOR_REGISTERS128 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
ATHANOR_GROUP_PRODUCT(Half, "f16", 64, ATHANOR_REGISTERS32, ATHANOR_SUMS32, "%32", "%33", "%34", "%35")
ATHANOR_GROUP_PRODUCT(Half, "f16", 128, ATHANOR_REGISTERS64, ATHANOR_SUMS64, "%64", "%65", "%66", "%67")
ATHANOR_GROUP_PRODUCT(Half, "f16", 256, ATHANOR_REGISTERS128, ATHANOR_SUMS128, "%128", "%129", "%130", "%131")
ATHANOR_GROUP_PRODUCT(BFloat, "bf16", 64, ATHANOR_REGISTERS32, ATHANOR_SUMS32, "%32", "%33", "%34", "%35")
ATHANOR_GROUP_PRODUCT(BFloat, "bf16", 128, ATHANOR_REGISTERS64, ATHANOR_SUMS64, "%64", "%65", "%66", "%67")
ATHANOR_GROUP_PRODUCT(BFloat, "bf16", 256, ATHANOR_REGISTERS128, ATHANOR_SUMS128, "%128", "%129", "%130", "%131")

// The sums are registers that products write until they are waited for: this keeps the compiler from
// moving a copy of them to where products are under way. No instruction.
template <int COUNT>
static __device__ __forceinline__ void hold_sums(float (&sums)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sums[i])::"memory");
}

template <class Number, int COLUMNS, bool A_SIDE_MAJOR, bool B_SIDE_MAJOR>
static __device__ __forceinline__ void group_multiply(float (&d)[COLUMNS / 2], uint64_t a,
                                                      uint64_t b) {
  GroupProduct<Number, COLUMNS, A_SIDE_MAJOR, B_SIDE_MAJOR>::add(d, a, b);
}

}  // namespace athanor
#endif
