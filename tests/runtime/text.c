/* A small artifact by hand with strings, x[n]: same[n] hands on x, and twice[n] is each string two
 * times, written by the run. An empty string among x ends the run with an error. */
#include <string.h>

#include "athanor_abi.h"

static const AthanorServices *services;

static const int64_t shape[] = {ATHANOR_DIM_SYMBOL(0)};
static const AthanorTensorInfo inputs[] = {{"x", 3, 64, 1, 1, shape, 0, 0}};
static const AthanorTensorInfo outputs[] = {
    {"same", 3, 64, 1, 1, shape, 0, 0},
    {"twice", 3, 64, 1, 1, shape, 0, 0},
};
static const char *const symbols[] = {"n"};

static int init(const AthanorServices *given) {
  services = given;
  return 0;
}

static int plan(const int64_t *values, uint64_t *arena_bytes, int64_t *shapes) {
  *arena_bytes = 0;
  shapes[0] = shapes[1] = values[0];
  return 0;
}

static int run(AthanorRun *run) {
  const char *const *x = run->inputs[0];
  for (int64_t i = 0; i < run->symbols[0]; i++) {
    const size_t size = strlen(x[i]);
    char *twice = services->run_alloc(run, 2 * size + 1);
    if (!twice) return -1;
    memcpy(twice, x[i], size);
    memcpy(twice + size, x[i], size + 1);
    ((const char **)run->outputs[0])[i] = x[i];
    ((const char **)run->outputs[1])[i] = twice;
    if (!size) return services->set_error("an empty string"), -1;
  }
  return 0;
}

/* clang-format off */
__attribute__((visibility("default"))) const AthanorDescriptor athanor_descriptor = {
  ATHANOR_ABI_VERSION, sizeof(AthanorDescriptor),
  1, 2, 1, 1,
  inputs, outputs, symbols, 0, init, plan, run,
};
