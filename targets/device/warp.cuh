// Instructions of a warp: asynchronous copies into shared memory, fragments, tensor core products.
//
// Include by calling anything in the namespace `athanor` from a kernel: the compiler then puts this
// file in front of the kernels (targets/cuda_headers.py). Under emulation, tests/cuda/emulate_warp.h
// stands in its place with the same functions.
//
//   athanor::copy_async<16>(shared, global, inside);  // 16, 8 or 4 bytes; zeros where not inside
//   athanor::commit_copies();                         // those so far are a group
//   athanor::wait_copies<1>();                        // all groups of this thread but the latest 1
//   __syncthreads();                                  // then others may read them
//
//   athanor::load_matrices(r, row);                   // ldmatrix.x4: lane l gives the address of
//                                                     // row l % 8 of matrix l / 8; 16 bytes a row
//   athanor::load_matrices_transposed(r, row);        // .trans, for numbers of 16 bits
//   athanor::multiply<athanor::Half>(d, a, b);        // d += a * b, one mma.sync
//   athanor::pack<athanor::Half>(low, high);          // two float32 rounded to one word
//   athanor::exponential(x);                          // e to the x, to 2 units of float32
//
// Fragments of multiply<Half>, multiply<BFloat> (16 x 8, depth 16) and multiply<TF32> (16 x 8,
// depth 8): d[0], d[1] are row lane / 4, columns lane % 4 * 2 and the next; d[2], d[3] eight rows
// below. a[0..3] are what load_matrices gives for the matrices (rows 0-7, bytes 0-15), (rows 8-15,
// bytes 0-15), (rows 0-7, bytes 16-31), (rows 8-15, bytes 16-31) of 16 rows of 32 bytes along the
// depth; b[0], b[1] for (columns 0-7, bytes 0-15) and (columns 0-7, bytes 16-31) of 8 columns of 32
// bytes along the depth. multiply<TF32> rounds its operands, which are float32, to nearest.
// All 32 threads of a warp call load_matrices and multiply together. All of it needs sm_80; before,
// copies are made at once and by themselves.
#ifndef ATHANOR_EMULATION
namespace athanor {

static __device__ __forceinline__ uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

template <int BYTES>
static __device__ __forceinline__ void copy_async(void *shared, const void *global, bool inside) {
  static_assert(BYTES == 16 || BYTES == 8 || BYTES == 4, "sizes of cp.async");
#if __CUDA_ARCH__ >= 800
  const uint32_t to = shared_address(shared), bytes = inside ? BYTES : 0;
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(to), "l"(global), "n"(BYTES),
                 "r"(bytes)
                 : "memory");
#else
  for (int i = 0; i < BYTES / 4; i++)
    static_cast<uint32_t *>(shared)[i] = inside ? static_cast<const uint32_t *>(global)[i] : 0u;
#endif
}

static __device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

template <int LEFT>
static __device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
#endif
}

static __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

static __device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

static __device__ __forceinline__ uint32_t round_tf32(uint32_t number) {
  uint32_t rounded = number;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(number)));
#endif
  return rounded;
}

#define ATHANOR_MMA(shape)                                                              \
  asm volatile("mma.sync.aligned." shape                                                \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"     \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                         \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

struct Half {
  typedef uint16_t Element;
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    ATHANOR_MMA("m16n8k16.row.col.f32.f16.f16.f32");
#endif
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t both = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
  }
};
struct BFloat {
  typedef uint16_t Element;
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    ATHANOR_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#endif
  }
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t both = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
#endif
    return both;
  }
};
struct TF32 {
  typedef uint32_t Element;
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&x)[4],
                                             const uint32_t (&y)[2]) {
#if __CUDA_ARCH__ >= 800
    const uint32_t a[4] = {round_tf32(x[0]), round_tf32(x[1]), round_tf32(x[2]), round_tf32(x[3])};
    const uint32_t b[2] = {round_tf32(y[0]), round_tf32(y[1])};
    ATHANOR_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#endif
  }
};
#undef ATHANOR_MMA
struct Single {  // float32 as it is, by multiply-adds; has no mma
  typedef uint32_t Element;
};

template <class Number>
static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4],
                                                const uint32_t (&b)[2]) {
  Number::mma(d, a, b);
}

template <class Number>
static __device__ __forceinline__ uint32_t pack(float low, float high) {
  return Number::pack(low, high);
}

static __device__ __forceinline__ float exponential(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x * 1.4426950408889634f));
  return power;
}

}  // namespace athanor
#endif  // ATHANOR_EMULATION
