/* Operators on strings, compiled into the artifacts of models that have them.
 *
 * Not part of the public API. An element of a string tensor is a pointer to zero-terminated bytes;
 * they lie in the weights, in memory of the caller, or, where a run makes them, in memory of the
 * run. Each function takes tensors in place, each with its number of elements, and returns 0, or
 * another number where there is no memory, which the services have said then. */
#ifndef ATHANOR_STRINGS_H_
#define ATHANOR_STRINGS_H_

#include <stdlib.h>
#include <string.h>

#include "athanor_abi.h"

typedef const char *AthanorText;

/* out[i] = the string that begins at bytes[starts[i]]. */
static inline int athanor_string_constant(AthanorRun *run, const void *bytes, int64_t num_bytes,
                                          const void *starts, int64_t num_starts, void *out,
                                          int64_t n) {
  (void)run, (void)num_bytes, (void)num_starts;
  for (int64_t i = 0; i < n; i++)
    ((AthanorText *)out)[i] = (const char *)bytes + ((const int64_t *)starts)[i];
  return 0;
}

/* out[i] = a[i] == b[i], as bool. */
static inline int athanor_string_equal(AthanorRun *run, const void *a, int64_t num_a, const void *b,
                                       int64_t num_b, void *out, int64_t n) {
  (void)run, (void)num_a, (void)num_b;
  for (int64_t i = 0; i < n; i++)
    ((uint8_t *)out)[i] = !strcmp(((AthanorText *)a)[i], ((AthanorText *)b)[i]);
  return 0;
}

/* out[i] = a[i] followed by b[i]. */
static inline int athanor_string_concat(AthanorRun *run, const void *a, int64_t num_a,
                                        const void *b, int64_t num_b, void *out, int64_t n) {
  (void)num_a, (void)num_b;
  const AthanorText *left = (const AthanorText *)a, *right = (const AthanorText *)b;
  uint64_t size = 0;
  for (int64_t i = 0; i < n; i++) size += strlen(left[i]) + strlen(right[i]) + 1;
  char *at = (char *)run->services->run_alloc(run, size);
  if (!at) return -1;
  for (int64_t i = 0; i < n; i++) {
    const size_t first = strlen(left[i]), second = strlen(right[i]);
    ((AthanorText *)out)[i] = at;
    memcpy(at, left[i], first);
    memcpy(at + first, right[i], second + 1);
    at += first + second + 1;
  }
  return 0;
}

/* out[i] = the place of x[i] among the keys, which are sorted by their bytes, or -1. */
static inline int athanor_string_place(AthanorRun *run, const void *x, int64_t num_x,
                                       const void *keys, int64_t num_keys, void *out, int64_t n) {
  (void)run, (void)num_x;
  const AthanorText *key = (const AthanorText *)keys;
  for (int64_t i = 0; i < n; i++) {
    const AthanorText wanted = ((AthanorText *)x)[i];
    int64_t low = 0, high = num_keys;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (strcmp(key[middle], wanted) < 0)
        low = middle + 1;
      else
        high = middle;
    }
    ((int64_t *)out)[i] = low < num_keys && !strcmp(key[low], wanted) ? low : -1;
  }
  return 0;
}

typedef struct {
  AthanorText text;
  int64_t index;
} AthanorRanked;

static inline int athanor_compare_ranked(const void *a, const void *b) {
  return strcmp(((const AthanorRanked *)a)->text, ((const AthanorRanked *)b)->text);
}

/* out[i] = how many different strings of x come before x[i] in the order of their bytes. */
static inline int athanor_string_rank(AthanorRun *run, const void *x, int64_t num_x, void *out,
                                      int64_t n) {
  (void)num_x;
  AthanorRanked *sorted =
      (AthanorRanked *)run->services->run_alloc(run, (uint64_t)n * sizeof *sorted);
  if (!sorted) return -1;
  for (int64_t i = 0; i < n; i++) sorted[i] = (AthanorRanked){((AthanorText *)x)[i], i};
  if (n) qsort(sorted, (size_t)n, sizeof *sorted, athanor_compare_ranked);
  int64_t rank = 0;
  for (int64_t i = 0; i < n; i++) {
    if (i) rank += strcmp(sorted[i - 1].text, sorted[i].text) != 0;
    ((int64_t *)out)[sorted[i].index] = rank;
  }
  run->services->run_free(run, sorted);
  return 0;
}

