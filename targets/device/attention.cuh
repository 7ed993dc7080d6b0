// Attention of one block of queries by tensor cores: the steps between which a kernel's own code
// changes the scores (schedules/compute/tensor_attention.py).
//
// A warp has TILES x 16 queries and 64 keys of each block of KEYS keys; WARPS of them lie along the
// queries, the next WARPS take the next 64 keys. Each thread holds of a 16 x 8 tile what
// multiply (warp.cuh) says: s[tile][column / 8][4], o alike, and of each row it has a part in (two
// of a tile) top, the highest score so far, and total, its own part of the sum of weights.
namespace athanor {

static constexpr int kWarpKeys = 64;

// Rows of 128 bytes with swizzled chunks, 64 columns; such panels of ROWS rows one by one.
template <int COLUMNS, int ROWS>
struct RowTile {
  static constexpr int kPanels = (COLUMNS + 63) / 64;
  static constexpr int kBytes = kPanels * ROWS * 128;

  // Rows up to `rows`, zeros below them and behind COLUMNS. VECTOR divides COLUMNS and `stride`.
  template <int VECTOR, int THREADS>
  static __device__ __forceinline__ void load(char *tile, const uint16_t *first, int64_t stride,
                                              int rows) {
    constexpr int kCopies = (COLUMNS + 15) / 16 * 16 / VECTOR;  // of one row
#pragma unroll 2
    for (int at = int(threadIdx.x); at < ROWS * kCopies; at += THREADS) {
      const int row = at / kCopies, column = at % kCopies * VECTOR;
      const bool inside = row < rows && column < COLUMNS;
      char *panel = tile + column / 64 * (ROWS * 128);
      copy_numbers<uint16_t, VECTOR>(chunk_of(panel, row, column % 64 / 8) + column % 8 * 2,
                                     first + (inside ? row * stride + column : 0), inside);
    }
  }
  // The 16 bytes of `row` from column `column` + 8 * `odd` on, column a multiple of 16. `inner` is
  // row % 8: said apart, so that addresses of rows further down differ by a constant.
  static __device__ __forceinline__ char *chunk(char *tile, int row, int inner, int column, int odd) {
    return tile + row * 128 + column / 64 * (ROWS * 128) + (((column % 64 / 8 + odd) ^ inner) << 4);
  }
};

// The keys and values of one block, of SIZE and VALUES numbers each.
template <int SIZE, int VALUES, int KEYS>
struct KeyStage {
  typedef RowTile<SIZE, KEYS> Keys;
  typedef RowTile<VALUES, KEYS> Values;
  static constexpr int kBytes = Keys::kBytes + Values::kBytes;

