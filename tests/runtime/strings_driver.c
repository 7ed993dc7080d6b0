/* The functions of athanor_strings.h on texts at the edges, each in a block of its own size, so that
 * a sanitizer sees what is read or written behind it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "athanor_strings.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

static void *blocks[64];
static int num_blocks, fails;

static void *allocate(AthanorRun *run, uint64_t size) {
  (void)run;
  return fails ? NULL : (blocks[num_blocks++] = malloc(size ? size : 1));
}
static void give_back(AthanorRun *run, void *pointer) {
  (void)run, (void)pointer; /* at the end, with all others */
}

static char *copy_of(const char *text) {
  char *copy = malloc(strlen(text) + 1);
  blocks[num_blocks++] = copy;
  return strcpy(copy, text);
}

int main(void) {
  const AthanorServices services = {.run_alloc = allocate, .run_free = give_back};
  AthanorRun run = {.services = &services};
  const char *x[] = {copy_of(""), copy_of("a b"), copy_of("\xe4"), copy_of("\xf0\x9f"),
                     copy_of(" \xe2\x80"), copy_of("\xe4\xba\xac"), copy_of("a b")};
  const char *out[32];
  int64_t numbers[7], most;
  uint8_t flags[7];
  enum { N = 7 };

  CHECK(!athanor_string_concat(&run, x, N, x, N, out, N));
  CHECK(!strcmp(out[1], "a ba b") && !strcmp(out[0], "") && !strcmp(out[2], "\xe4\xe4"));
  CHECK(!athanor_string_equal(&run, x, N, out, N, flags, N) && flags[0] && !flags[1]);
  CHECK(!athanor_string_rank(&run, x, N, numbers, N));
  CHECK(numbers[0] == 0 && numbers[1] == 2 && numbers[6] == 2 && numbers[4] == 1);
  const char *keys[] = {"", "a b"};
  CHECK(!athanor_string_place(&run, x, N, keys, 2, numbers, N));
  CHECK(numbers[0] == 0 && numbers[1] == 1 && numbers[2] == -1);
  CHECK(!athanor_string_place(&run, x, N, keys, 0, numbers, N) && numbers[0] == -1);

  const char *delimiters[] = {"", " ", "a b", "\xba"};
  const int64_t limits[] = {-1, 0, 1};
  for (int d = 0; d < 4; d++)
    for (int l = 0; l < 3; l++) {
      CHECK(!athanor_string_count_parts(&run, x, N, &delimiters[d], 1, &limits[l], 1, numbers, N,
                                        &most, 1));
      CHECK(most >= 1 && most <= 2);
      CHECK(!athanor_string_split(&run, x, N, &delimiters[d], 1, &limits[l], 1, out, N * most));
      for (int i = 0; i < N; i++)
        for (int64_t part = numbers[i]; part < most; part++)
          CHECK(!strcmp(out[i * most + part], ""));
    }

  const int32_t from[] = {'a', 0x4eac}, to[] = {0x10400, 'c'};
  CHECK(!athanor_string_changed(&run, x, N, from, 2, to, 2, out, N));
  CHECK(!strcmp(out[1], "\xf0\x90\x90\x80 b") && !strcmp(out[2], "\xe4") && !strcmp(out[5], "c"));
  CHECK(!strcmp(out[3], "\xf0\x9f") && !strcmp(out[4], " \xe2\x80"));

  fails = 1;
  CHECK(athanor_string_concat(&run, x, N, x, N, out, N));
  CHECK(athanor_string_rank(&run, x, N, numbers, N));
  CHECK(athanor_string_split(&run, x, N, delimiters, 1, limits, 1, out, N));
  CHECK(athanor_string_changed(&run, x, N, from, 2, to, 2, out, N));
  while (num_blocks) free(blocks[--num_blocks]);
  return 0;
}
