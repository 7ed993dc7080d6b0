/* A small artifact by hand: what the compiler would print for
 *
 *   sum[batch, 4]     = x[batch, 4] + weight[4]         in a parallel loop
 *   rows[batch]       = the sum of each row of `sum`    by way of the arena and of scratch memory
 *   positive[?]       = the elements of x above zero    a size that depends on the data
 *   tasks[2]          = the tasks of a loop, and of a loop inside of one of its tasks
 *   scaled[2 * batch] = 0, 1, 2, ...                    a computed size
 *
 * `command` asks for misbehaviour: 1 an error with a sentence, 2 an error without, 3 an error in
 * the last task of a loop, 4 no data-dependent output, 5 scratch memory freed out of order, 6
 * scratch memory never freed. */
#include "athanor_abi.h"

#include <math.h>

static const AthanorServices *services;

#define BATCH ATHANOR_DIM_SYMBOL(0)
static const int64_t x_shape[] = {BATCH, 4}, command_shape[] = {1};
static const int64_t rows_shape[] = {BATCH}, positive_shape[] = {ATHANOR_DIM_DATA_DEPENDENT};
static const int64_t tasks_shape[] = {2}, scaled_shape[] = {ATHANOR_DIM_COMPUTED};
static const AthanorTensorInfo inputs[] = {
    {"x", 2, 32, 1, 2, x_shape},
    {"again", 2, 32, 1, 2, x_shape},
    {"command", 0, 32, 1, 1, command_shape},
};
static const AthanorTensorInfo outputs[] = {
    {"sum", 2, 32, 1, 2, x_shape},
    {"rows", 2, 32, 1, 1, rows_shape},
    {"positive", 2, 32, 1, 1, positive_shape},
    {"tasks", 0, 32, 1, 1, tasks_shape},
    {"scaled", 0, 64, 1, 1, scaled_shape},
};
static const char *const symbols[] = {"batch"};

typedef struct {
  const float *x, *weight;
  float *sum;
  int64_t batch;
  int32_t fail;
} Closure;

static int add(int task_id, AthanorGroup *group, void *argument) {
  const Closure *c = argument;
  if (c->fail && task_id == group->num_task - 1) {
    services->set_error("the last task failed");
    return 7;
  }
  for (int64_t row = task_id; row < c->batch; row += group->num_task)
    for (int i = 0; i < 4; i++) c->sum[4 * row + i] = c->x[4 * row + i] + c->weight[i];
  return 0;
}

static int count(int task_id, AthanorGroup *group, void *argument) {
  if (task_id == 0) *(int32_t *)argument = group->num_task;
  return 0;
}

static int nest(int task_id, AthanorGroup *group, void *argument) {
  int32_t *tasks = argument;
  if (task_id) return 0;
  tasks[0] = group->num_task;
  return services->parallel_launch(count, tasks + 1, 0);
}

static int init(const AthanorServices *given) {
  services = given;
  return 0;
}

static int plan(const int64_t *values, uint64_t *arena_bytes, int64_t *shapes) {
  *arena_bytes = (uint64_t)values[0] * 16;
  shapes[0] = values[0];
  shapes[1] = 4;
  shapes[2] = values[0];
  shapes[4] = ATHANOR_DIM_DATA_DEPENDENT;
  shapes[6] = 2;
  shapes[8] = 2 * values[0];
  return 0;
}

static int misbehave(int32_t command) {
  if (command == 1) services->set_error("division by zero in node 'layer1/div'");
  if (command == 1 || command == 2) return -1;
  if (command == 5) {
    void *outer = services->workspace_alloc(100), *inner = services->workspace_alloc(100);
    return outer == inner ? -1 : services->workspace_free(outer);
  }
  if (command == 6) return services->workspace_alloc(1 << 20) ? 0 : -1;
  return 0;
}

static int run(AthanorRun *run) {
  const int64_t batch = run->symbols[0];
  const float *x = run->inputs[0];
  const int32_t command = *(const int32_t *)run->inputs[2];
  Closure c = {x, (const float *)run->weights, (float *)run->arena, batch, command == 3};
  int result = misbehave(command);
  if (result) return result;
  if ((result = services->parallel_launch(add, &c, 0))) return result;
  float *row = services->workspace_alloc(16);
  if (!row || (uintptr_t)row % 64 || (uintptr_t)run->arena % 64) return -1;
  for (int64_t i = 0; i < batch; i++) {
    for (int k = 0; k < 4; k++) row[k] = ((float *)run->outputs[0])[4 * i + k] = c.sum[4 * i + k];
    ((float *)run->outputs[1])[i] = fmaf(row[0] + row[1], 1, row[2] + row[3]);
  }
  if (services->workspace_free(row)) return -1;
  int64_t above = 0;
  for (int64_t i = 0; i < 4 * batch; i++) above += x[i] > 0;
  if (command != 4) {
    float *positive = services->output(run, 2, 1, &above);
    if (!positive) return -1;
    for (int64_t i = 0; i < 4 * batch; i++)
      if (x[i] > 0) *positive++ = x[i];
  }
  for (int64_t i = 0; i < 2 * batch; i++) ((int64_t *)run->outputs[4])[i] = i;
  return services->parallel_launch(nest, run->outputs[3], 0);
}

#ifndef WEIGHTS_BYTES
#define WEIGHTS_BYTES 16
#endif
/* clang-format off */
__attribute__((visibility("default"))) const AthanorDescriptor athanor_descriptor = {
  ATHANOR_ABI_VERSION, sizeof(AthanorDescriptor),
  3, 5, 1, 2,
  inputs, outputs, symbols, WEIGHTS_BYTES, init, plan, run,
};