  template <int K_VECTOR, int V_VECTOR, int THREADS>
  static __device__ __forceinline__ void load(char *stage, const uint16_t *k, int64_t k_stride,
                                              const uint16_t *v, int64_t v_stride, int64_t first,
                                              int64_t keys) {
    const int rows = int(keys - first < KEYS ? keys - first : KEYS);
    Keys::template load<K_VECTOR, THREADS>(stage, k + first * k_stride, k_stride, rows);
    Values::template load<V_VECTOR, THREADS>(stage + Keys::kBytes, v + first * v_stride, v_stride,
                                             rows);
  }
};

// Shared memory: the queries, behind them the stages.
template <int SIZE, int VALUES, int QUERIES, int KEYS, int STAGES>
static __device__ __forceinline__ char *key_stage(void *shared, int64_t number) {
  return static_cast<char *>(shared) + RowTile<SIZE, QUERIES>::kBytes +
         number % STAGES * KeyStage<SIZE, VALUES, KEYS>::kBytes;
}

// Starts to copy the queries, `rows` of them, and the first block of keys.
template <int SIZE, int VALUES, int QUERIES, int KEYS, int STAGES, int THREADS, int Q_VECTOR,
          int K_VECTOR, int V_VECTOR>
static __device__ __forceinline__ void attention_begin(void *shared, const void *q, int64_t q_stride, int rows, const void *k,
                                                       int64_t k_stride, const void *v,
                                                       int64_t v_stride, int64_t keys) {
  RowTile<SIZE, QUERIES>::template load<Q_VECTOR, THREADS>(
      static_cast<char *>(shared), static_cast<const uint16_t *>(q), q_stride, rows);
  KeyStage<SIZE, VALUES, KEYS>::template load<K_VECTOR, V_VECTOR, THREADS>(
      key_stage<SIZE, VALUES, QUERIES, KEYS, STAGES>(shared, 0), static_cast<const uint16_t *>(k), k_stride,
      static_cast<const uint16_t *>(v), v_stride, 0, keys);
  commit_copies();
}

// Waits for block `number` of the keys; of two STAGES the other one is filled meanwhile.
template <int SIZE, int VALUES, int QUERIES, int KEYS, int STAGES, int THREADS, int Q_VECTOR,
          int K_VECTOR, int V_VECTOR>
static __device__ __forceinline__ void attention_next(void *shared, const void *k, int64_t k_stride,
                                                      const void *v, int64_t v_stride,
                                                      int64_t number, int64_t keys) {
  typedef KeyStage<SIZE, VALUES, KEYS> Stage;
  const int64_t first = (number + STAGES - 1) * KEYS;
  if (STAGES == 1 && number > 0) __syncthreads();  // nobody reads the block before any more
  if (STAGES > 1) {
    wait_copies<0>();
    __syncthreads();
  }
  if ((STAGES > 1 || number > 0) && first < keys)
    Stage::template load<K_VECTOR, V_VECTOR, THREADS>(
        key_stage<SIZE, VALUES, QUERIES, KEYS, STAGES>(shared, number + STAGES - 1),
        static_cast<const uint16_t *>(k), k_stride, static_cast<const uint16_t *>(v), v_stride,
        first, keys);
  commit_copies();
  if (STAGES == 1) {
    wait_copies<0>();
    __syncthreads();
  }
}

// s = Q K^T for a warp's rows, from `row` on, and keys, from `key` on in the block.
template <class Number, int SIZE, int VALUES, int QUERIES, int KEYS, int STAGES, int TILES>
static __device__ __forceinline__ void attention_scores(float *s, void *shared, int64_t number,
                                                        int row, int key) {
  char *const query = static_cast<char *>(shared);
  char *const keys = key_stage<SIZE, VALUES, QUERIES, KEYS, STAGES>(shared, number);
  const int lane = int(threadIdx.x) % 32, inner = lane % 8, odd = lane / 8 % 2, high = lane / 16;
  float(*sums)[8][4] = reinterpret_cast<float(*)[8][4]>(s);
#pragma unroll
  for (int i = 0; i < TILES * 32; i++) s[i] = 0.0f;
#pragma unroll 2  // in one piece the compiler loads all fragments ahead and spills the sums
  for (int column = 0; column < SIZE; column += 16) {
    uint32_t left[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++)
      load_matrices(left[t], RowTile<SIZE, QUERIES>::chunk(query, row + inner + odd * 8 + t * 16,
                                                           inner, column, high));
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      uint32_t right[4];
      load_matrices(right, RowTile<SIZE, KEYS>::chunk(keys, key + inner + high * 8 + j * 8, inner,
                                                      column, odd));
      const uint32_t pairs[2][2] = {{right[0], right[1]}, {right[2], right[3]}};
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        multiply<Number>(sums[t][j], left[t], pairs[0]);
        multiply<Number>(sums[t][j + 1], left[t], pairs[1]);
      }
    }
  }
}

// Scores -> weights exp(s - top), with top, total and o as they are with these keys.
template <int VALUES, int TILES>
static __device__ __forceinline__ void attention_weights(float *s, float *top, float *total, float *o) {
  constexpr int kColumns = (VALUES + 15) / 16 * 2;
#pragma unroll
  for (int row = 0; row < TILES * 2; row++) {
    float *scores = s + row / 2 * 32 + row % 2 * 2, *sums = o + row / 2 * (kColumns * 4) + row % 2 * 2;
    float highest = top[row];
#pragma unroll
    for (int i = 0; i < 16; i++) highest = fmaxf(highest, scores[i / 2 * 4 + i % 2]);
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
    const float shrunk = exponential(top[row] - highest);
    float sum = total[row] * shrunk;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const float weight = exponential(scores[i / 2 * 4 + i % 2] - highest);
      scores[i / 2 * 4 + i % 2] = weight;
      sum += weight;
    }
    top[row] = highest;
    total[row] = sum;
#pragma unroll
    for (int i = 0; i < kColumns * 2; i++) sums[i / 2 * 4 + i % 2] *= shrunk;
  }
}

