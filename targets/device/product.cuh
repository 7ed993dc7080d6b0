// A tile of a matrix product by a block of threads: copies run ahead in a ring of stages, warps
// multiply what has come, and the sums end in shared memory, where the kernel's own code takes them.
namespace athanor {

// Sums of a warp's tile of WARP_M x WARP_N, on tensor cores.
template <class Number, int WARP_M, int WARP_N, bool A_DEPTH, bool B_DEPTH>
struct WarpTile {
  static constexpr int kRows = WARP_M / 16, kColumns = WARP_N / 8;
  static constexpr int kDepth = Tiling<Number>::kDepth;
  float sums[kRows][kColumns][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows * kColumns * 4; i++) sums[i / (4 * kColumns)][i / 4 % kColumns][i % 4] = 0.0f;
  }

  // One number of a side major tile.
  static __device__ __forceinline__ uint32_t word(char *tile, int side, int depth) {
    const int inner = side % kDepth * 4;
    const char *panel = tile + side / kDepth * kDepth * 128;
    return *reinterpret_cast<const uint32_t *>(
        chunk_of(const_cast<char *>(panel), depth, inner / 16) + inner % 16);
  }
  static __device__ __forceinline__ char *side_chunk(char *tile, int side, int depth) {
    return chunk_of(tile + side / kDepth * kDepth * 128, depth, side % kDepth / 8);
  }

  // 16 rows of A, 32 bytes of the depth from 32 * step on.
  static __device__ __forceinline__ void load_a(uint32_t (&r)[4], char *tile, int row, int step) {
    const int lane = int(threadIdx.x) % 32, inner = lane % 8, odd = lane / 8 % 2, high = lane / 16;
    if constexpr (A_DEPTH) {
      load_matrices(r, chunk_of(tile, row + inner + odd * 8, step * 2 + high));
    } else if constexpr (sizeof(typename Number::Element) == 2) {
      load_matrices_transposed(r, side_chunk(tile, row + odd * 8, step * 16 + inner + high * 8));
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        r[i] = word(tile, row + lane / 4 + i % 2 * 8, step * 8 + lane % 4 + i / 2 * 4);
    }
  }
  // 16 columns of B: r[0], r[1] of the first 8, r[2], r[3] of the others.
  static __device__ __forceinline__ void load_b(uint32_t (&r)[4], char *tile, int column, int step) {
    const int lane = int(threadIdx.x) % 32, inner = lane % 8, odd = lane / 8 % 2, high = lane / 16;
    if constexpr (B_DEPTH) {
      load_matrices(r, chunk_of(tile, column + inner + high * 8, step * 2 + odd));
    } else if constexpr (sizeof(typename Number::Element) == 2) {
      load_matrices_transposed(r, side_chunk(tile, column + high * 8, step * 16 + inner + odd * 8));
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++)
        r[i] = word(tile, column + lane / 4 + i / 2 * 8, step * 8 + lane % 4 + i % 2 * 4);
    }
  }

  // Adds the product of a stage's tiles; row, column: of the warp's tile in them.
  __device__ __forceinline__ void add(char *a, char *b, int row, int column) {
#pragma unroll
    for (int step = 0; step < 4; step++) {
      uint32_t left[kRows][4], right[kColumns / 2][4];
#pragma unroll
      for (int i = 0; i < kRows; i++) load_a(left[i], a, row + i * 16, step);
#pragma unroll
      for (int j = 0; j < kColumns / 2; j++) load_b(right[j], b, column + j * 16, step);
#pragma unroll
      for (int i = 0; i < kRows; i++)
#pragma unroll
        for (int j = 0; j < kColumns; j++) {
          const uint32_t pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
          multiply<Number>(sums[i][j], left[i], pair);
        }
    }
  }

  // To `out`, rows of `width` floats.
  __device__ __forceinline__ void store(float *out, int width, int row, int column) const {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
      for (int j = 0; j < kColumns; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float *place = out + (row + i * 16 + lane / 4 + half * 8) * width + column + j * 8 + lane % 4 * 2;
          *reinterpret_cast<float2 *>(place) =
              make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
        }
  }
};