/* The code point at `text` and how many bytes it has: 1, and the byte less 2^31, where these are no
 * UTF-8. */
static inline int32_t athanor_decode(const uint8_t *text, int *size) {
  static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  const uint8_t first = text[0];
  const int length = first < 0x80           ? 1
                     : (first >> 5) == 0x06 ? 2
                     : (first >> 4) == 0x0E ? 3
                     : (first >> 3) == 0x1E ? 4
                                            : 0;
  int32_t code = length == 1 ? first : length ? first & (0x7F >> length) : 0;
  *size = length ? length : 1;
  for (int i = 1; i < length; i++) {
    if ((text[i] & 0xC0) != 0x80) return *size = 1, INT32_MIN + first;
    code = code << 6 | (text[i] & 0x3F);
  }
  return length && code >= least[length] && code < 0x110000 ? code
                                                            : (*size = 1, INT32_MIN + first);
}

static inline uint8_t *athanor_encode(int32_t code, uint8_t *at) {
  if (code < 0x80) { /* or what was no UTF-8 */
    *at++ = (uint8_t)(code & 0xFF);
  } else if (code < 0x800) {
    *at++ = (uint8_t)(0xC0 | code >> 6);
    *at++ = (uint8_t)(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    *at++ = (uint8_t)(0xE0 | code >> 12);
    *at++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    *at++ = (uint8_t)(0x80 | (code & 0x3F));
  } else {
    *at++ = (uint8_t)(0xF0 | code >> 18);
    *at++ = (uint8_t)(0x80 | (code >> 12 & 0x3F));
    *at++ = (uint8_t)(0x80 | (code >> 6 & 0x3F));
    *at++ = (uint8_t)(0x80 | (code & 0x3F));
  }
  return at;
}

/* out[i] = x[i] with each code point of `from`, which is sorted, changed to that of `to`. */
static inline int athanor_string_changed(AthanorRun *run, const void *x, int64_t num_x,
                                         const void *from, int64_t num_from, const void *to,
                                         int64_t num_to, void *out, int64_t n) {
  (void)num_x, (void)num_to;
  const int32_t *key = (const int32_t *)from;
  uint64_t size = 0;
  /* a code point may become one of more bytes, at most of four for one */
  for (int64_t i = 0; i < n; i++) size += 4 * (uint64_t)strlen(((AthanorText *)x)[i]) + 1;
  uint8_t *at = (uint8_t *)run->services->run_alloc(run, size);
  if (!at) return -1;
  for (int64_t i = 0; i < n; i++) {
    const uint8_t *text = ((const uint8_t *const *)x)[i];
    ((uint8_t **)out)[i] = at;
    while (*text) {
      int bytes;
      int32_t code = athanor_decode(text, &bytes);
      int64_t low = 0, high = num_from;
      while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (key[middle] < code)
          low = middle + 1;
        else
          high = middle;
      }
      if (low < num_from && key[low] == code) code = ((const int32_t *)to)[low];
      at = athanor_encode(code, at);
      text += bytes;
    }
    *at++ = 0;
  }
  return 0;
}

/* out[i] = whether the automaton of a pattern (frontends/onnx/regex.py) ends in a state that
 * matches, as bool. */
static inline int athanor_string_matches(AthanorRun *run, const void *x, int64_t num_x,
                                         const void *classes, int64_t num_bytes, const void *next,
                                         int64_t num_next, const void *matches, int64_t num_states,
                                         void *out, int64_t n) {
  (void)run, (void)num_x, (void)num_bytes;
  const uint8_t *class_of = (const uint8_t *)classes;
  const int64_t num_classes = num_next / num_states;
  for (int64_t i = 0; i < n; i++) {
    const uint8_t *text = ((const uint8_t *const *)x)[i];
    int64_t state = 0;
    while (*text)
      state = ((const int32_t *)next)[state * num_classes + class_of[*text++]];
    ((uint8_t *)out)[i] = ((const uint8_t *)matches)[state];
  }
  return 0;
}

