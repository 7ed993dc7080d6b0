/* SHA-256 (FIPS 180-4), https://doi.org/10.6028/NIST.FIPS.180-4. */
#include "internal.h"

#include <string.h>

const uint32_t ath_sha256_constants[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static uint32_t big_endian(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* One round; the caller names the eight words one place further each time, so none is moved. */
static inline void round_of(uint32_t a, uint32_t b, uint32_t c, uint32_t *d, uint32_t e, uint32_t f,
                            uint32_t g, uint32_t *h, uint32_t constant_and_word) {
  const uint32_t sum_e = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
  const uint32_t sum_a = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
  const uint32_t t = *h + sum_e + ((e & f) ^ (~e & g)) + constant_and_word;
  *d += t;
  *h = t + sum_a + ((a & b) ^ (a & c) ^ (b & c));
}

void ath_sha256_blocks_portable(uint32_t state[8], const uint8_t *data, size_t num_blocks) {
  for (; num_blocks; num_blocks--, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 64; i++) {
      const uint32_t x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[i - 7] +
             (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; i += 8) {
      const uint32_t *k = ath_sha256_constants + i;
      round_of(a, b, c, &d, e, f, g, &h, k[0] + w[i]);
      round_of(h, a, b, &c, d, e, f, &g, k[1] + w[i + 1]);
      round_of(g, h, a, &b, c, d, e, &f, k[2] + w[i + 2]);
      round_of(f, g, h, &a, b, c, d, &e, k[3] + w[i + 3]);
      round_of(e, f, g, &h, a, b, c, &d, k[4] + w[i + 4]);
      round_of(d, e, f, &g, h, a, b, &c, k[5] + w[i + 5]);
      round_of(c, d, e, &f, g, h, a, &b, k[6] + w[i + 6]);
      round_of(b, c, d, &e, f, g, h, &a, k[7] + w[i + 7]);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

void ath_sha256_with(AthSha256Blocks blocks, const uint8_t *data, size_t size_bytes,
                     uint8_t digest[32]) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  blocks(state, data, size_bytes / 64);
  /* The rest, one 1 bit, zeros, and the length in bits. */
  uint8_t tail[128] = {0};
  const size_t rest = size_bytes % 64, tail_bytes = rest < 56 ? 64 : 128;
  if (rest) memcpy(tail, data + size_bytes - rest, rest);
  tail[rest] = 0x80;
  const uint64_t bits = (uint64_t)size_bytes * 8;
  for (int i = 0; i < 8; i++) tail[tail_bytes - 1 - i] = (uint8_t)(bits >> 8 * i);
  blocks(state, tail, tail_bytes / 64);
  for (int i = 0; i < 32; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

void ath_sha256(const uint8_t *data, size_t size_bytes, uint8_t digest[32]) {
  AthSha256Blocks blocks = ath_sha256_blocks_portable;
#if defined(__x86_64__)
  if (ath_cpu_has("sha_ni") && ath_cpu_has("sse4_1")) blocks = ath_sha256_blocks_x86;
#endif
  ath_sha256_with(blocks, data, size_bytes, digest);
}