// The same by multiply-adds of float32: lanes are 4 x 8, each takes every fourth row and every
// eighth column.
template <int WARP_M, int WARP_N, bool A_DEPTH, bool B_DEPTH>
struct WarpTile<Single, WARP_M, WARP_N, A_DEPTH, B_DEPTH> {
  static constexpr int kRows = WARP_M / 4, kColumns = WARP_N / 8;
  float sums[kRows][kColumns];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kRows * kColumns; i++) sums[i / kColumns][i % kColumns] = 0.0f;
  }
  // Four numbers along the depth.
  template <bool DEPTH_MAJOR>
  static __device__ __forceinline__ float4 four(char *tile, int side, int chunk) {
    if constexpr (DEPTH_MAJOR) return *reinterpret_cast<const float4 *>(chunk_of(tile, side, chunk));
    char *panel = tile + side / 32 * 32 * 128 + side % 4 * 4;
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      x[i] = *reinterpret_cast<const float *>(chunk_of(panel, chunk * 4 + i, side % 32 / 4));
    return make_float4(x[0], x[1], x[2], x[3]);
  }
  __device__ __forceinline__ void add(char *a, char *b, int row, int column) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll 2
    for (int chunk = 0; chunk < 8; chunk++) {
      float4 right[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; j++) right[j] = four<B_DEPTH>(b, column + lane % 8 + j * 8, chunk);
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        const float4 left = four<A_DEPTH>(a, row + lane / 8 + i * 4, chunk);
#pragma unroll
        for (int j = 0; j < kColumns; j++) {
          float sum = sums[i][j];
          sum = fmaf(left.x, right[j].x, sum);
          sum = fmaf(left.y, right[j].y, sum);
          sum = fmaf(left.z, right[j].z, sum);
          sums[i][j] = fmaf(left.w, right[j].w, sum);
        }
      }
    }
  }
  __device__ __forceinline__ void store(float *out, int width, int row, int column) const {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
      for (int j = 0; j < kColumns; j++)
        out[(row + lane / 8 + i * 4) * width + column + lane % 8 + j * 8] = sums[i][j];
  }
};

// Floats of a row of the sums in shared memory: padded, so that rows begin at different banks.
static constexpr int kSumPadding = 8;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Whether warpgroups multiply a tile: 16-bit numbers, four warps for every 64 rows.
template <class Number, int BM, int BN, int WARP_M, int WARP_N>
static __device__ constexpr bool by_warpgroups() {
  return sizeof(typename Number::Element) == 2 && BM % 64 == 0 &&
         BM / WARP_M * (BN / WARP_N) == BM / 16 && (BN == 64 || BN == 128 || BN == 256);
}

// As multiply_tiles. Products of one stage run while the next is waited for, so copies keep one
// stage more away from them; 64 rows are a warpgroup's.
template <class Number, int BM, int BN, int STAGES, class A, class B>
static __device__ __forceinline__ void multiply_by_groups(void *shared, const A &a, const B &b,
                                                          int begin, int end) {
  constexpr int kDepth = Tiling<Number>::kDepth, kStage = A::kBytes + B::kBytes;
  constexpr int kRunning = STAGES > 2 ? 1 : 0, kAhead = STAGES - 1 - kRunning;
  constexpr bool kASide = !A::kDepthMajor, kBSide = !B::kDepthMajor;
  constexpr uint32_t kPanel = kDepth * 128;  // of 64 sides, either way
  char *const ring = static_cast<char *>(shared);
  const uint32_t base = shared_address(shared);
  const int group = int(threadIdx.x) / 128, lane = int(threadIdx.x) % 32;
  const int steps = (end - begin + kDepth - 1) / kDepth;
  float sums[BN / 2];
#pragma unroll
  for (int i = 0; i < BN / 2; i++) sums[i] = 0.0f;
#pragma unroll
  for (int ahead = 0; ahead < kAhead; ahead++) {
    char *stage = ring + ahead * kStage;
    if (ahead < steps) {
      a.load(stage, begin + ahead * kDepth, end);
      b.load(stage + A::kBytes, begin + ahead * kDepth, end);
    }
    commit_copies();
  }
  for (int step = 0; step < steps; step++) {
    wait_copies<kAhead - 1>();
    fence_async();
    __syncthreads();  // this stage is there; products of the one that is overwritten have ended
    const uint32_t left = base + step % STAGES * kStage + group * kPanel;
    const uint32_t right = base + step % STAGES * kStage + A::kBytes;
    hold_sums(sums);
    begin_group();
#pragma unroll
    for (int part = 0; part < 4; part++)  // 16 of the depth: 32 bytes of a row, or 16 rows
      group_multiply<Number, BN, kASide, kBSide>(
          sums, descriptor(left + part * (kASide ? 2048 : 32), kPanel),
          descriptor(right + part * (kBSide ? 2048 : 32), kPanel));
    commit_group();
    hold_sums(sums);
    const int ahead = step + kAhead;
    if (ahead < steps) {
      char *stage = ring + ahead % STAGES * kStage;
      a.load(stage, begin + ahead * kDepth, end);
      b.load(stage + A::kBytes, begin + ahead * kDepth, end);
    }
    commit_copies();
    wait_groups<kRunning>();
    hold_sums(sums);
  }
  wait_groups<0>();
  hold_sums(sums);
  wait_copies<0>();
  __syncthreads();
  float *out = static_cast<float *>(shared) + lane % 4 * 2 +
               (int(threadIdx.x) / 32 * 16 + lane / 4) * (BN + kSumPadding);
#pragma unroll
  for (int i = 0; i < BN / 2; i += 2)
    *reinterpret_cast<float2 *>(out + i / 4 * 8 + i / 2 % 2 * 8 * (BN + kSumPadding)) =
        make_float2(sums[i], sums[i + 1]);
  __syncthreads();
}
#endif

