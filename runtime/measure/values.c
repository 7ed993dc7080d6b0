/* Inputs made from a seed, and outputs compared with the reference's. */
#include "measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The finalizer of splitmix64: https://prng.di.unimi.it/splitmix64.c */
static uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

static bool is_float(const MeasureArgument *argument) {
  return argument->dtype_code == kDLFloat || argument->dtype_code == kDLBfloat;
}

static uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

/* A float16 of a multiple of 1/128 in [-1, 1), which has no more than 8 significant bits. */
static uint16_t half_bits(float value) {
  const uint32_t bits = float_bits(value);
  if (!(bits & 0x7FFFFFFFu)) return 0;
  return (uint16_t)((bits >> 16 & 0x8000u) | (((bits >> 23 & 0xFFu) - 112) << 10) |
                    (bits >> 13 & 0x3FFu));
}

void measure_fill(const MeasureArgument *argument, void *data, uint64_t seed, int32_t number) {
  const uint64_t stream = mix(seed ^ mix((uint64_t)number + 1));
  const unsigned bytes = (argument->dtype_bits + 7u) / 8;
  uint8_t *at = data;
  for (uint64_t i = 0; i < argument->count; i++, at += bytes) {
    const uint64_t word = mix(stream + i);
    memset(at, 0, bytes);
    if (!is_float(argument)) {
      /* 0 and 1: a truth, and an index into all but the empty. Floats of 8 bits and less: the
       * byte is a number between 0.25 and 2 in all of these types that have so many bits. */
      *at = (uint8_t)(argument->dtype_code > kDLBool ? 0x38 | word >> 62 : word >> 63);
      continue;
    }
    const float coarse = (float)(word >> 56) / 128.0f - 1.0f; /* exact in every type */
    const double fine = (double)(word >> 40) * 0x1p-23 - 1.0;
    if (argument->dtype_bits == 64) {
      memcpy(at, &fine, 8);
    } else if (argument->dtype_bits == 32) {
      const float single = (float)fine;
      memcpy(at, &single, 4);
    } else {
      const uint16_t narrow = argument->dtype_code == kDLBfloat
                                  ? (uint16_t)(float_bits(coarse) >> 16)
                                  : half_bits(coarse);
      memcpy(at, &narrow, 2);
    }
  }
}

/* Every second byte is odd in its upper half, so that no type takes it for a likely result. */
void measure_spoil(void *data, uint64_t size_bytes) { memset(data, 0x5A, size_bytes); }

static double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F;
  const double fraction = bits & 0x3FF;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? (double)NAN : sign * (double)INFINITY;
  return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static double value_of(const MeasureArgument *argument, const void *data, uint64_t index) {
  const uint8_t *at = (const uint8_t *)data + index * (argument->dtype_bits / 8);
  double wide;
  float single;
  uint16_t narrow;
  uint32_t bits;
  if (argument->dtype_bits == 64) return memcpy(&wide, at, 8), wide;
  if (argument->dtype_bits == 32) return memcpy(&single, at, 4), (double)single;
  memcpy(&narrow, at, 2);
  if (argument->dtype_code == kDLFloat) return half_value(narrow);
  bits = (uint32_t)narrow << 16;
  memcpy(&single, &bits, 4);
  return (double)single;
}

static bool compare_bytes(const MeasureArgument *argument, const uint8_t *data,
                          const uint8_t *expected, char *sentence, size_t size) {
  const unsigned bytes = (argument->dtype_bits + 7u) / 8;
  for (uint64_t i = 0; i < argument->count; i++)
    if (memcmp(data + i * bytes, expected + i * bytes, bytes)) {
      snprintf(sentence, size, "element %llu differs from the reference's", (unsigned long long)i);
      return false;
    }
  return true;
}

bool measure_compare(const MeasureArgument *argument, const void *data, const void *expected,
                     char *sentence, size_t size) {
  if (!is_float(argument)) return compare_bytes(argument, data, expected, sentence, size);
  double largest = 0;
  for (uint64_t i = 0; i < argument->count; i++) {
    const double magnitude = fabs(value_of(argument, expected, i));
    if (isfinite(magnitude) && magnitude > largest) largest = magnitude;
  }
  for (uint64_t i = 0; i < argument->count; i++) {
    const double got = value_of(argument, data, i), want = value_of(argument, expected, i);
    const bool is_same = isnan(want) ? isnan(got) : got == want;
    if (is_same || fabs(got - want) <= argument->tolerance * largest) continue;
    snprintf(sentence, size, "element %llu is %.9g, the reference's is %.9g; %.3g of the largest "
             "magnitude %.3g is allowed", (unsigned long long)i, got, want, argument->tolerance,
             largest);
    return false;
  }
  return true;
}
