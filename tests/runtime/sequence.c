/* A small artifact by hand that takes and returns a sequence, an optional and an optional sequence
 * of float as they are: what the compiler would print for three Identity nodes. */
#include "athanor_abi.h"

#include <string.h>

static const AthanorServices *services;

#define COUNT ATHANOR_DIM_SYMBOL
static const int64_t elements[] = {COUNT(0)}, shapes[] = {COUNT(1), 4}, none[] = {0};
static const int64_t more[] = {COUNT(2)}, more_shapes[] = {COUNT(3), 2};
static const int64_t most[] = {COUNT(4)}, most_shapes[] = {COUNT(5), 3};
static const AthanorTensorInfo values[] = {
    {"s.elements", 2, 32, 1, 1, elements, ATHANOR_SEQUENCE, 0},
    {"s.shapes", 0, 64, 1, 2, shapes, ATHANOR_SEQUENCE, 1},
    {"o.elements", 2, 32, 1, 1, more, ATHANOR_OPTIONAL, 0},
    {"o.shapes", 0, 64, 1, 2, more_shapes, ATHANOR_OPTIONAL, 1},
    {"p.elements", 2, 32, 1, 1, most, ATHANOR_OPTIONAL_SEQUENCE, 0},
    {"p.shapes", 0, 64, 1, 2, most_shapes, ATHANOR_OPTIONAL_SEQUENCE, 1},
    {"p.present", 6, 8, 1, 0, none, ATHANOR_OPTIONAL_SEQUENCE, 2},
};
static const char *const symbols[] = {"a", "b", "c", "d", "e", "f"};

static int init(const AthanorServices *given) {
  services = given;
  return 0;
}

static int plan(const int64_t *counts, uint64_t *arena_bytes, int64_t *sizes) {
  *arena_bytes = 0;
  for (int i = 0; i < 6; i++) sizes[2 * i] = counts[i];
  for (int i = 0; i < 3; i++) sizes[4 * i + 3] = values[2 * i + 1].shape[1];
  return 0;
}

static int run(AthanorRun *run) {
  for (int i = 0; i < 7; i++) {
    int64_t bytes = values[i].dtype_bits / 8;
    for (int axis = 0; axis < values[i].ndim; axis++) {
      const int64_t dim = values[i].shape[axis];
      bytes *= dim < 0 ? run->symbols[-dim - 1] : dim;
    }
    memcpy(run->outputs[i], run->inputs[i], (size_t)bytes);
  }
  return 0;
}

/* clang-format off */
__attribute__((visibility("default"))) const AthanorDescriptor athanor_descriptor = {
  ATHANOR_ABI_VERSION, sizeof(AthanorDescriptor),
  7, 7, 6, 2,
  values, values, symbols, 0, init, plan, run,
};