// sums[row][column] += a[row][depth] * b[depth][column] for depth in [begin, end), begin a multiple
// of the stage's depth. Afterwards shared memory holds the tile's sums, rows of BN + kSumPadding.
template <class Number, int BM, int BN, int WARP_M, int WARP_N, int STAGES, class A, class B>
static __device__ __forceinline__ void multiply_tiles(void *shared, const A &a, const B &b,
                                                      int begin, int end) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (by_warpgroups<Number, BM, BN, WARP_M, WARP_N>())
    return multiply_by_groups<Number, BM, BN, STAGES>(shared, a, b, begin, end);
#endif
  constexpr int kDepth = Tiling<Number>::kDepth, kStage = A::kBytes + B::kBytes;
  constexpr int kWarpColumns = BN / WARP_N;
  char *const ring = static_cast<char *>(shared);
  const int warp = int(threadIdx.x) / 32;
  const int row = warp / kWarpColumns * WARP_M, column = warp % kWarpColumns * WARP_N;
  const int steps = (end - begin + kDepth - 1) / kDepth;
  WarpTile<Number, WARP_M, WARP_N, A::kDepthMajor, B::kDepthMajor> tile;
  tile.clear();
#pragma unroll
  for (int ahead = 0; ahead < STAGES - 1; ahead++) {
    char *stage = ring + ahead * kStage;
    if (ahead < steps) {
      a.load(stage, begin + ahead * kDepth, end);
      b.load(stage + A::kBytes, begin + ahead * kDepth, end);
    }
    commit_copies();
  }
  for (int step = 0; step < steps; step++) {
    wait_copies<STAGES - 2>();
    __syncthreads();  // this stage is there; nobody reads the one before any more
    const int ahead = step + STAGES - 1;
    if (ahead < steps) {
      char *stage = ring + ahead % STAGES * kStage;
      a.load(stage, begin + ahead * kDepth, end);
      b.load(stage + A::kBytes, begin + ahead * kDepth, end);
    }
    commit_copies();
    char *stage = ring + step % STAGES * kStage;
    tile.add(stage, stage + A::kBytes, row, column);
  }
  wait_copies<0>();
  __syncthreads();
  tile.store(static_cast<float *>(shared), BN + kSumPadding, row, column);
  __syncthreads();
}

// For a product: `a` and `b` at the tile's first row and column, depth 0; how many rows and columns
// there are from there on. Numbers that lie next to each other: along the depth where *_DEPTH.
template <class Number, int BM, int BN, int WARP_M, int WARP_N, int STAGES, bool A_DEPTH,
          int A_VECTOR, bool B_DEPTH, int B_VECTOR>
static __device__ __forceinline__ void product(void *shared, const void *a, int64_t a_stride,
                                               int rows, const void *b, int64_t b_stride,
                                               int columns, int begin, int end) {
  typedef typename Number::Element Element;
  constexpr int kThreads = BM / WARP_M * (BN / WARP_N) * 32;
  const MatrixTile<Number, A_DEPTH, A_VECTOR, BM, kThreads> left = {
      static_cast<const Element *>(a), a_stride, rows};
  const MatrixTile<Number, B_DEPTH, B_VECTOR, BN, kThreads> right = {
      static_cast<const Element *>(b), b_stride, columns};
  multiply_tiles<Number, BM, BN, WARP_M, WARP_N, STAGES>(shared, left, right, begin, end);
}

// For a convolution: `data` channels last, `weight` (out channel, kernel row, kernel column,
// channel) at the tile's first out channel; `first` the tile's first output pixel.
template <class Number, int BM, int BN, int WARP_M, int WARP_N, int STAGES, int A_VECTOR, int B_VECTOR>
static __device__ __forceinline__ void convolution(
    void *shared, const void *data, int pixel, int height, int width, int channels, int out_width,
    int out_pixels, int kernel_width, int stride_y, int stride_x, int top, int left, int step_y,
    int step_x, int first, int rows, const void *weight, int columns, int begin, int end, int depth) {
  typedef typename Number::Element Element;
  constexpr int kThreads = BM / WARP_M * (BN / WARP_N) * 32;
  const PixelTile<Number, A_VECTOR, BM, kThreads> pixels = {
      static_cast<const Element *>(data), pixel,    height, width, channels, out_width, out_pixels,
      kernel_width,                       stride_y, stride_x, top, left,     step_y,    step_x,
      first,                              rows};
  const MatrixTile<Number, true, B_VECTOR, BN, kThreads> weights = {
      static_cast<const Element *>(weight), depth, columns};
  multiply_tiles<Number, BM, BN, WARP_M, WARP_N, STAGES>(shared, pixels, weights, begin, end);
}

}  // namespace athanor