// o += P V, with the weights in s.
template <class Number, int SIZE, int VALUES, int QUERIES, int KEYS, int STAGES, int TILES>
static __device__ __forceinline__ void attention_values(float *o, const float *s, void *shared,
                                                        int64_t number, int key) {
  constexpr int kColumns = (VALUES + 15) / 16 * 2;
  const int lane = int(threadIdx.x) % 32, inner = lane % 8, odd = lane / 8 % 2, high = lane / 16;
  char *values = key_stage<SIZE, VALUES, QUERIES, KEYS, STAGES>(shared, number) +
                 RowTile<SIZE, KEYS>::kBytes;
  float(*sums)[kColumns][4] = reinterpret_cast<float(*)[kColumns][4]>(o);
#pragma unroll
  for (int step = 0; step < 4; step++) {  // 16 keys
    uint32_t left[TILES][4];
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float *pair = s + t * 32 + step * 8 + i * 2;  // columns 8 further from i = 2 on
        left[t][i] = pack<Number>(pair[0], pair[1]);
      }
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      uint32_t right[4];
      load_matrices_transposed(right, RowTile<VALUES, KEYS>::chunk(values, key + inner + odd * 8 + step * 16,
                                                                   inner, j * 8, high));
      const uint32_t pairs[2][2] = {{right[0], right[1]}, {right[2], right[3]}};
#pragma unroll
      for (int t = 0; t < TILES; t++) {
        multiply<Number>(sums[t][j], left[t], pairs[0]);
        multiply<Number>(sums[t][j + 1], left[t], pairs[1]);
      }
    }
  }
}

// The results in shared memory: rows of `kWidth` floats, QUERIES of them. The GROUPS of warps with
// other keys each leave their sums, which are then brought together. A row whose weights are no
// sum above zero is 0 if GUARDED.
template <int VALUES, int QUERIES, int GROUPS, int TILES, int THREADS, bool GUARDED>
static __device__ __forceinline__ void attention_end(void *shared, const float *o, const float *top,
                                                     const float *total, int row, int group) {
  constexpr int kColumns = (VALUES + 15) / 16 * 2, kWidth = kColumns * 8 + 8;
  const int lane = int(threadIdx.x) % 32;
  float *sums = static_cast<float *>(shared);
  wait_copies<0>();
  __syncthreads();
#pragma unroll
  for (int i = 0; i < TILES * 2; i++) {
    float *out = sums + (group * QUERIES + row + i / 2 * 16 + i % 2 * 8 + lane / 4) * kWidth;
    float all = total[i];
    all += __shfl_xor_sync(0xffffffffu, all, 1);
    all += __shfl_xor_sync(0xffffffffu, all, 2);
    if (lane % 4 == 0) out[kColumns * 8] = top[i], out[kColumns * 8 + 1] = all;
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      const float *pair = o + (i / 2 * kColumns + j) * 4 + i % 2 * 2;
      *reinterpret_cast<float2 *>(out + j * 8 + lane % 4 * 2) = make_float2(pair[0], pair[1]);
    }
  }
  __syncthreads();
  for (int at = int(threadIdx.x); at < QUERIES * kColumns * 8; at += THREADS) {
    float *first = sums + at / (kColumns * 8) * kWidth;
    const int column = at % (kColumns * 8);
    float highest = first[kColumns * 8];
#pragma unroll
    for (int g = 1; g < GROUPS; g++)
      highest = fmaxf(highest, first[g * QUERIES * kWidth + kColumns * 8]);
    float value = 0.0f, all = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
      const float *part = first + g * QUERIES * kWidth;
      const float share = exponential(part[kColumns * 8] - highest);
      value += part[column] * share;
      all += part[kColumns * 8 + 1] * share;
    }
    first[column] = GUARDED && !(all > 0.0f) ? 0.0f : value / all;
  }
  __syncthreads();
}

}  // namespace athanor
