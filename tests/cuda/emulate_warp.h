// What targets/device/warp.cuh does on a GPU, for fibers: copies arrive when they are waited for, and
// fragments go from thread to thread as the PTX manual draws them.
#include <deque>
#include <functional>

namespace athanor {

struct Copy {
  void *to;
  const void *from;
  int bytes;
  bool inside;
};
struct Copies {
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};
static std::vector<Copies> copies(1024);
static std::vector<char> unfenced(1024);  // whether a thread's copies are not yet fenced

static bool in_shared(const void *pointer, size_t bytes) {
  const unsigned char *first = static_cast<const unsigned char *>(pointer);
  return first >= buf_dyn_shmem && first + bytes <= buf_dyn_shmem + shared_bytes;
}
static void demand(bool holds, const char *rule) {
  if (holds) return;
  fprintf(stderr, "emulation: %s\n", rule);
  abort();
}

template <int BYTES>
void copy_async(void *shared, const void *global, bool inside) {
  demand(in_shared(shared, BYTES), "a copy leaves shared memory");
  demand(uintptr_t(shared) % BYTES == 0 && uintptr_t(global) % BYTES == 0, "a copy is not aligned");
  memset(shared, 0xFF, BYTES);  // not there before it has been waited for
  copies[emulation::current].open.push_back({shared, global, BYTES, inside});
}
static inline void commit_copies() {
  Copies &mine = copies[emulation::current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int LEFT>
void wait_copies() {
  Copies &mine = copies[emulation::current];
  for (; mine.groups.size() > LEFT; mine.groups.pop_front())
    for (const Copy &copy : mine.groups.front()) {
      if (copy.inside) memcpy(copy.to, copy.from, copy.bytes);
      else memset(copy.to, 0, copy.bytes);
      unfenced[emulation::current] = 1;
    }
}

// What every thread of the warp gives; all of them call it.
template <typename T>
struct Warp {
  T given[32];
  explicit Warp(const T &mine) {
    static T board[1024];
    const size_t first = emulation::current / 32 * 32;
    board[emulation::current] = mine;
    emulation::yield(emulation::kAtWarp);
    std::copy(board + first, board + first + 32, given);
    emulation::yield(emulation::kAtWarp);
  }
};

static inline uint16_t half_word(const void *row, int number) {
  uint16_t word;
  memcpy(&word, static_cast<const char *>(row) + 2 * number, 2);
  return word;
}
static inline void load_rows(uint32_t (&r)[4], const void *row, bool transposed) {
  demand(in_shared(row, 16) && uintptr_t(row) % 16 == 0, "a row of ldmatrix is not 16 shared bytes");
  const Warp<const void *> rows(row);
  const int lane = emulation::lane(), group = lane / 4, pair = lane % 4 * 2;
  for (int i = 0; i < 4; i++) {
    const void *const *matrix = rows.given + 8 * i;
    const uint16_t low = transposed ? half_word(matrix[pair], group) : half_word(matrix[group], pair);
    const uint16_t high =
        transposed ? half_word(matrix[pair + 1], group) : half_word(matrix[group], pair + 1);
    r[i] = uint32_t(high) << 16 | low;
  }
}
static inline void load_matrices(uint32_t (&r)[4], const void *row) { load_rows(r, row, false); }
static inline void load_matrices_transposed(uint32_t (&r)[4], const void *row) {
  load_rows(r, row, true);
}

struct Half {
  typedef uint16_t Element;
  static float value(uint32_t word, int number) {
    const uint16_t bits = uint16_t(word >> 16 * number);
    half x;
    memcpy(&x, &bits, 2);
    return float(x);
  }
  static uint32_t bits(float number) {
    const half x(number);
    uint16_t word;
    memcpy(&word, &x, 2);
    return word;
  }
};
struct BFloat {
  typedef uint16_t Element;
  static float value(uint32_t word, int number) {
    const uint32_t bits = word >> 16 * number << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  }
  static uint32_t bits(float number) {
    const nv_bfloat16 x(number);
    uint16_t word;
    memcpy(&word, &x, 2);
    return word;
  }
};
struct TF32 {
  typedef uint32_t Element;
  static float value(uint32_t word, int) {  // to nearest, ties away from zero
    if ((word & 0x7f800000u) != 0x7f800000u) word += 0x1000;
    word &= 0xffffe000u;
    float x;
    memcpy(&x, &word, 4);
    return x;
  }
};
struct Single {
  typedef uint32_t Element;
};

template <class Number>
uint32_t pack(float low, float high) {
  return Number::bits(high) << 16 | Number::bits(low);
}
static inline float exponential(float x) {  // denormals flushed, as ex2.approx.ftz does
  const float power = exp2f(x * 1.4426950408889634f);
  return power < 1.17549435e-38f ? 0.0f : power;
}

struct Operands {
  uint32_t a[4], b[2];
};
template <class Number>
void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Warp<Operands> warp({{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int lane = emulation::lane();
  constexpr int in_word = 4 / sizeof(typename Number::Element);
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (int word = 0; word < 8; word++)  // word w of a row is lane w % 4's, register w / 4
      for (int part = 0; part < in_word; part++)
        d[i] += Number::value(warp.given[row * 4 + word % 4].a[i / 2 + word / 4 * 2], part) *
                Number::value(warp.given[column * 4 + word % 4].b[word / 4], part);
  }
}

// Products of warpgroups run when they are waited for, each thread's sums by itself, out of shared
// memory as the descriptors say.
struct GroupProducts {
  std::vector<std::function<void()>> open;
  std::deque<std::vector<std::function<void()>>> groups;
};
static std::vector<GroupProducts> products(1024);

static inline uint32_t shared_address(const void *pointer) {
  return uint32_t(static_cast<const unsigned char *>(pointer) - buf_dyn_shmem);
}
static inline void fence_async() { unfenced[emulation::current] = 0; }
static inline void begin_group() {}
static inline void commit_group() {
  GroupProducts &mine = products[emulation::current];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}
template <int LEFT>
void wait_groups() {
  GroupProducts &mine = products[emulation::current];
  for (; mine.groups.size() > LEFT; mine.groups.pop_front())
    for (const auto &product : mine.groups.front()) product();
}
// The word of a matrix that a descriptor describes: 128-byte swizzle, base offset 0.
static inline uint32_t described(uint64_t descriptor, int side, int depth, bool side_major) {
  demand(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0, "not the 128-byte swizzle");
  const uint32_t start = (descriptor & 0x3fff) << 4;
  const uint32_t leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
  uint32_t at = start + (side_major ? side / 64 * leading + side % 64 * 2 + depth / 8 * stride + depth % 8 * 128
                                    : side / 8 * stride + side % 8 * 128 + depth * 2);
  at ^= (at >> 7 & 7) << 4;
  demand(in_shared(buf_dyn_shmem + at, 2), "a product leaves shared memory");
  return half_word(buf_dyn_shmem + at, 0);
}
template <int COUNT>
void hold_sums(float (&)[COUNT]) {}

template <class Number, int COLUMNS, bool A_SIDE, bool B_SIDE>
void group_multiply(float (&d)[COLUMNS / 2], uint64_t a, uint64_t b) {
  for (size_t i = 0; i < emulation::count; i++)
    demand(!unfenced[i], "a product may read shared memory before copies are seen");
  const int thread = int(emulation::current) % 128;
  float *const sums = d;
  products[emulation::current].open.push_back([=] {
    for (int i = 0; i < COLUMNS / 2; i++) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
      const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      for (int k = 0; k < 16; k++)
        sums[i] += Number::value(described(a, row, k, A_SIDE), 0) *
                   Number::value(described(b, column, k, B_SIDE), 0);
    }
  });
}

}  // namespace athanor