/* The bytes of the white space at `text` in UTF-8; 0 where there is none. */
static inline size_t athanor_space(const char *text) {
  const unsigned char *u = (const unsigned char *)text;
  if ((u[0] >= 9 && u[0] <= 13) || (u[0] >= 28 && u[0] <= 32)) return 1;
  if (u[0] == 0xC2 && (u[1] == 0x85 || u[1] == 0xA0)) return 2;
  if (u[0] == 0xE1 && u[1] == 0x9A && u[2] == 0x80) return 3;
  if (u[0] == 0xE2 && u[1] == 0x80)
    return ((u[2] >= 0x80 && u[2] <= 0x8A) || u[2] == 0xA8 || u[2] == 0xA9 || u[2] == 0xAF) * 3;
  if (u[0] == 0xE2 && u[1] == 0x81 && u[2] == 0x9F) return 3;
  return u[0] == 0xE3 && u[1] == 0x80 && u[2] == 0x80 ? 3 : 0;
}

/* The next part of a string: moves *rest behind it and what divides it from the one after, to NULL
 * after the last. An empty delimiter is any run of white space, which parts neither begin nor, but
 * for the rest after `more` further parts, end with; then there may be no part: false. */
static inline int athanor_next_part(AthanorText *rest, AthanorText delimiter, int64_t more,
                                    AthanorText *part, size_t *size) {
  const char *at = *rest;
  if (!at) return 0;
  if (*delimiter) {
    const char *end = more ? strstr(at, delimiter) : NULL;
    *part = at;
    *size = end ? (size_t)(end - at) : strlen(at);
    *rest = end ? end + strlen(delimiter) : NULL;
    return 1;
  }
  while (athanor_space(at)) at += athanor_space(at);
  if (!*at) return 0;
  *part = at;
  if (!more) {
    *size = strlen(at);
    *rest = NULL;
    return 1;
  }
  while (*at && !athanor_space(at)) at++;
  *size = (size_t)(at - *part);
  *rest = at;
  return 1;
}

/* counts[i] = the number of parts of x[i], at most `limit` splits where that is not negative;
 * most[0] = the largest of them. */
static inline int athanor_string_count_parts(AthanorRun *run, const void *x, int64_t num_x,
                                             const void *delimiter, int64_t num_delimiters,
                                             const void *limit, int64_t num_limits, void *counts,
                                             int64_t n, void *most, int64_t num_most) {
  (void)run, (void)num_x, (void)num_delimiters, (void)num_limits, (void)num_most;
  const int64_t splits = *(const int64_t *)limit;
  int64_t largest = 0;
  for (int64_t i = 0; i < n; i++) {
    AthanorText rest = ((AthanorText *)x)[i], part;
    size_t size;
    int64_t count = 0;
    while (athanor_next_part(&rest, *(AthanorText *)delimiter, count != splits, &part, &size))
      count++;
    ((int64_t *)counts)[i] = count;
    if (count > largest) largest = count;
  }
  *(int64_t *)most = largest;
  return 0;
}

/* The parts of each string, and empty strings up to the number of most parts. */
static inline int athanor_string_split(AthanorRun *run, const void *x, int64_t num_x,
                                       const void *delimiter, int64_t num_delimiters,
                                       const void *limit, int64_t num_limits, void *out,
                                       int64_t n) {
  (void)num_delimiters, (void)num_limits;
  const int64_t splits = *(const int64_t *)limit, width = num_x ? n / num_x : 0;
  uint64_t bytes = 1;
  for (int64_t i = 0; i < num_x; i++) bytes += strlen(((AthanorText *)x)[i]) + (uint64_t)width;
  char *at = (char *)run->services->run_alloc(run, bytes);
  if (!at) return -1;
  AthanorText empty = at;
  *at++ = 0;
  for (int64_t i = 0; i < num_x; i++) {
    AthanorText rest = ((AthanorText *)x)[i], part;
    size_t size;
    int64_t count = 0;
    AthanorText *row = (AthanorText *)out + i * width;
    while (count < width && athanor_next_part(&rest, *(AthanorText *)delimiter, count != splits,
                                              &part, &size)) {
      row[count++] = at;
      memcpy(at, part, size);
      at[size] = 0;
      at += size + 1;
    }
    while (count < width) row[count++] = empty;
  }
  return 0;
}

#endif /* ATHANOR_STRINGS_H_ */
