// Tiles of operands in shared memory, and the copies that fill them.
//
// A stage of the pipeline is 128 bytes deep: kDepth numbers. A tile is rows of 128 bytes, whose 16
// byte chunks change places so that eight rows below each other meet all banks once; it is the
// 128-byte swizzle of the tensor memory instructions too, where the tile begins at a multiple of
// 1024 bytes.
//
//   depth major: row = side (row of A, column of B), along it the depth
//   side major: row = depth, along it 128 bytes of sides; such panels of kDepth rows one by one
namespace athanor {

template <class Number>
struct Tiling {
  static constexpr int kDepth = 128 / sizeof(typename Number::Element);
  // Bytes of a tile with that many sides.
  static constexpr int bytes(int sides, bool depth_major) {
    return depth_major ? sides * 128 : (sides + kDepth - 1) / kDepth * kDepth * 128;
  }
};

static __device__ __forceinline__ char *chunk_of(char *tile, int row, int chunk) {
  return tile + row * 128 + ((chunk ^ (row & 7)) << 4);
}

// VECTOR numbers from global to shared memory; zeros where not inside.
template <class Element, int VECTOR>
static __device__ __forceinline__ void copy_numbers(char *to, const Element *from, bool inside) {
  if constexpr (VECTOR * sizeof(Element) >= 4)
    copy_async<VECTOR * sizeof(Element)>(to, from, inside);
  else
    *reinterpret_cast<Element *>(to) = inside ? *from : Element(0);
}

// A matrix with neighbours along the depth (DEPTH_MAJOR) or along the sides. VECTOR divides the
// extent of that axis and `stride`, numbers from one row of the other to the next; a vector is aligned.
template <class Number, bool DEPTH_MAJOR, int VECTOR, int SIDES, int THREADS>
struct MatrixTile {
  typedef typename Number::Element Element;
  static constexpr int kDepth = Tiling<Number>::kDepth;
  static constexpr bool kDepthMajor = DEPTH_MAJOR;
  static constexpr int kBytes = Tiling<Number>::bytes(SIDES, DEPTH_MAJOR);
  static constexpr int kAlong = DEPTH_MAJOR || SIDES > kDepth ? kDepth : SIDES;
  static constexpr int kCopies = kAlong / VECTOR;  // of one row
  static constexpr int kCount = kBytes / 128 * kCopies;

  const Element *first;  // at the tile's first side and depth 0
  int64_t stride;
  int sides;  // from the tile's first one on

  __device__ __forceinline__ void load(char *tile, int begin, int end) const {
#pragma unroll
    for (int i = 0; i < kCount; i += THREADS) {
      const int at = i + int(threadIdx.x);
      if (kCount % THREADS != 0 && at >= kCount) break;
      const int row = at / kCopies, inner = at % kCopies * VECTOR;
      const int side = DEPTH_MAJOR ? row : row / kDepth * kDepth + inner;
      const int depth = begin + (DEPTH_MAJOR ? inner : row % kDepth);
      const bool inside = side < sides && depth < end;
      const int64_t place = DEPTH_MAJOR ? side * stride + depth : depth * stride + side;
      const int byte = inner * int(sizeof(Element));
      copy_numbers<Element, VECTOR>(chunk_of(tile, row, byte / 16) + byte % 16,
                                    first + (inside ? place : 0), inside);
    }
  }
};

// The pixels that a convolution meets, channels last: side = output pixel, depth = (kernel row,
// kernel column, channel). VECTOR divides `channels` and `pixel`, numbers from a pixel to the next.
template <class Number, int VECTOR, int SIDES, int THREADS>
struct PixelTile {
  typedef typename Number::Element Element;
  static constexpr int kDepth = Tiling<Number>::kDepth;
  static constexpr bool kDepthMajor = true;
  static constexpr int kBytes = Tiling<Number>::bytes(SIDES, true);
  static constexpr int kCopies = kDepth / VECTOR;
  static constexpr int kCount = SIDES * kCopies;
  static constexpr int kPlaces = (kCount + THREADS - 1) / THREADS;
  static_assert(THREADS % kCopies == 0, "a thread copies the same depth of every row");

  const Element *data;
  int pixel, height, width, channels, out_width, out_pixels, kernel_width;
  int stride_y, stride_x, top, left, step_y, step_x;
  int first, sides;  // the tile's first output pixel; pixels from it on

  struct Place {
    int64_t image;  // pixels before this one's image
    int y, x;
  };
  __device__ __forceinline__ Place place_of(int side) const {
    const int at = first + (side < sides ? side : 0);
    const int image = at / out_pixels, inner = at % out_pixels;
    return {int64_t(image) * height * width, inner / out_width * stride_y - top,
            inner % out_width * stride_x - left};
  }
  __device__ __forceinline__ void load(char *tile, int begin, int end) const {
    const int inner = int(threadIdx.x) % kCopies * VECTOR, depth = begin + inner;
    const int tap = depth / channels, channel = depth % channels;
    const int dy = tap / kernel_width * step_y, dx = tap % kernel_width * step_x;
    const int byte = inner * int(sizeof(Element));
#pragma unroll(kPlaces <= 8 ? kPlaces : 4)
    for (int i = 0; i < kPlaces; i++) {
      const int row = (i * THREADS + int(threadIdx.x)) / kCopies;
      if (kCount % THREADS != 0 && row >= SIDES) break;
      const Place place = place_of(row);
      const int y = place.y + dy, x = place.x + dx;
      const bool inside = row < sides && depth < end && unsigned(y) < unsigned(height) &&
                          unsigned(x) < unsigned(width);
      const int64_t at = (place.image + int64_t(y) * width + x) * pixel + channel;
      copy_numbers<Element, VECTOR>(chunk_of(tile, row, byte / 16) + byte % 16,
                                    data + (inside ? at : 0), inside);
    }
  }
};

}  // namespace athanor
